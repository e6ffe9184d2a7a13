"""The contract of search engines.

An engine follows the ledger as every follower does, and finds the live jobs that have all of
some words, newest first.  It does not define what a word is: ``words.py`` does, for all
engines, both for indexed text and for queries.
"""

from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar, Final, NamedTuple

from ledger.database.contract import Leadership
from ledger.errors import Unavailable
from ledger.log.recorded import AnyChange
from ledger.log.store import Head
from ledger.projections.follower import Follower
from ledger.projections.search import json_values
from ledger.projections.search.words import words
from ledger.rules.events import Created, Erased, Removed

# The version of the event that holds a job's data.
_OF_DATA: Final = 1


class Damaged(Exception):  # noqa: N818 - it names what it is
    """The index cannot be read and must be rebuilt."""


class Behind(Unavailable):
    """The index has not reached the position that was asked for.

    Attributes:
        position: The position that it has reached.
    """

    def __init__(self, position: int, why: str | None = None) -> None:
        super().__init__(why or f"the search index has only reached event {position}; try again")
        self.position = position


class SearchEngine(Follower):
    """An index of all live jobs by the words of their data."""

    name: ClassVar[str] = "search"
    wants_content = True
    # On average, a search waits half of this for a job that has just been created.  A commit for
    # each of a stream of single jobs would slow down their creation by a third.
    pause_s = 0.1

    @abstractmethod
    def search(self, asked: Sequence[str], *, head: Head, limit: int, offset: int) -> Sequence[int]:
        """Return the ids of jobs that have all the words, newest first.

        Any thread may call it, also in processes that do not index.

        Args:
            asked: At least one word, as ``words.asked`` returns them.
            head: The head of the ledger as it was read: the index must contain all events up to it.
            limit: Maximum number of ids.
            offset: Number of the newest ids to skip.

        Raises:
            Behind: The index has not reached *head*.
            Unavailable: It cannot be read; the process that indexes rebuilds it.
        """

    @abstractmethod
    def starter(self) -> Leadership:
        """Return the claim to be the server process that starts the one that indexes."""

    def forget(self) -> None:
        """Reset the engine in a forked child; files stay open."""

    def close(self) -> None:
        """Release the files; the engine cannot be used afterwards."""


class Update(NamedTuple):
    """The effect of a batch of changes on an index.

    Attributes:
        added: The words of new documents, by the ids of their jobs, in rising order.
        removed: Jobs whose documents must be removed, if they have one.
        erased: Those of them whose words must not stay in any file either.  Their documents may
            have been removed long ago.
    """

    added: dict[int, dict[str, None]]
    removed: set[int]
    erased: set[int]


def update_of(changes: Sequence[AnyChange]) -> Update:
    """Return the net effect of a batch: a job that was created and removed in it is not indexed.

    Only three kinds of events matter.  The data of a job never changes, and erased data cannot
    be indexed, not even by a rebuild that reaches the job's creation later.
    """
    update = Update({}, set(), set())
    for recorded, _, _ in changes:
        event, job_id = recorded.event, recorded.job_id
        if isinstance(event, Created):
            found = _words_of(event)
            if found:
                update.added[job_id] = found
            continue
        erases = _erases_data(event)
        if (erases or isinstance(event, Removed)) and update.added.pop(job_id, None) is None:
            update.removed.add(job_id)
            if erases:
                update.erased.add(job_id)
    return update


def _words_of(event: Created) -> dict[str, None]:
    if event.content is None:
        return {}
    return words(json_values.text(event.content, event.search_keys))


def _erases_data(event: object) -> bool:
    return isinstance(event, Erased) and (event.versions is None or _OF_DATA in event.versions)

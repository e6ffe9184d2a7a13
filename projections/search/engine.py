"""Say what a search engine is, whichever it is built on.

An engine follows the ledger as every read model does, and answers which live jobs have
all of some words, the newest first.  What a word is, is none of its business:
``words.py`` says it, for all engines, of what is indexed and of what is asked.
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

# The version of a job whose content is its data.
_OF_DATA: Final = 1


class Damaged(Exception):  # noqa: N818 - it names what it is
    """Tell that an index cannot be read; it has to be built anew."""


class Behind(Unavailable):
    """Tell that an index has not yet come as far as was asked for.

    Attributes:
        position: How far it is.
    """

    def __init__(self, position: int) -> None:
        super().__init__(f"the search index has come to event {position}; try again")
        self.position = position


class SearchEngine(Follower):
    """Be an index of all live jobs by the words of their data."""

    name: ClassVar[str] = "search"
    wants_content = True
    # Half of it is what a search waits for a job that was created just before; a commit
    # for each of a stream of single jobs would cost those who create them a third.
    pause_s = 0.1

    @abstractmethod
    def search(self, asked: Sequence[str], *, head: Head, limit: int, offset: int) -> Sequence[int]:
        """Return the ids of jobs that have all the words, the newest first.

        May be called by any thread, in processes that do not index too.

        Args:
            asked: At least one word, as ``words.asked`` returns them.
            head: The end of the ledger as it was read: all up to there must have taken effect.
            limit: How many at most.
            offset: How many of the newest to skip.

        Raises:
            Behind: The index has not come as far.
            Unavailable: It cannot be read; whoever indexes builds it anew.
        """

    @abstractmethod
    def starter(self) -> Leadership:
        """Return the claim to be the server process that starts one that indexes."""

    def forget(self) -> None:
        """Start anew in a forked child; files stay open."""

    def close(self) -> None:
        """Let go of files; the engine is of no use afterwards."""


class Update(NamedTuple):
    """Be what a batch of changes does to an index.

    Attributes:
        added: New documents, by the ids of their jobs, in rising order.
        removed: Jobs whose documents have to go, if they have one.
    """

    added: dict[int, dict[str, None]]
    removed: set[int]


def update_of(changes: Sequence[AnyChange]) -> Update:
    """Fold a batch to what is left of it: a job that came and went is not indexed at all.

    Only three kinds of events matter.  The data of a job never changes, and what was
    erased cannot be indexed, even by a rebuild that comes by its creation later.
    """
    update = Update({}, set())
    for recorded, _, _ in changes:
        event, job_id = recorded.event, recorded.job_id
        if isinstance(event, Created):
            found = _words_of(event)
            if found:
                update.added[job_id] = found
        elif (isinstance(event, Removed) or _erases_data(event)) and (
            update.added.pop(job_id, None) is None
        ):
            update.removed.add(job_id)
    return update


def _words_of(event: Created) -> dict[str, None]:
    if event.content is None:
        return {}
    return words(json_values.text(event.content, event.search_keys))


def _erases_data(event: object) -> bool:
    return isinstance(event, Erased) and (event.versions is None or _OF_DATA in event.versions)

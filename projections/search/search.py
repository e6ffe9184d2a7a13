"""Search for a caller: read what it asks for, and wait until the index has come that far.

A caller that has created a job finds it: the ledger's head is read first, and the answer
waits, for a while, until the index has followed the ledger up to there.
"""

import logging
import time
from collections.abc import Sequence
from typing import Final, NamedTuple

from ledger.database.contract import Database
from ledger.database.own_files import NotOurs
from ledger.errors import InvalidInput, Overtaken, Unavailable
from ledger.log import store
from ledger.projections.follower import catch_up
from ledger.projections.search.engine import Behind, SearchEngine
from ledger.projections.search.words import asked
from ledger.rules.commands import LARGEST_INTEGER

DEFAULT_LIMIT: Final = 1_000
LONGEST_QUERY: Final = 4_096
# Between two looks at an index that another process writes; a commit takes some
# milliseconds.
_SHORTEST_LOOK_S: Final = 0.002
_LONGEST_LOOK_S: Final = 0.02
_LOOK_GROWTH: Final = 1.5
# So much is not made up for within the time that one waits.
_HOPELESS: Final = 50_000
_RETRY_S: Final = 1

_log = logging.getLogger(__name__)


class Found(NamedTuple):
    """Be what was found.

    Attributes:
        job_ids: The newest first.
        position: The ledger's position as of which, or later.
    """

    job_ids: Sequence[int]
    position: int


class Search:
    """Answer searches over one ledger.

    Args:
        database: The ledger's.
        engine: The index; None finds nothing.
        wait_ms: How long an answer waits for the index.
        indexes: Whether to index here and now what nobody else does; a server leaves it
            to the process that it starts.
    """

    def __init__(
        self,
        database: Database,
        engine: SearchEngine | None,
        *,
        wait_ms: int,
        indexes: bool = True,
    ) -> None:
        self._database = database
        self.engine = engine
        self._wait_ms = wait_ms
        self._indexes = indexes

    def find(self, query: str, *, limit: int = DEFAULT_LIMIT, offset: int = 0) -> Found:
        """Return the jobs whose data have all the words of *query*.

        Args:
            query: Plain words; nothing in it is an operator.
            limit: How many at most.
            offset: How many of the newest to skip.

        Raises:
            InvalidInput: The query is too long, or *limit* or *offset* no number.
            Unavailable: The index is not that far yet, or the database is away.
        """
        _check("q", len(query), "at most 4,096 characters", LONGEST_QUERY)
        _check("limit", limit, "a whole number", LARGEST_INTEGER)
        _check("offset", offset, "a whole number", LARGEST_INTEGER)
        with self._database.read() as connection:
            head = store.read_head(connection)
        words = asked(query)
        if self.engine is None or not words or not limit:
            return Found((), head.position)
        return Found(self._find(self.engine, words, head, limit, offset), head.position)

    def _find(
        self, engine: SearchEngine, words: Sequence[str], head: store.Head, limit: int, offset: int
    ) -> Sequence[int]:
        deadline_s = time.monotonic() + self._wait_ms / 1000
        look_s = _SHORTEST_LOOK_S
        indexed = False
        while True:
            try:
                return engine.search(words, head=head, limit=limit, offset=offset)
            except Unavailable as behind:
                error = behind
            # Again and again: a rebuild may put another index in the place of this one.
            if self._indexes:
                try:
                    if self._index(engine) and not indexed:
                        indexed = True
                        continue
                except Unavailable as unwritten:
                    error = unwritten
            left_s = deadline_s - time.monotonic()
            if left_s <= 0 or _is_hopeless(error, head.position):
                raise _not_yet(error, head.position) from error
            time.sleep(min(look_s, left_s))
            look_s = min(look_s * _LOOK_GROWTH, _LONGEST_LOOK_S)

    def _index(self, engine: SearchEngine) -> bool:
        """Bring the index to the head, if nobody else does; tell whether that was done."""
        leadership = engine.leadership()
        if not leadership.held():
            leadership.release()
            return False
        try:
            catch_up(self._database, engine)
        except Overtaken:
            # By a rebuild, which is as good.
            pass
        finally:
            leadership.release()
        return True

    def forget(self) -> None:
        """Start anew in a forked child, whose parent's threads may have been at work."""
        if self.engine is not None:
            self.engine.forget()

    def close(self) -> None:
        """Let go of the index's files."""
        if self.engine is not None:
            self.engine.close()


def _check(field: str, number: int, expected: str, most: int) -> None:
    if not isinstance(number, int) or not 0 <= number <= most:
        raise InvalidInput.expected(field, expected, number)


def _is_hopeless(error: Unavailable, position: int) -> bool:
    if isinstance(error, NotOurs):
        # It waits for somebody to move something.
        return True
    return isinstance(error, Behind) and position - error.position > _HOPELESS


def _not_yet(error: Unavailable, position: int) -> Unavailable:
    if not isinstance(error, Behind):
        return error
    return Unavailable(
        f"the search index has come to event {error.position:,} of {position:,}; try again",
        retry_after_s=_RETRY_S,
    )

"""Searches for a caller: the check of a query, and the wait for the index to catch up.

A caller that has created a job finds it: the ledger's head is read first, and the answer
waits, for a limited time, until the index has reached it.
"""

import logging
import time
from collections.abc import Callable, Sequence
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
# Time between two looks at an index that another process writes; a commit takes some
# milliseconds.
_SHORTEST_LOOK_S: Final = 0.002
_LONGEST_LOOK_S: Final = 0.02
_LOOK_GROWTH: Final = 1.5
# An index that is further behind cannot catch up in the time that a search waits.
_HOPELESS: Final = 50_000
_RETRY_S: Final = 1

_log = logging.getLogger(__name__)


class Found(NamedTuple):
    """The result of a search.

    Attributes:
        job_ids: Newest first.
        position: A position of the ledger; the result is as of it, or later.
        chain: The chain value of that position.
    """

    job_ids: Sequence[int]
    position: int
    chain: bytes


class Search:
    """Searches over one ledger.

    Args:
        database: The ledger's database.
        engine: The index; None finds nothing.
        wait_ms: How long a search waits for the index.
        indexes: Whether to update the index in this process if no other process does.  A
            server leaves it to the process that it starts.
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

    def find(
        self,
        query: str,
        *,
        limit: int = DEFAULT_LIMIT,
        offset: int = 0,
        pause: Callable[[float], bool] | None = None,
    ) -> Found:
        """Return the jobs whose data have all the words of *query*.

        Args:
            query: Plain words; no character is an operator.
            limit: Maximum number of jobs.
            offset: Number of the newest jobs to skip.
            pause: Waits for a number of seconds between two looks at the index; it returns False
                without waiting if the search must not wait for longer.  None always waits.

        Raises:
            InvalidInput: The query is too long, or *limit* or *offset* is not a whole number.
            Unavailable: The index has not caught up in time, or the database is not available.
        """
        _check("q", len(query), "at most 4,096 characters", LONGEST_QUERY)
        _check("limit", limit, "an integer, 0 or greater", LARGEST_INTEGER)
        _check("offset", offset, "an integer, 0 or greater", LARGEST_INTEGER)
        with self._database.read() as connection:
            head = store.read_head(connection)
        words = asked(query)
        if self.engine is None or not words or not limit:
            return Found((), head.position, head.chain)
        found = self._find(self.engine, words, head, limit, offset, pause or _pause)
        return Found(found, head.position, head.chain)

    def _find(
        self,
        engine: SearchEngine,
        words: Sequence[str],
        head: store.Head,
        limit: int,
        offset: int,
        pause: Callable[[float], bool],
    ) -> Sequence[int]:
        deadline_s = time.monotonic() + self._wait_ms / 1000
        look_s = _SHORTEST_LOOK_S
        indexed = False
        while True:
            try:
                return engine.search(words, head=head, limit=limit, offset=offset)
            except Unavailable as behind:
                # With its traceback, this frame would hold itself, and the files of segments
                # that are gone would stay open until the garbage collector runs.
                error = behind.with_traceback(None)
            # In each iteration: a rebuild may put another index in the place of this one.
            if self._indexes:
                try:
                    if self._index(engine) and not indexed:
                        indexed = True
                        continue
                except Unavailable as unwritten:
                    error = unwritten.with_traceback(None)
            left_s = deadline_s - time.monotonic()
            is_over = left_s <= 0 or _is_hopeless(error, head.position)
            if is_over or not pause(min(look_s, left_s)):
                raise _not_yet(error, head.position) from error
            look_s = min(look_s * _LOOK_GROWTH, _LONGEST_LOOK_S)

    def _index(self, engine: SearchEngine) -> bool:
        """Bring the index to the head unless another process does; return whether it was done."""
        leadership = engine.leadership()
        if not leadership.held():
            leadership.release()
            return False
        try:
            catch_up(self._database, engine)
        except Overtaken:
            # By a rebuild, which has the same effect.
            pass
        finally:
            leadership.release()
        return True

    def forget(self) -> None:
        """Reset the engine in a forked child; threads of its parent may have been using it."""
        if self.engine is not None:
            self.engine.forget()

    def close(self) -> None:
        """Release the index's files."""
        if self.engine is not None:
            self.engine.close()


def _pause(seconds: float) -> bool:
    time.sleep(seconds)
    return True


def _check(field: str, number: int, expected: str, most: int) -> None:
    if not isinstance(number, int) or not 0 <= number <= most:
        raise InvalidInput.expected(field, expected, number)


def _is_hopeless(error: Unavailable, position: int) -> bool:
    if isinstance(error, NotOurs):
        # An operator must first move something away.
        return True
    return isinstance(error, Behind) and position - error.position > _HOPELESS


def _not_yet(error: Unavailable, position: int) -> Unavailable:
    if not isinstance(error, Behind):
        return error
    return Unavailable(
        f"the search index has reached event {error.position:,} of {position:,}; try again",
        retry_after_s=_RETRY_S,
    )

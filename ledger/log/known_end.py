"""The check that the ledger still contains the last event that this process knows.

While a process runs, somebody may put another ledger in the place of its own: restore an older
copy, copy another file over its own, or promote a replica that lacks the last commits.  Positions
show that only while the other one is shorter.  The chain value of an event shows it always, as it
depends on all events up to that one.

If no other process has appended since, the head that an append locks has the chain value.
Otherwise the event is read.  On PostgreSQL, where that would be a round trip, the statement that
locks the head reads it.  That statement may see other tables than the head as they were before it
waited for the lock, but the event that this process knows was committed before.

On SQLite, the event that was last when this process first noted it is checked as well, at most once
a second.  If the newest known event is there but that one is not, contents were copied over the
file while its newest pages were still in its log: what is read is a mixture of two files.
"""

import logging
import time
from typing import Final

from sqlalchemy import Connection

from ledger.database.contract import Database
from ledger.errors import Replaced, Unavailable
from ledger.log import store
from ledger.log.store import Head, Locked

CHECK_FIRST_EVERY_S: Final = 1.0

_log = logging.getLogger(__name__)


class KnownEnd:
    """The end of the ledger as this process has known it, first and last.

    Args:
        database: The database.
        check_first_every_s: Interval at which the first end is looked at; 1 s by default.
    """

    def __init__(
        self, database: Database, *, check_first_every_s: float = CHECK_FIRST_EVERY_S
    ) -> None:
        self._database = database
        self._check_first_every_s = check_first_every_s
        self._check_first_at_s = 0.0
        self._first: Head | None = None
        self._last: Head | None = None

    @property
    def asked(self) -> int:
        """Return the position of the event that the statement that locks the head must read."""
        return 0 if self._last is None or self._database.is_embedded else self._last.position

    def require(self, tx: Connection, locked: Locked) -> None:
        """Require that the ledger still has both events; if it lacks the last one, forget both.

        Args:
            tx: The transaction, which holds the head's lock.
            locked: The head, locked with what we ``asked`` for.

        Raises:
            Replaced: It lacks the last one.
            Unavailable: It lacks the first one.
        """
        first, last = self._first, self._last
        if first is None or last is None:
            return
        if not self._has(tx, last, locked):
            self._first = self._last = None
            error = Replaced(self._database.shown_url, last.position, locked.head.position)
            _log.error("%s", error)
            raise error
        if self._database.is_embedded:
            self._require_first(tx, first)

    def _has(self, tx: Connection, known: Head, locked: Locked) -> bool:
        """Return whether the ledger has the event that was the last one."""
        if locked.head.position <= known.position:
            chain = locked.head.chain
            return locked.head.position == known.position and chain == known.chain
        if self._database.is_embedded:
            return store.read_chain(tx, known.position) == known.chain
        return locked.known_chain == known.chain

    def _require_first(self, tx: Connection, first: Head) -> None:
        now_s = time.monotonic()
        if now_s < self._check_first_at_s:
            return
        if store.read_chain(tx, first.position) != first.chain:
            message = (
                f"nothing was recorded: event {first.position:,} of {self._database.shown_url} is "
                "not the one that this process knew, although later events are: the file was "
                "overwritten while in use.  Stop all processes, restore a copy of it, and remove "
                "its -wal and -shm"
            )
            _log.error("%s", message)
            raise Unavailable(message)
        # Only now: what was found once is found again.
        self._check_first_at_s = now_s + self._check_first_every_s

    def note(self, head: Head) -> None:
        """Note the end of the ledger, which is committed."""
        if head.position:
            self._first = self._first or head
            self._last = head

"""The check that the ledger goes on where this process knew it to end.

While a process runs, somebody may put another ledger in the place of its own: restore an older
copy, copy another file over its own, or promote a replica that lacks the last commits.  Positions
show that only while the other one is shorter.  The chain value of an event shows it always, as it
depends on all events up to that one.

Two events are remembered, the first and the last end that this process has known.  If the last one
is there but the first one is not, contents were copied over a SQLite file while its newest pages
were still in its log: what is read is a mixture, on which nothing can be built.

The values are read by the statement that locks the head, so they cost none of their own.  On
PostgreSQL that statement may see other tables than the head as they were before it waited for the
lock, but the events that this process knows were committed before.
"""

import logging

from ledger.errors import Replaced, Unavailable
from ledger.log.store import Head, Locked

_log = logging.getLogger(__name__)


class KnownEnd:
    """The end of the ledger as this process has known it, first and last.

    Args:
        shown_url: The database, for messages.
    """

    def __init__(self, shown_url: str) -> None:
        self._shown_url = shown_url
        self._first: Head | None = None
        self._last: Head | None = None

    @property
    def positions(self) -> tuple[int, int]:
        """Return the positions of the events that must still be there; 0 if none must."""
        return (
            0 if self._first is None else self._first.position,
            0 if self._last is None else self._last.position,
        )

    def require(self, locked: Locked) -> None:
        """Require that the ledger still has both events; if it lacks the last one, forget both.

        Args:
            locked: The head, locked with our ``positions``.

        Raises:
            Replaced: It lacks the last one.
            Unavailable: It lacks the first one.
        """
        first, last = self._first, self._last
        if first is None or last is None:
            return
        first_chain, last_chain = locked.known_chains
        if locked.head.position < last.position or last_chain != last.chain:
            self._first = self._last = None
            error = Replaced(self._shown_url, last.position, locked.head.position)
            _log.error("%s", error)
            raise error
        if first_chain != first.chain:
            message = (
                f"nothing was recorded: event {first.position:,} of {self._shown_url} is not the "
                "one that this process knew, although later events are: the file was overwritten "
                "while in use.  Stop all processes, restore a copy of it, and remove its -wal and "
                "-shm"
            )
            _log.error("%s", message)
            raise Unavailable(message)

    def note(self, head: Head) -> None:
        """Note the end of the ledger, which is committed."""
        if head.position:
            self._first = self._first or head
            self._last = head

"""Notice that a server has lost events which it had acknowledged.

With asynchronous replication, a standby that takes over may lack the last commits.  A backup that
is restored lacks more.  What was appended since is a history of its own, without a gap and with
a valid chain: nothing in the database tells that there was another.  But processes that have
appended before remember where it ended.

A connection ends when its server does.  So each connection is checked when a process first appends
on it: one read more, then none.  The positions alone are compared each time.
"""

import logging
from typing import Any, Final
from weakref import WeakSet

from sqlalchemy import Connection

from ledger.database.fast_sql import driver_of
from ledger.log import store
from ledger.log.store import Head

_SHOWN_BYTES: Final = 8

_log = logging.getLogger(__name__)


class KnownHead:
    """The newest head that this process has seen; for one thread at a time."""

    def __init__(self) -> None:
        self._position = 0
        self._chain = b""
        self._checked: WeakSet[Any] = WeakSet()

    def continues(self, tx: Connection, head: Head) -> bool:
        """Return whether *head* continues the history that we know; log an error if not.

        Args:
            tx: A transaction that holds the head's lock.
            head: The head as it was locked.
        """
        found = self._found(tx, head)
        does = self._position == 0 or found == self._chain
        if not does:
            _log.error(
                "the database has lost events that were acknowledged: event %d had the chain value "
                "%s…, and now %s; the ledger ends at event %d.  Has a standby taken over that "
                "lacked the last commits, or was a backup restored?  What the lost events recorded "
                "has not happened: jobs may be missing, or run again",
                self._position,
                self._chain[:_SHOWN_BYTES].hex(),
                "there is none" if found is None else f"has {found[:_SHOWN_BYTES].hex()}…",
                head.position,
            )
        self.know(head)
        return does

    def know(self, head: Head) -> None:
        """Remember *head*, which was committed."""
        self._position, self._chain = head.position, bytes(head.chain)

    def _found(self, tx: Connection, head: Head) -> bytes | None:
        """Return the chain value that the event at our position has now; None if it is gone."""
        driver = driver_of(tx)
        is_checked = driver in self._checked
        self._checked.add(driver)
        if head.position <= self._position:
            return bytes(head.chain) if head.position == self._position else None
        return self._chain if is_checked else store.read_chain(tx, self._position)

"""Wake whoever waits for news of the ledger: workers, long polls, ``job.wait``.

A process has one watch on the database, however many wait, and none while nobody
does.  Whoever waits subscribes first, then looks, then waits: what is committed after
the look rings.
"""

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from ledger import store
from ledger.database import Database
from ledger.errors import LedgerError

# How often the watching thread looks whether anyone still waits.
_PATIENCE_S: Final = 2.0
# While the database is away.
_RETRY_S: Final = 0.5

_log = logging.getLogger(__name__)

Ring = Callable[[], object]


class Bell:
    """Ring for every commit of any process.

    Args:
        database: Whose commits.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self.forget()

    def forget(self) -> None:
        """Start anew in a forked child, which has none of its parent's threads."""
        self._mutex = threading.Lock()
        self._rings: list[Ring] = []
        self._watching = False
        self._closed = False

    def close(self) -> None:
        """Ring no more; the watching thread ends soon, and leaves no connection behind."""
        with self._mutex:
            self._rings.clear()
            self._closed = True

    @contextmanager
    def subscribed(self, ring: Ring) -> Iterator[None]:
        """Call *ring* after each commit; from another thread, so it must be quick.

        At the beginning it may ring for what was committed just before.
        """
        with self._mutex:
            self._rings.append(ring)
            starts, self._watching = not self._watching, True
        if starts:
            ready = threading.Event()
            threading.Thread(
                target=self._watch, args=(ready,), name="ledger-bell", daemon=True
            ).start()
            ready.wait(_PATIENCE_S)
        try:
            yield
        finally:
            with self._mutex:
                if not self._closed:
                    self._rings.remove(ring)

    def _watch(self, ready: threading.Event) -> None:
        """Ring as long as there is someone to ring for."""
        pause = threading.Event()
        while self._needed():
            try:
                watch = self._database.watch()
            except LedgerError as error:
                _log.warning("nobody can be woken: %s", error)
                pause.wait(_RETRY_S)
                continue
            ready.set()
            try:
                position = self._position()
                # Whatever was committed while there was no watch.
                self._ring()
                while self._needed():
                    # A heartbeat is a commit too, and no news.
                    if watch.wait(_PATIENCE_S) and (now := self._position()) != position:
                        position = now
                        self._ring()
            except LedgerError as error:
                _log.warning("nobody can be woken: %s", error)
                pause.wait(_RETRY_S)
            finally:
                watch.close()
                self._database.release()
                if self._closed:
                    # What this thread opened after the others' connections were closed.
                    self._database.close()

    def _position(self) -> int:
        with self._database.read() as connection:
            return store.read_position(connection)

    def _needed(self) -> bool:
        with self._mutex:
            self._watching = bool(self._rings)
            return self._watching

    def _ring(self) -> None:
        with self._mutex:
            rings = tuple(self._rings)
        for ring in rings:
            ring()

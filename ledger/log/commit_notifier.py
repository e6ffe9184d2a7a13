"""Wake whoever waits for news of the ledger: workers, long polls, ``job.wait``.

A process has one watch on the database, however many wait, and none while nobody
does.  Whoever waits subscribes first, then looks, then waits: what is committed after
the look rings.
"""

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Final

from ledger.database.contract import Database, Watch
from ledger.errors import LedgerError
from ledger.log import store

# How often the watching thread looks whether anyone still waits.
_PATIENCE_S: Final = 2.0
# While the database is away.
_RETRY_S: Final = 0.5
# It may be connecting to a server that does not answer.
_LONGEST_END_S: Final = 10.0

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
        self._thread: threading.Thread | None = None
        self._watch: Watch | None = None
        self._closed = threading.Event()

    def close(self) -> None:
        """Ring no more; when this returns, nothing uses the database."""
        with self._mutex:
            self._closed.set()
            self._rings.clear()
            if self._watch is not None:
                self._watch.wake()
            thread = self._thread
        if thread is not None:
            thread.join(_LONGEST_END_S)

    @contextmanager
    def subscribed(self, ring: Ring) -> Iterator[None]:
        """Call *ring* after each commit; from another thread, so it must be quick.

        At the beginning it may ring for what was committed just before.
        """
        ready = threading.Event()
        with self._mutex:
            self._rings.append(ring)
            starts = self._thread is None and not self._closed.is_set()
            if starts:
                self._thread = threading.Thread(
                    target=self._run, args=(ready,), name="ledger-bell", daemon=True
                )
                self._thread.start()
        if starts:
            ready.wait(_PATIENCE_S)
        try:
            yield
        finally:
            with self._mutex, suppress(ValueError):
                # Closed meanwhile, it is no longer there.
                self._rings.remove(ring)

    # --- the thread

    def _run(self, ready: threading.Event) -> None:
        """Ring as long as there is someone to ring for."""
        while not self._over():
            try:
                with self._watching() as watch:
                    ready.set()
                    self._ring_for(watch)
            except LedgerError as error:
                _log.warning("nobody can be woken: %s", error)
            except Exception:  # noqa: BLE001 - the edge of its thread
                # If it ended here, nobody would be woken again.
                _log.exception("the bell failed; it goes on")
            else:
                continue
            self._closed.wait(_RETRY_S)

    @contextmanager
    def _watching(self) -> Iterator[Watch]:
        watch = self._database.watch()
        try:
            with self._mutex:
                self._watch = watch
                if self._closed.is_set():
                    watch.wake()
            yield watch
        finally:
            with self._mutex:
                self._watch = None
            watch.close()

    def _ring_for(self, watch: Watch) -> None:
        position = self._position(watch)
        # Whatever was committed while there was no watch.
        self._ring()
        while self._needed():
            # A heartbeat is a commit too, and no news.
            if watch.wait(_PATIENCE_S) and (now := self._position(watch)) != position:
                position = now
                self._ring()

    def _position(self, watch: Watch) -> int:
        with self._database.translated():
            return store.read_position(watch.connection)

    def _needed(self) -> bool:
        return bool(self._rings) and not self._closed.is_set()

    def _over(self) -> bool:
        """Return whether the thread has to end, as nobody waits; the next who does starts one."""
        with self._mutex:
            if self._needed():
                return False
            self._thread = None
            return True

    def _ring(self) -> None:
        with self._mutex:
            rings = tuple(self._rings)
        for ring in rings:
            ring()

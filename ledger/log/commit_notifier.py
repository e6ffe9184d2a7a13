"""The commit notifier, which wakes waiting threads: workers, long polls, ``job.wait``.

A process has one watch on the database, however many threads wait, and none while no
thread waits.  A thread subscribes first, then reads, then waits, so it is notified of
every commit after the read.

Hundreds of idle workers may be subscribed, and all would ask the database for jobs after a
commit of which none is for them.  So a subscriber may name the types of jobs that it waits for.
PostgreSQL's notification has the types with it; on SQLite they are read from the new events.
"""

import logging
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from typing import Final, NamedTuple

from sqlalchemy import Connection

from ledger.database.contract import Database, Watch
from ledger.errors import LedgerError
from ledger.log import store

PATIENCE_S: Final = 2.0
LONGEST_END_S: Final = 10.0
LONGEST_WAIT_S: Final = 1.0
# Pause between tries while the database is unavailable.
_RETRY_S: Final = 0.5
# After more events, all subscribers look for themselves.
_MOST_EVENTS: Final = 1_000

_log = logging.getLogger(__name__)

Callback = Callable[[], object]
# The types of which jobs may have become claimable between two positions; None if all may.
ClaimableBetween = Callable[[Connection, int, int], Collection[str] | None]


class _Subscriber(NamedTuple):
    """A subscriber, and the types of jobs that it waits for; None if it waits for anything."""

    callback: Callback
    types: Callable[[], Collection[str]] | None

    def wants(self, types: Collection[str] | None) -> bool:
        return self.types is None or types is None or not set(types).isdisjoint(self.types())


class CommitNotifier:
    """The commit notifier: it calls its subscribers after every commit of any process.

    Args:
        database: The database to watch.
        claimable_between: See ``ClaimableBetween``.
        patience_s: How often the watching thread checks whether there are still subscribers,
            and how long the first one waits for the watch at most; 2 s by default.
        longest_end_s: Longest wait for the thread to end, which may be connecting to a server
            that does not answer; 10 s by default.
        longest_wait_s: See the attribute; 1 s by default.

    Attributes:
        longest_wait_s: ``Job.wait`` checks the state at least this often, even if it is not
            notified.
    """

    def __init__(
        self,
        database: Database,
        claimable_between: ClaimableBetween,
        *,
        patience_s: float = PATIENCE_S,
        longest_end_s: float = LONGEST_END_S,
        longest_wait_s: float = LONGEST_WAIT_S,
    ) -> None:
        self.longest_wait_s = longest_wait_s
        self._database = database
        self._claimable_between = claimable_between
        self._patience_s = patience_s
        self._longest_end_s = longest_end_s
        self.forget()

    def forget(self) -> None:
        """Reset the state in a forked child, which has none of its parent's threads."""
        self._mutex = threading.Lock()
        self._subscribers: list[_Subscriber] = []
        self._thread: threading.Thread | None = None
        self._watch: Watch | None = None
        self._closed = threading.Event()

    def close(self) -> None:
        """Stop notifying, and wait for the thread so that it no longer uses the database."""
        with self._mutex:
            self._closed.set()
            self._subscribers.clear()
            if self._watch is not None:
                self._watch.wake()
            thread = self._thread
        if thread is not None:
            thread.join(self._longest_end_s)

    @contextmanager
    def subscribed(
        self, callback: Callback, *, types: Callable[[], Collection[str]] | None = None
    ) -> Iterator[None]:
        """Call *callback* after each commit, from another thread.

        The first call may be for a commit shortly before the subscription.

        Args:
            callback: It must return quickly.
            types: Returns the types of jobs that are waited for at that moment, from the same
                thread: only commits after which jobs of these may be claimable count.  None is
                for all commits.
        """
        ready = threading.Event()
        subscriber = _Subscriber(callback, types)
        with self._mutex:
            starts = self._thread is None and not self._closed.is_set()
            if starts:
                thread = threading.Thread(
                    target=self._run, args=(ready,), name="ledger-commit-notifier", daemon=True
                )
                # If the system has no thread left, the next subscriber tries again.
                thread.start()
                self._thread = thread
            self._subscribers.append(subscriber)
        if starts:
            ready.wait(self._patience_s)
        try:
            yield
        finally:
            with self._mutex, suppress(ValueError):
                # ``close`` may have removed it.
                self._subscribers.remove(subscriber)

    # --- the thread

    def _run(self, ready: threading.Event) -> None:
        """Notify the subscribers until there are none."""
        while not self._over():
            try:
                with self._watching() as watch:
                    ready.set()
                    self._notify_for(watch)
            except LedgerError as error:
                _log.warning("cannot watch for commits: %s", error)
            except Exception:  # noqa: BLE001 - must not end the thread
                # If the thread ended here, no subscriber would be notified again.
                _log.exception("the commit notifier failed; retrying")
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

    def _notify_for(self, watch: Watch) -> None:
        position = self._position(watch)
        # For commits while there was no watch.
        self._notify(None)
        while self._needed():
            if not watch.wait(self._patience_s):
                continue
            types = watch.types
            if types is None:
                before, position = position, self._position(watch)
                if position == before:
                    # A heartbeat is a commit too, but appends no event.
                    continue
                types = self._types_between(watch, before, position)
            self._notify(types)

    def _types_between(self, watch: Watch, before: int, after: int) -> Collection[str] | None:
        """Return the types that subscribers wait for and may find; None if that is all."""
        with self._mutex:
            waits = [each.types for each in self._subscribers if each.types is not None]
        if not any(types() for types in waits):
            return ()
        if not 0 < after - before <= _MOST_EVENTS:
            return None
        with self._database.translated(), watch.reading() as connection:
            return self._claimable_between(connection, before, after)

    def _position(self, watch: Watch) -> int:
        with self._database.translated(), watch.reading() as connection:
            return store.read_position(connection)

    def _needed(self) -> bool:
        return bool(self._subscribers) and not self._closed.is_set()

    def _over(self) -> bool:
        """Return whether the thread must end because there are no subscribers.

        If so, the next subscriber starts a new thread.
        """
        with self._mutex:
            if self._needed():
                return False
            self._thread = None
            return True

    def _notify(self, types: Collection[str] | None) -> None:
        with self._mutex:
            subscribers = tuple(self._subscribers)
        for subscriber in subscribers:
            if subscriber.wants(types):
                subscriber.callback()

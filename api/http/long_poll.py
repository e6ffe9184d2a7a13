"""Requests that wait: long polls, which wait for new events, and searches, for their index.

A waiting request occupies a thread of the server, and a server whose threads all wait cannot
answer any request.  Therefore, the numbers of requests that wait at once in a process are
limited: of those that wait for events, and of those that wait for their index.  A request beyond
the limit is answered at once, as if it did not wait, and its client asks again.

A client may close its connection before its wait is over.  No job may be claimed for it then,
so the connection is checked before each look.
"""

import select
import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import ClassVar, Final, TypeVar

import falcon

from ledger.log.commit_notifier import CommitNotifier

# The longest time between two looks without a notification of a commit.
_LONGEST_PAUSE_S: Final = 1.0
# Linux reports that the client has closed its side; other systems report broken connections only.
_ENDED: Final = getattr(select, "POLLRDHUP", 0)

Found = TypeVar("Found")


class LongPolls:
    """Requests that wait for events or for the index, up to a number of them at once.

    Args:
        commit_notifier: The commit notifier.
        most: Maximum number of requests that wait for events at once in this process.
        most_searches: Maximum number of searches that do.  It is their own: idle workers may
            keep all other places all the time.
    """

    # One for the process.  A signal handler sets it, and may interrupt another one that does, so
    # it must not be an Event, whose lock is not reentrant.
    _stopping: ClassVar[bool] = False

    def __init__(
        self, commit_notifier: CommitNotifier, *, most: int, most_searches: int = 1
    ) -> None:
        self._commit_notifier = commit_notifier
        self._room = threading.Semaphore(most)
        self._room_of_searches = threading.Semaphore(most_searches)

    @classmethod
    def stop(cls) -> None:
        """Answer all waiting requests of this process within a second, because it will end."""
        cls._stopping = True

    def wait(
        self,
        req: falcon.Request,
        look: Callable[[], Found],
        wait_s: float,
        *,
        types: Collection[str] | None = None,
    ) -> Found:
        """Call *look* until it finds something or the time is over; return what it found.

        Args:
            req: The request.
            look: Called at once, and then after each commit unless the client has closed its
                connection.
            wait_s: Seconds to wait; 0 looks once.
            types: Only commits after which jobs of these types may be claimable count; None is
                for all commits.
        """
        found = look()
        if found or not wait_s or not self._room.acquire(blocking=False):
            return found
        try:
            return self._wait(req, look, found, time.monotonic() + wait_s, types)
        finally:
            self._room.release()

    @contextmanager
    def pausing(self) -> Iterator[Callable[[float], bool]]:
        """Yield a function that pauses a search for a number of seconds.

        It returns False at once if too many searches wait already, or if the process will end.
        Its first pause takes a place among the waiting searches, until the end of the block.
        """
        has_place = False

        def pause(seconds: float) -> bool:
            nonlocal has_place
            has_place = has_place or self._room_of_searches.acquire(blocking=False)
            if not has_place or self._stopping:
                return False
            time.sleep(seconds)
            return True

        try:
            yield pause
        finally:
            if has_place:
                self._room_of_searches.release()

    def _wait(
        self,
        req: falcon.Request,
        look: Callable[[], Found],
        nothing: Found,
        until_s: float,
        types: Collection[str] | None,
    ) -> Found:
        notified = threading.Event()
        wanted = None if types is None else lambda: types
        with self._commit_notifier.subscribed(notified.set, types=wanted):
            while True:
                # Clear before looking: a commit after that sets it again.
                notified.clear()
                found = nothing if _is_gone(req) else look()
                left_s = until_s - time.monotonic()
                if found or left_s <= 0 or self._stopping or _is_gone(req):
                    return found
                notified.wait(min(left_s, _LONGEST_PAUSE_S))


def _is_gone(req: falcon.Request) -> bool:
    """Return whether the client has closed its connection; False if that is unknown."""
    connection = req.env.get("gunicorn.socket")
    if connection is None:
        return False
    poll = select.poll()
    poll.register(connection, _ENDED)
    return bool(poll.poll(0))

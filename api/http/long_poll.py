"""Let requests wait for news of the ledger: long polls.

A request that waits holds a thread of the server for as long as it waits, and a server
whose threads all wait answers nobody.  So only so many may wait at once in a process.
Whoever comes beyond that is answered at once with what there is, as if it had not asked
to wait, and comes again.

A client can be gone long before its wait is over.  Nothing may be done for it then, so
each look is preceded by one at its connection.
"""

import select
import threading
import time
from collections.abc import Callable
from typing import ClassVar, Final, TypeVar

import falcon

from ledger.log.commit_notifier import Bell

# Whoever waits looks by itself this often: at the ledger, and whether it should go on.
_LONGEST_PAUSE_S: Final = 1.0
# Linux tells when the other side has ended; elsewhere only a broken connection shows.
_ENDED: Final = getattr(select, "POLLRDHUP", 0)

Found = TypeVar("Found")


class LongPolls:
    """Let requests wait, up to a number of them at once.

    Args:
        bell: Rings when something was committed.
        most: How many may wait at once in this process.
    """

    # Of the process.  No Event: a signal handler sets it, and may be interrupted by another.
    _stopping: ClassVar[bool] = False

    def __init__(self, bell: Bell, *, most: int) -> None:
        self._bell = bell
        self._room = threading.Semaphore(most)

    @classmethod
    def stop(cls) -> None:
        """Answer all that wait in this process, within a second: it is about to end."""
        cls._stopping = True

    def wait(self, req: falcon.Request, look: Callable[[], Found], wait_s: float) -> Found:
        """Return what *look* finds, as soon as it is something; at the latest what it is then.

        Args:
            req: Who waits.
            look: Called at once, then whenever something was committed, but never
                for a client that is gone.
            wait_s: How long to wait; 0 looks once.
        """
        found = look()
        if found or not wait_s or not self._room.acquire(blocking=False):
            return found
        try:
            return self._wait(req, look, found, time.monotonic() + wait_s)
        finally:
            self._room.release()

    def _wait(
        self, req: falcon.Request, look: Callable[[], Found], nothing: Found, until_s: float
    ) -> Found:
        rung = threading.Event()
        with self._bell.subscribed(rung.set):
            while True:
                # Cleared before looking: what comes meanwhile rings again.
                rung.clear()
                found = nothing if _is_gone(req) else look()
                left_s = until_s - time.monotonic()
                if found or left_s <= 0 or self._stopping or _is_gone(req):
                    return found
                rung.wait(min(left_s, _LONGEST_PAUSE_S))


def _is_gone(req: falcon.Request) -> bool:
    """Tell whether the client has closed its connection, where the server shows it to us."""
    connection = req.env.get("gunicorn.socket")
    if connection is None:
        return False
    poll = select.poll()
    poll.register(connection, _ENDED)
    return bool(poll.poll(0))

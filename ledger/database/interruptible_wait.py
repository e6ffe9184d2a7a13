"""A sleep that ends when a file becomes readable or another thread ends it.

Without it, a thread that waits for the database would notice only at its timeout that it
has to end: the thread that closes the database would have to wait for it, or to close a
connection that is in use.
"""

import math
import os
import select
from typing import Final, Protocol

_READABLE: Final = select.POLLIN | select.POLLERR | select.POLLHUP


class Readable(Protocol):
    """An object whose file descriptor the system can wait for."""

    def fileno(self) -> int: ...


class WakeableSleep:
    """A sleep of one thread, which any other thread can end for good.

    Source: D. J. Bernstein, "The self-pipe trick".

    Args:
        watched: A file that also ends a sleep, as soon as it is readable; None for none.
    """

    def __init__(self, watched: Readable | None = None) -> None:
        self.is_over = False
        self._end, self._other_end = os.pipe()
        self._poll = select.poll()
        self._poll.register(self._end, select.POLLIN)
        self._watched = None if watched is None else watched.fileno()
        if self._watched is not None:
            self._poll.register(self._watched, select.POLLIN)

    def sleep(self, longest_s: float) -> bool:
        """Sleep; return whether the watched file is readable.

        Args:
            longest_s: How long to sleep at most.  After ``wake``, this returns at once.
        """
        # Rounded up: a poll of 0 ms would not sleep at all.
        ready = self._poll.poll(math.ceil(max(0.0, longest_s) * 1000))
        return any(fd == self._watched and happened & _READABLE for fd, happened in ready)

    def wake(self) -> None:
        """End this sleep and all later ones at once."""
        self.is_over = True
        os.write(self._other_end, b"\0")

    def close(self) -> None:
        """Close the pipe; ``wake`` must not be called from now on."""
        os.close(self._end)
        os.close(self._other_end)

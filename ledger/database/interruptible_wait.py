"""Sleep until a file can be read, or until another thread ends the sleep.

A thread that waits for the database would otherwise be found only once its time is up:
whoever closes the database would have to wait for it, or to pull its connection from
under it.
"""

import math
import os
import select
from typing import Final, Protocol

_READABLE: Final = select.POLLIN | select.POLLERR | select.POLLHUP


class Readable(Protocol):
    """Be what the system can wait for."""

    def fileno(self) -> int: ...


class WakeableSleep:
    """Let one thread sleep, and any other wake it for good.

    Source: D. J. Bernstein, "The self-pipe trick".

    Args:
        watched: What also ends a sleep, as soon as it can be read; None for nothing.
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
        """Return whether what is watched can be read, at once if ``wake`` was called."""
        # Rounded up: a poll of 0 ms would not sleep at all.
        ready = self._poll.poll(math.ceil(max(0.0, longest_s) * 1000))
        return any(fd == self._watched and happened & _READABLE for fd, happened in ready)

    def wake(self) -> None:
        """End the sleep, and all later ones, at once."""
        self.is_over = True
        os.write(self._other_end, b"\0")

    def close(self) -> None:
        """Give the pipe back; nobody may call ``wake`` from now on."""
        os.close(self._end)
        os.close(self._other_end)

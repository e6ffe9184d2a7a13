"""Share connections out evenly between processes that accept from one socket.

Whoever is awake takes what comes: of 16 connections that a client opens at once, one
process of two often took all, and the other's core stood idle for as long as they
lasted.  So each process writes down how many it has, in memory that all of one parent
share, and one that is ahead lets the others go first, for a moment.

``SO_REUSEPORT`` would let the kernel do this: it gives each process a queue of its own and
draws lots.  That is as fast, and nearly as even.  But what is in the queue of a process that
is stopped, busy or dead waits there or is lost, while here the others take it; and a second
server starts on the same port without an error and gets half of the requests.
"""

import mmap
import weakref
from typing import Final

# Of more processes than this, those that come last take what they get.
_MOST: Final = 64
# Of a place that nobody has; more connections than anybody has.
_ABSENT: Final = 0xFFFF_FFFF


class Shares:
    """The connection counts of all processes; created before they are forked."""

    def __init__(self) -> None:
        self._counts = memoryview(mmap.mmap(-1, 4 * _MOST)).cast("I")
        self._counts[:] = memoryview(bytearray(b"\xff" * 4 * _MOST)).cast("I")

    def join(self, owner: object) -> "Share":
        """Return a place, which falls free with *owner*; to be called in the parent."""
        place = next((at for at, count in enumerate(self._counts) if count == _ABSENT), None)
        if place is None:
            return Share(memoryview(bytearray(4)).cast("I"), 0)
        self._counts[place] = 0
        # Not at the exit of one child, of which the others know nothing.
        weakref.finalize(owner, self._leave, place).atexit = False
        return Share(self._counts, place)

    def _leave(self, place: int) -> None:
        self._counts[place] = _ABSENT


class Share:
    """The place of one process in the counts."""

    def __init__(self, counts: "memoryview[int]", place: int) -> None:
        self._counts = counts
        self._place = place

    def publish(self, connections: int) -> None:
        """Record how many connections this process has."""
        self._counts[self._place] = connections

    def is_ahead(self) -> bool:
        """Return whether another process has fewer by more than one."""
        return self._counts[self._place] > min(self._counts.tolist()) + 1

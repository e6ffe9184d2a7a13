"""Even distribution of connections to the processes that accept from one socket.

The process that is awake accepts first.  When a client opened 16 connections at once, one of
two processes often accepted all of them, and the other's core stayed idle until they were
closed.  Therefore, each process publishes its number of connections in memory that all
processes of one parent share.  A process that has more than another accepts none for a moment.

With ``SO_REUSEPORT``, the kernel would do this: each process has a queue of its own, and the
kernel chooses one at random for each connection.  That is as fast and nearly as even.  But
connections in the queue of a process that is stopped, busy or dead wait there or are lost,
while here the other processes accept them.  And a second server would start on the same port
without an error, and receive half of the requests.
"""

import mmap
import weakref
from typing import Final

# Further processes are not counted, and accept every connection.
_MOST: Final = 64
# The count of a place without a process; greater than the count of any process.
_ABSENT: Final = 0xFFFF_FFFF


class Shares:
    """The connection counts of all processes; created before they are forked."""

    def __init__(self) -> None:
        self._counts = memoryview(mmap.mmap(-1, 4 * _MOST)).cast("I")
        self._counts[:] = memoryview(bytearray(b"\xff" * 4 * _MOST)).cast("I")

    def join(self, owner: object) -> "Share":
        """Return a place that is free again after *owner*; to be called in the parent."""
        place = next((at for at, count in enumerate(self._counts) if count == _ABSENT), None)
        if place is None:
            return Share(memoryview(bytearray(4)).cast("I"), 0)
        self._counts[place] = 0
        # The exit of a child must not free the places of the other processes.
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
        """Return whether another process has at least two connections fewer."""
        return self._counts[self._place] > min(self._counts.tolist()) + 1

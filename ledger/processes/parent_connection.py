"""The connection of a child process to the supervisor that started it."""

import os
import select
import signal
import socket
import sys
import threading
import time
from contextlib import suppress
from types import FrameType
from typing import Final

from ledger.database.interruptible_wait import WakeableSleep
from ledger.processes.stop_requests import STOP_SIGNALS

# How long the last report may wait for a parent that does not read.
_LAST_REPORT_S: Final = 1.0
# How long after the connection the pipes may break that the parent read: the kernel closes all
# files of a process in one go.
_BROKEN_AFTER_S: Final = 1.0
# A poll cannot last for ever.
_LONGEST_SLEEP_S: Final = 3600.0
_CHUNK_BYTES: Final = 4096


class ParentConnection:
    """The connection of this child process to its parent.

    Only the parent's stop requests count.  A terminal's Ctrl-C reaches the children too, and
    must not count a second time.  SIGTERM stops this process gracefully; the parent replaces it
    unless it is stopping as well.  The end of the parent stops this process gracefully too.

    Args:
        descriptor: The socket that was inherited from the parent.

    Attributes:
        stop_requests: The number of stop requests so far.

    Raises:
        OSError: *descriptor* is not a socket.
    """

    def __init__(self, descriptor: int) -> None:
        self.stop_requests = 0
        self._sleep = WakeableSleep()
        self._socket = socket.socket(fileno=descriptor)
        # Programs that handlers start must not inherit it.
        self._socket.set_inheritable(False)
        self._unsent = b""
        self._reported = b""
        # A Python handler, because SIG_IGN would be inherited by programs that handlers start.
        signal.signal(signal.SIGINT, _ignore)
        signal.signal(signal.SIGTERM, self._handle_sigterm)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
        threading.Thread(target=self._receive, name="ledger-parent", daemon=True).start()

    def wait_for_stop(self) -> None:
        """Return as soon as there is a stop request."""
        while not self.stop_requests:
            self._sleep.sleep(_LONGEST_SLEEP_S)

    def report(self, line: bytes) -> None:
        """Send a line to the parent if it differs from the last one.

        While the parent does not read, later lines replace each other.
        """
        if not self._unsent and line != self._reported:
            self._unsent, self._reported = line + b"\n", line
        try:
            while self._unsent:
                sent = self._socket.send(self._unsent, socket.MSG_DONTWAIT)
                self._unsent = self._unsent[sent:]
        except BlockingIOError:
            pass
        except OSError:
            # The parent has died.
            self._unsent = b""

    def report_last(self, line: bytes) -> None:
        """Send a line to the parent, after what is still unsent; wait for a slow parent."""
        end_s = time.monotonic() + _LAST_REPORT_S
        while True:
            self.report(line)
            left_s = end_s - time.monotonic()
            if (line == self._reported and not self._unsent) or left_s <= 0:
                return
            select.select([], [self._socket], [], left_s)

    def _receive(self) -> None:
        """Receive stop requests until the parent has ended."""
        unread = b""
        with suppress(OSError):
            while some := self._socket.recv(_CHUNK_BYTES):
                *numbers, unread = (unread + some).split(b"\n")
                for number in numbers:
                    self._stop(int(number))
        self._stop(1)
        _discard_unreadable_output()

    def _handle_sigterm(self, number: int, frame: FrameType | None) -> None:
        self._stop(1)

    def _stop(self, number: int) -> None:
        # No lock: the thread that SIGTERM interrupts may hold any.
        self.stop_requests = max(self.stop_requests, number)
        self._sleep.wake()


def _ignore(number: int, frame: FrameType | None) -> None:
    pass


def _discard_unreadable_output() -> None:
    """Discard output if the parent was its reader.

    Otherwise ``print`` would raise, and a handler that has time to end would fail.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        poll = select.poll()
        with suppress(OSError, ValueError, AttributeError):
            # Without an event to wait for, it returns only when there is no reader any more.
            poll.register(stream.fileno(), 0)
            if poll.poll(_BROKEN_AFTER_S * 1000):
                # The old stream stays open: what it still holds cannot be written.
                setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: PTH123, SIM115 - not a path, and it stays open

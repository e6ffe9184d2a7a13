"""The connection of a child process to the supervisor that started it."""

import select
import signal
import socket
import threading
import time
from contextlib import suppress
from types import FrameType
from typing import Final

from ledger.database.interruptible_wait import WakeableSleep
from ledger.processes.lost_output import OutputToParent
from ledger.processes.stop_requests import STOP_SIGNALS, handled_signals

# How long the last report may wait for a parent that does not read.
_LAST_REPORT_S: Final = 1.0
# A poll cannot last for ever.
_LONGEST_SLEEP_S: Final = 3600.0
_CHUNK_BYTES: Final = 4096


class ParentConnection:
    """The connection of this child process to its parent.

    Only the parent's stop requests count.  A terminal's Ctrl-C reaches the children too, and
    must not count a second time.  SIGTERM and SIGHUP stop this process gracefully.  The parent
    replaces it unless the parent is stopping too.  When a terminal is closed, both get SIGHUP,
    and the parent's first stop request then changes nothing here.  The end of the parent stops this
    process gracefully too.

    Args:
        descriptor: The socket that was inherited from the parent.
        output: The read end of the pipe that the parent reads, if it reads our output.

    Attributes:
        stop_requests: The number of stop requests so far.

    Raises:
        OSError: *descriptor* is not a socket.
    """

    def __init__(self, descriptor: int, output: int | None = None) -> None:
        self.stop_requests = 0
        self._sleep = WakeableSleep()
        self._socket = socket.socket(fileno=descriptor)
        # Programs that handlers start must not inherit it.
        self._socket.set_inheritable(False)
        self._output = None if output is None else OutputToParent(output)
        self._unsent = b""
        self._reported = b""
        # A Python handler, because SIG_IGN would be inherited by programs that handlers start.
        for number in handled_signals():
            signal.signal(number, _ignore if number is signal.SIGINT else self._handle_stop)
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
        if self._output is not None:
            self._output.discard()

    def _handle_stop(self, number: int, frame: FrameType | None) -> None:
        self._stop(1)

    def _stop(self, number: int) -> None:
        # No lock: the thread that a signal interrupts may hold any.
        self.stop_requests = max(self.stop_requests, number)
        self._sleep.wake()


def _ignore(number: int, frame: FrameType | None) -> None:
    pass

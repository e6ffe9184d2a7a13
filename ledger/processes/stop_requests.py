"""Requests to stop, by signal.

SIGHUP says that a terminal or connection was closed, or that a service is to be reloaded.  It
is a request to stop, and never a second one: when a terminal closes, the kernel and the shell
each send it to the same processes.
"""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final

STOP_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def handled_signals() -> tuple[signal.Signals, ...]:
    """Return the stop signals, without SIGHUP if this process was started by ``nohup``."""
    ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    return tuple(each for each in STOP_SIGNALS if not (each is signal.SIGHUP and ignored))


class StopRequests:
    """The number of requests to stop: the first is a graceful stop, the second immediate."""

    def __init__(self) -> None:
        self.number = 0

    @contextmanager
    def handled(self) -> Iterator[None]:
        """Handle the stop signals.

        From the second request on, the signal that made it has its default action again: sent
        once more, it ends the process.
        """
        before = {number: signal.signal(number, self._count) for number in handled_signals()}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _count(self, number: int, frame: FrameType | None) -> None:
        # Do nothing else here: the interrupted thread may hold any lock.
        if number == signal.SIGHUP:
            self.number = max(1, self.number)
            return
        self.number += 1
        if self.number > 1:
            signal.signal(number, signal.SIG_DFL)


@contextmanager
def interrupts() -> Iterator[None]:
    """Raise KeyboardInterrupt for the first SIGTERM or SIGHUP too, and ignore later ones.

    They are ignored until the process has ended, so that a second SIGHUP does not interrupt that.
    """
    handled = set(handled_signals()) - {signal.SIGINT}
    raised = False

    def interrupt(number: int, frame: FrameType | None) -> None:
        nonlocal raised
        if not raised:
            raised = True
            raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in handled}
    try:
        yield
    finally:
        if not raised:
            for number, handler in before.items():
                signal.signal(number, handler)

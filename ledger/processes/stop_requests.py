"""Requests to stop, by signal."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final

STOP_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)


class StopRequests:
    """The number of requests to stop: the first is a graceful stop, the second immediate."""

    def __init__(self) -> None:
        self.number = 0

    @contextmanager
    def handled(self) -> Iterator[None]:
        """Handle SIGINT and SIGTERM; a third signal has its default action and ends the process."""
        before = {number: signal.signal(number, self._count) for number in STOP_SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _count(self, number: int, frame: FrameType | None) -> None:
        # Do nothing else here: the interrupted thread may hold any lock.
        self.number += 1
        if self.number > 1:
            signal.signal(number, signal.SIG_DFL)

"""Threads that do the same again and again."""

import threading
from collections.abc import Callable


class Repeated(threading.Thread):
    """A thread that takes steps until it is told to stop, and keeps the error that ends it.

    Args:
        name: Its name.
        step: Takes a step.
        pause_s: Returns the seconds between two steps.
    """

    def __init__(
        self, name: str, step: Callable[[], object], pause_s: Callable[[], float] = lambda: 0.0
    ) -> None:
        super().__init__(name=name, daemon=True)
        self.error: BaseException | None = None
        self._step = step
        self._pause_s = pause_s
        self._is_over = threading.Event()

    def run(self) -> None:
        try:
            while not self._is_over.wait(self._pause_s()):
                self._step()
        except BaseException as error:  # noqa: BLE001 - it is raised in the test
            self.error = error

    def stop(self) -> None:
        """Take no further step after the present one."""
        self._is_over.set()

    def finish(self, deadline_s: float) -> None:
        """Wait until its step is over, and raise its error."""
        self.stop()
        self.join(deadline_s)
        if self.error is not None:
            raise self.error
        if self.is_alive():
            raise TimeoutError(f"{self.name} did not end its step within {deadline_s:.0f} s")

"""Failures of the steps of a worker's loop, which end the worker if they go on.

A step that fails once may work the next time: the loop goes on.  If step after step fails,
something in the process is broken, such as descriptors that a handler has closed, and only
another process can work.  ``ledger work`` replaces a child process; if it runs its only worker
itself, it exits.
"""

import logging
from typing import Final

from ledger.errors import WorkerFailed

# With the pause between steps, about ten seconds: long enough for a shortage of descriptors or
# memory to pass, and a third of the lease, after which other workers get the jobs anyway.
MOST_IN_A_ROW: Final = 20

_log = logging.getLogger(__name__)


class StepFailures:
    """The failures of a worker's last steps, without those of an unavailable database.

    Args:
        worker: The worker's name.
        most: The number of failures in a row that ends the worker.
    """

    def __init__(self, worker: str, *, most: int = MOST_IN_A_ROW) -> None:
        self._worker = worker
        self._most = most
        self._number = 0
        self._shown = ""

    def add(self, error: Exception) -> None:
        """Log a failure, with its traceback if it differs from the last one.

        Raises:
            WorkerFailed: So many steps have failed in a row that the worker must end.
        """
        self._number += 1
        before, self._shown = self._shown, f"{type(error).__name__}: {error}"
        if self._number >= self._most:
            raise WorkerFailed(self._worker, self._number, self._shown) from error
        if self._shown == before:
            text = "worker %s failed %d times in a row; retrying: %s"
            _log.error(text, self._worker, self._number, self._shown)
        else:
            _log.error("worker %s failed; retrying", self._worker, exc_info=error)

    def clear(self) -> None:
        """Forget the failures: a step has succeeded, or has only found the database unavailable."""
        self._number = 0
        self._shown = ""

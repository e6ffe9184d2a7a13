"""The mailbox that collects jobs with new reports and wakes the worker's loop."""

import threading
from typing import Final

from ledger.worker.running_job import RunningJob

# How long to wait, after the first job's report, for those of others: a commit takes longer.
_GATHER_S: Final = 0.001


class Mailbox:
    """A mailbox of jobs with new reports.

    The loop is woken by the first job, waits a moment for others, and is woken again only when
    all have come or the moment is over: waking it for each would cost more than the jobs do.
    """

    def __init__(self) -> None:
        # Reentrant: a signal handler may stop the worker while its thread holds it.
        self._mutex = threading.RLock()
        self._jobs: list[RunningJob] = []
        self._interrupted = False
        self._enough = 1
        self._is_waiting = False
        # A held lock is the cheapest object to wait on.
        self._woken = threading.Lock()
        self._woken.acquire()

    def put(self, job: RunningJob) -> None:
        """Add *job*, which has new reports."""
        with self._mutex:
            self._jobs.append(job)
            if len(self._jobs) >= self._enough:
                self._wake()

    def interrupt(self) -> None:
        """Make ``take`` return at once, now or the next time it would wait."""
        with self._mutex:
            self._interrupted = True
            self._wake()

    def take(self, *, timeout_s: float, enough: int) -> list[RunningJob]:
        """Return the jobs that have new reports; none after *timeout_s*.

        Args:
            timeout_s: How long to wait for the first, in seconds.
            enough: How many there can be: once that many have come, do not wait for more.
        """
        self._wait(timeout_s, 1)
        if self._jobs:
            self._wait(_GATHER_S, enough)
        with self._mutex:
            jobs, self._jobs = self._jobs, []
            self._interrupted = False
        return jobs

    def _wait(self, timeout_s: float, enough: int) -> None:
        with self._mutex:
            if self._interrupted or len(self._jobs) >= enough or timeout_s <= 0:
                return
            self._enough, self._is_waiting = enough, True
        if not self._woken.acquire(timeout=timeout_s):
            with self._mutex:
                if not self._is_waiting:
                    # Woken between the timeout and this point.
                    self._woken.acquire()
                self._is_waiting = False

    def _wake(self) -> None:
        if self._is_waiting:
            self._is_waiting = False
            self._woken.release()

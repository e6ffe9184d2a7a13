"""Collect the attempts that have news, and wake the worker's loop for them."""

import threading
from typing import Final

from ledger.worker.running_job import RunningJob

# After the first news, how long to wait for that of other jobs: a commit costs more.
_GATHER_S: Final = 0.001


class Inbox:
    """Collect the jobs that have news.

    The loop is woken by the first, waits a moment for the others, and is woken again
    only when all have come or the moment is over: being woken for each would cost
    more than the jobs.
    """

    def __init__(self) -> None:
        # Reentrant: a signal handler may stop the worker while its thread holds it.
        self._mutex = threading.RLock()
        self._news: list[RunningJob] = []
        self._nudged = False
        self._enough = 1
        self._waits = False
        # A lock that is taken is the cheapest thing to wait on.
        self._woken = threading.Lock()
        self._woken.acquire()

    def put(self, job: RunningJob) -> None:
        """Say that *job* has news."""
        with self._mutex:
            self._news.append(job)
            self._wake(len(self._news) >= self._enough)

    def nudge(self) -> None:
        """Make the loop look around, now or when it would next wait."""
        with self._mutex:
            self._nudged = True
            self._wake(True)  # noqa: FBT003

    def take(self, *, timeout_s: float, enough: int) -> list[RunningJob]:
        """Return the jobs that have news, after *timeout_s* none.

        Args:
            timeout_s: How long to wait for the first.
            enough: How many there can be: with so many there is nothing to wait for.
        """
        self._wait(timeout_s, 1)
        if self._news:
            self._wait(_GATHER_S, enough)
        with self._mutex:
            news, self._news = self._news, []
            self._nudged = False
        return news

    def _wait(self, timeout_s: float, enough: int) -> None:
        with self._mutex:
            if self._nudged or len(self._news) >= enough or timeout_s <= 0:
                return
            self._enough, self._waits = enough, True
        if not self._woken.acquire(timeout=timeout_s):
            with self._mutex:
                if not self._waits:
                    # Woken between the timeout and here.
                    self._woken.acquire()
                self._waits = False

    def _wake(self, when: bool) -> None:  # noqa: FBT001 - what it says
        if when and self._waits:
            self._waits = False
            self._woken.release()

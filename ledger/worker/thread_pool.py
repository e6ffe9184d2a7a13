"""The jobs of a thread pool, which wakes as few threads as it needs.

Waking a thread often costs more than its job, and a woken thread still waits for the GIL
while another one runs.  So one thread is woken at a time, and before it begins its job it
wakes the next if there is more to do: as soon as a handler waits for anything, the next one
begins.  Jobs that never wait are all done by a few threads.

Measured with empty jobs, 20 at a time: waking a thread for each took a quarter of the
interpreter's time.
"""

import threading
from collections import deque
from collections.abc import Iterable
from typing import Generic, TypeVar

Job = TypeVar("Job")


class ThreadPool(Generic[Job]):
    """The jobs that wait for a thread, first in, first out."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._jobs: deque[Job] = deque()
        self._closed = False
        self._idle = 0
        # Whether a thread has been woken that has not resumed yet.
        self._wakes = False
        # A held lock is the cheapest object to wait on.
        self._woken = threading.Lock()
        self._woken.acquire()

    def put(self, jobs: Iterable[Job]) -> None:
        """Add *jobs* for the threads."""
        with self._mutex:
            self._jobs.extend(jobs)
            self._wake_one()

    def close(self) -> None:
        """End the threads once no job is left."""
        with self._mutex:
            self._closed = True
            self._wake_one()

    def take(self) -> Job | None:
        """Wait for a job and return it; None if there will be no more."""
        came = False
        while True:
            with self._mutex:
                if came:
                    self._idle -= 1
                    self._wakes = False
                if self._jobs or self._closed:
                    job = self._jobs.popleft() if self._jobs else None
                    self._wake_one()
                    return job
                self._idle += 1
            self._woken.acquire()
            came = True

    def _wake_one(self) -> None:
        """Keep the invariant: if there is work and an idle thread, one is being woken."""
        if (self._jobs or self._closed) and self._idle and not self._wakes:
            self._wakes = True
            self._woken.release()

"""The threads that call handlers, which wakes as few of them as it needs.

Waking a thread often costs more than its job, and a woken thread still waits for the GIL
while another one runs.  So one thread is woken at a time, and before it begins its job it
wakes the next if there is more to do: as soon as a handler waits for anything, the next one
begins.  Jobs that never wait are all done by a few threads.

Measured with empty jobs, 20 at a time: waking a thread for each took a quarter of the
interpreter's time.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

Job = TypeVar("Job")


class ThreadPool(Generic[Job]):
    """A fixed number of threads, and the jobs that wait for one, first in, first out.

    Args:
        perform: Called with each job, in one of the threads; it must not raise.
        name: The threads are named ``NAME-0``, ``NAME-1`` and so on.
        threads: The number of threads.
    """

    def __init__(self, perform: Callable[[Job], object], *, name: str, threads: int) -> None:
        self._perform = perform
        self._name = name
        self._threads = threads
        self._mutex = threading.Lock()
        self._jobs: deque[Job] = deque()
        self._closed = False
        self._idle = 0
        # Whether a thread has been woken that has not resumed yet.
        self._is_waking = False
        # A held lock is the cheapest object to wait on.
        self._woken = threading.Lock()
        self._woken.acquire()

    def start(self) -> None:
        """Start the threads."""
        for number in range(self._threads):
            # Daemons: a handler that never ends must not keep the process from ending.
            threading.Thread(target=self._run, name=f"{self._name}-{number}", daemon=True).start()

    def put(self, jobs: Iterable[Job]) -> None:
        """Add *jobs* for the threads."""
        with self._mutex:
            self._jobs.extend(jobs)
            self._wake_one()

    def close(self) -> None:
        """End each thread once no job is left for it; do not wait for that."""
        with self._mutex:
            self._closed = True
            self._wake_one()

    def _run(self) -> None:
        while (job := self._take()) is not None:
            self._perform(job)

    def _take(self) -> Job | None:
        """Wait for a job and return it; None if there will be no more."""
        was_woken = False
        while True:
            with self._mutex:
                if was_woken:
                    self._idle -= 1
                    self._is_waking = False
                if self._jobs or self._closed:
                    job = self._jobs.popleft() if self._jobs else None
                    self._wake_one()
                    return job
                self._idle += 1
            self._woken.acquire()
            was_woken = True

    def _wake_one(self) -> None:
        """Keep the invariant: if there is work and an idle thread, one is being woken."""
        if (self._jobs or self._closed) and self._idle and not self._is_waking:
            self._is_waking = True
            self._woken.release()

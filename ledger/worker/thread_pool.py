"""The threads that call handlers, which wakes as few of them as it needs.

Waking a thread often costs more than its job, and a woken thread still waits for the GIL
while another one runs.  So one thread is woken at a time, and before it begins its job it
wakes the next if there is more to do: as soon as a handler waits for anything, the next one
begins.  Jobs that never wait are all done by a few threads.

Measured with empty jobs, 20 at a time: waking a thread for each took a quarter of the
interpreter's time.

No exception ends a thread.  Handlers are user code, and another thread can raise an exception in
one of these at any moment (``PyThreadState_SetAsyncExc``, with which applications limit the time
of a call): within a job, or while the thread waits for one, where it is raised once the thread is
woken.
"""

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Final, Generic, TypeVar

from ledger.worker.error_text import described

Job = TypeVar("Job")

_log: Final = logging.getLogger(__name__)


class ThreadPool(Generic[Job]):
    """A fixed number of threads, and the jobs that wait for one, first in, first out.

    Args:
        perform: Called with each job, in one of the threads.
        on_error: Called with a job and what *perform* raised, in the same thread.
        name: The threads are named ``NAME-0``, ``NAME-1`` and so on.
        threads: The number of threads.
    """

    def __init__(
        self,
        perform: Callable[[Job], object],
        on_error: Callable[[Job, BaseException], object],
        *,
        name: str,
        threads: int,
    ) -> None:
        self._perform = perform
        self._on_error = on_error
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
        while True:
            try:
                # The loop is within the try, so that what is raised between two jobs is caught.
                while (job := self._take()) is not None:
                    try:
                        self._perform(job)
                    except BaseException as error:  # noqa: BLE001 - must not end the thread
                        self._on_error(job, error)
            except BaseException as error:  # noqa: BLE001 - must not end the thread
                with suppress(BaseException):
                    _log.error("a thread of %s was interrupted: %s", self._name, described(error))
            else:
                return

    def _take(self) -> Job | None:
        """Wait for a job and return it; None if there will be no more."""
        while True:
            job, is_idle = None, False
            try:
                with self._mutex:
                    if self._jobs or self._closed:
                        job = self._jobs.popleft() if self._jobs else None
                        self._wake_one()
                        return job
                    self._idle += 1
                    is_idle = True
                self._woken.acquire()
            except BaseException:
                if job is not None:
                    self._put_back(job)
                raise
            finally:
                if is_idle:
                    self._resume()

    def _put_back(self, job: Job) -> None:
        with self._mutex:
            self._jobs.appendleft(job)

    def _resume(self) -> None:
        """End a wait, whether the thread was woken or an exception was raised in it.

        In the latter case it cannot know whether it was woken, so it counts as woken: otherwise,
        all others would wait for it.
        """
        with self._mutex:
            self._idle -= 1
            # It is released only while nobody is being woken.
            self._woken.acquire(blocking=False)
            self._is_waking = False

    def _wake_one(self) -> None:
        """Keep the invariant: if there is work and an idle thread, one is being woken."""
        if (self._jobs or self._closed) and self._idle and not self._is_waking:
            self._is_waking = True
            self._woken.release()

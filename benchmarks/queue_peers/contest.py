"""The tasks of every measured queue, and their timing.

A queue is a module beside this one, run by the interpreter that has it installed:
``python -m benchmarks.queue_peers.NAME TASK STORE JOBS``, where STORE is a URL and TASK is
one of

``fill``     store jobs in the fastest way
``drain``    run all stored jobs in this process; timed from the start of the first handler
             until the store has no jobs left
``one``      create jobs one by one from one thread
``threads``  create jobs one by one from 32 threads
``batches``  create jobs 1,000 at a time

All tasks except ``drain`` start with an empty store.  The time in seconds is printed as JSON.
This module may import only the standard library.
"""

import json
import os
import sys
import threading
import time
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable
from itertools import count

CONCURRENCY = 20
THREADS = 32
BATCH = 1_000
TYPE = "email"
DATA = {
    "title": "welcome email for user 1",
    "to": "user1@example.com",
    "template": "welcome",
}

# Interval between checks of the store once all handlers have run.
_LOOK_S = 0.005
# How long the store may still have jobs after the worker has ended.
_LAST_LOOK_S = 10.0


class Countdown:
    """A timer that starts at the first call; ``over`` is set at the last."""

    def __init__(self) -> None:
        self.jobs = 0
        self.began_s = 0.0
        self.over = threading.Event()
        # Advancing the counter is atomic in CPython, so no lock is needed.
        self._calls = count(1)

    def __call__(self) -> None:
        call = next(self._calls)
        if call == 1:
            self.began_s = time.perf_counter()
        if call == self.jobs:
            self.over.set()

    def calls(self) -> int:
        """Return the number of calls; call this once, because it advances the counter."""
        return next(self._calls) - 1


countdown = Countdown()


def nothing(*_: object, **__: object) -> None:
    """Handle a job by doing nothing."""
    countdown()


async def nothing_async(*_: object, **__: object) -> None:
    """Handle a job by doing nothing, for queues whose handlers are coroutines."""
    countdown()


class Contestant(ABC):
    """A measured queue.

    Args:
        store: URL of the store; missing tables are created.
    """

    @abstractmethod
    def __init__(self, store: str) -> None: ...

    @abstractmethod
    def enqueue(self) -> None:
        """Create one job; callable from any thread."""

    @abstractmethod
    def enqueue_batch(self, jobs: int) -> None:
        """Create *jobs* jobs in one call, or one by one if the queue has no batches."""

    @abstractmethod
    def work(self) -> None:
        """Run jobs, ``CONCURRENCY`` at once if the queue can."""

    @abstractmethod
    def left(self) -> int:
        """Return the number of jobs that are not complete; callable from any thread."""

    def fill(self, jobs: int) -> None:
        """Store jobs in the fastest way."""
        self.batches(jobs)

    def one(self, jobs: int) -> None:
        for _ in range(jobs):
            self.enqueue()

    def threads(self, jobs: int) -> None:
        share = jobs // THREADS
        threads = [threading.Thread(target=self.one, args=(share,)) for _ in range(THREADS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def batches(self, jobs: int) -> None:
        for begun in range(0, jobs, BATCH):
            self.enqueue_batch(min(BATCH, jobs - begun))


def main(contestant: type[Contestant]) -> None:
    """Run the task on the command line."""
    task, store, jobs = sys.argv[1], sys.argv[2], int(sys.argv[3])
    queue = contestant(store)
    if task == "drain":
        _drain(queue, jobs)
        return
    enqueue: dict[str, Callable[[int], None]] = {
        "fill": queue.fill,
        "one": queue.one,
        "threads": queue.threads,
        "batches": queue.batches,
    }
    start_s = time.perf_counter()
    enqueue[task](jobs)
    seconds = time.perf_counter() - start_s
    _require(queue.left(), jobs, "jobs in the store")
    _print(seconds)


def _drain(queue: Contestant, jobs: int) -> None:
    countdown.jobs = jobs
    watcher = threading.Thread(target=_end_when_drained, args=(queue, jobs), daemon=True)
    watcher.start()
    # In the main thread, because workers install signal handlers.
    queue.work()
    watcher.join(_LAST_LOOK_S)
    raise RuntimeError(f"the worker ended after {countdown.calls()} of {jobs} jobs")


def _end_when_drained(queue: Contestant, jobs: int) -> None:
    """Print the time once all jobs are done, and end the process without stopping the worker."""
    status = 1
    try:
        countdown.over.wait()
        while queue.left():
            time.sleep(_LOOK_S)
        seconds = time.perf_counter() - countdown.began_s
        _require(countdown.calls(), jobs, "handlers called")
        _print(seconds)
        status = 0
    except BaseException:  # noqa: BLE001 - nobody else would hear of it
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _require(found: int, expected: int, what: str) -> None:
    """Refuse the figure of a run that lost jobs or ran some twice."""
    if found != expected:
        raise RuntimeError(f"expected {expected} {what}, found {found}")


def _print(seconds: float) -> None:
    print(json.dumps({"seconds": seconds}))

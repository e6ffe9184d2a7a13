"""Say what is asked of every queue that is measured, and take the time.

A queue is a module beside this one, run in the interpreter that has it installed:
``python -m benchmarks.queue_peers.NAME TASK STORE JOBS``, where the store is a URL and
the tasks are

``fill``     store jobs, however it goes fastest
``drain``    do all that are stored, in this one process; from the first handler's
             beginning until the store says that no job is left
``one``      create jobs one by one from one thread
``threads``  the same from 32
``batches``  create jobs 1,000 at a time

Each but ``drain`` finds an empty store.  It prints, as JSON, how many seconds it took.
Only Python's own library is at hand.
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

# Between two looks at what is left, once all handlers have run.
_LOOK_S = 0.005
# How long the drained store may take to say so after the worker has gone home.
_LAST_LOOK_S = 10.0


class Countdown:
    """Take the time from the first call; ``over`` is set with the last."""

    def __init__(self) -> None:
        self.jobs = 0
        self.began_s = 0.0
        self.over = threading.Event()
        # Counting is one step of the interpreter: no lock.
        self._calls = count(1)

    def __call__(self) -> None:
        call = next(self._calls)
        if call == 1:
            self.began_s = time.perf_counter()
        if call == self.jobs:
            self.over.set()

    def calls(self) -> int:
        """Return how many calls there were; ends the counting."""
        return next(self._calls) - 1


countdown = Countdown()


def nothing(*_: object, **__: object) -> None:
    """Be the handler of all jobs."""
    countdown()


async def nothing_async(*_: object, **__: object) -> None:
    """Be the handler of all jobs where handlers are coroutines."""
    countdown()


class Contestant(ABC):
    """Be a queue.

    Args:
        store: The URL of where it keeps its jobs; tables are created where none are.
    """

    @abstractmethod
    def __init__(self, store: str) -> None: ...

    @abstractmethod
    def enqueue(self) -> None:
        """Create one job; any thread may."""

    @abstractmethod
    def enqueue_batch(self, jobs: int) -> None:
        """Create *jobs* jobs in one go, or one by one if the queue knows no other way."""

    @abstractmethod
    def work(self) -> None:
        """Do jobs, ``CONCURRENCY`` at once where the queue can."""

    @abstractmethod
    def left(self) -> int:
        """Return how many jobs are not done; any thread may ask."""

    def fill(self, jobs: int) -> None:
        """Store jobs, however it goes fastest."""
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
    """Carry out what the command line says."""
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
    # In the main thread: workers want to hear signals.
    queue.work()
    watcher.join(_LAST_LOOK_S)
    raise RuntimeError(f"the worker ended after {countdown.calls()} of {jobs} jobs")


def _end_when_drained(queue: Contestant, jobs: int) -> None:
    """End the process, however its worker would rather be ended."""
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
    """Let no figure come from a run that lost jobs, or did them twice."""
    if found != expected:
        raise RuntimeError(f"expected {expected} {what}, found {found}")


def _print(seconds: float) -> None:
    print(json.dumps({"seconds": seconds}))

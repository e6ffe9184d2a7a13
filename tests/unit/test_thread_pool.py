"""Threads get every job once, and are all there when it takes all of them."""

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ledger.worker.thread_pool import ThreadPool

PATIENCE_S = 60.0
THREADS = 8
NAME = "thread pool of a test"


def threads_of_the_pool() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith(f"{NAME}-")]


@contextmanager
def performing(
    perform: Callable[[int], object], *, threads: int = THREADS
) -> Iterator[ThreadPool[int]]:
    """Give a pool of threads that perform its jobs, and see the threads end."""
    pool = ThreadPool(perform, name=NAME, threads=threads)
    pool.start()
    started = threads_of_the_pool()
    yield pool
    pool.close()
    for thread in started:
        thread.join(PATIENCE_S)
    assert not any(thread.is_alive() for thread in started)


def test_each_job_is_done_once_and_those_left_at_the_end_too() -> None:
    done: list[int] = []

    with performing(done.append) as pool:
        for start in range(0, 20_000, 20):
            pool.put(range(start, start + 20))

    assert Counter(done) == Counter(range(20_000))


def test_jobs_that_wait_for_each_other_run_at_once() -> None:
    for _ in range(50):
        together = threading.Barrier(THREADS + 1)
        with performing(lambda _, all_=together: all_.wait(PATIENCE_S)) as pool:  # type: ignore[misc]
            pool.put(range(THREADS))
            together.wait(PATIENCE_S)


def test_a_job_that_takes_long_keeps_no_later_one_waiting() -> None:
    ended, later = threading.Event(), threading.Semaphore(0)

    def perform(job: int) -> None:
        if job == 0:
            assert ended.wait(PATIENCE_S)
        else:
            later.release()

    with performing(perform) as pool:
        pool.put([0])
        for number in range(1, 200):
            pool.put([number])
            assert later.acquire(timeout=PATIENCE_S)
        ended.set()


def test_the_oldest_is_first() -> None:
    done: list[int] = []

    with performing(done.append, threads=1) as pool:
        pool.put([1, 2])
        pool.put([3])

    assert done == [1, 2, 3]


def test_jobs_that_come_before_the_threads_are_started_are_done_too() -> None:
    done: list[int] = []
    pool = ThreadPool(done.append, name=NAME, threads=2)
    pool.put([1])
    pool.close()
    before = list(done)

    pool.start()
    for thread in threads_of_the_pool():
        thread.join(PATIENCE_S)

    assert (before, done) == ([], [1])


def test_a_pool_has_as_many_threads_as_it_was_made_with() -> None:
    with performing(lambda _: None, threads=3):
        names = sorted(thread.name for thread in threads_of_the_pool())
        daemons = {thread.daemon for thread in threads_of_the_pool()}

    assert names == [f"{NAME}-{number}" for number in range(3)]
    assert daemons == {True}

"""Threads get every job once, and are all there when it takes all of them."""

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ledger.worker.thread_pool import ThreadPool

PATIENCE_S = 60.0
THREADS = 8


@contextmanager
def performing(pool: ThreadPool[int], perform: Callable[[int], object]) -> Iterator[None]:
    """Let eight threads do what is handed out, and see them end."""

    def run() -> None:
        while (job := pool.take()) is not None:
            perform(job)

    threads = [threading.Thread(target=run, daemon=True) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    yield
    pool.close()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert not any(thread.is_alive() for thread in threads)


def test_each_job_is_done_once_and_those_left_at_the_end_too() -> None:
    pool: ThreadPool[int] = ThreadPool()
    done: list[int] = []

    with performing(pool, done.append):
        for start in range(0, 20_000, 20):
            pool.put(range(start, start + 20))

    assert Counter(done) == Counter(range(20_000))


def test_jobs_that_wait_for_each_other_run_at_once() -> None:
    for _ in range(50):
        together = threading.Barrier(THREADS + 1)
        pool: ThreadPool[int] = ThreadPool()
        with performing(pool, lambda _, all_=together: all_.wait(PATIENCE_S)):  # type: ignore[misc]
            pool.put(range(THREADS))
            together.wait(PATIENCE_S)


def test_a_job_that_takes_long_keeps_no_later_one_waiting() -> None:
    pool: ThreadPool[int] = ThreadPool()
    ended, later = threading.Event(), threading.Semaphore(0)

    def perform(job: int) -> None:
        if job == 0:
            assert ended.wait(PATIENCE_S)
        else:
            later.release()

    with performing(pool, perform):
        pool.put([0])
        for number in range(1, 200):
            pool.put([number])
            assert later.acquire(timeout=PATIENCE_S)
        ended.set()


def test_the_oldest_is_first() -> None:
    pool: ThreadPool[int] = ThreadPool()
    pool.put([1, 2])
    pool.put([3])
    pool.close()

    assert [pool.take() for _ in range(5)] == [1, 2, 3, None, None]

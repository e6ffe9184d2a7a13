"""Threads get every job once, and are all there when it takes all of them."""

import ctypes
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Self

import pytest

from ledger.worker.thread_pool import ThreadPool
from tests.integration.servers import wait_until

PATIENCE_S = 60.0
THREADS = 8
NAME = "thread pool of a test"


def threads_of_the_pool() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith(f"{NAME}-")]


def unexpected(job: int, error: BaseException) -> None:
    raise AssertionError(job) from error


@contextmanager
def performing(
    perform: Callable[[int], object],
    on_error: Callable[[int, BaseException], object] = unexpected,
    *,
    threads: int = THREADS,
) -> Iterator[ThreadPool[int]]:
    """Give a pool of threads that perform its jobs, and see the threads end."""
    pool = ThreadPool(perform, on_error, name=NAME, threads=threads)
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
    pool = ThreadPool(done.append, unexpected, name=NAME, threads=2)
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


# --- exceptions


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit, GeneratorExit])
def test_whatever_a_job_raises_is_told_and_does_not_end_the_thread(
    error: type[BaseException],
) -> None:
    done: list[int] = []
    told: list[tuple[int, type]] = []

    def perform(job: int) -> None:
        if job < 3:
            raise error
        done.append(job)

    with performing(perform, lambda job, error: told.append((job, type(error))), threads=1) as pool:
        pool.put(range(5))

    assert (told, done) == ([(0, error), (1, error), (2, error)], [3, 4])


def test_a_thread_goes_on_even_if_what_it_raised_cannot_be_told(
    caplog: pytest.LogCaptureFixture,
) -> None:
    done: list[int] = []

    def perform(job: int) -> None:
        if job == 0:
            raise SystemExit
        done.append(job)

    def tell(job: int, error: BaseException) -> None:
        raise KeyboardInterrupt

    with performing(perform, tell, threads=1) as pool:
        pool.put(range(2))

    assert done == [1]
    assert f'a thread of {NAME} was interrupted: "KeyboardInterrupt' in caplog.text


@pytest.mark.parametrize("threads", [1, 2])
def test_a_thread_that_is_interrupted_while_it_waits_goes_on(
    threads: int, caplog: pytest.LogCaptureFixture
) -> None:
    """As by a handler's own time limit that comes too late: it is raised once a job comes."""
    done: list[int] = []

    with performing(done.append, threads=threads) as pool:
        for number in range(3):
            wait_until(lambda: pool._idle == threads, "all threads wait")
            for thread in threads_of_the_pool():
                interrupt(thread, KeyboardInterrupt)
            pool.put([2 * number, 2 * number + 1])
            wait_until(lambda: len(done) == 2 * number + 2, "both are done")  # noqa: B023 - now

    assert sorted(done) == list(range(6))
    assert 'was interrupted: "KeyboardInterrupt' in caplog.text


def interrupt(thread: threading.Thread, error: type[BaseException]) -> None:
    """Raise *error* in another thread, as soon as it runs."""
    assert thread.ident is not None
    raised_in = ctypes.pythonapi.PyThreadState_SetAsyncExc(
        ctypes.c_ulong(thread.ident), ctypes.py_object(error)
    )
    assert raised_in == 1


class WatchedLock:
    """A lock that calls a function each time that it was released, unless within that function."""

    def __init__(self, lock: Any, released: Callable[[], None]) -> None:
        self._lock = lock
        self._released = released
        self._is_within = False

    def __enter__(self) -> Self:
        self._lock.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.release()
        if not self._is_within:
            self._is_within = True
            try:
                self._released()
            finally:
                self._is_within = False


def test_no_job_is_lost_by_a_thread_that_is_interrupted_as_it_takes_it() -> None:
    done: list[int] = []
    interrupted: list[bool] = []
    pool = ThreadPool(done.append, unexpected, name=NAME, threads=1)
    pool.put([1, 2])

    def released() -> None:
        if len(pool._jobs) == 1 and not interrupted:
            interrupted.append(True)
            raise KeyboardInterrupt

    pool._mutex = WatchedLock(pool._mutex, released)  # type: ignore[assignment]
    pool.start()
    wait_until(lambda: len(done) == 2, "both are done")
    pool.close()

    assert (interrupted, done) == ([True], [1, 2])


def test_a_thread_can_be_interrupted_just_before_it_waits_and_be_woken_at_the_same_time() -> None:
    done: list[int] = []
    refused: list[RuntimeError] = []
    pool = ThreadPool(done.append, unexpected, name=NAME, threads=1)
    jobs = iter([1, 2])

    def released() -> None:
        job = next(jobs, None) if pool._idle else None
        if job is not None:
            try:
                pool.put([job])
            except RuntimeError as error:
                refused.append(error)
        if job == 1:
            raise KeyboardInterrupt

    pool._mutex = WatchedLock(pool._mutex, released)  # type: ignore[assignment]
    pool.start()
    wait_until(lambda: len(done) == 2, "both are done")
    pool.close()

    assert (refused, done) == ([], [1, 2])

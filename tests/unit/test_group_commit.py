"""Group commit: who shares a batch, who hears of an error, and that nobody hangs."""

import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from types import FrameType

import pytest

from ledger.errors import OutcomeUnknown, Unavailable
from ledger.log.group_commit import Appender, _Ticket

PATIENCE_S = 60.0


def eventually(condition: Callable[[], bool]) -> None:
    """Wait until *condition* holds."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.001)


class Gate:
    """A function that runs batches: it records each, and stops the first at a gate."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.entered = threading.Event()
        self.opened = threading.Event()
        self.failing: dict[str, BaseException] = {}

    def run(self, take: Callable[[], Sequence[str]]) -> list[str]:
        works = take()
        self.batches.append(list(works))
        if len(self.batches) == 1:
            self.entered.set()
            assert self.opened.wait(PATIENCE_S)
        for work in works:
            if work in self.failing:
                raise self.failing[work]
        return [work.upper() for work in works]


@contextmanager
def callers(number: int) -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(number) as pool:
        yield pool


def line_up(
    pool: ThreadPoolExecutor, appender: Appender[str, str], gate: Gate, works: Sequence[str]
) -> list[Future[str]]:
    """Submit the first work, which stops at the gate, and the others behind it, in order."""
    futures = [pool.submit(appender.submit, works[0])]
    assert gate.entered.wait(PATIENCE_S)
    for number, work in enumerate(works[1:], start=1):
        futures.append(pool.submit(appender.submit, work))
        eventually(lambda number=number: len(appender._waiting) == number)  # type: ignore[misc]
    return futures


def test_a_lone_caller_waits_for_nobody() -> None:
    appender = Appender[str, str](lambda take: [work.upper() for work in take()])

    assert [appender.submit("a"), appender.submit("b")] == ["A", "B"]


def test_those_who_come_meanwhile_share_the_next_batch() -> None:
    gate = Gate()
    appender = Appender(gate.run)
    with callers(4) as pool:
        futures = line_up(pool, appender, gate, ["a", "b", "c", "d"])
        gate.opened.set()
        results = [future.result(PATIENCE_S) for future in futures]

    assert gate.batches == [["a"], ["b", "c", "d"]]
    assert results == ["A", "B", "C", "D"]


def test_a_batch_is_no_larger_than_it_may_be_and_the_lead_is_handed_on() -> None:
    gate = Gate()
    appender = Appender(gate.run, largest_batch=2)
    with callers(6) as pool:
        futures = line_up(pool, appender, gate, ["a", "b", "c", "d", "e", "f"])
        gate.opened.set()
        results = [future.result(PATIENCE_S) for future in futures]

    assert gate.batches == [["a"], ["b", "c"], ["d", "e"], ["f"]]
    assert results == ["A", "B", "C", "D", "E", "F"]


def test_a_batch_counts_the_size_of_each_work_item() -> None:
    gate = Gate()
    appender = Appender(gate.run, size_of=len, largest_batch=3)
    works = ["a", "bb", "c", "dd", "ee", "ffff", "g"]
    with callers(len(works)) as pool:
        futures = line_up(pool, appender, gate, works)
        gate.opened.set()
        results = [future.result(PATIENCE_S) for future in futures]

    assert gate.batches == [["a"], ["bb", "c"], ["dd"], ["ee"], ["ffff"], ["g"]]
    assert results == [work.upper() for work in works]


def test_an_error_reaches_every_caller_of_its_batch_and_only_them() -> None:
    gate = Gate()
    gate.failing["c"] = Unavailable("the database is away")
    appender = Appender(gate.run, largest_batch=2)
    with callers(5) as pool:
        futures = line_up(pool, appender, gate, ["a", "b", "c", "d", "e"])
        gate.opened.set()
        outcomes = [future.exception(PATIENCE_S) or future.result() for future in futures]

    error = gate.failing["c"]
    assert gate.batches == [["a"], ["b", "c"], ["d", "e"]]
    assert outcomes == ["A", error, error, "D", "E"]


def test_the_leaders_error_does_not_stop_those_behind_it() -> None:
    gate = Gate()
    gate.failing["a"] = ValueError("bad")
    appender = Appender(gate.run)
    with callers(2) as pool:
        futures = line_up(pool, appender, gate, ["a", "b"])
        gate.opened.set()
        outcomes = [future.exception(PATIENCE_S) or future.result() for future in futures]

    assert outcomes == [gate.failing["a"], "B"]
    assert appender.submit("c") == "C"


def test_a_wrong_number_of_results_is_an_error_and_no_ones_result() -> None:
    appender = Appender[str, str](lambda take: take()[:0])

    with pytest.raises(ValueError, match="shorter"):
        appender.submit("a")


@pytest.mark.parametrize("end", [KeyboardInterrupt(), SystemExit(1), GeneratorExit()])
def test_nobody_hangs_when_the_leaders_thread_is_stopped(end: BaseException) -> None:
    gate = Gate()
    gate.failing["b"] = end
    appender = Appender(gate.run, largest_batch=3)
    with callers(5) as pool:
        futures = line_up(pool, appender, gate, ["a", "b", "c", "d", "e"])
        gate.opened.set()
        outcomes = [future.exception(PATIENCE_S) or future.result() for future in futures]

    stopped, *others = outcomes[1:4]
    assert (outcomes[0], outcomes[4]) == ("A", "E")
    assert stopped is end
    assert [type(other) for other in others] == [OutcomeUnknown] * 2
    assert {str(other).rpartition(": ")[2] for other in others} == {"the process is stopping"}
    assert appender.submit("f") == "F"


def test_nobody_hangs_when_a_waiting_thread_is_stopped() -> None:
    """A signal's exception ends the main thread's wait; its place in line must not lead."""
    gate = Gate()
    appender = Appender(gate.run)

    def stop(_signal: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    def interrupt_the_wait() -> None:
        eventually(lambda: len(appender._waiting) == 1)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)

    before = signal.signal(signal.SIGUSR1, stop)
    try:
        with callers(3) as pool:
            first = pool.submit(appender.submit, "a")
            assert gate.entered.wait(PATIENCE_S)
            pool.submit(interrupt_the_wait)
            with pytest.raises(KeyboardInterrupt):
                appender.submit("stopped")
            gate.opened.set()
            assert first.result(PATIENCE_S) == "A"

            # In a daemon: if it hangs, the test must fail and not hang with it.
            results: list[str] = []
            later = threading.Thread(
                target=lambda: results.append(appender.submit("later")), daemon=True
            )
            later.start()
            later.join(PATIENCE_S)
    finally:
        signal.signal(signal.SIGUSR1, before)

    assert results == ["LATER"]


def test_many_callers_each_get_their_own_result() -> None:
    running = threading.Lock()

    def run(take: Callable[[], Sequence[int]]) -> list[int]:
        assert running.acquire(blocking=False), "two batches at once"
        try:
            return [work * 2 for work in take()]
        finally:
            running.release()

    appender = Appender[int, int](run, largest_batch=5)
    with callers(16) as pool:
        results = list(pool.map(appender.submit, range(2_000)))

    assert results == [work * 2 for work in range(2_000)]


def test_who_comes_while_the_lock_is_waited_for_is_in_the_batch() -> None:
    batches: list[list[str]] = []
    entered, locked = threading.Event(), threading.Event()

    def run(take: Callable[[], Sequence[str]]) -> list[str]:
        entered.set()
        assert locked.wait(PATIENCE_S)
        works = take()
        batches.append(list(works))
        return list(works)

    appender = Appender[str, str](run)
    with callers(3) as pool:
        futures = [pool.submit(appender.submit, "a")]
        assert entered.wait(PATIENCE_S)
        futures += [pool.submit(appender.submit, work) for work in ("b", "c")]
        eventually(lambda: len(appender._waiting) == 3)
        locked.set()
        results = [future.result(PATIENCE_S) for future in futures]

    assert results == ["a", "b", "c"]
    assert [sorted(batch) for batch in batches] == [["a", "b", "c"]]


def test_who_waits_for_a_lock_that_cannot_be_had_is_told_so() -> None:
    entered, gone = threading.Event(), threading.Event()

    def run(take: Callable[[], Sequence[str]]) -> list[str]:
        entered.set()
        assert gone.wait(PATIENCE_S)
        raise Unavailable("the database is away")

    appender = Appender[str, str](run)
    with callers(2) as pool:
        futures = [pool.submit(appender.submit, "a")]
        assert entered.wait(PATIENCE_S)
        futures.append(pool.submit(appender.submit, "b"))
        eventually(lambda: len(appender._waiting) == 2)
        gone.set()
        errors = [future.exception(PATIENCE_S) for future in futures]

    assert [str(error) for error in errors] == ["the database is away"] * 2


def test_who_waits_too_long_for_a_batch_to_begin_leaves_and_is_in_none() -> None:
    batches: list[list[str]] = []
    entered, locked = threading.Event(), threading.Event()

    def run(take: Callable[[], Sequence[str]]) -> list[str]:
        entered.set()
        assert locked.wait(PATIENCE_S)
        batches.append(list(take()))
        return batches[-1]

    appender = Appender[str, str](run, patience_s=0.05)
    with callers(2) as pool:
        first = pool.submit(appender.submit, "a")
        assert entered.wait(PATIENCE_S)
        with pytest.raises(
            Unavailable, match=r"^nothing was recorded: the ledger was not available for 0\.05 s"
        ):
            appender.submit("b")
        locked.set()
        assert first.result(PATIENCE_S) == "a"
        assert pool.submit(appender.submit, "c").result(PATIENCE_S) == "c"

    assert batches == [["a"], ["c"]]


def test_whose_patience_ends_when_its_batch_has_begun_learns_its_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    entered, locked, taken, impatient = (threading.Event() for _ in range(4))
    wait = _Ticket.wait

    def run(take: Callable[[], Sequence[str]]) -> list[str]:
        entered.set()
        assert locked.wait(PATIENCE_S)
        works = take()
        taken.set()
        assert impatient.wait(PATIENCE_S)
        return [work.upper() for work in works]

    def impatiently(ticket: _Ticket[str, str], patience_s: float = -1) -> bool:
        if patience_s >= 0:
            assert taken.wait(PATIENCE_S)
            return False
        impatient.set()
        return wait(ticket)

    monkeypatch.setattr(_Ticket, "wait", impatiently)
    appender = Appender[str, str](run)
    with callers(2) as pool:
        first = pool.submit(appender.submit, "a")
        assert entered.wait(PATIENCE_S)
        second = pool.submit(appender.submit, "b")
        eventually(lambda: len(appender._waiting) == 2)
        locked.set()
        results = [future.result(PATIENCE_S) for future in (first, second)]

    assert results == ["A", "B"]

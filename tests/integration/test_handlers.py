"""A worker outlives whatever its handlers return or raise, and ends every attempt."""

import re
import threading
from collections.abc import Iterator
from typing import Any, Final

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

import ledger
from ledger import InvalidInput, Job, Queue, Retry, RunningJob, Worker
from ledger.processes.composition import System
from ledger.rules.commands import LARGEST_REPORT, LONGEST_ERROR_LINE, OnAttempt
from ledger.testing import drain, open_queue
from tests.hostile_objects import Hostile, Linked, Odd, Outcome
from tests.integration.servers import DEADLINE_S, wait_until
from tests.strategies import SHARED_FIXTURES, any_outcomes

ENDED: Final = {"complete", "failed"}


@pytest.fixture
def queue(system: System, database_url: str) -> Iterator[Queue]:
    """Yield a queue as applications get one, beside a system on the same database."""
    opened = ledger.connect(database_url, actor="tests")
    yield opened
    opened.close()


class Handler:
    """A handler with one slot, whose jobs do what the test says, and the worker that calls it."""

    def __init__(self, queue: Queue) -> None:
        self._queue = queue
        self._outcomes: list[Outcome] = []
        queue.process("any", concurrency=1)(self._handle)
        self.worker = Worker(queue)
        self._thread = self.worker.start()

    def _handle(self, job: RunningJob) -> Any:
        return "done" if job.data == "plain" else self._outcomes[job.data].happen()

    def run(self, outcomes: list[Outcome]) -> list[Job]:
        """Create a job for each outcome; return the jobs once they have ended."""
        first = len(self._outcomes)
        self._outcomes += outcomes
        jobs = self._queue.create_many(
            {"type": "any", "data": number} for number in range(first, len(self._outcomes))
        )
        for job in jobs:
            wait_until(lambda: job.state in ENDED, "the attempt has ended")  # noqa: B023 - now
        return jobs

    def check_slot(self) -> None:
        """Check that the only slot is free: a plain job is done, by the same worker."""
        plain = self._queue.create("any", "plain")

        assert plain.wait(DEADLINE_S) == "done"
        assert plain.refresh()["workerId"] == self.worker.name

    def stop(self) -> None:
        self.worker.stop(grace_s=0)
        self._thread.join(DEADLINE_S)
        assert not self._thread.is_alive()


@pytest.fixture
def handler(queue: Queue) -> Iterator[Handler]:
    handler = Handler(queue)
    yield handler
    handler.stop()


def test_every_job_ends_whatever_its_handler_does_and_its_slot_is_free(handler: Handler) -> None:
    run_any_handlers(handler, examples=20)


def run_any_handlers(handler: Handler, *, examples: int) -> None:
    """Check that a worker outlives handlers that do anything; tests/soak does so more often."""

    # No examples are made smaller: a job that does not end is waited for each time.
    @settings(
        max_examples=examples,
        phases=(Phase.explicit, Phase.generate),
        suppress_health_check=SHARED_FIXTURES,
    )
    @given(st.lists(any_outcomes(), min_size=1, max_size=5))
    def run_them(outcomes: list[Outcome]) -> None:
        handler.run(outcomes)
        handler.check_slot()

    run_them()


class WithoutConstructor(Retry):
    def __init__(self) -> None:
        pass


def retry_after(after_ms: Any) -> Retry:
    error = Retry("later")
    error.after_ms = after_ms
    return error


NAMED: Final = {
    "a result that is too large": (
        Outcome(Odd("a text that is too long"), raises=False),
        "ledger.errors.InvalidInput: result: expected at most 16777216 characters of JSON, got",
    ),
    "a result that contains itself": (
        Outcome(Odd("a list that contains itself"), raises=False),
        "ledger.errors.InvalidInput: result: expected a value that JSON can represent: Circular",
    ),
    "a result whose methods raise": (
        Outcome(Hostile(dict, {"items": "raises SystemExit"}), raises=False),
        "SystemExit: from a method of the object",
    ),
    "a retry without a constructor": (
        Outcome(WithoutConstructor(), raises=True),
        f"{__name__}.WithoutConstructor",
    ),
    "a retry after nonsense": (
        Outcome(retry_after("soon"), raises=True),
        "ledger.errors.InvalidInput: after_ms: expected an integer from 0 to 9007199254740991,",
    ),
    "an error that raises where its message is asked for": (
        Outcome(Hostile(SyntaxError, {"msg": "raises KeyboardInterrupt"}), raises=True),
        "tests.hostile_objects.HostileSyntaxError: broken (file, line ",
    ),
    "an error that raises where its cause is asked for": (
        Outcome(Hostile(ValueError, {"__cause__": "raises ZeroDivisionError"}), raises=True),
        "tests.hostile_objects.HostileValueError: broken",
    ),
    "an error that raises where its class is asked for": (
        Outcome(Hostile(ValueError, {"__class__": "raises ZeroDivisionError"}), raises=True),
        "tests.hostile_objects.HostileValueError: broken",
    ),
    "an error with causes without end": (
        Outcome(Hostile(ValueError, {"__cause__": "returns another exception"}), raises=True),
        "tests.hostile_objects.HostileValueError: broken",
    ),
    "an error with very many causes": (
        Outcome(Linked(Hostile(ValueError), 20_000, "__cause__"), raises=True),
        "tests.hostile_objects.HostileValueError: broken",
    ),
    "an error that ends programs": (
        Outcome(Hostile(SystemExit), raises=True),
        "tests.hostile_objects.HostileSystemExit: 1",
    ),
    "a call of itself without end": (
        Outcome(None, raises=False, depth=100_000),
        "RecursionError: maximum recursion depth exceeded",
    ),
}


@pytest.mark.parametrize(("outcome", "line"), NAMED.values(), ids=NAMED)
def test_an_attempt_fails_for_its_reason_and_the_slot_is_free(
    handler: Handler, outcome: Outcome, line: str
) -> None:
    (job,) = handler.run([outcome])
    handler.check_slot()

    assert job.state == "failed"
    assert [each[: len(line)] for each in job.log()] == [line]


@pytest.mark.parametrize(("outcome", "line"), NAMED.values(), ids=NAMED)
def test_a_drained_attempt_fails_for_the_same_reason(outcome: Outcome, line: str) -> None:
    with open_queue() as queue:
        queue.process("any")(lambda _: outcome.happen())
        job = queue.create("any")
        escaped = False
        try:
            drain(queue)
        except BaseException as error:  # noqa: BLE001 - what ends programs is raised
            escaped = issubclass(type(error), Exception)

        assert not escaped
        assert [each[: len(line)] for each in job.log()] == [line]


def test_a_report_that_is_too_long_is_refused_in_the_handler(queue: Queue) -> None:
    """It fails the attempt only if the handler does not catch it."""
    refused: list[str] = []

    @queue.process("long")
    def send(job: RunningJob) -> None:
        for report in (job.log, lambda text: job.progress(1, 2, text)):
            try:
                report("x" * LARGEST_REPORT)
            except InvalidInput as error:
                refused.append(str(error))

    queue.create("long")
    (ran,) = drain(queue)

    assert (ran.state, refused) == (
        "complete",
        [
            f"line: expected at most {LARGEST_REPORT} characters, got {LARGEST_REPORT + 2}",
            f"progress data: expected at most {LARGEST_REPORT} characters of JSON, got more",
        ],
    )


def test_the_first_line_of_an_error_is_bounded(handler: Handler) -> None:
    (job,) = handler.run([Outcome(ValueError("x" * 100_000), raises=True)])

    (line,) = job.log()
    assert len(line) <= LONGEST_ERROR_LINE
    assert "characters left out" in line


def test_an_attempt_whose_last_report_is_interrupted_ends_too(
    handler: Handler, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """An exception that another thread raises in this one comes at any moment."""
    finish = RunningJob.finish
    interruptions = [KeyboardInterrupt("too late")]

    def interrupted(job: RunningJob, report: OnAttempt) -> None:
        if interruptions:
            raise interruptions.pop()
        finish(job, report)

    monkeypatch.setattr(RunningJob, "finish", interrupted)
    (job,) = handler.run([Outcome("a result", raises=False)])
    handler.check_slot()

    assert job.log() == ["KeyboardInterrupt: too late"]
    assert "attempt 1 was interrupted" in caplog.text


def test_a_handler_that_changes_its_job_does_not_keep_the_slot(queue: Queue) -> None:
    @queue.process("changes", concurrency=1)
    def change(job: RunningJob) -> int:
        job.attempt += 6
        job.id = 1_000_000
        job.log("line")
        job.progress(1, 2)
        return job.attempt

    worker = Worker(queue)
    thread = worker.start()
    try:
        for _ in range(3):
            job = queue.create("changes")
            assert job.wait(DEADLINE_S) == 7
            assert job.log() == ["line"]
        wait_until(lambda: worker.running == 0, "nothing runs")
    finally:
        worker.stop(grace_s=0)
        thread.join(DEADLINE_S)


def test_a_result_that_another_thread_changes_ends_its_attempt(handler: Handler) -> None:
    shared: dict[str, Any] = {str(number): [number] for number in range(20_000)}
    stop = threading.Event()

    def change() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            shared[f"new {number % 1_000}"] = number
            shared.pop(f"new {(number - 500) % 1_000}", None)

    changing = threading.Thread(target=change)
    changing.start()
    try:
        (job,) = handler.run([Outcome(Shared(shared), raises=False)])
    finally:
        stop.set()
        changing.join()
    handler.check_slot()

    if job.state == "failed":
        # The interpreter says "changed size", or "keys changed" if the size is what it was.
        assert re.match(r"RuntimeError: dictionary .*changed.* during iteration", job.log()[0])
    else:
        assert job.result.keys() >= {"0", "19999"}


class Shared(dict[str, Any]):
    """A dict whose items are those of another one, which a thread changes."""

    def __init__(self, of: dict[str, Any]) -> None:
        self._of = of

    def __bool__(self) -> bool:
        return True

    def items(self) -> Any:
        return self._of.items()


@pytest.mark.parametrize("name", ["end", "take", "finish", "log", "ended", "expired", "ttl_ms"])
def test_a_handler_cannot_replace_what_its_worker_needs_of_the_job(queue: Queue, name: str) -> None:
    """As with ``job.end = time.time()``: it is told so, and the slot is free."""

    @queue.process("email")
    def send(job: RunningJob) -> int:
        if job.data:
            setattr(job, name, 1.5)
        return job.attempt

    first, second = queue.create("email", "set"), queue.create("email")
    worker = Worker(queue)
    thread = worker.start()
    result = second.wait(DEADLINE_S)
    worker.stop()
    thread.join(DEADLINE_S)

    assert (result, first.state) == (1, "failed")
    assert f"{name}" in (first.error or "").splitlines()[0]
    assert not thread.is_alive()

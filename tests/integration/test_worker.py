"""A worker does jobs, says what came of them, and loses and doubles nothing."""

import json
import logging
import math
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, Final

import pytest

import ledger
from ledger import Fail, InvalidInput, Job, Queue, Retry, RunningJob, Worker
from ledger.database import migration
from ledger.errors import AttemptOver, JobFailed, Unavailable, WorkerFailed
from ledger.log.answers import Answer
from ledger.processes.composition import System
from ledger.queue.queue import own_name
from ledger.rules.commands import Claim, Command, Complete, Elapse
from ledger.worker.pauses import Pauses
from ledger.worker.step_failures import MOST_IN_A_ROW
from ledger.worker.sweeper import Sweeper
from tests.builders import START_MS, Clock, open_system, rows, verified
from tests.integration.servers import DEADLINE_S, postgres, wait_until

LEASE_MS: Final = 30_000
# A worker looks for jobs only when it is woken, or has to.
UNHURRIED: Final = Pauses(longest_s=10 * DEADLINE_S)
# A worker tries again soon.
EAGER: Final = Pauses(retry_s=0.01)


@pytest.fixture
def queue(system: System, database_url: str) -> Iterator[Queue]:
    """Yield a queue as applications get one, beside a system on the same database."""
    opened = ledger.connect(database_url, actor="tests")
    yield opened
    opened.close()


@pytest.fixture
def clock(queue: Queue, system: System) -> Clock:
    clock = Clock()
    queue.ledger.clock = clock
    system.ledger.clock = clock
    return clock


@contextmanager
def working(queue: Queue, **options: Any) -> Iterator[Worker]:
    """Yield a worker that works in a thread of its own, until the end of the block."""
    worker = Worker(queue, **options)
    thread = worker.start()
    try:
        yield worker
    finally:
        worker.stop(grace_s=0)
        ended(thread)


def ended(thread: threading.Thread) -> None:
    thread.join(DEADLINE_S)
    assert not thread.is_alive()


def kinds(job: Job) -> list[str]:
    return [event.kind for event in job.events()]


def become(job: Job, state: str) -> None:
    wait_until(lambda: job.state == state, f"{job} is {state}")


class Gate:
    """Hold a handler until the test lets it go on."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.opened = threading.Event()

    def pass_through(self) -> None:
        self.entered.set()
        if not self.opened.wait(DEADLINE_S):
            raise TimeoutError

    def wait_entered(self) -> None:
        assert self.entered.wait(DEADLINE_S)


@pytest.fixture
def gate() -> Iterator[Gate]:
    gate = Gate()
    yield gate
    # Whatever became of the test, no handler stays behind.
    gate.opened.set()


# --- what comes of a job


def test_a_handlers_return_value_is_the_result(queue: Queue, clock: Clock) -> None:
    @queue.process("email")
    def send(job: RunningJob) -> Any:
        return {"sent": job.data["to"], "attempt": job.attempt}

    job = queue.create("email", {"to": "tj"})
    with working(queue, name="host:17:1"):
        result = job.wait(DEADLINE_S)

    assert result == {"sent": "tj", "attempt": 1}
    assert job.refresh() == {
        "id": "1",
        "type": "email",
        "data": {"to": "tj"},
        "result": {"sent": "tj", "attempt": 1},
        "priority": 0,
        "progress": "100",
        "state": "complete",
        "created_at": str(START_MS),
        "promote_at": str(START_MS),
        "updated_at": str(START_MS),
        "started_at": str(START_MS),
        "duration": "0",
        "workerId": "host:17:1",
        "attempts": {"made": 1, "remaining": 0, "max": 1},
    }
    assert [(event.kind, event.actor) for event in job.events()] == [
        ("created", "app:tests"),
        ("started", "worker:host:17:1"),
        ("completed", "worker:host:17:1"),
    ]


def test_a_handler_that_returns_nothing_completes_the_job(queue: Queue) -> None:
    queue.process("email")(lambda _: None)
    job = queue.create("email")

    with working(queue):
        result = job.wait(DEADLINE_S)

    assert (result, job.state) == (None, "complete")


def test_an_exception_is_a_failed_attempt_with_its_traceback(queue: Queue) -> None:
    @queue.process("email")
    def send(_: RunningJob) -> None:
        raise ValueError("no such\nuser: Ärger \ud800")

    job = queue.create("email")
    with working(queue), pytest.raises(JobFailed) as failure:
        job.wait(DEADLINE_S)

    lines = failure.value.error.splitlines()
    assert str(failure.value) == "job 1 failed: ValueError: no such"
    assert lines[:2] == ["ValueError: no such", "Traceback (most recent call last):"]
    assert lines[-2:] == ["ValueError: no such", "user: Ärger \\ud800"]
    assert "in send" in failure.value.error
    assert (job.state, job.log()) == ("failed", ["ValueError: no such"])


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (KeyError(), "KeyError"),
        (SystemExit(1), "SystemExit: 1"),
        (KeyboardInterrupt(), "KeyboardInterrupt"),
        (
            ExceptionGroup("two", [ValueError(), OSError()]),
            "ExceptionGroup: two (2 sub-exceptions)",
        ),
    ],
    ids=lambda value: type(value).__name__,
)
def test_whatever_a_handler_raises_fails_its_attempt_and_not_the_worker(
    queue: Queue, error: BaseException, line: str
) -> None:
    @queue.process("email")
    def send(job: RunningJob) -> int:
        if job.data == "bad":
            raise error
        return 1

    bad, good = queue.create("email", "bad"), queue.create("email", "good")
    with working(queue):
        result = good.wait(DEADLINE_S)

    assert result == 1
    assert (bad.state, bad.log()) == ("failed", [line])


@pytest.mark.parametrize(
    "result",
    [{1, 2}, float("nan"), object(), "a\0b", "\ud800"],
    ids=["set", "nan", "object", "nul", "half"],
)
def test_a_result_that_json_cannot_say_fails_the_attempt(queue: Queue, result: Any) -> None:
    queue.process("email")(lambda _: result)
    job = queue.create("email")

    with working(queue), pytest.raises(JobFailed, match="InvalidInput: result: expected "):
        job.wait(DEADLINE_S)


def test_a_job_that_asked_for_it_is_removed_once_complete(queue: Queue) -> None:
    queue.process("email")(lambda _: [1])
    job = queue.create("email", remove_on_complete=True)

    with working(queue):
        result = job.wait(DEADLINE_S)

    assert (result, job.state) == ([1], "removed")
    assert kinds(job) == ["created", "started", "completed", "removed"]


# --- trying again


def waits_of(queue: Queue, clock: Clock, job: Job) -> list[tuple[str, int, int]]:
    """Let *job* fail until it has failed for good; return state, wait and runs of each time."""
    seen: list[tuple[str, int, int]] = []
    while not seen or seen[-1][0] == "delayed":
        runs = len(seen) + 1
        wait_until(
            lambda: job.attempts["made"] == runs,  # noqa: B023 - waited for at once
            "the attempt has ended",
        )
        shown = job.refresh()
        wait_ms = int(shown["promote_at"]) - int(shown["failed_at"])
        assert shown["state"] == "failed" or shown["delay"] == str(wait_ms)
        seen.append((shown["state"], wait_ms, shown["attempts"]["made"]))
        clock.now_ms = int(shown["promote_at"])
        queue.execute(Elapse(job_id=job.id))
    return seen


@pytest.mark.parametrize(
    ("options", "waits_ms"),
    [
        ({"backoff": {"type": "exponential", "delay": 2_000}}, [1_000, 3_000, 7_000]),
        (
            {"backoff": {"type": "exponential", "delay": 2_000, "maxDelay": 5_000}},
            [1_000, 3_000, 4_000],
        ),
        ({"backoff": {"type": "fixed", "delay": 700}}, [700, 700, 700]),
        ({"backoff": True, "delay": 60_000}, [60_000, 60_000, 60_000]),
    ],
)
def test_a_failing_job_waits_and_counts_as_in_kue(
    queue: Queue, clock: Clock, options: dict[str, Any], waits_ms: list[int]
) -> None:
    @queue.process("email")
    def send(_: RunningJob) -> None:
        raise ValueError("broken")

    job = queue.create("email", attempts=4, **options)
    if "delay" in options:
        clock.now_ms += options["delay"]
        queue.execute(Elapse(job_id=job.id))
    with working(queue):
        seen = waits_of(queue, clock, job)

    assert [(state, made) for state, _, made in seen] == [
        ("delayed", 1),
        ("delayed", 2),
        ("delayed", 3),
        ("failed", 4),
    ]
    assert [wait_ms for state, wait_ms, _ in seen if state == "delayed"] == waits_ms
    assert job.log() == ["ValueError: broken"] * 4
    assert job.attempts == {"made": 4, "remaining": 0, "max": 4}


def test_a_failing_job_without_backoff_is_tried_again_at_once(queue: Queue) -> None:
    @queue.process("email")
    def send(job: RunningJob) -> int:
        if job.attempt < 3:
            raise ValueError("broken")
        return job.attempt

    job = queue.create("email", attempts=5)
    with working(queue):
        result = job.wait(DEADLINE_S)

    assert result == 3
    # Kue keeps the last error after a success.
    assert (job.error or "").startswith("ValueError: broken\n")
    assert job.attempts == {"made": 3, "remaining": 2, "max": 5}


@pytest.mark.parametrize("after", [250, timedelta(milliseconds=249.5)])
def test_a_handler_says_when_to_try_again(queue: Queue, clock: Clock, after: Any) -> None:
    @queue.process("email")
    def send(_: RunningJob) -> None:
        raise Retry("the server is full", after=after)

    job = queue.create("email", attempts=2, backoff={"type": "fixed", "delay": 9_000})
    with working(queue):
        become(job, "delayed")
        shown = job.refresh()

    assert (shown["delay"], int(shown["promote_at"])) == ("250", START_MS + 250)
    assert shown["attempts"] == {"made": 1, "remaining": 1, "max": 2}
    assert job.log() == ["ledger.Retry: the server is full"]


def test_a_handler_that_asks_for_another_try_waits_as_its_backoff_says(
    queue: Queue, clock: Clock
) -> None:
    @queue.process("email")
    def send(_: RunningJob) -> None:
        raise Retry

    job = queue.create("email", attempts=2, backoff={"type": "fixed", "delay": 9_000})
    with working(queue):
        become(job, "delayed")

    assert job.refresh()["delay"] == "9000"


def test_asking_for_another_try_uses_up_an_attempt(queue: Queue) -> None:
    @queue.process("email")
    def send(_: RunningJob) -> None:
        raise Retry(after=0)

    job = queue.create("email", attempts=3)
    with working(queue), pytest.raises(JobFailed):
        job.wait(DEADLINE_S)

    assert job.attempts == {"made": 3, "remaining": 0, "max": 3}


@pytest.mark.parametrize("after", [-1, timedelta(days=-1), 1.5, 2**53, True])
def test_a_wait_that_cannot_be_fails_the_attempt_and_not_the_worker(
    queue: Queue, after: Any
) -> None:
    @queue.process("email")
    def send(_: RunningJob) -> None:
        raise Retry(after=after)

    job = queue.create("email")
    with working(queue), pytest.raises(JobFailed, match="InvalidInput: after: expected "):
        job.wait(DEADLINE_S)


def test_a_handler_says_that_there_is_no_use_in_trying_again(queue: Queue) -> None:
    @queue.process("email")
    def send(_: RunningJob) -> None:
        raise Fail("no such user")

    job = queue.create("email", attempts=5, backoff={"type": "fixed", "delay": 9_000})
    with working(queue), pytest.raises(JobFailed, match="no such user"):
        job.wait(DEADLINE_S)

    assert (job.state, job.attempts) == ("failed", {"made": 1, "remaining": 4, "max": 5})


# --- whose turn it is


def order_of(queue: Queue, *types: str) -> list[int]:
    """Return the ids of the jobs that wait, in the order in which they are done one by one."""
    done: list[int] = []
    for type_ in types:
        queue.process(type_)(lambda job: done.append(job.id))
    jobs = queue.jobs(state="inactive")
    with working(queue):
        for job in jobs:
            job.wait(DEADLINE_S)
    return done


def test_jobs_are_done_by_priority_then_age(queue: Queue) -> None:
    for priority in (0, 10, -5, -15, 0, -10):
        queue.create("email", priority=priority)

    assert order_of(queue, "email") == [4, 6, 3, 1, 5, 2]


def test_a_flood_of_one_type_does_not_keep_another_waiting(queue: Queue, gate: Gate) -> None:
    """The only slot of its own type is enough."""

    @queue.process("flood", concurrency=2)
    def flood(_: RunningJob) -> None:
        gate.pass_through()

    queue.process("email")(lambda _: "sent")
    queue.create_many([{"type": "flood"}] * 50)
    job = queue.create("email")
    with working(queue):
        gate.wait_entered()
        result = job.wait(DEADLINE_S)

    assert result == "sent"
    assert queue.stats()["complete"] == 1


def test_a_job_that_waits_for_a_slot_is_claimed_once_the_slot_is_free(queue: Queue) -> None:
    """The end of the job before it makes no job claimable, so no commit wakes the worker."""
    # A heartbeat that is due is a reason to look, too.
    queue.lease_ms = 100 * LEASE_MS
    running, may_end = threading.Event(), threading.Event()

    @queue.process("report")
    def write(_: RunningJob) -> None:
        running.set()
        may_end.wait(DEADLINE_S)

    queue.process("email")(lambda _: "sent")
    queue.create("report")
    waiting = queue.create("report")
    with working(queue, pauses=UNHURRIED):
        assert running.wait(DEADLINE_S)
        # Meanwhile it looks for jobs of the type that has a free slot.
        queue.create("email").wait(DEADLINE_S)
        may_end.set()
        waiting.wait(DEADLINE_S)


def test_no_more_jobs_run_at_once_than_asked_for(queue: Queue) -> None:
    running: list[int] = []
    most: list[int] = []
    together = threading.Barrier(3)

    @queue.process("email", concurrency=3)
    def send(job: RunningJob) -> None:
        running.append(job.id)
        most.append(len(running))
        # Three at a time get through here, and no other number.
        together.wait(DEADLINE_S)
        running.remove(job.id)

    jobs = queue.create_many([{"type": "email"}] * 30)
    with working(queue):
        for job in jobs:
            job.wait(DEADLINE_S)

    assert max(most) <= 3


def test_an_idle_worker_is_woken_by_a_job_of_another_process(
    queue: Queue, database_url: str
) -> None:
    # A heartbeat that is due is a reason to look, too.
    queue.lease_ms = 100 * LEASE_MS
    queue.process("email")(lambda _: "sent")
    with working(queue, pauses=UNHURRIED), another(database_url) as elsewhere:
        first = elsewhere.create("email")
        first.wait(DEADLINE_S)
        second = elsewhere.create("email")

        assert second.wait(DEADLINE_S) == "sent"


@contextmanager
def another(url: str) -> Iterator[Queue]:
    """Yield a queue that shares nothing with the first but the database."""
    queue = ledger.connect(url)
    try:
        yield queue
    finally:
        queue.close()


def test_two_workers_share_the_jobs_and_do_none_twice(queue: Queue, database_url: str) -> None:
    done: list[int] = []
    with another(database_url) as other:
        for each in (queue, other):
            each.process("email", concurrency=4)(lambda job: done.append(job.id))
        jobs = queue.create_many([{"type": "email"}] * 100)
        with working(queue), working(other):
            for job in jobs:
                job.wait(DEADLINE_S)

    assert sorted(done) == [job.id for job in jobs]
    assert {job.attempts["made"] for job in jobs} == {1}


def test_a_worker_that_was_given_fewer_jobs_claims_the_others_at_once(queue: Queue) -> None:
    """Three jobs are longer than what one claim is given, and no commit tells of the others."""
    queue.lease_ms = 100 * LEASE_MS
    together = threading.Barrier(3)

    @queue.process("long", concurrency=3)
    def run(job: RunningJob) -> None:
        together.wait(DEADLINE_S)

    jobs = queue.create_many([{"type": "long", "data": "x" * 5 * 1024 * 1024}] * 3)
    with working(queue, pauses=UNHURRIED):
        for job in jobs:
            job.wait(DEADLINE_S)


# --- holding a type


def test_a_paused_type_is_held_until_it_is_resumed(
    queue: Queue, system: System, gate: Gate
) -> None:
    @queue.process("email")
    def send(_: RunningJob) -> str:
        gate.pass_through()
        return "sent"

    queue.process("sms")(lambda _: "sent")
    running = queue.create("email")
    with working(queue):
        gate.wait_entered()
        queue.pause("email")
        held = queue.create("email")
        gate.opened.set()
        # What runs goes on, other types begin, and only the held type waits.
        others = [running.wait(DEADLINE_S), queue.create("sms").wait(DEADLINE_S)]
        state = held.state
        queue.resume("email")
        result = held.wait(DEADLINE_S)

    assert (others, state, result) == (["sent", "sent"], "inactive", "sent")
    assert rows(system, "SELECT kind FROM ledger_events WHERE job_id = 0 ORDER BY version") == [
        {"kind": "paused"},
        {"kind": "resumed"},
    ]
    assert verified(system).differences == []


# --- progress and log


def test_progress_and_log_in_a_tight_loop_lose_no_line(queue: Queue, system: System) -> None:
    number = 5_000

    @queue.process("email")
    def send(job: RunningJob) -> None:
        for n in range(number):
            job.log("line %d of %s", n, "many")
            job.progress(n + 1, number)

    job = queue.create("email")
    with working(queue):
        job.wait(DEADLINE_S)

    told = [
        json.loads(event.body)["progress"] for event in job.events() if event.kind == "progressed"
    ]
    assert job.log() == [f"line {n} of many" for n in range(number)]
    assert (job.percent, told) == (100, sorted(set(told)))
    assert told != []
    assert verified(system).differences == []


def test_progress_keeps_the_data_that_came_with_it(queue: Queue) -> None:
    @queue.process("email")
    def send(job: RunningJob) -> None:
        job.progress(1, 3, {"at": "first"})
        wait_until(lambda: job.progress_data == {"at": "first"}, "the data is told")
        job.progress(1, 3, {"at": "still first"})
        wait_until(lambda: job.progress_data == {"at": "still first"}, "newer data is told")
        job.progress(2, 3)
        raise ValueError

    job = queue.create("email")
    with working(queue), pytest.raises(JobFailed):
        job.wait(DEADLINE_S)

    assert (job.percent, job.progress_data) == (66, {"at": "still first"})


def test_a_line_is_kept_as_it_was_written(queue: Queue) -> None:
    lines = ["100%", "two\nlines", "Ärger \U0001f600", "nul \0 and half \ud800", ""]

    @queue.process("email")
    def send(job: RunningJob) -> None:
        for line in lines:
            job.log(line)
        job.log("%s", {"a": 1})

    job = queue.create("email")
    with working(queue):
        job.wait(DEADLINE_S)

    assert job.log() == [*lines[:3], "nul \\0 and half \\ud800", "", "{'a': 1}"]


def test_a_handler_reads_the_log_of_its_job(queue: Queue) -> None:
    @queue.process("email")
    def send(job: RunningJob) -> list[str]:
        if job.attempt == 1:
            job.log("first")
            raise ValueError("broken")
        return job.log()

    job = queue.create("email", attempts=2)
    with working(queue):
        result = job.wait(DEADLINE_S)

    assert result == ["first", "ValueError: broken"]


@pytest.mark.parametrize(
    ("say", "error"),
    [
        (lambda job: job.progress(1, 0), "ledger.errors.InvalidInput: progress: expected "),
        (
            lambda job: job.progress(float("nan"), 1),
            "ledger.errors.InvalidInput: progress: expected ",
        ),
        (
            lambda job: job.progress(1, 2, {1}),
            "ledger.errors.InvalidInput: progress data: expected ",
        ),
        (lambda job: job.log("%d", "x"), "TypeError: "),
    ],
)
def test_what_cannot_be_said_fails_the_attempt(
    queue: Queue, say: Callable[[RunningJob], object], error: str
) -> None:
    queue.process("email")(say)
    job = queue.create("email")

    with working(queue), pytest.raises(JobFailed) as failure:
        job.wait(DEADLINE_S)

    assert failure.value.error.startswith(error)


# --- ttl


class Late:
    """A handler that runs until its attempt is over."""

    def __init__(self) -> None:
        self.told: list[bool] = []
        self.done = threading.Event()

    def __call__(self, job: RunningJob) -> str:
        wait_until(lambda: job.expired, "the handler is told")
        self.told.append(job.expired)
        job.log("too late")
        self.done.set()
        return "too late"


def test_an_attempt_past_its_ttl_fails_and_its_late_word_does_not_count(queue: Queue) -> None:
    late = Late()
    queue.process("email")(late)
    job = queue.create("email", ttl=50)

    with working(queue), pytest.raises(JobFailed, match="TTL exceeded"):
        job.wait(DEADLINE_S)
    assert late.done.wait(DEADLINE_S)

    assert late.told == [True]
    assert (kinds(job), job.log()) == (["created", "started", "failed"], ["TTL exceeded"])
    assert job.attempts == {"made": 1, "remaining": 0, "max": 1}


@pytest.mark.parametrize("reported", ["taken", "unheard", "unanswered"])
def test_a_result_that_was_there_before_its_ttl_was_over_counts(
    queue: Queue, clock: Clock, monkeypatch: pytest.MonkeyPatch, reported: str
) -> None:
    """Whether the loop, its wake-up or the database comes too late."""
    queue.process("email")(lambda _: "in time")
    job = queue.create("email", ttl=1_000)
    worker = Worker(queue, pauses=EAGER)
    take, submit = worker._mailbox.take, queue.ledger.submit

    def pass_time() -> None:
        clock.now_ms += 2_000
        monkeypatch.setattr(worker._mailbox, "take", take)
        monkeypatch.setattr(queue.ledger, "submit", submit)

    def late_take(**options: Any) -> list[RunningJob]:
        held = list(worker._held)
        if held and reported == "unheard":
            # The time passes just before the loop would hear of it.
            wait_until(lambda: held[0].ended, "the handler has returned")
            pass_time()
            return []
        jobs = take(**options)
        if any(one.ended for one in jobs):
            pass_time()
        return jobs

    def late_submit(commands: Sequence[Command], **options: Any) -> Any:
        if any(isinstance(command, Complete) for command in commands):
            pass_time()
            raise Unavailable("away")
        return submit(commands, **options)

    if reported == "unanswered":
        monkeypatch.setattr(queue.ledger, "submit", late_submit)
    else:
        monkeypatch.setattr(worker._mailbox, "take", late_take)
    thread = worker.start()
    result = job.wait(DEADLINE_S)
    worker.stop()
    ended(thread)

    assert (result, kinds(job)) == ("in time", ["created", "started", "completed"])
    assert clock.now_ms == START_MS + 2_000


def test_progress_that_was_reported_before_the_ttl_was_over_restarts_it(
    queue: Queue, clock: Clock, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    @queue.process("email")
    def send(job: RunningJob) -> str:
        job.progress(1, 2)
        gate.pass_through()
        return "in time"

    job = queue.create("email", ttl=1_000)
    worker = Worker(queue, pauses=EAGER)
    take = worker._mailbox.take

    def late_take(**options: Any) -> list[RunningJob]:
        jobs = take(**options)
        if jobs and not gate.opened.is_set():
            clock.now_ms += 1_500
            gate.opened.set()
        return jobs

    monkeypatch.setattr(worker._mailbox, "take", late_take)
    thread = worker.start()
    result = job.wait(DEADLINE_S)
    worker.stop()
    ended(thread)

    assert (result, kinds(job)) == ("in time", ["created", "started", "progressed", "completed"])


def test_reports_that_wait_for_the_next_commit_come_before_the_end_of_their_ttl(
    queue: Queue, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two jobs report more than one commit takes."""

    @queue.process("email", concurrency=2)
    def send(job: RunningJob) -> str:
        for _ in range(900):
            job.log("line")
        return "in time"

    jobs = queue.create_many([{"type": "email", "ttl": 1_000}] * 2)
    worker = Worker(queue, pauses=EAGER)
    take = worker._mailbox.take

    def late_take(**options: Any) -> list[RunningJob]:
        held = list(worker._held)
        if not held or clock.now_ms > START_MS:
            return take(**options)
        wait_until(lambda: all(one.ended for one in held), "the handlers have returned")
        clock.now_ms += 2_000
        return []

    monkeypatch.setattr(worker._mailbox, "take", late_take)
    thread = worker.start()
    results = [job.wait(DEADLINE_S) for job in jobs]
    worker.stop()
    ended(thread)

    assert results == ["in time"] * 2
    assert [len(job.log()) for job in jobs] == [900, 900]


def test_a_handler_that_never_stops_writing_does_not_outlive_its_ttl(queue: Queue) -> None:
    @queue.process("email")
    def send(job: RunningJob) -> None:
        while not job.expired:
            job.log("again")

    job = queue.create("email", ttl=100)
    with working(queue), pytest.raises(JobFailed, match="TTL exceeded"):
        job.wait(DEADLINE_S)


def test_an_expired_attempt_is_tried_again_by_the_same_worker(queue: Queue) -> None:
    @queue.process("email")
    def send(job: RunningJob) -> int:
        if job.attempt == 1:
            wait_until(lambda: job.expired, "the handler is told")
        return job.attempt

    job = queue.create("email", ttl=50, attempts=2)
    with working(queue):
        wait_until(lambda: job.state in {"complete", "failed"}, "it has ended")

    # The second attempt has no reason to be late but a machine that is.
    assert kinds(job)[:4] == ["created", "started", "failed", "started"]


def test_the_slot_of_an_expired_attempt_is_free_once_its_handler_ends(
    queue: Queue, gate: Gate
) -> None:
    """Nothing else happens in the ledger that would wake the worker."""
    queue.lease_ms = 100 * LEASE_MS

    @queue.process("email")
    def send(job: RunningJob) -> int:
        if job.id == 1:
            gate.pass_through()
        return job.id

    queue.process("sms")(lambda _: None)
    first = queue.create("email", ttl=50)
    with working(queue, pauses=UNHURRIED) as worker:
        become(first, "failed")
        second = queue.create("email")
        wait_until(lambda: not worker._wants_jobs, "it has looked, and had no room but for an sms")
        gate.opened.set()
        result = second.wait(DEADLINE_S)

    assert (result, kinds(first)) == (2, ["created", "started", "failed"])


def test_progress_keeps_an_attempt_alive_however_slow_it_is(queue: Queue, clock: Clock) -> None:
    """Also where the percentage stays the same."""

    @queue.process("email")
    def send(job: RunningJob) -> str:
        def renewed() -> bool:
            job.progress(1, 1_000)
            newest = job.events()[-1]
            return (newest.kind, newest.at_ms) == ("progressed", clock.now_ms)

        for _ in range(3):
            wait_until(renewed, "the ttl begins anew")
            clock.now_ms += 299
        return "done"

    job = queue.create("email", ttl=300)
    with working(queue):
        result = job.wait(DEADLINE_S)

    assert result == "done"


# --- a worker that is lost, and a job that is taken away


def test_a_silent_worker_is_lost_and_its_late_word_is_refused(
    queue: Queue, system: System, clock: Clock, gate: Gate, caplog: pytest.LogCaptureFixture
) -> None:
    expired: list[bool] = []

    @queue.process("email")
    def send(job: RunningJob) -> str:
        if job.attempt == 1:
            gate.pass_through()
            job.log("still here")
            wait_until(lambda: job.expired, "the handler is told")
            expired.append(job.expired)
        return "done"

    job = queue.create("email", attempts=2, backoff={"type": "fixed", "delay": 1})
    sweeper = Sweeper(system.ledger, system.jobs)
    with (
        working(queue, name="host:17:1") as worker,
        caplog.at_level(logging.WARNING),
    ):
        gate.wait_entered()
        # Whatever takes its time here, it stays silent.
        worker._registration.next_beat_s = math.inf
        clock.now_ms += LEASE_MS
        in_time = sweeper.sweep()
        clock.now_ms += 1
        lost = sweeper.sweep()
        after = job.state, job.error, job.attempts["made"]
        gate.opened.set()
        clock.now_ms += 1
        sweeper.sweep()
        result = job.wait(DEADLINE_S)

    assert (in_time, lost) == (0, 1)
    assert after == ("delayed", "worker host:17:1 was lost: silent for 30001 ms", 1)
    assert (result, expired) == ("done", [True])
    assert kinds(job) == ["created", "started", "failed", "promoted", "started", "completed"]
    assert "job 1: attempt 1 is over" in caplog.text


def test_a_worker_that_gives_signs_of_life_is_not_lost(
    queue: Queue, system: System, clock: Clock, gate: Gate
) -> None:
    """Its lease is its own, and shorter than the time that the job takes."""
    queue.lease_ms = 200

    @queue.process("email")
    def send(_: RunningJob) -> str:
        gate.pass_through()
        return "done"

    def is_seen() -> bool:
        return [seen.seen_at_ms for seen in queue.workers()] == [clock.now_ms]

    job = queue.create("email")
    sweeper = Sweeper(system.ledger, system.jobs)
    lost = []
    with working(queue, name="host:17:1"):
        gate.wait_entered()
        for _ in range(3):
            clock.now_ms += 200
            lost.append(sweeper.sweep())
            wait_until(is_seen, "it has given another sign of life")
        (seen,) = queue.workers()
        gate.opened.set()
        result = job.wait(DEADLINE_S)

    assert (seen.name, seen.types, seen.lease_ms) == ("host:17:1", {"email": 1}, 200)
    assert (lost, result) == ([0, 0, 0], "done")


def test_a_handler_is_told_that_its_job_was_removed(queue: Queue, gate: Gate) -> None:
    done = threading.Event()

    @queue.process("email")
    def send(job: RunningJob) -> str:
        gate.pass_through()
        job.log("anyone?")
        wait_until(lambda: job.expired, "the handler is told")
        done.set()
        return "too late"

    job = queue.create("email")
    with working(queue):
        gate.wait_entered()
        job.remove()
        gate.opened.set()
        assert done.wait(DEADLINE_S)

    assert kinds(job) == ["created", "started", "removed"]


def test_a_job_that_was_restarted_by_hand_refuses_its_first_attempts_word(
    queue: Queue, gate: Gate
) -> None:
    @queue.process("email", concurrency=2)
    def send(job: RunningJob) -> int:
        if job.attempt == 1:
            gate.pass_through()
        return job.attempt

    job = queue.create("email")
    with working(queue) as worker:
        gate.wait_entered()
        job.restart()
        result = job.wait(DEADLINE_S)
        gate.opened.set()
        wait_until(lambda: worker.running == 0, "both handlers have ended")

    assert (result, job.result) == (2, 2)
    assert kinds(job) == ["created", "started", "moved", "started", "completed"]


# --- stopping


def test_what_runs_may_end_within_the_grace_and_nothing_new_begins(
    queue: Queue, gate: Gate
) -> None:
    @queue.process("email")
    def send(_: RunningJob) -> str:
        gate.pass_through()
        return "done"

    running, waiting = queue.create_many([{"type": "email"}] * 2)
    worker = Worker(queue, grace_s=DEADLINE_S)
    thread = worker.start()
    gate.wait_entered()
    worker.stop()
    gate.opened.set()
    ended(thread)

    assert (running.state, running.result, waiting.state) == ("complete", "done", "inactive")
    assert queue.workers() == []


def test_what_does_not_end_within_the_grace_is_given_back_and_uses_up_no_attempt(
    queue: Queue, system: System, gate: Gate
) -> None:
    said: list[RunningJob] = []

    @queue.process("email", concurrency=2)
    def send(job: RunningJob) -> str:
        job.log("begun")
        job.progress(1, 2)
        said.append(job)
        gate.pass_through()
        return "too late"

    jobs = queue.create_many([{"type": "email", "ttl": 60_000}] * 2)
    worker = Worker(queue, name="host:17:1", grace_s=0)
    thread = worker.start()
    wait_until(lambda: len(said) == 2, "both run")
    worker.stop()
    ended(thread)
    gate.opened.set()

    returned = rows(
        system,
        "SELECT actor, cause, body FROM ledger_events WHERE kind = 'returned' ORDER BY job_id",
    )
    assert [(job.state, job.attempts["made"], job.log(), job.percent) for job in jobs] == [
        ("inactive", 0, ["begun"], 50)
    ] * 2
    assert [(row["actor"], row["cause"]) for row in returned] == [("worker:host:17:1", "stop")] * 2
    for row in returned:
        body = json.loads(row["body"])
        waited = r"worker host:17:1 was stopped; the job had not ended after \d+\.\d s"
        assert re.fullmatch(waited, body.pop("reason"))
        assert body == {"attempt": 1}
    assert [job.expired for job in said] == [True, True]
    assert (queue.workers(), worker.running) == ([], 0)
    assert verified(system).differences == []


def test_a_result_that_comes_while_the_worker_stops_counts(
    queue: Queue, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue.process("sms")(lambda _: gate.pass_through())
    worker = Worker(queue)
    submit, leave = queue.ledger.submit, worker._leave
    job = queue.create("sms")
    thread = worker.start()
    gate.wait_entered()
    (running,) = worker._held

    def slow_submit(commands: Sequence[Command], **options: Any) -> Any:
        answers = submit(commands, **options)
        if not gate.opened.is_set():
            gate.opened.set()
            wait_until(lambda: running.ended, "the handler has returned")
        return answers

    def leave_with_something_to_send() -> None:
        monkeypatch.setattr(queue.ledger, "submit", slow_submit)
        running.log("line")
        leave()

    monkeypatch.setattr(worker, "_leave", leave_with_something_to_send)
    worker.stop(grace_s=0)
    ended(thread)

    assert kinds(job) == ["created", "started", "logged", "completed"]


def test_a_job_that_was_given_back_is_done_by_the_next_worker(queue: Queue, gate: Gate) -> None:
    @queue.process("email")
    def send(job: RunningJob) -> int:
        if job.attempt == 1:
            gate.pass_through()
        return job.attempt

    job = queue.create("email")
    with working(queue):
        gate.wait_entered()
    with working(queue):
        result = job.wait(DEADLINE_S)

    assert (result, job.attempts) == (2, {"made": 1, "remaining": 0, "max": 1})


def test_a_second_stop_ends_it_at_once(queue: Queue, gate: Gate) -> None:
    @queue.process("email")
    def send(_: RunningJob) -> None:
        gate.pass_through()

    job = queue.create("email")
    worker = Worker(queue, grace_s=10 * DEADLINE_S)
    thread = worker.start()
    gate.wait_entered()
    worker.stop()
    waits = thread.is_alive()
    worker.stop(grace_s=0)
    ended(thread)

    assert (waits, job.state) == (True, "inactive")


def test_an_idle_worker_stops_at_once(queue: Queue) -> None:
    queue.process("email")(lambda _: None)
    worker = Worker(queue, grace_s=10 * DEADLINE_S)
    thread = worker.start()
    wait_until(lambda: len(queue.workers()) == 1, "it has told of itself")
    worker.stop()
    ended(thread)

    assert queue.workers() == []


def test_a_signal_may_stop_a_worker_whatever_it_is_about(queue: Queue) -> None:
    """The handler of a signal runs in the very thread that may hold the worker's locks."""
    queue.process("email")(lambda _: None)
    worker = Worker(queue)
    thread = worker.start()
    done = threading.Event()

    def interrupted() -> None:
        with worker._mailbox._mutex:
            worker.stop()
            done.set()

    threading.Thread(target=interrupted, daemon=True).start()

    assert done.wait(DEADLINE_S)
    ended(thread)


# --- a database that is away


class Weather:
    """A replacement of a ledger's ``submit`` that loses some calls or answers."""

    def __init__(self, queue: Queue) -> None:
        self._submit = queue.ledger.submit
        self.away = False
        self.lose_answer_to: type[Command] | None = None
        self.lost = 0

    def __call__(self, said: Sequence[Command], **options: Any) -> list[Answer]:
        if self.away and said:
            self.lost += 1
            raise Unavailable("the database is away")
        answers = self._submit(said, **options)
        if self.lose_answer_to and any(isinstance(one, self.lose_answer_to) for one in said):
            self.lose_answer_to = None
            self.lost += 1
            raise Unavailable("the answer was lost")
        return answers


@pytest.fixture
def weather(queue: Queue, monkeypatch: pytest.MonkeyPatch) -> Weather:
    weather = Weather(queue)
    monkeypatch.setattr(queue.ledger, "submit", weather)
    return weather


def test_while_the_database_is_away_no_word_is_lost(
    queue: Queue, weather: Weather, gate: Gate, caplog: pytest.LogCaptureFixture
) -> None:
    @queue.process("email", concurrency=2)
    def send(job: RunningJob) -> int:
        gate.pass_through()
        for n in range(20):
            job.log("line %d", n)
        job.progress(1, 2, {"n": job.id})
        return job.id

    jobs = queue.create_many([{"type": "email"}] * 4)
    with working(queue, pauses=EAGER), caplog.at_level(logging.WARNING):
        gate.wait_entered()
        weather.away = True
        gate.opened.set()
        wait_until(lambda: weather.lost >= 5, "it has tried several times")
        states = Counter(job.state for job in jobs)
        weather.away = False
        results = [job.wait(DEADLINE_S) for job in jobs]

    assert states["complete"] == 0
    assert results == [job.id for job in jobs]
    assert [job.log() for job in jobs] == [[f"line {n}" for n in range(20)]] * 4
    assert [job.progress_data for job in jobs] == [{"n": job.id} for job in jobs]
    assert "cannot continue, will retry: the database is away" in caplog.text


def test_a_handler_waits_while_the_database_takes_none_of_its_reports(
    queue: Queue, weather: Weather, gate: Gate
) -> None:
    """Else a worker's memory would grow for as long as the database is away."""
    lines = 10_000
    logged = 0

    @queue.process("email")
    def send(job: RunningJob) -> None:
        nonlocal logged
        gate.pass_through()
        for number in range(lines):
            job.log("%d", number)
            logged += 1

    job = queue.create("email")
    with working(queue, pauses=EAGER):
        gate.wait_entered()
        weather.away = True
        gate.opened.set()
        wait_until(lambda: logged >= 2_000, "the outbox is full, and the handler logs on")
        tries = weather.lost + 30
        wait_until(lambda: weather.lost >= tries, "it has tried many times since")
        logged_while_away = logged
        weather.away = False
        job.wait(DEADLINE_S)

    # Less than two batches in the outbox, and one with the handler.
    assert logged_while_away <= 3_000
    assert job.log() == [str(number) for number in range(lines)]


def test_jobs_whose_claim_was_not_heard_are_given_back(
    queue: Queue, system: System, weather: Weather
) -> None:
    queue.process("email", concurrency=2)(lambda job: job.attempt)
    jobs = queue.create_many([{"type": "email"}] * 2)
    weather.lose_answer_to = Claim

    with working(queue, pauses=EAGER):
        results = [job.wait(DEADLINE_S) for job in jobs]

    assert (weather.lost, results) == (1, [2, 2])
    assert [job.attempts["made"] for job in jobs] == [1, 1]
    assert [kinds(job) for job in jobs] == [
        ["created", "started", "returned", "started", "completed"]
    ] * 2
    assert [
        (json.loads(row["body"])["reason"], row["cause"])
        for row in rows(system, "SELECT body, cause FROM ledger_events WHERE kind = 'returned'")
    ] == [("the answer to the claim was lost", "claim")] * 2


def test_a_completion_whose_answer_was_lost_is_told_again_and_changes_nothing(
    queue: Queue, weather: Weather
) -> None:
    queue.process("email")(lambda job: job.attempt)
    job = queue.create("email")
    weather.lose_answer_to = ledger.rules.commands.Complete

    with working(queue, pauses=EAGER) as worker:
        result = job.wait(DEADLINE_S)
        wait_until(lambda: worker.running == 0, "the worker knows that it has ended")
        again = queue.create("email").wait(DEADLINE_S)

    assert (weather.lost, result, again) == (1, 1, 1)
    assert kinds(job) == ["created", "started", "completed"]


def test_a_worker_that_cannot_give_back_leaves_it_to_the_sweeper(
    queue: Queue, weather: Weather, gate: Gate, caplog: pytest.LogCaptureFixture
) -> None:
    @queue.process("email")
    def send(_: RunningJob) -> None:
        gate.pass_through()

    job = queue.create("email")
    worker = Worker(queue, pauses=EAGER)
    thread = worker.start()
    gate.wait_entered()
    weather.away = True
    with caplog.at_level(logging.WARNING):
        worker.stop(grace_s=0)
        ended(thread)

    assert (job.state, [seen.name for seen in queue.workers()]) == ("active", [worker.name])
    assert "could not return its jobs: the database is away" in caplog.text


def test_a_worker_works_on_when_postgresql_comes_back() -> None:
    with postgres() as server:
        url = server.url
        bare = open_system(url)
        migration.migrate(bare.database)
        bare.close()
        gate = Gate()
        with another(url) as queue:

            @queue.process("email")
            def send(job: RunningJob) -> int:
                if job.id == 1:
                    gate.pass_through()
                job.log("line %d", job.id)
                return job.id

            jobs = queue.create_many([{"type": "email"}] * 3)
            with working(queue):
                gate.wait_entered()
                server.kill()
                gate.opened.set()
                server.start()
                wait_until(lambda: settled(jobs), "all have ended")

            assert [(job.result, job.log()) for job in jobs] == [
                (job.id, [f"line {job.id}"]) for job in jobs
            ]


def settled(jobs: Sequence[Job]) -> bool:
    try:
        return all(job.state == "complete" for job in jobs)
    except Unavailable:
        return False


# --- which jobs it does


def test_a_worker_does_the_types_it_was_told_to(queue: Queue) -> None:
    for type_ in ("email", "sms"):
        queue.process(type_, concurrency=2)(lambda _: None)
    email, sms = queue.create("email"), queue.create("sms")

    with working(queue, types=["sms"], name="host:17:1") as worker:
        sms.wait(DEADLINE_S)
        (seen,) = queue.workers()

    assert (email.state, seen.types, repr(worker)) == (
        "inactive",
        {"sms": 2},
        "<Worker host:17:1: sms>",
    )


@pytest.mark.parametrize(
    ("types", "text"),
    [
        (["fax", "email", "a"], "no handler for a, fax; registered types: email"),
        ([], "types: expected at least one, got []"),
    ],
)
def test_a_worker_needs_a_function_for_each_of_its_types(
    queue: Queue, types: list[str], text: str
) -> None:
    queue.process("email")(lambda _: None)

    with pytest.raises(InvalidInput) as refusal:
        Worker(queue, types=types)

    assert str(refusal.value) == text


def test_a_worker_without_any_function_says_how_to_register_one(queue: Queue) -> None:
    with pytest.raises(InvalidInput, match=r"no handler is registered; use @queue.process"):
        Worker(queue)


def test_a_type_has_one_function(queue: Queue) -> None:
    queue.process("email")(lambda _: None)

    with pytest.raises(InvalidInput, match=r"^type 'email' already has the handler <function "):
        queue.process("email")


def test_each_worker_has_a_name_of_its_own(queue: Queue) -> None:
    queue.process("email")(lambda _: None)
    names = [Worker(queue).name for _ in range(2)]

    assert len({*names}) == 2
    assert all(re.fullmatch(f"{own_name()}:[0-9a-f]{{8}}", name) for name in names)


def test_the_word_for_an_attempt_that_is_over_is_refused_at_the_ledger_too(queue: Queue) -> None:
    queue.process("email")(lambda _: None)
    job = queue.create("email")
    with working(queue):
        job.wait(DEADLINE_S)

    with pytest.raises(AttemptOver, match="attempt 1 is over; the job is complete"):
        queue.execute(ledger.rules.commands.Complete(job_id=job.id, attempt=1))


# --- what must not end a worker, nor keep a job


def test_a_handler_that_says_nothing_is_told_that_its_job_was_taken(queue: Queue) -> None:
    queue.lease_ms = 300
    entered, told = threading.Event(), threading.Event()

    @queue.process("email")
    def send(job: RunningJob) -> None:
        entered.set()
        wait_until(lambda: job.expired, "the handler is told")
        told.set()

    job = queue.create("email")
    with working(queue):
        assert entered.wait(DEADLINE_S)
        job.remove()

        assert told.wait(DEADLINE_S)


def test_data_nested_as_deeply_as_can_be_does_not_end_the_worker(queue: Queue) -> None:
    queue.process("email")(lambda _: None)
    deep: list[Any] = []
    for _ in range(1_000):
        try:
            queue.create("email", deep)
        except InvalidInput:
            break
        deep = [deep]

    with working(queue):
        assert queue.create("email", {}).wait(DEADLINE_S) is None


def test_an_error_that_nobody_foresaw_does_not_end_the_worker(
    queue: Queue, caplog: pytest.LogCaptureFixture
) -> None:
    queue.process("email")(lambda job: job.attempt)
    failures = [ValueError("not foreseen")]

    def told(_: object) -> None:
        if failures:
            raise failures.pop()

    job = queue.create("email")
    with working(queue, observer=told):
        result = job.wait(DEADLINE_S)

    assert result == 1
    assert "failed; retrying" in caplog.text


def test_a_worker_whose_every_step_fails_ends_with_the_reason(
    queue: Queue, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    @queue.process("email")
    def send(_: RunningJob) -> None:
        def broken(*_: object, **__: object) -> None:
            raise OSError(9, "Bad file descriptor")

        monkeypatch.setattr(queue.ledger, "submit", broken)

    queue.create("email")
    worker = Worker(queue, pauses=EAGER)
    with pytest.raises(WorkerFailed, match=r"steps in a row have failed, the last with OSError: "):
        worker.run()

    assert caplog.text.count("Traceback") == 1
    assert worker.running == 0


def test_an_unavailable_database_does_not_end_the_worker(
    queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    submit = queue.ledger.submit

    def away(*args: Any, **options: Any) -> Any:
        calls.append(args)
        if len(calls) <= 3 * MOST_IN_A_ROW:
            raise Unavailable("away")
        return submit(*args, **options)

    queue.process("email")(lambda job: job.attempt)
    job = queue.create("email")
    monkeypatch.setattr(queue.ledger, "submit", away)
    with working(queue, pauses=EAGER):
        assert job.wait(DEADLINE_S) == 1


@pytest.mark.parametrize(
    "options", [{"name": "x" * 241}, {"name": "\0"}, {"grace_s": float("nan")}]
)
def test_a_worker_that_could_not_work_is_refused(queue: Queue, options: Any) -> None:
    queue.process("email")(lambda _: None)

    with pytest.raises(InvalidInput):
        Worker(queue, **options)


def test_a_failure_is_described_by_what_it_is(queue: Queue) -> None:
    @queue.process("email")
    def send(job: RunningJob) -> None:
        if job.attempt == 1:
            compile("1 +", "rules", "eval")
        raise type("", (Exception,), {"__module__": "builtins"})

    job = queue.create("email", attempts=2)
    with working(queue), pytest.raises(JobFailed):
        job.wait(DEADLINE_S)

    assert job.log() == ["SyntaxError: invalid syntax", "an error without a name"]

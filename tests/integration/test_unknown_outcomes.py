"""A commit whose outcome was unknown: what is submitted again is recorded once."""

import json
import math
import random
import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Connection

import ledger
from ledger import Queue, RunningJob, Worker
from ledger.database.contract import Database
from ledger.errors import AttemptOver, LedgerError, Unavailable
from ledger.log.answers import Answer, Outcome
from ledger.processes.composition import System
from ledger.rules.commands import (
    Claim,
    Command,
    Complete,
    Create,
    Elapse,
    FailAttempt,
    Log,
    OnAttempt,
    Progress,
    Return,
    Start,
)
from ledger.worker.held_attempts import HeldAttempts
from ledger.worker.outbox import Outbox
from ledger.worker.pauses import Pauses
from ledger.worker.worker import WorkerReport
from tests.builders import carry_out, open_system, rows, verified
from tests.integration.servers import DEADLINE_S, wait_until

ACTOR: Final = "worker:a"
JOBS: Final = 24


@pytest.fixture
def queue(database_url: str, system: System) -> Iterator[Queue]:
    """Yield a queue as applications get one, beside a system on the same database."""
    opened = ledger.connect(database_url, actor="tests")
    yield opened
    opened.close()


def lose_answers(database: Database, is_lost: Callable[[], bool]) -> None:
    """Raise an error after some commits, as if their answers had been lost."""
    write = database.write

    @contextmanager
    def unreliable() -> Iterator[Connection]:
        with write() as tx:
            yield tx
        if is_lost():
            raise Unavailable("the answer was lost")

    database.write = unreliable  # type: ignore[method-assign]


def kinds(answers: Sequence[Answer]) -> list[object]:
    """Return the event or the error that each answer is about."""
    return [
        [type(event) for event in answer.events][:1]
        if isinstance(answer, Outcome)
        else type(answer)
        for answer in answers
    ]


def recorded(system: System) -> list[dict[str, Any]]:
    return rows(system, "SELECT * FROM ledger_events ORDER BY position")


# --- workers


@pytest.mark.parametrize("seed", range(4))
def test_a_worker_that_loses_answers_says_everything_once(queue: Queue, seed: int) -> None:
    drawn = random.Random(seed)
    reports: Counter[str] = Counter()
    ran: Counter[tuple[int, int]] = Counter()

    def observe(report: WorkerReport) -> None:
        reports[report.kind] += 1

    @queue.process("email", concurrency=4)
    def send(job: RunningJob) -> int:
        ran[job.id, job.attempt] += 1
        for number in range(3):
            job.log("the same line" if number else "line %d", *() if number else (number,))
            job.progress(number, 3)
        if job.data["fails"] and job.attempt == 1:
            raise ValueError("no")
        return job.attempt

    jobs = queue.create_many(
        {
            "type": "email",
            "data": {"fails": number % 4 == 0},
            "attempts": 50,
            "remove_on_complete": number % 3 == 0,
        }
        for number in range(JOBS)
    )
    lose_answers(queue.database, lambda: drawn.random() < 0.4)
    worker = Worker(queue, observer=observe, pauses=Pauses(retry_s=0.01))
    thread = worker.start()
    try:
        wait_until(
            lambda: all(job.state in {"complete", "removed"} for job in jobs), "all have ended"
        )
        wait_until(lambda: not worker.running, "the worker knows it")
    finally:
        worker.stop()
        thread.join(DEADLINE_S)

    for job in jobs:
        events = job.events()
        lines = Counter(
            (json.loads(event.body)["attempt"], event.content)
            for event in events
            if event.kind == "logged"
        )
        begun = [attempt for id_, attempt in ran if id_ == job.id]
        assert lines == Counter(
            {
                (attempt, line): count
                for attempt in begun
                for line, count in (('"line 0"', 1), ('"the same line"', 2))
            }
        )
        assert [event.kind for event in events].count("completed") == 1
    assert set(ran.values()) == {1}
    # A claim of which no answer came is given back, and not reported.
    assert reports["completed"] == JOBS
    assert reports["failed"] == reports["started"] - JOBS
    assert reports["expired"] == 0


def test_a_late_answer_about_a_job_that_is_gone_does_not_start_its_ttl(queue: Queue) -> None:
    """Its attempt was lost, and its handler has ended, before the answer to its progress came."""
    queue.create("email", ttl=1)
    held = HeldAttempts(queue, "a", on_over=lambda _: None)
    (claimed,) = queue.ledger.claim(Claim(worker="a", slots={"email": 1}), actor=ACTOR).jobs
    job = RunningJob(queue, claimed, lambda _: None)
    held.add([job])
    held.remove(job)

    held.renew(job)

    assert held.next_expiry_s() == math.inf
    held.collect_late(Outbox())


# --- the ledger

reports = st.sampled_from(
    (
        Log(job_id=1, attempt=1, line='"a"'),
        Log(job_id=1, attempt=1, line='"a"'),
        Log(job_id=1, attempt=1, line='"b"'),
        Progress(job_id=1, attempt=1, progress=50),
        Complete(job_id=1, attempt=1),
        FailAttempt(job_id=1, attempt=1, error='"no"'),
        Return(job_id=1, attempt=1, reason="stopped"),
        Log(job_id=2, attempt=1, line='"a"'),
        Complete(job_id=2, attempt=1),
        # Never begun.
        Log(job_id=1, attempt=9, line='"a"'),
    )
)


@given(first=st.lists(reports, min_size=1, max_size=6), more=st.lists(reports, max_size=3))
def test_what_is_submitted_again_is_answered_as_it_was(
    sqlite_template: Any, first: list[OnAttempt], more: list[OnAttempt], tmp_path_factory: Any
) -> None:
    path = tmp_path_factory.mktemp("again") / "ledger.db"
    path.write_bytes(sqlite_template.read_bytes())
    with closing(open_system(f"sqlite:///{path}")) as system:
        for job_id, removes in ((1, False), (2, True)):
            carry_out(
                system,
                Create(type="email", attempts=3, remove_on_complete=removes),
                Start(job_id=job_id, worker="a"),
            )
        since = len(recorded(system))
        answers = system.ledger.submit(first, actor=ACTOR)
        once = recorded(system)

        again = system.ledger.submit([*first, *more], actor=ACTOR, since=since)

        assert kinds(again[: len(first)]) == kinds(answers)
        assert recorded(system)[: len(once)] == once
        # What was added is decided as if it had come alone.
        decided = [each for each in again[len(first) :] if isinstance(each, Outcome)]
        assert len(recorded(system)) - len(once) == sum(len(each.events) for each in decided)


def started(system: System, **options: Any) -> None:
    carry_out(system, Create(type="email", **options), Start(job_id=1, worker="a"))


def test_what_was_not_recorded_is_carried_out(system: System) -> None:
    started(system)

    (answer,) = system.ledger.submit([Complete(job_id=1, attempt=1)], actor=ACTOR, since=2)

    assert isinstance(answer, Outcome)
    assert [event["kind"] for event in recorded(system)] == ["created", "started", "completed"]


@pytest.mark.parametrize(
    ("actor", "since"), [("worker:b", 2), (ACTOR, 3)], ids=["of another", "before"]
)
def test_only_ones_own_later_reports_are_taken_for_the_same(
    system: System, actor: str, since: int
) -> None:
    started(system)
    system.ledger.submit([Log(job_id=1, attempt=1, line='"a"')], actor=ACTOR)

    system.ledger.submit([Log(job_id=1, attempt=1, line='"a"')], actor=actor, since=since)

    assert [event["kind"] for event in recorded(system)].count("logged") == 2


def test_the_end_of_an_attempt_by_its_ttl_is_not_its_report(system: System) -> None:
    started(system, ttl_ms=1, attempts=2)
    wait_until(lambda: swept(system), "the ttl is over")

    (answer,) = system.ledger.submit(
        [FailAttempt(job_id=1, attempt=1, error='"no"')], actor=ACTOR, since=2
    )

    assert isinstance(answer, AttemptOver)


def swept(system: System) -> bool:
    (answer,) = system.ledger.submit([Elapse(job_id=1)], actor=ACTOR, cause="ttl")
    return isinstance(answer, Outcome) and bool(answer.events)


def test_a_commit_that_comes_late_is_not_missed(
    system: System, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker gave up waiting for it, and submits again before it is done."""
    started(system)
    log: list[Command] = [Log(job_id=1, attempt=1, line='"a"')]
    reached, goes_on = threading.Event(), threading.Event()
    announce = system.database.announce

    def slowly(tx: Connection, types: Collection[str] | None) -> None:
        reached.set()
        assert goes_on.wait(DEADLINE_S)
        announce(tx, types)

    with closing(open_system(database_url)) as again:
        monkeypatch.setattr(system.database, "announce", slowly)
        first = threading.Thread(target=lambda: system.ledger.submit(log, actor=ACTOR))
        first.start()
        assert reached.wait(DEADLINE_S)
        answers: list[Answer | LedgerError] = []
        second = threading.Thread(
            target=lambda: answers.extend(again.ledger.submit(log, actor=ACTOR, since=2))
        )
        second.start()
        second.join(0.2)
        assert second.is_alive()
        goes_on.set()
        first.join(DEADLINE_S)
        second.join(DEADLINE_S)

    assert [type(answer) for answer in answers] == [Outcome]
    assert [event["kind"] for event in recorded(system)] == ["created", "started", "logged"]
    assert verified(system).differences == []

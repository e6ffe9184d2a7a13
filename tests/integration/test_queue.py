"""A queue as applications use it: create, look, wait, hold; on each engine in turn."""

import json
import os
import runpy
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import pytest

import ledger
from ledger import Job, Queue, Worker
from ledger.database.contract import POOL_OVERFLOW, POOL_SIZE
from ledger.errors import (
    InvalidInput,
    JobFailed,
    JobNotFound,
    SchemaMismatch,
    SettingsError,
    Unavailable,
)
from ledger.log.answers import Claimed, Outcome
from ledger.log.batch import Submission
from ledger.log.commit_notifier import CommitNotifier
from ledger.processes.composition import System, queue_of
from ledger.projections.rebuild.rebuild import rebuild
from ledger.queue.lease import LEASE_MS
from ledger.queue.queue import own_name
from ledger.rules import commands
from ledger.rules.commands import Claim, Complete, Create, FailAttempt, Pause, Start
from tests.builders import START_MS, Clock, open_system, rows, silently, verified
from tests.integration.servers import DEADLINE_S, surroundings, wait_until

START: Final = datetime.fromtimestamp(START_MS / 1000, tz=UTC)
STATES: Final = ("inactive", "complete", "active", "failed", "delayed")


@pytest.fixture
def queue(system: System, database_url: str) -> Iterator[Queue]:
    """Yield a queue as applications get one, beside a system on the same database."""
    opened = ledger.connect(database_url, actor="tests")
    yield opened
    opened.close()


@pytest.fixture
def clock(queue: Queue) -> Clock:
    clock = Clock()
    queue.ledger.clock = clock
    return clock


def body(job: Job) -> dict[str, Any]:
    """Return what the ledger keeps of the job's creation."""
    kept: dict[str, Any] = json.loads(job.events()[0].body)
    return kept


def run(queue: Queue, job: Job, result: str | None = None, error: str | None = None) -> None:
    """Do the job's next attempt, as a worker would."""
    attempt = job.attempts["made"] + 1
    queue.execute(Start(job_id=job.id, worker="w"))
    if error is None:
        queue.execute(Complete(job_id=job.id, attempt=attempt, result=result))
    else:
        queue.execute(FailAttempt(job_id=job.id, attempt=attempt, error=json.dumps(error)))


# --- creating


def test_a_job_is_created_as_it_was_asked_for(queue: Queue, clock: Clock) -> None:
    job = queue.create(
        "email",
        {"to": "tj@learnboost.com", "ü": [1, None]},
        priority="high",
        attempts=5,
        delay=1_500,
        ttl=200,
        backoff={"type": "exponential", "delay": 2_000, "maxDelay": 60_000},
        search_keys=["to", "from.name"],
        remove_on_complete=True,
        unique="order 7",
    )

    (created,) = job.events()
    assert (job.id, created.kind, created.actor, created.at_ms) == (
        1,
        "created",
        "app:tests",
        START_MS,
    )
    assert created.content == '{"to":"tj@learnboost.com","ü":[1,null]}'
    assert json.loads(created.body) == {
        "type": "email",
        "priority": -10,
        "attempts": 5,
        "delay_ms": 1_500,
        "promote_at_ms": START_MS + 1_500,
        "ttl_ms": 200,
        "backoff": {"type": "exponential", "delay_ms": 2_000, "max_delay_ms": 60_000},
        "search_keys": ["to", "from.name"],
        "remove_on_complete": True,
        "unique": "order 7",
    }


def test_a_job_without_options_is_as_kues(queue: Queue, clock: Clock) -> None:
    job = queue.create("email")

    assert job.refresh() == {
        "id": "1",
        "type": "email",
        "data": {},
        "priority": 0,
        "progress": 0,
        "state": "inactive",
        "created_at": str(START_MS),
        "promote_at": str(START_MS),
        "updated_at": str(START_MS),
        "attempts": {"made": 0, "remaining": 1, "max": 1},
    }


def test_a_job_tells_what_it_is(queue: Queue, clock: Clock) -> None:
    job = queue.create("email", [1, "two"], priority=-7, attempts=3)

    told = (
        job.type,
        job.data,
        job.state,
        job.priority,
        job.percent,
        job.progress_data,
        job.result,
        job.error,
        job.created_at,
        job.log(),
    )

    assert told == ("email", [1, "two"], "inactive", -7, 0, None, None, None, START, [])
    assert job.attempts == {"made": 0, "remaining": 3, "max": 3}


@pytest.mark.parametrize(
    ("delay", "delay_ms"),
    [
        (1_500, 1_500),
        (timedelta(seconds=1.5), 1_500),
        (START + timedelta(seconds=1.5), 1_500),
        # Never sooner than asked.
        (timedelta(microseconds=1), 1),
        (START, None),
        (START - timedelta(days=1), None),
        (None, None),
    ],
)
def test_a_delay_is_a_time_or_a_moment(
    queue: Queue, clock: Clock, delay: Any, delay_ms: int | None
) -> None:
    job = queue.create("email", delay=delay)

    kept = body(job)
    assert (kept.get("delay_ms"), job.state) == (delay_ms, "delayed" if delay_ms else "inactive")
    assert kept.get("promote_at_ms") == (START_MS + delay_ms if delay_ms else None)


def test_times_may_be_timedeltas_wherever_kue_takes_milliseconds(
    queue: Queue, clock: Clock
) -> None:
    job = queue.create(
        "email",
        ttl=timedelta(minutes=1),
        backoff={
            "type": "exponential",
            "delay": timedelta(seconds=2),
            "maxDelay": timedelta(minutes=1),
        },
    )

    assert body(job) == {
        "type": "email",
        "ttl_ms": 60_000,
        "backoff": {"type": "exponential", "delay_ms": 2_000, "max_delay_ms": 60_000},
    }


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        ({"priority": "critical"}, {"priority": -15}),
        ({"priority": 3}, {"priority": 3}),
        ({"backoff": True, "delay": 5}, {"backoff": {"type": "repeat"}}),
        ({"backoff": False}, {}),
        ({"search_keys": "to"}, {"search_keys": ["to"]}),
        ({"search_keys": ("to", "a.b")}, {"search_keys": ["to", "a.b"]}),
        ({"search_keys": []}, {"search_keys": []}),
        ({"remove_on_complete": False}, {}),
    ],
)
def test_an_option_is_what_it_is_in_kue(
    queue: Queue, clock: Clock, options: dict[str, Any], kept: dict[str, Any]
) -> None:
    job = queue.create("email", **options)

    delay = {"delay_ms": 5, "promote_at_ms": START_MS + 5} if "delay" in options else {}
    assert body(job) == {"type": "email"} | delay | kept


def test_a_key_is_for_one_job_ever(queue: Queue) -> None:
    first = queue.create("email", {"n": 1}, unique="order 7")
    again = queue.create("sms", {"n": 2}, unique="order 7")
    (many,) = queue.create_many([{"type": "fax", "unique": "order 7"}])
    first.remove()
    after = queue.create("email", unique="order 7")

    assert (again, many, after) == (first, first, first)
    assert queue.stats()["inactive"] == 0


def test_a_second_creation_answers_the_job_as_it_was_created(queue: Queue) -> None:
    queue.create("email", {"n": 1}, unique="order 7")

    again = queue.create("sms", {"n": 2}, unique="order 7")
    (many,) = queue.create_many([{"type": "fax", "unique": "order 7"}])

    assert [(job.type, job.data) for job in (again, many)] == [("email", {"n": 1})] * 2


def test_many_jobs_are_created_in_their_order(queue: Queue, clock: Clock) -> None:
    jobs = queue.create_many(
        {"type": "email", "data": {"n": n}, "delay": timedelta(milliseconds=n)} for n in (1, 2, 3)
    )

    assert [(job.id, job.data, job.refresh()["delay"]) for job in jobs] == [
        (1, {"n": 1}, "1"),
        (2, {"n": 2}, "2"),
        (3, {"n": 3}, "3"),
    ]


def test_no_jobs_are_created_at_once_too(queue: Queue) -> None:
    assert queue.create_many([]) == []


@pytest.mark.parametrize(
    ("second", "text"),
    [
        ({"type": ""}, "jobs[1]: Must provide job type"),
        ({"data": 1}, "jobs[1]: Must provide job type"),
        (
            {"type": "email", "attempts": 0},
            "jobs[1]: attempts: expected an integer from 1 to 9007199254740991, got 0",
        ),
        (
            {"type": "email", "removeOnComplete": True, "prio": 1},
            (
                "jobs[1]: unknown arguments 'prio', 'removeOnComplete'; known arguments are "
                "['attempts', 'backoff', 'data', 'delay', 'priority', 'remove_on_complete', "
                "'search_keys', 'ttl', 'type', 'unique']"
            ),
        ),
        ("email", "jobs[1]: expected a mapping of arguments for create, got 'email'"),
    ],
)
def test_many_jobs_are_all_created_or_none(queue: Queue, second: Any, text: str) -> None:
    with pytest.raises(InvalidInput) as refusal:
        queue.create_many([{"type": "email"}, second, {"type": "email"}])

    assert str(refusal.value) == text
    assert queue.jobs() == []


NOW: Final = datetime(2024, 1, 1)  # noqa: DTZ001 - to be refused

BAD: Final[dict[str, tuple[Callable[[Queue], object], str]]] = {
    "no type": (lambda q: q.create(""), "Must provide job type"),
    "type is no text": (
        lambda q: q.create(7),  # type: ignore[arg-type]
        "Must provide job type: expected 1 to 255 characters, got 7",
    ),
    "a long type": (
        lambda q: q.create("x" * 256),
        "Must provide job type: expected 1 to 255 characters, got '" + "x" * 79 + "…",
    ),
    "data is no JSON": (
        lambda q: q.create("email", {1, 2}),
        (
            "data: expected a value that JSON can represent: "
            "Object of type set is not JSON serializable"
        ),
    ),
    "data is no number": (
        lambda q: q.create("email", float("nan")),
        (
            "data: expected a value that JSON can represent: "
            "Out of range float values are not JSON compliant"
        ),
    ),
    "data has NUL": (
        lambda q: q.create("email", "a\0b"),
        "data: expected JSON without U+0000, got JSON that contains it",
    ),
    "priority": (
        lambda q: q.create("email", priority="HIGH"),
        "priority: expected an integer or one of low, normal, medium, high, critical, got 'HIGH'",
    ),
    "attempts": (
        lambda q: q.create("email", attempts=-1),
        "attempts: expected an integer from 1 to 9007199254740991, got -1",
    ),
    "delay": (
        lambda q: q.create("email", delay=True),
        "delay: expected an integer from 1 to 9007199254740991, got True",
    ),
    "a delay without a time zone": (
        lambda q: q.create("email", delay=NOW),
        (
            "delay: expected an aware datetime, such as datetime.now(UTC), got "
            "datetime.datetime(2024, 1, 1, 0, 0)"
        ),
    ),
    "ttl": (
        lambda q: q.create("email", ttl=timedelta(seconds=-1)),
        "ttl: expected an integer from 1 to 9007199254740991, got -1000",
    ),
    "ttl is a moment": (
        lambda q: q.create("email", ttl=START),  # type: ignore[arg-type]
        (
            "ttl: expected an integer from 1 to 9007199254740991, got "
            "datetime.datetime(2023, 11, 14, 22, 13, 20, tzinfo=datetime.timezone.utc)"
        ),
    ),
    "backoff is code": (
        lambda q: q.create("email", backoff="process.exit()"),  # type: ignore[arg-type]
        (
            'backoff: expected true, or {"type": "fixed" or "exponential", "delay": ms, '
            "\"maxDelay\": ms}, got 'process.exit()'"
        ),
    ),
    "backoff's delay": (
        lambda q: q.create("email", backoff={"type": "fixed", "delay": timedelta(days=-1)}),
        "backoff.delay: expected an integer from 1 to 9007199254740991, got -86400000",
    ),
    "search keys": (
        lambda q: q.create("email", search_keys=[1]),  # type: ignore[list-item]
        "searchKeys: expected a path such as a.b, or a list of them, got [1]",
    ),
    "remove on complete": (
        lambda q: q.create("email", remove_on_complete="yes"),  # type: ignore[arg-type]
        "removeOnComplete: expected true or false, got 'yes'",
    ),
    "unique": (
        lambda q: q.create("email", unique=""),
        "unique: expected 1 to 255 characters, got ''",
    ),
    "state": (
        lambda q: q.jobs(state="asleep"),
        "state: expected one of inactive, complete, active, failed, delayed, got 'asleep'",
    ),
    "limit": (lambda q: q.jobs(limit=0), "limit: expected an integer from 1 to 10000, got 0"),
    "a large limit": (
        lambda q: q.jobs(limit=10_001),
        "limit: expected an integer from 1 to 10000, got 10001",
    ),
    "half a limit": (
        lambda q: q.jobs(limit=1.5),  # type: ignore[arg-type]
        "limit: expected an integer from 1 to 10000, got 1.5",
    ),
    "offset": (
        lambda q: q.jobs(offset=-1),
        "offset: expected an integer, 0 or greater, got -1",
    ),
    "a text for an offset": (
        lambda q: q.jobs(offset="1"),  # type: ignore[arg-type]
        "offset: expected an integer, 0 or greater, got '1'",
    ),
    "concurrency": (
        lambda q: q.process("email", concurrency=0),
        "concurrency: expected a positive integer, got 0",
    ),
    "concurrency is no number": (
        lambda q: q.process("email", concurrency="many"),  # type: ignore[arg-type]
        "concurrency: expected a positive integer, got 'many'",
    ),
    "a paused type": (lambda q: q.pause(""), "type: expected 1 to 255 characters, got ''"),
    "a resumed type": (
        lambda q: q.resume("\0"),
        "type: expected text without NUL or lone surrogates, got '\\x00'",
    ),
}


@pytest.mark.parametrize(("ask", "text"), BAD.values(), ids=BAD.keys())
def test_what_cannot_be_is_refused_by_name(
    queue: Queue, ask: Callable[[Queue], object], text: str
) -> None:
    with pytest.raises(InvalidInput) as refusal:
        ask(queue)

    # Python's own words end differently from version to version.
    assert str(refusal.value).startswith(text)
    assert rows_of(queue) == 0


def rows_of(queue: Queue) -> int:
    with queue.database.read() as connection:
        count = connection.exec_driver_sql("SELECT count(*) FROM ledger_events").scalar()
    assert isinstance(count, int)
    return count


def test_a_priority_can_be_changed_by_name_and_not_to_nonsense(queue: Queue) -> None:
    job = queue.create("email")
    job.reprioritize("critical")

    with pytest.raises(InvalidInput, match=r"^priority: expected an integer or one of low, "):
        job.reprioritize("urgent")

    assert job.priority == -15


# --- looking


def test_a_job_is_found_by_its_id(queue: Queue) -> None:
    created = queue.create("email", {"n": 1})

    found = queue.get(created.id)

    assert (found, found.type, found.data) == (created, "email", {"n": 1})
    assert len({found, created}) == 1


@pytest.mark.parametrize("job_id", [0, -1, 2, 2**62])
def test_a_job_that_is_not_there_is_not_found(queue: Queue, job_id: int) -> None:
    queue.create("email")

    with pytest.raises(JobNotFound, match=rf'^job "{job_id}" doesnt exist$'):
        queue.get(job_id)


def test_jobs_are_listed_by_state_and_type_in_either_order(queue: Queue) -> None:
    for type_ in ("email", "sms", "email", "sms", "email"):
        queue.create(type_)
    run(queue, queue.get(1), error="no")
    run(queue, queue.get(2), error="no")

    def ids(**asked: Any) -> list[int]:
        return [job.id for job in queue.jobs(**asked)]

    assert {
        "all": ids(),
        "newest": ids(newest_first=True),
        "page": ids(limit=2, offset=1),
        "newest page": ids(limit=2, offset=1, newest_first=True),
        "failed": ids(state="failed"),
        "failed sms": ids(state="failed", type="sms"),
        "email": ids(type="email"),
        "past the end": ids(offset=5),
        "no such type": ids(type="fax"),
    } == {
        "all": [1, 2, 3, 4, 5],
        "newest": [5, 4, 3, 2, 1],
        "page": [2, 3],
        "newest page": [4, 3],
        "failed": [1, 2],
        "failed sms": [2],
        "email": [1, 3, 5],
        "past the end": [],
        "no such type": [],
    }


def test_the_queue_counts_its_jobs_by_state_and_names_their_types(
    queue: Queue, clock: Clock
) -> None:
    for type_ in ("sms", "email", "email"):
        queue.create(type_)
    queue.create("fax", delay=1)
    queue.execute(Start(job_id=1, worker="w"))
    clock.now_ms += 250
    queue.execute(Complete(job_id=1, attempt=1))

    assert queue.stats() == dict.fromkeys(STATES, 0) | {
        "inactive": 2,
        "complete": 1,
        "delayed": 1,
        "work_ms": 250,
    }
    assert queue.types() == ["email", "fax", "sms"]


def test_a_removed_job_keeps_its_history_and_nothing_else(queue: Queue) -> None:
    job = queue.create("email")
    listed = queue.jobs()

    job.remove()

    assert listed == [job]
    assert (job.state, [event.kind for event in job.events()]) == (
        "removed",
        ["created", "removed"],
    )
    for ask in (job.refresh, job.log, job.remove, job.restart, lambda: job.result):
        with pytest.raises(JobNotFound):
            ask()


def test_a_failed_job_is_restarted(queue: Queue) -> None:
    job = queue.create("email")
    run(queue, job, error="broken\nTraceback")

    job.restart()

    assert (job.state, job.error, job.log(), job.attempts) == (
        "inactive",
        "broken\nTraceback",
        ["broken"],
        {"made": 1, "remaining": 0, "max": 1},
    )


def test_a_queue_and_a_job_show_what_they_are(queue: Queue) -> None:
    job = queue.create("email")
    shown = repr(job)
    job.remove()

    assert shown == "<Job 1: email, inactive>"
    assert repr(job) == "<Job 1: email, removed>"
    assert repr(queue) == f"<Queue {queue.database.shown_url}>"
    assert repr(Job(queue, 7)) == "<Job 7>"


# --- waiting


@pytest.fixture
def unhurried(system: System, database_url: str) -> Iterator[Queue]:
    """Yield a queue of another system, in which a waiter looks only when it is woken."""
    own = open_system(database_url)
    notifier = CommitNotifier(
        own.database, own.jobs.claimable_between, longest_wait_s=2 * DEADLINE_S
    )
    queue = queue_of(replace(own, commit_notifier=notifier), actor="tests", lease_ms=LEASE_MS)
    yield queue
    queue.close()


def when_waited_for(queue: Queue, job: Job, then: Callable[[], object]) -> Any:
    """Do something once *job* is waited for; return what the wait returns or raises."""
    with ThreadPoolExecutor(1) as pool:
        # A wait that is not woken looks once more at its end, which would be too late.
        waiting = pool.submit(job.wait, timeout=2 * DEADLINE_S)
        wait_until(lambda: bool(queue.commit_notifier._subscribers), "the job is waited for")
        then()
        return waiting.exception(DEADLINE_S) or waiting.result()


def test_who_waits_for_a_job_is_woken_with_its_result(unhurried: Queue, system: System) -> None:
    job = unhurried.create("email")

    def work_elsewhere() -> None:
        system.ledger.execute(Start(job_id=job.id), actor="test")
        system.ledger.execute(Complete(job_id=job.id, attempt=1, result='{"n":1}'), actor="test")

    assert when_waited_for(unhurried, job, work_elsewhere) == {"n": 1}


def test_who_waits_for_a_job_is_told_that_it_failed_for_good(unhurried: Queue) -> None:
    job = unhurried.create("email", attempts=2)

    def fail_twice() -> None:
        run(unhurried, job, error="once")
        run(unhurried, job, error="broken: it\nTraceback")

    failure = when_waited_for(unhurried, job, fail_twice)
    assert isinstance(failure, JobFailed)
    assert (str(failure), failure.job_id, failure.error) == (
        "job 1 failed: broken: it",
        1,
        "broken: it\nTraceback",
    )


def test_who_waits_for_a_job_is_told_that_it_was_removed(unhurried: Queue) -> None:
    job = unhurried.create("email")

    failure = when_waited_for(unhurried, job, unhurried.get(job.id).remove)

    assert (type(failure), str(failure)) == (JobNotFound, 'job "1" doesnt exist')


@pytest.mark.parametrize("result", [None, '{"n":1}'])
def test_a_job_that_is_removed_on_completion_still_has_its_result(
    queue: Queue, result: str | None
) -> None:
    job = queue.create("email", remove_on_complete=True)
    run(queue, job, result)

    assert job.state == "removed"
    assert job.wait() == (None if result is None else {"n": 1})


def test_a_job_that_is_done_is_not_waited_for(queue: Queue) -> None:
    job = queue.create("email")
    run(queue, job, "[1]")

    assert job.wait(timeout=0) == [1]


def test_waiting_ends_in_time_and_the_job_goes_on(queue: Queue) -> None:
    job = queue.create("email")

    with pytest.raises(TimeoutError, match=r"^job 1 is still inactive after 0\.05 seconds$"):
        job.wait(timeout=0.05)

    assert job.state == "inactive"


# --- holding


def test_a_pause_and_its_end_are_events_of_the_ledgers_own_stream(
    queue: Queue, system: System, clock: Clock
) -> None:
    queue.create("email")
    queue.pause("email")
    queue.pause("email")
    queue.pause("sms")
    clock.now_ms += 5
    held = queue.paused()
    queue.resume("email")
    queue.resume("email")
    queue.pause("email")

    assert held == {"email": START, "sms": START}
    assert queue.paused() == {"email": START + timedelta(milliseconds=5), "sms": START}
    assert rows(
        system,
        "SELECT version, kind, body, actor FROM ledger_events WHERE job_id = 0 ORDER BY position",
    ) == [
        {"version": 1, "kind": "paused", "body": '{"type":"email"}', "actor": "app:tests"},
        {"version": 2, "kind": "paused", "body": '{"type":"sms"}', "actor": "app:tests"},
        {"version": 3, "kind": "resumed", "body": '{"type":"email"}', "actor": "app:tests"},
        {"version": 4, "kind": "paused", "body": '{"type":"email"}', "actor": "app:tests"},
    ]


def test_a_ledger_with_pauses_verifies_and_is_rebuilt_as_it_was(
    queue: Queue, system: System
) -> None:
    queue.create_many([{"type": "email"}, {"type": "sms"}])
    queue.pause("email")
    queue.pause("sms")
    queue.resume("sms")
    tables = (
        "ledger_jobs",
        "ledger_job_runs",
        "ledger_state_counts",
        "ledger_unique_keys",
        "ledger_state",
    )

    def contents() -> list[list[str]]:
        return [sorted(map(str, rows(system, f"SELECT * FROM {table}"))) for table in tables]  # noqa: S608

    before = contents()

    report = verified(system)
    rebuild(system.database, system.projections, silently)

    assert (report.differences, report.position) == ([], 5)
    assert contents() == before
    assert list(queue.paused()) == ["email"]


def test_no_job_of_a_paused_type_begins(queue: Queue) -> None:
    queue.create_many([{"type": "email"}, {"type": "sms"}])
    claim = Claim(worker="w", slots={"email": 9, "sms": 9})
    queue.pause("email")

    held = queue.ledger.claim(claim, actor="test")
    queue.resume("email")
    after = queue.ledger.claim(claim, actor="test")

    assert [one.job.id for one in held.jobs] == [2]
    assert [one.job.id for one in after.jobs] == [1]


def handed_in(*commands_: commands.Command, atomic: bool = False) -> Submission:
    return Submission(commands=commands_, actor="test", cause=None, atomic=atomic)


def test_a_pause_is_known_to_whoever_comes_later_in_the_same_batch(queue: Queue) -> None:
    """All that was refused leaves no trace, and what came before it stays."""
    queue.create("email")
    batch = [
        handed_in(Pause(type="email")),
        handed_in(Pause(type="sms"), Complete(job_id=77, attempt=1), atomic=True),
        handed_in(Pause(type="email")),
        handed_in(Claim(worker="w", slots={"email": 1})),
    ]

    *_, (again,), (claimed,) = queue.ledger._append(lambda: batch)

    assert again == Outcome(job_id=0, position=2, events=())
    assert claimed == Claimed(jobs=(), position=2)
    assert list(queue.paused()) == ["email"]


# --- whose turn it is


def claimed_ids(queue: Queue, **slots: int) -> list[int]:
    claim = Claim(worker="w", slots=slots, limit=6)
    return [one.job.id for one in queue.ledger.claim(claim, actor="test").jobs]


def test_jobs_begin_by_priority_then_age(queue: Queue) -> None:
    for priority in (0, 10, -5, -15, 0, -10):
        queue.create("email", priority=priority)

    assert claimed_ids(queue, email=9) == [4, 6, 3, 1, 5, 2]


def test_types_take_turns_within_a_priority(queue: Queue) -> None:
    flood = [{"type": "email"} for _ in range(20)]
    queue.create_many([*flood, {"type": "sms"}, {"type": "sms"}])
    urgent = queue.create("email", priority="high")

    assert claimed_ids(queue, email=20, sms=20) == [urgent.id, 1, 21, 2, 22, 3]


def test_no_type_takes_more_than_its_slots(queue: Queue) -> None:
    queue.create_many([{"type": "email"}] * 5 + [{"type": "sms"}] * 5)

    assert claimed_ids(queue, email=1, sms=2, fax=5) == [1, 6, 7]


# --- connecting, threads and forks


def test_an_empty_file_becomes_a_queue_and_an_empty_server_does_not(database_url: str) -> None:
    if database_url.startswith("sqlite"):
        queue = ledger.connect(database_url)
        assert queue.create("email").id == 1
        queue.close()
        return

    queue = ledger.connect(database_url)
    for use in (queue.open, queue.types, lambda: queue.create("email")):
        with pytest.raises(SchemaMismatch, match="create it with `ledger migrate`"):
            use()


AWAY: Final = "import ledger\nqueue = ledger.connect({url!r})\n"


@pytest.mark.parametrize(
    ("url", "shown", "problem"),
    [
        (
            "postgresql+psycopg://ann:secret@127.0.0.1:1/jobs",
            "postgresql+psycopg://ann:***@127.0.0.1:1/jobs",
            "the database does not answer",
        ),
        ("sqlite:///missing/jobs.db", "sqlite:///missing/jobs.db", "its directory does not exist"),
    ],
)
def test_a_module_that_connects_is_imported_with_the_database_away(
    url: str, shown: str, problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "application.py").write_text(AWAY.format(url=url))
    monkeypatch.chdir(tmp_path)
    namespace = runpy.run_path("application.py")
    queue: Queue = namespace["queue"]
    queue.process("email")(print)

    assert repr(queue) == f"<Queue {shown}>"
    assert [path.name for path in tmp_path.iterdir()] == ["application.py"]
    # Each use tries again.
    for use in (queue.open, queue.types, lambda: queue.create("email"), Worker(queue).run):
        with pytest.raises(Unavailable, match=problem):
            use()


def test_a_queue_opens_once_the_database_is_there(tmp_path: Path) -> None:
    queue = ledger.connect(f"sqlite:///{tmp_path / 'later' / 'jobs.db'}")
    with pytest.raises(Unavailable):
        queue.create("email")

    (tmp_path / "later").mkdir()

    assert queue.create("email").id == 1
    queue.close()


def test_threads_that_use_a_queue_first_open_it_once(tmp_path: Path) -> None:
    queue = ledger.connect(f"sqlite:///{tmp_path / 'jobs.db'}")
    threads = 8
    together = threading.Barrier(threads)

    def use(_: int) -> int:
        together.wait(DEADLINE_S)
        queue.create("email")
        return id(queue.database)

    with ThreadPoolExecutor(threads) as pool:
        databases = set(pool.map(use, range(threads)))

    assert len(databases) == 1
    assert queue.stats()["inactive"] == threads
    queue.close()


def test_a_relative_path_leads_from_where_connect_was_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("here", "elsewhere"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "here")
    queue = ledger.connect("sqlite:///jobs.db")
    monkeypatch.chdir(tmp_path / "elsewhere")

    queue.create("email")
    queue.close()

    assert (tmp_path / "here" / "jobs.db").exists()
    assert list((tmp_path / "elsewhere").iterdir()) == []


@pytest.mark.parametrize("url", ["jobs.db", "mysql://h/n", "sqlite://", "postgresql://h:port/n"])
def test_a_bad_url_is_refused_at_once(url: str) -> None:
    with pytest.raises(SettingsError, match="database_url: expected"):
        ledger.connect(url)


FORKING_UNOPENED: Final = """
import os, sys
import ledger

queue = ledger.connect(sys.argv[1])
children = []
for number in range(3):
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            code = 0 if queue.create("child", number).data == number else 2
        finally:
            os._exit(code)
    children.append(pid)
queue.create("parent")
print([os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children])
"""


def test_a_queue_that_was_never_used_is_opened_by_each_forked_child(
    system: System, database_url: str, tmp_path: Path
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FORKING_UNOPENED, database_url],
        env=surroundings(tmp_path),
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=True,
    )

    assert (done.stdout, done.stderr) == ("[0, 0, 0]\n", "")
    assert len(rows(system, "SELECT id FROM ledger_jobs")) == 4
    assert verified(system).differences == []


def test_a_queue_is_shared_by_many_threads(queue: Queue, system: System) -> None:
    threads, jobs = 8, 10
    together = threading.Barrier(threads)

    def use(number: int) -> list[int]:
        together.wait(DEADLINE_S)
        created = [queue.create("email", {"thread": number}) for _ in range(jobs)]
        assert [queue.get(job.id).data for job in created] == [{"thread": number}] * jobs
        return [job.id for job in created]

    with ThreadPoolExecutor(threads) as pool:
        ids = [id_ for some in pool.map(use, range(threads)) for id_ in some]

    assert sorted(ids) == list(range(1, threads * jobs + 1))
    assert verified(system).differences == []


FORKING: Final = """
import os, sys, threading
import ledger

# The watching thread is there, but asleep.
queue = ledger.connect(sys.argv[1])
watched = threading.Event()
with queue.commit_notifier.subscribed(watched.set):
    watched.wait()
    queue.create("parent")
    children = []
    for number in range(3):
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                mine = queue.create("child", number)
                try:
                    mine.wait(timeout=0.01)
                except TimeoutError:
                    code = 0 if queue.get(mine.id).data == number else 2
            finally:
                os._exit(code)
        children.append(pid)
    queue.create("parent")
    print([os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children])
"""


def test_a_queue_is_used_by_parent_and_forked_children(
    system: System, database_url: str, tmp_path: Path
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FORKING, database_url],
        env=surroundings(tmp_path),
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=True,
    )

    assert (done.stdout, done.stderr) == ("[0, 0, 0]\n", "")
    assert rows(
        system, "SELECT type, count(*) AS jobs FROM ledger_jobs GROUP BY type ORDER BY type"
    ) == [
        {"type": "child", "jobs": 3},
        {"type": "parent", "jobs": 2},
    ]
    assert verified(system).differences == []


FORKING_WRITER: Final = """
import os, sys, threading, time
import ledger

queue = ledger.connect(sys.argv[1])
stopped, writes = threading.Event(), threading.Event()

def write():
    while not stopped.is_set():
        with queue.database.write():
            writes.set()
            time.sleep(0.01)

thread = threading.Thread(target=write)
thread.start()
children = []
for number in range(4):
    writes.clear()
    writes.wait()
    pid = os.fork()
    if pid == 0:
        try:
            queue.create("child", number)
            os._exit(0)
        except BaseException as error:
            print(error, file=sys.stderr, flush=True)
            os._exit(1)
    children.append(pid)
stopped.set()
thread.join()
print(sum(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children))
"""


def test_a_child_writes_that_was_forked_while_others_wrote(
    system: System, database_url: str, tmp_path: Path
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FORKING_WRITER, database_url],
        env=surroundings(tmp_path),
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=True,
    )

    assert (done.stdout, done.stderr) == ("0\n", "")
    assert len(rows(system, "SELECT id FROM ledger_jobs WHERE type = 'child'")) == 4


def test_a_commands_actor_is_who_connected(system: System, database_url: str) -> None:
    anonymous = ledger.connect(database_url)
    job = anonymous.create("email")
    anonymous.close()

    assert rows(system, "SELECT actor FROM ledger_events") == [{"actor": f"app:{own_name()}"}]
    assert job.id == 1


def test_a_creation_can_be_executed_as_a_command(queue: Queue) -> None:
    outcome = queue.execute(Create(type="email", data='{"n": 1.50}'))

    assert (outcome.job_id, queue.get(1).data) == (1, {"n": 1.5})


def test_more_threads_than_connections_may_read_and_live_on(queue: Queue) -> None:
    job = queue.create("email")
    read, all_have = threading.Semaphore(0), threading.Event()
    number = POOL_SIZE + POOL_OVERFLOW + 10

    def look_and_stay() -> None:
        assert job.state == "inactive"
        read.release()
        all_have.wait(DEADLINE_S)

    threads = [threading.Thread(target=look_and_stay) for _ in range(number)]
    for thread in threads:
        thread.start()
    try:
        for _ in threads:
            assert read.acquire(timeout=DEADLINE_S)

        assert queue.create("email").state == "inactive"
    finally:
        all_have.set()
        for thread in threads:
            thread.join()


def test_a_forked_child_that_outlives_its_parent_keeps_no_lock(
    queue: Queue, database_url: str
) -> None:
    """The parent is killed while it writes, by which it holds the ledger's one lock."""
    program = """
import os, sys, time, ledger, ledger.log.store
queue = ledger.connect(sys.argv[1])
queue.create("email")
with queue.database.write() as tx:
    ledger.log.store.lock_head(tx)
    if os.fork() == 0:
        time.sleep(3600)
        os._exit(0)
    os.kill(os.getpid(), 9)
"""
    parent = subprocess.Popen([sys.executable, "-c", program, database_url], start_new_session=True)
    parent.wait(DEADLINE_S)
    created: list[Job] = []
    writer = threading.Thread(target=lambda: created.append(queue.create("email")))
    writer.start()
    writer.join(DEADLINE_S)
    locked = writer.is_alive()
    os.killpg(parent.pid, signal.SIGKILL)
    writer.join()

    assert not locked
    assert created[0].state == "inactive"


def test_jobs_of_one_type_are_counted_too(queue: Queue) -> None:
    queue.create_many([{"type": "email"}] * 2 + [{"type": "video"}])

    assert queue.stats("email")["inactive"] == 2
    assert queue.stats("none") == dict.fromkeys(queue.stats(), 0)


def test_a_coroutine_function_does_no_jobs(queue: Queue) -> None:
    async def send(job: object) -> None: ...

    with pytest.raises(InvalidInput, match=r"a plain function that calls asyncio\.run"):
        queue.process("email")(send)

    assert queue.handlers == {}


def test_more_than_can_be_kept_is_refused(
    queue: Queue, system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commands, "LARGEST_CONTENT", 100)
    with pytest.raises(InvalidInput, match="data: expected at most 100 characters, got 102"):
        queue.create("email", "x" * 100)

    assert rows(system, "SELECT count(*) AS number FROM ledger_events") == [{"number": 0}]

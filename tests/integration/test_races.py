"""Many writers at one database; and each guard once taken away, to see what it guards."""

import multiprocessing
import os
import random
import signal
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from multiprocessing.context import SpawnContext, SpawnProcess
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import Connection, exc, select

from ledger.database.clock import CurrentTime
from ledger.database.fast_sql import Query
from ledger.database.file_lock import LockFile
from ledger.database.migration import migrate
from ledger.database.own_files import open_regular
from ledger.database.sqlite import SqliteDatabase
from ledger.errors import AttemptOver, JobNotFound, Refused, Unavailable
from ledger.log import store
from ledger.log.answers import Outcome
from ledger.log.batch import Submission
from ledger.log.schema import head
from ledger.processes.composition import System
from ledger.projections.models.unique_keys import UniqueKeys
from ledger.queue import presence
from ledger.rules import decide as decisions
from ledger.rules.commands import (
    Command,
    Complete,
    Create,
    Elapse,
    Erase,
    FailAttempt,
    Move,
    Progress,
    Remove,
    Reprioritize,
    Start,
)
from ledger.rules.events import Event
from ledger.rules.job import JobState
from tests.builders import carry_out, open_sqlite, open_system, rows, verified

PATIENCE_S = 60.0
PROCESSES = 2
THREADS = 8
COMMANDS_A_THREAD = 40
SHARED_JOBS = 5
REMOVED_ONE_IN = 40


def eventually(condition: Callable[[], bool]) -> None:
    """Wait until *condition* holds."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.002)


@contextmanager
def another(url: str) -> Iterator[System]:
    """Yield a second system on the database, which shares nothing with the first."""
    system = open_system(url)
    try:
        yield system
    finally:
        system.close()


# --- the hammer


@dataclass(frozen=True, slots=True)
class Said:
    """The answer to a caller: its job and events up to a position, or the reason of a refusal."""

    job_id: int = 0
    position: int = 0
    kinds: tuple[str, ...] = ()
    refusal: str = ""
    error: str = ""


def any_command(random_: random.Random, attempts: Mapping[int, int]) -> Command:
    job_id = random_.randint(1, SHARED_JOBS + 2)
    attempt = attempts.get(job_id, 1)
    makers: Sequence[Callable[[], Command]] = (
        lambda: Create(type="email", data='{"n": 1}'),
        lambda: Create(type="email", unique=f"key {random_.randint(1, 5)}"),
        lambda: Start(job_id=job_id),
        lambda: Start(job_id=job_id),
        lambda: Progress(job_id=job_id, attempt=attempt, progress=10, data="1"),
        lambda: Complete(job_id=job_id, attempt=attempt, result="1"),
        lambda: FailAttempt(job_id=job_id, attempt=attempt, error='"x"'),
        lambda: Move(job_id=job_id, to="inactive"),
        lambda: Move(job_id=job_id, to="active"),
        lambda: Reprioritize(job_id=job_id, priority=random_.randint(-9, 9)),
        lambda: Elapse(job_id=job_id),
        lambda: Erase(job_id=job_id),
    )
    # Seldom, or there would soon be nothing left to fight for.
    if random_.randrange(REMOVED_ONE_IN) == 0:
        return Remove(job_id=job_id)
    return random_.choice(makers)()


def a_life(job_id: int) -> Sequence[Command]:
    """Return what a job of a thread's own goes through, which no chance can leave out."""
    return (
        Start(job_id=job_id),
        Move(job_id=job_id, to="inactive"),
        Start(job_id=job_id),
        Complete(job_id=job_id, attempt=2),
        Remove(job_id=job_id),
    )


def tell(system: System, command: Command, seed: int, attempts: dict[int, int]) -> Said:
    """Carry out *command*, keep in *attempts* how far its job is, and return what was said."""
    try:
        outcome = system.ledger.execute(command, actor=f"thread:{seed}")
        with system.database.read() as connection:
            assert store.read_position(connection) >= outcome.position
    except Refused as refusal:
        return Said(refusal=str(refusal))
    except Exception as error:  # noqa: BLE001 - whatever it is, the test must see it
        return Said(error=repr(error))
    for event in outcome.events:
        attempts[outcome.job_id] = getattr(event, "attempt", None) or 1
    return Said(outcome.job_id, outcome.position, tuple(event.kind for event in outcome.events))


def call_often(system: System, seed: int) -> list[Said]:
    random_ = random.Random(seed)
    attempts: dict[int, int] = {}
    own = tell(system, Create(type="email", attempts=9), seed, attempts)
    said = [own, *(tell(system, command, seed, attempts) for command in a_life(own.job_id))]
    while len(said) < COMMANDS_A_THREAD:
        said.append(tell(system, any_command(random_, attempts), seed, attempts))
    return said


def hammer(url: str, number: int, start: Barrier, told: Any) -> None:
    """Run one of the processes."""
    system = open_system(url)
    start.wait(PATIENCE_S)
    with ThreadPoolExecutor(THREADS) as pool:
        seeds = range(number * THREADS, (number + 1) * THREADS)
        for said in pool.map(lambda seed: call_often(system, seed), seeds):
            told.put(said)
    system.close()


def hammered(url: str) -> list[Said]:
    """Return what all callers of all processes were told."""
    context: SpawnContext = multiprocessing.get_context("spawn")
    start, told = context.Barrier(PROCESSES), context.Queue()
    processes: list[SpawnProcess] = [
        context.Process(target=hammer, args=(url, number, start, told))
        for number in range(PROCESSES)
    ]
    for process in processes:
        process.start()
    said = [word for _ in range(PROCESSES * THREADS) for word in told.get(timeout=PATIENCE_S)]
    for process in processes:
        process.join(PATIENCE_S)
    assert [process.exitcode for process in processes] == [0] * PROCESSES
    return said


def test_what_all_callers_were_told_is_the_whole_history(system: System, database_url: str) -> None:
    carry_out(system, *[Create(type="email", attempts=9)] * SHARED_JOBS)

    said = hammered(database_url)

    assert [word.error for word in said if word.error] == []
    assert len(said) == PROCESSES * THREADS * COMMANDS_A_THREAD
    assert all(word.refusal or word.job_id for word in said)
    acknowledged = {
        word.position - len(word.kinds) + place: (word.job_id, kind)
        for word in said
        for place, kind in enumerate(word.kinds, start=1)
    }
    assert len(acknowledged) == sum(len(word.kinds) for word in said)
    recorded = {
        row["position"]: (row["job_id"], row["kind"])
        for row in rows(
            system,
            "SELECT position, job_id, kind FROM ledger_events WHERE position > :known",
            known=SHARED_JOBS,
        )
    }
    assert recorded == acknowledged
    assert sorted(recorded) == list(range(SHARED_JOBS + 1, SHARED_JOBS + len(recorded) + 1))
    assert verified(system).differences == []
    # Most threads' own jobs, whose numbers no other thread knows, were not disturbed.
    assert {"created", "started", "moved", "removed", "completed"} <= {
        kind for _, kind in recorded.values()
    }
    # Otherwise there was no race.
    assert any(word.refusal for word in said)


# --- the lock of the head


class Meeting:
    """The clock of a ledger, which the ledger reads after the head.

    That is the moment at which another writer must be kept out: this lets one come.
    """

    def __init__(self, other: System, kept_out: Callable[[], bool]) -> None:
        self._other = other
        self._kept_out = kept_out
        self._pool = ThreadPoolExecutor(1)
        self.came: Future[Outcome] | None = None

    def __call__(self) -> int:
        if self.came is None:
            self.came = came = self._pool.submit(
                self._other.ledger.execute, Create(type="email"), actor="other"
            )
            eventually(lambda: came.done() or self._kept_out())
        return 1


def waits_for_the_lock(
    system: System, other: System, monkeypatch: pytest.MonkeyPatch
) -> Callable[[], bool]:
    """Return what tells whether *other* waits for *system*'s lock."""
    database = other.database
    if not isinstance(database, SqliteDatabase):
        waiting = "SELECT pid FROM pg_stat_activity WHERE wait_event_type = 'Lock'"

        def waits() -> bool:
            # Not on the thread's own connection: within a transaction PostgreSQL looks
            # at its statistics once.
            with system.database.engine.connect() as connection:
                return bool(connection.exec_driver_sql(waiting).all())

        return waits
    queued = threading.Event()
    file = database._queue._file
    take_turn, try_turn = file.acquire, file.try_acquire

    def acquire() -> None:
        if not try_turn():
            queued.set()
            take_turn()

    monkeypatch.setattr(file, "acquire", acquire)
    return queued.is_set


def test_a_second_writer_waits_and_goes_on_from_the_first(
    system: System, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with another(database_url) as other:
        meeting = Meeting(other, waits_for_the_lock(system, other, monkeypatch))
        system.ledger.clock = meeting
        first = system.ledger.execute(Create(type="email"), actor="first")
        assert meeting.came is not None
        second = meeting.came.result(PATIENCE_S)

    assert [(outcome.job_id, outcome.position) for outcome in (first, second)] == [(1, 1), (2, 2)]
    assert rows(system, "SELECT actor FROM ledger_events ORDER BY position") == [
        {"actor": "first"},
        {"actor": "other"},
    ]
    assert verified(system).differences == []


@contextmanager
def deferred(database: SqliteDatabase) -> Iterator[Connection]:
    """Replace SqliteDatabase.write by one without the queue and without IMMEDIATE."""
    with database.engine.connect() as connection:
        connection.exec_driver_sql("BEGIN")
        try:
            yield connection
            connection.exec_driver_sql("COMMIT")
        except BaseException:
            connection.exec_driver_sql("ROLLBACK")
            raise


def test_without_the_lock_a_second_writer_takes_the_firsts_position(
    system: System, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_lock = Query(select(*store._HEAD, head.c.inline_rebuilds, CurrentTime()))
    monkeypatch.setattr(store, "_LOCK_HEAD", without_lock)
    monkeypatch.setattr(SqliteDatabase, "write", deferred)
    with another(database_url) as other:
        meeting = Meeting(other, kept_out=lambda: False)
        system.ledger.clock = meeting
        with pytest.raises((psycopg.IntegrityError, sqlite3.OperationalError)):
            system.ledger.execute(Create(type="email"), actor="first")
        assert meeting.came is not None
        second = meeting.came.result(PATIENCE_S)

    assert (second.job_id, second.position) == (1, 1)
    assert rows(system, "SELECT actor FROM ledger_events") == [{"actor": "other"}]


def test_while_somebody_keeps_the_lock_all_but_one_are_told_so(tmp_path: Path) -> None:
    # A process that was stopped with Ctrl-Z keeps it until it goes on.
    with closing(open_sqlite(tmp_path / "ledger.db", lock_timeout_ms=100)) as system:
        migrate(system.database)
        stopped = LockFile(tmp_path / "ledger.db-writer")
        stopped.acquire()
        with ThreadPoolExecutor(5) as pool:
            calls: list[Future[Any]] = [
                pool.submit(system.ledger.execute, Create(type="email"), actor=f"thread:{n}")
                for n in range(4)
            ]
            calls.append(pool.submit(beat_once, system))
            eventually(lambda: sum(call.done() for call in calls) == 4)
            stopped.release()
            answers = [call.exception(PATIENCE_S) or call.result() for call in calls]
        told = [str(answer) for answer in answers if isinstance(answer, Unavailable)]
        appended = [answer for answer in answers if isinstance(answer, Outcome)]

        assert len(told) == 4
        assert all("for 0.1 s" in reason for reason in told)
        assert len(rows(system, "SELECT * FROM ledger_events")) == len(appended)
        assert verified(system).differences == []
    stopped.close()


def beat_once(system: System) -> str:
    with system.database.write() as tx:
        presence.beat(tx, "w", {"email": 1}, now_ms=1, lease_ms=1)
    return "beaten"


def test_a_look_at_a_lock_leaves_none_to_a_child_that_is_forked_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = LockFile(tmp_path / "lock")
    assert lock.try_acquire()
    lock.release()
    copies = []
    close = os.close

    def forked_first(fd: int) -> None:
        # A child has the same open file, as a copy of the descriptor does.
        copies.append(os.dup(fd))
        close(fd)

    with monkeypatch.context() as patched:
        patched.setattr(os, "close", forked_first)
        is_locked = lock.is_locked()
    is_free = lock.try_acquire()
    lock.close()
    for copy in copies:
        os.close(copy)

    assert (is_locked, is_free, len(copies)) == (False, True, 1)


def test_two_threads_that_need_a_lock_file_for_the_first_time_at_once_share_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the file open twice, the lock was given back on the one on which nobody had it."""
    opened, may_go_on = threading.Event(), threading.Event()
    lock, other = LockFile(tmp_path / "lock"), LockFile(tmp_path / "lock")

    def open_slowly(*how: Any) -> int:
        fd = open_regular(*how)
        if not opened.is_set():
            opened.set()
            assert may_go_on.wait(PATIENCE_S)
        return fd

    monkeypatch.setattr("ledger.database.file_lock.open_regular", open_slowly)
    watcher = threading.Thread(target=lambda: lock.path)
    watcher.start()
    assert opened.wait(PATIENCE_S)
    lock.acquire()
    may_go_on.set()
    watcher.join()
    held = other.try_acquire()
    lock.release()
    free = other.try_acquire()
    lock.close()
    other.close()

    assert (held, free) == (False, True)


# --- the fence


def lost_and_started_anew(system: System) -> None:
    """Let attempt 1 of job 1 be given up by hand, and attempt 2 be begun."""
    carry_out(
        system,
        Create(type="email", attempts=5),
        Start(job_id=1, worker="lost"),
        Move(job_id=1, to="inactive"),
        Start(job_id=1, worker="new"),
    )


LATE_WORDS: tuple[Command, ...] = (
    Progress(job_id=1, attempt=1, progress=99),
    Complete(job_id=1, attempt=1, result='"late"'),
    FailAttempt(job_id=1, attempt=1, error='"late"'),
)


@pytest.mark.parametrize("late", LATE_WORDS, ids=lambda command: type(command).__name__)
def test_the_late_word_of_a_lost_worker_does_not_count(system: System, late: Command) -> None:
    lost_and_started_anew(system)

    with pytest.raises(AttemptOver, match="attempt 1 is over; the job is active in attempt 2"):
        system.ledger.execute(late, actor="lost")

    assert [
        row["kind"] for row in rows(system, "SELECT kind FROM ledger_events ORDER BY position")
    ] == [
        "created",
        "started",
        "moved",
        "started",
    ]
    (kept,) = carry_out(system, Complete(job_id=1, attempt=2, result='"kept"'))
    assert [event.kind for event in kept.events] == ["completed"]


def test_without_the_fence_the_late_word_ends_the_new_attempt(
    system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unfenced(job: JobState, _attempt: int, event: type[Event]) -> None:
        decisions._require(job, event)

    monkeypatch.setattr(decisions, "_require_attempt", unfenced)
    lost_and_started_anew(system)

    carry_out(system, Complete(job_id=1, attempt=1, result='"late"'))

    with pytest.raises(Refused, match="job 1 is complete"):
        system.ledger.execute(Complete(job_id=1, attempt=2, result='"kept"'), actor="new")


# --- unique keys


def test_one_key_from_many_threads_creates_one_job(system: System, database_url: str) -> None:
    with another(database_url) as other, ThreadPoolExecutor(16) as pool:
        ready = threading.Barrier(16)

        def create(number: int) -> Outcome:
            ready.wait(PATIENCE_S)
            ledger = (system, other)[number % 2].ledger
            return ledger.execute(Create(type="email", unique="order 7"), actor=f"t:{number}")

        outcomes = list(pool.map(create, range(16)))

    assert {outcome.job_id for outcome in outcomes} == {1}
    assert sorted(len(outcome.events) for outcome in outcomes) == [0] * 15 + [1]
    assert rows(system, "SELECT position, job_id, kind FROM ledger_events") == [
        {"position": 1, "job_id": 1, "kind": "created"}
    ]


def test_a_key_outlives_its_job(system: System) -> None:
    carry_out(system, Create(type="email", unique="order 7"), Remove(job_id=1))

    (again,) = carry_out(system, Create(type="email", unique="order 7"))

    assert again == Outcome(job_id=1, position=2, events=())


def test_without_the_look_up_the_key_itself_refuses_a_second_job(
    system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    def blind(_self: UniqueKeys, _tx: Connection, _keys: Sequence[str]) -> Mapping[str, int]:
        return {}

    carry_out(system, Create(type="email", unique="order 7"))
    monkeypatch.setattr(UniqueKeys, "find", blind)

    with pytest.raises((exc.IntegrityError, psycopg.IntegrityError)):
        system.ledger.execute(Create(type="email", unique="order 7"), actor="test")

    assert rows(system, "SELECT count(*) AS n FROM ledger_events") == [{"n": 1}]


# --- group commit


def test_a_refused_caller_refuses_nobody_else_of_its_batch(system: System) -> None:
    batches: list[int] = []
    gate, entered = threading.Event(), threading.Event()
    append = system.ledger._append

    def slowly(take: Callable[[], Sequence[Submission]]) -> Any:
        submissions = take()
        batches.append(len(submissions))
        if len(batches) == 1:
            entered.set()
            assert gate.wait(PATIENCE_S)
        return append(lambda: submissions)

    system.ledger._appender._run = slowly
    commands: Sequence[Command] = (
        Create(type="email"),
        Create(type="email", data='"kept"'),
        Start(job_id=99),
        Start(job_id=1),
        Complete(job_id=1, attempt=7),
        Start(job_id=2),
    )
    with ThreadPoolExecutor(len(commands)) as pool:
        futures = [pool.submit(system.ledger.execute, commands[0], actor="test")]
        assert entered.wait(PATIENCE_S)
        for number, command in enumerate(commands[1:], start=1):
            futures.append(pool.submit(system.ledger.execute, command, actor="test"))
            eventually(lambda number=number: len(system.ledger._appender._waiting) == number)  # type: ignore[misc]
        gate.set()
        answers = [future.exception(PATIENCE_S) or future.result() for future in futures]

    assert batches == [1, 5]
    assert [type(answer) for answer in answers] == [
        Outcome,
        Outcome,
        JobNotFound,
        Outcome,
        Refused,
        Outcome,
    ]
    assert rows(system, "SELECT position, job_id, kind FROM ledger_events ORDER BY position") == [
        {"position": 1, "job_id": 1, "kind": "created"},
        {"position": 2, "job_id": 2, "kind": "created"},
        {"position": 3, "job_id": 1, "kind": "started"},
        {"position": 4, "job_id": 2, "kind": "started"},
    ]
    assert verified(system).differences == []


def test_an_atomic_caller_refuses_only_itself(system: System) -> None:
    atomic = Submission(
        commands=(Create(type="lost", unique="k"), Start(job_id=1), Start(job_id=99)),
        actor="atomic",
        cause=None,
        atomic=True,
    )
    plain = Submission(
        commands=(Create(type="kept", unique="k"), Start(job_id=1)),
        actor="plain",
        cause=None,
        atomic=False,
    )

    refused, kept = system.ledger._append(lambda: [atomic, plain])

    assert isinstance(refused[2], JobNotFound)
    assert [(answer.job_id, answer.position) for answer in kept if isinstance(answer, Outcome)] == [
        (1, 1),
        (1, 2),
    ]
    assert rows(system, "SELECT actor, kind FROM ledger_events ORDER BY position") == [
        {"actor": "plain", "kind": "created"},
        {"actor": "plain", "kind": "started"},
    ]
    assert verified(system).differences == []


def test_a_failed_batch_leaves_no_trace_and_the_next_one_works(
    system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError

    with monkeypatch.context() as patched:
        patched.setattr(system.state_counts, "apply", broken)
        with pytest.raises(ZeroDivisionError):
            system.ledger.execute(Create(type="email"), actor="test")
    carry_out(system, Create(type="email"))

    assert rows(system, "SELECT position, last_job_id FROM ledger_head") == [
        {"position": 1, "last_job_id": 1}
    ]
    assert verified(system).differences == []


# --- roles


def test_a_role_has_one_holder_at_a_time(system: System, database_url: str) -> None:
    with another(database_url) as other:
        one, two = system.database.leadership("sweeper"), other.database.leadership("sweeper")
        held = [one.held(), two.held(), one.held()]
        one.release()
        after = [two.held(), one.held()]
        two.release()

    assert (held, after) == ([True, False, True], [True, False])


def test_two_roles_have_two_holders(system: System) -> None:
    sweeper, follower = (system.database.leadership(role) for role in ("sweeper", "follower"))

    assert [sweeper.held(), follower.held()] == [True, True]
    sweeper.release()
    follower.release()


def hold_the_role(url: str, told: Any) -> None:
    """Run a process that takes the role and never gives it back."""
    system = open_system(url)
    leadership = system.database.leadership("sweeper")
    told.put(leadership.held())
    threading.Event().wait()


def test_a_role_falls_free_when_its_holder_is_killed(system: System, database_url: str) -> None:
    context: SpawnContext = multiprocessing.get_context("spawn")
    told = context.Queue()
    process = context.Process(target=hold_the_role, args=(database_url, told))
    process.start()
    ours = system.database.leadership("sweeper")
    assert told.get(timeout=PATIENCE_S)
    before = ours.held()

    process.kill()
    process.join(PATIENCE_S)

    assert (before, process.exitcode) == (False, -signal.SIGKILL)
    eventually(ours.held)
    ours.release()


def migrate_at_once(url: str, start: Barrier, told: Any) -> None:
    """Run one of the processes that migrate."""
    system = open_system(url)
    start.wait(PATIENCE_S)
    try:
        told.put(migrate(system.database)[1])
    except Exception as error:  # noqa: BLE001 - whatever it is, the test must see it
        told.put(repr(error))
    system.close()


def test_a_migration_by_two_processes_at_once_is_done_once(database_url: str) -> None:
    context: SpawnContext = multiprocessing.get_context("spawn")
    start, told = context.Barrier(PROCESSES), context.Queue()
    processes: list[SpawnProcess] = [
        context.Process(target=migrate_at_once, args=(database_url, start, told))
        for _ in range(PROCESSES)
    ]
    for process in processes:
        process.start()
    revisions = [told.get(timeout=PATIENCE_S) for _ in processes]
    for process in processes:
        process.join(PATIENCE_S)

    with another(database_url) as system:
        assert (
            revisions
            == [
                row["version_num"]
                for row in rows(system, "SELECT version_num FROM ledger_alembic_version")
            ]
            * PROCESSES
        )
        assert verified(system).differences == []

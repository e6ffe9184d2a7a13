"""The commit notifier: every commit wakes all subscribers, and its thread ends with them."""

import logging
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final

import pytest
from sqlalchemy import Connection

import ledger
from ledger.database import sqlite_watch
from ledger.database.contract import Watch
from ledger.database.fast_sql import driver_of
from ledger.database.migration import migrate
from ledger.database.postgres import PostgresDatabase
from ledger.log.commit_notifier import CommitNotifier
from ledger.processes.composition import System, compose
from ledger.processes.connect import connect
from ledger.processes.queue_read_models import QueueReadModels
from ledger.processes.settings import Settings
from ledger.queue import presence
from ledger.queue.queue import Queue
from ledger.rules.commands import (
    Command,
    Complete,
    Create,
    FailAttempt,
    Move,
    Pause,
    Remove,
    Resume,
    Start,
)
from ledger.worker.pauses import PAUSES
from ledger.worker.worker import Worker
from tests.builders import carry_out
from tests.integration.servers import DEADLINE_S, wait_until


class NotifierThreads:
    """The notifier threads that were started since; those of other tests may still be ending."""

    def __init__(self) -> None:
        self._before = set(self._all())

    def __call__(self) -> list[threading.Thread]:
        return [thread for thread in self._all() if thread not in self._before]

    @staticmethod
    def _all() -> list[threading.Thread]:
        return [
            thread for thread in threading.enumerate() if thread.name == "ledger-commit-notifier"
        ]


@pytest.fixture
def notifier_threads() -> NotifierThreads:
    """Return the threads of this test's notifier_threads, whenever it is called."""
    return NotifierThreads()


def patient(system: System) -> System:
    """Return *system* with a notifier that checks for its end too seldom for a test to see."""
    notifier = CommitNotifier(
        system.database,
        system.jobs.claimable_between,
        patience_s=10 * DEADLINE_S,
        longest_end_s=DEADLINE_S,
    )
    return replace(system, commit_notifier=notifier)


@contextmanager
def subscription(system: System) -> Iterator[threading.Event]:
    """Yield what is set by each commit from now on."""
    event = threading.Event()
    begins = system.commit_notifier._thread is None
    with system.commit_notifier.subscribed(event.set):
        if begins:
            # For what was committed before there was a watch.
            wait_until(event.is_set, "the watch is there")
            event.clear()
        yield event


@pytest.fixture
def other(system: System, database_url: str) -> Iterator[System]:
    """Yield the same ledger, as another process has it."""
    other = compose(Settings(database_url=database_url))
    yield other
    other.close()


def test_another_process_commit_rings(system: System, other: System) -> None:
    with subscription(system) as event:
        carry_out(other, Create(type="email"))

        assert event.wait(DEADLINE_S)


def test_one_thread_rings_for_all_who_wait_and_ends_when_nobody_does(
    system: System, other: System, notifier_threads: NotifierThreads
) -> None:
    with subscription(system) as one, subscription(system) as another:
        one.clear()
        carry_out(other, Create(type="email"))

        assert one.wait(DEADLINE_S)
        assert another.wait(DEADLINE_S)
        assert len(notifier_threads()) == 1

    wait_until(lambda: not notifier_threads(), "the notifier's thread ends")


def test_who_comes_while_the_thread_ends_is_woken_all_the_same(
    system: System, other: System
) -> None:
    with subscription(system):
        pass
    # It finds out when a commit wakes it, as now.
    for _ in range(50):
        carry_out(other, Create(type="email"))
        with system.commit_notifier.subscribed(lambda: None):
            pass
    event = threading.Event()
    with system.commit_notifier.subscribed(event.set):
        event.clear()
        carry_out(other, Create(type="email"))

        assert event.wait(DEADLINE_S)


def test_closing_does_not_wait_for_the_bells_patience(
    system: System, notifier_threads: NotifierThreads
) -> None:
    watched = patient(system)
    with subscription(watched):
        watched.close()

        assert not notifier_threads()


def test_closing_while_it_looks_breaks_nothing(
    system: System,
    database_url: str,
    notifier_threads: NotifierThreads,
    caplog: pytest.LogCaptureFixture,
) -> None:
    # Threads' unhandled errors fail the test too; without the join, every run had some.
    for _ in range(20):
        watched = compose(Settings(database_url=database_url))
        with subscription(watched):
            writer = threading.Thread(target=carry_out, args=(system, Create(type="email")))
            writer.start()
            watched.close()
            writer.join()

    assert not notifier_threads()
    assert [
        record for record in caplog.records if record.name == "ledger.log.commit_notifier"
    ] == []


def test_a_failure_that_nobody_foresaw_does_not_end_it(
    system: System,
    other: System,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    watch, failures = system.database.watch, iter([ZeroDivisionError("unforeseen")])

    def fails_once() -> Watch:
        for failure in failures:
            raise failure
        return watch()

    monkeypatch.setattr(system.database, "watch", fails_once)
    with caplog.at_level(logging.ERROR), subscription(system) as event:
        carry_out(other, Create(type="email"))

        assert event.wait(DEADLINE_S)
        assert "unforeseen" in caplog.text


def test_if_no_thread_can_be_started_the_next_subscriber_starts_one(
    system: System, other: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refused)
        with pytest.raises(RuntimeError), system.commit_notifier.subscribed(lambda: None):
            pass

    with subscription(system) as event:
        carry_out(other, Create(type="email"))

        assert event.wait(DEADLINE_S)


def test_who_subscribes_after_the_end_starts_nothing(
    system: System, notifier_threads: NotifierThreads
) -> None:
    system.close()
    with system.commit_notifier.subscribed(lambda: None):
        assert not notifier_threads()


def test_each_thread_that_uses_a_server_keeps_one_connection_to_it_and_the_bell_one(
    postgres_url: str,
) -> None:
    with closing(compose(Settings(database_url=postgres_url))) as empty:
        migrate(empty.database)
    queue = connect(Settings(database_url=postgres_url), actor="test")
    queue.open()
    queue.process("email")(lambda job: job.data)
    # The server may take a moment to see that the migration has hung up.
    wait_until(lambda: connections_to(queue) == 1, "there is only this thread's connection")
    worker = Worker(queue, sweep=True)
    thread = worker.start()
    try:
        # One that is delayed needs the sweeper, too.
        queue.create("email", delay=1).wait(DEADLINE_S)
        queue.create("email").wait(DEADLINE_S)
        kept = connections_to(queue)
    finally:
        worker.stop()
        thread.join()
        queue.close()

    # The notifier's, the worker's, the sweeper's, and this thread's.
    assert kept == 4


def connections_to(queue: Queue) -> int:
    """Return how many connections there are to the queue's database, with the one that asks."""
    mine = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
    with queue.database.read() as connection:
        number: int = connection.exec_driver_sql(mine).scalar_one()
    return number


def test_signs_of_life_wake_nobody(system: System, other: System) -> None:
    with closing(system.database.watch()) as watch:
        with other.database.write() as tx:
            presence.beat(tx, "w1", {"email": 1}, now_ms=1, lease_ms=1)

        assert not watch.wait(0.1)


def test_where_the_system_tells_of_no_writes_commits_are_counted(
    tmp_path: Path, notifier_threads: NotifierThreads, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(_: object) -> int:
        raise OSError("no inotify here")

    monkeypatch.setattr(sqlite_watch, "WrittenFile", none)
    url = f"sqlite:///{tmp_path / 'ledger.db'}"
    with (
        closing(patient(compose(Settings(database_url=url)))) as system,
        closing(compose(Settings(database_url=url))) as other,
    ):
        migrate(system.database)
        with subscription(system) as event:
            carry_out(other, Create(type="email"))

            assert event.wait(DEADLINE_S)
        with subscription(system):
            system.close()

            assert not notifier_threads()


# --- those who wait for jobs of some types


COMMITS: Final = 20


class Waiting:
    """What was committed for a worker of some types, beside one that waits for anything."""

    def __init__(self, types: Sequence[str]) -> None:
        self.types = types
        self.notified = threading.Event()
        self.after_it = threading.Event()

    def after(self, commit: Callable[[], object]) -> bool:
        """Return whether *commit* was for it."""
        self.notified.clear()
        self.after_it.clear()
        commit()
        # Subscribers are called in the order of their subscription.
        assert self.after_it.wait(DEADLINE_S)
        return self.notified.is_set()


@contextmanager
def waiting(system: System, *types: str) -> Iterator[Waiting]:
    waits = Waiting(types)
    notifier = system.commit_notifier
    with (
        notifier.subscribed(waits.notified.set, types=lambda: waits.types),
        notifier.subscribed(waits.after_it.set),
    ):
        # For what was committed before there was a watch.
        wait_until(waits.notified.is_set, "the watch is there")
        yield waits


def test_who_waits_for_jobs_of_a_type_is_not_woken_for_others(
    system: System, other: System
) -> None:
    def commit(*commands: Command) -> Callable[[], object]:
        return lambda: other.ledger.submit(commands, actor="test")

    with waiting(system, "email", "sms") as worker:
        woken = [
            worker.after(commit(*commands))
            for commands in (
                [Create(type="fax")],  # job 1
                [Create(type="email")],
                [Create(type="sms", delay_ms=60_000)],
                [Create(type="fax"), Create(type="sms")],  # jobs 4 and 5
                [Start(job_id=2)],
                [Complete(job_id=2, attempt=1)],
                [Start(job_id=5), FailAttempt(job_id=5, attempt=1, error='"no"', final=True)],
                [Move(job_id=5, to="inactive")],
                [Move(job_id=1, to="delayed"), Move(job_id=1, to="inactive")],
                [Move(job_id=3, to="inactive")],
                [Pause(type="fax")],
                [Resume(type="fax")],
                [Remove(job_id=3)],
            )
        ]

    assert woken == [
        *(False, True, False, True),
        *(False, False, False, True),
        *(False, True),
        # What the ledger itself records may be for anybody.
        *(True, True),
        False,
    ]


def test_who_is_awake_is_not_told_and_who_sleeps_again_is(system: System, other: System) -> None:
    with waiting(system) as worker:
        awake = worker.after(lambda: carry_out(other, Create(type="email")))
        worker.types = ["email"]
        asleep = worker.after(lambda: carry_out(other, Create(type="email")))

    assert (awake, asleep) == (False, True)


def test_more_types_than_a_notification_holds_are_all_types(system: System, other: System) -> None:
    types = [f"{number} {'a' * 200}" for number in range(50)]

    with waiting(system, types[49]) as worker:
        assert worker.after(
            lambda: other.ledger.submit([Create(type=each) for each in types], actor="test")
        )


def test_after_very_many_events_everybody_looks(
    system: System, other: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On SQLite, where they would have to be read.  PostgreSQL's notification tells."""
    monkeypatch.setattr("ledger.log.commit_notifier._MOST_EVENTS", 3)

    with waiting(system, "email") as worker:
        few = worker.after(lambda: other.ledger.submit([Create(type="fax")] * 3, actor="test"))
        many = worker.after(lambda: other.ledger.submit([Create(type="fax")] * 4, actor="test"))

    assert (few, many) == (False, system.database.is_embedded)


@pytest.mark.parametrize("database_url", ["postgres"], indirect=True)
@pytest.mark.parametrize("payload", ["", "a stranger's", "7", '"email"'])
def test_a_notification_without_types_is_for_all(
    system: System, other: System, payload: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of an earlier release have none; the events are read then."""
    database = other.database
    assert isinstance(database, PostgresDatabase)

    def announce(tx: Connection, types: Collection[str] | None) -> None:
        driver_of(tx).execute("SELECT pg_notify(%s, %s)", (database.channel, payload))

    monkeypatch.setattr(database, "announce", announce)

    with waiting(system, "fax") as worker:
        for_it = worker.after(lambda: carry_out(other, Create(type="fax")))
        for_others = worker.after(lambda: carry_out(other, Create(type="sms")))

    assert (for_it, for_others) == (True, False)


def test_an_idle_worker_does_not_ask_for_jobs_after_each_commit(
    system: System, other: System, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Collection[str]] = []
    any_claimable = QueueReadModels.any_claimable

    def counted(models: QueueReadModels, connection: Connection, types: Collection[str]) -> bool:
        asked.append(types)
        return any_claimable(models, connection, types)

    monkeypatch.setattr(QueueReadModels, "any_claimable", counted)
    queue = ledger.connect(database_url, actor="test")
    done = threading.Event()
    queue.process("email")(lambda _: done.set())
    worker = Worker(queue, pauses=PAUSES._replace(longest_s=10 * DEADLINE_S))
    thread = worker.start()
    with (
        closing(queue),
        subscription(replace(system, commit_notifier=queue.commit_notifier)) as any_,
    ):
        wait_until(lambda: bool(asked), "it has looked for jobs")
        before = len(asked)
        for _ in range(COMMITS):
            any_.clear()
            carry_out(other, Create(type="fax"))
            assert any_.wait(DEADLINE_S)
        for_others = len(asked) - before
        carry_out(other, Create(type="email"))
        assert done.wait(DEADLINE_S)
        worker.stop()
        thread.join(DEADLINE_S)

    # It also looks at the start of the watch, and when it sends a heartbeat.
    assert for_others < COMMITS / 2

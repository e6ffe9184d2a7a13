"""The commit notifier: every commit wakes all subscribers, and its thread ends with them."""

import logging
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from ledger.database import sqlite_watch
from ledger.database.contract import Watch
from ledger.database.migration import migrate
from ledger.log.commit_notifier import CommitNotifier
from ledger.processes.composition import System, compose
from ledger.processes.connect import connect
from ledger.processes.settings import Settings
from ledger.queue import presence
from ledger.queue.queue import Queue
from ledger.rules.commands import Create
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
    notifier = CommitNotifier(system.database, patience_s=10 * DEADLINE_S, longest_end_s=DEADLINE_S)
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

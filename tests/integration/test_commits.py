"""What comes after a commit neither delays the next one nor changes what is told of this one."""

import logging
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Final

import pytest
from sqlalchemy import Connection, event, exc, text

from ledger.database.fast_sql import driver_of
from ledger.database.migration import migrate
from ledger.database.postgres import PostgresDatabase
from ledger.errors import OutcomeUnknown
from ledger.log import store
from ledger.processes.composition import System
from ledger.rules.commands import Create
from tests.builders import carry_out, open_sqlite, open_system, rows, verified
from tests.integration.servers import DEADLINE_S, wait_until

LIMIT_BYTES: Final = 256 * 1024
A_JOB: Final = Create(type="email", data=f'"{"x" * 10_000}"')


@pytest.fixture
def system(tmp_path: Path) -> Iterator[System]:
    """Yield a ledger in a SQLite file whose log is soon too long."""
    with closing(open_sqlite(tmp_path / "ledger.db", wal_limit_bytes=LIMIT_BYTES)) as opened:
        migrate(opened.database)
        yield opened


@pytest.fixture
def checkpoints(system: System) -> list[str]:
    """Return the list in which each statement that copies or cuts the log will be."""
    seen: list[str] = []

    def note(statement: str) -> None:
        if "wal_checkpoint" in statement:
            seen.append(statement.rpartition("(")[2].rstrip(")"))

    @event.listens_for(system.database.engine, "connect")
    def trace(connection: sqlite3.Connection, _: object) -> None:
        connection.set_trace_callback(note)

    system.database.close()
    return seen


def log_bytes(system: System) -> int:
    path = Path(f"{system.database.engine.url.database}-wal")
    return path.stat().st_size


def fill(system: System) -> None:
    """Write until the log is too long, at least once."""
    carry_out(system, A_JOB)
    while log_bytes(system) <= LIMIT_BYTES:
        carry_out(system, A_JOB)


def begin_slow_copy(system: System, monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Make the log too long, so that a thread copies it, which waits for the returned event."""
    copying, goes_on = threading.Event(), threading.Event()
    wal = system.database._wal  # type: ignore[attr-defined]
    connect = wal._connect

    @contextmanager
    def slowly() -> Iterator[Any]:
        copying.set()
        assert goes_on.wait(DEADLINE_S)
        with connect() as connection:
            yield connection

    monkeypatch.setattr(wal, "_connect", slowly)
    fill(system)
    assert copying.wait(DEADLINE_S)
    return goes_on


# --- a log that is too long


def test_beside_a_long_reader_a_commit_does_not_wait_for_it(
    system: System, checkpoints: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once a second the log is copied as far as possible, and it is cut only when it is copied."""
    now_s = 1_000.0

    def write() -> None:
        for _ in range(20):
            carry_out(system, A_JOB)
            system.database._wal.close()  # type: ignore[attr-defined]

    with system.database.snapshot() as reader:
        reader.execute(text("SELECT count(*) FROM ledger_jobs")).scalar_one()
        monkeypatch.setattr("ledger.database.sqlite_wal.time.monotonic", lambda: now_s)
        fill(system)
        write()
        first = [*checkpoints]
        now_s += 1.0
        write()
        second = [*checkpoints]
    now_s += 1.0
    carry_out(system, A_JOB)
    system.database._wal.close()  # type: ignore[attr-defined]
    carry_out(system, A_JOB)

    assert first == ["PASSIVE"]
    assert second == ["PASSIVE"] * 2
    assert checkpoints == ["PASSIVE"] * 3 + ["TRUNCATE"]
    assert log_bytes(system) < LIMIT_BYTES
    assert verified(system).differences == []


def test_others_write_while_the_log_is_copied(
    system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    goes_on = begin_slow_copy(system, monkeypatch)
    carry_out(system, *[A_JOB] * 3)
    goes_on.set()
    system.database._wal.close()  # type: ignore[attr-defined]
    carry_out(system, A_JOB)

    assert log_bytes(system) < LIMIT_BYTES
    assert verified(system).differences == []


def test_a_process_is_not_forked_while_the_log_is_copied(
    system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The child would inherit SQLite's lock, which is in the memory of the process."""
    goes_on = begin_slow_copy(system, monkeypatch)

    def fork() -> None:
        system.database.before_fork()
        system.database.after_fork()

    forking = threading.Thread(target=fork)
    forking.start()
    forking.join(0.1)
    waits = forking.is_alive()
    goes_on.set()
    forking.join(DEADLINE_S)

    assert (waits, forking.is_alive()) == (True, False)


def test_a_process_that_is_forked_during_a_long_copy_leaves_the_lock_to_the_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed: list[threading.ExceptHookArgs] = []
    monkeypatch.setattr(threading, "excepthook", failed.append)
    database = tmp_path / "ledger.db"
    with closing(open_sqlite(database, wal_limit_bytes=LIMIT_BYTES, lock_timeout_ms=50)) as system:
        migrate(system.database)
        goes_on = begin_slow_copy(system, monkeypatch)
        system.database.before_fork()
        system.database.after_fork()
        copying = system.database._wal._copying  # type: ignore[attr-defined]
        still = copying.locked()
        goes_on.set()
        wait_until(lambda: not copying.locked(), "the log is copied")

    assert (still, failed) == (True, [])


def test_a_log_that_another_process_is_copying_does_not_count_as_copied(
    system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Busy:
        def execute(self, _: str) -> "Busy":
            return self

        def fetchone(self) -> tuple[int, int, int]:
            return 1, -1, -1

    monkeypatch.setattr("ledger.database.sqlite_wal.driver_of", lambda _: Busy())
    fill(system)
    wal = system.database._wal  # type: ignore[attr-defined]
    wal.close()

    assert not wal._is_copied


# --- what was committed


class Failing:
    """A driver's connection of which one statement fails."""

    def __init__(self, driver: sqlite3.Connection) -> None:
        self._driver = driver

    def execute(self, statement: str) -> sqlite3.Cursor:
        if "wal_checkpoint" in statement:
            raise sqlite3.OperationalError("database or disk is full")
        return self._driver.execute(statement)


@pytest.mark.parametrize("mode", ["PASSIVE", "TRUNCATE"])
def test_an_error_after_the_commit_is_logged_once_and_not_told(
    system: System, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, mode: str
) -> None:
    monkeypatch.setattr(
        "ledger.database.sqlite_wal.driver_of", lambda connection: Failing(driver_of(connection))
    )
    monkeypatch.setattr("ledger.database.sqlite_wal._RETRY_S", 0.0)
    monkeypatch.setattr(system.database._wal, "_is_copied", mode == "TRUNCATE")  # type: ignore[attr-defined]

    with caplog.at_level(logging.WARNING):
        fill(system)
        for _ in range(3):
            carry_out(system, A_JOB)
            system.database._wal.close()  # type: ignore[attr-defined]

    (told,) = {record.getMessage() for record in caplog.records}
    assert told.endswith("-wal cannot be copied into the database: database or disk is full")
    assert len(caplog.records) == 1
    # An application's own connection may write for a moment without being refused.
    writer = system.database._writer  # type: ignore[attr-defined]
    waits_ms = writer.exec_driver_sql("PRAGMA busy_timeout").scalar_one()
    assert waits_ms == system.database.lock_timeout_ms
    assert verified(system).differences == []


def test_a_commit_after_which_no_thread_can_be_started_is_told_as_committed(
    system: System, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The system may have none left, and Python starts none while it ends."""

    def refused(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched, caplog.at_level(logging.WARNING):
        patched.setattr(threading.Thread, "start", refused)
        fill(system)
    monkeypatch.setattr("ledger.database.sqlite_wal._RETRY_S", 0.0)
    monkeypatch.setattr(system.database._wal, "_retry_at_s", 0.0)  # type: ignore[attr-defined]
    for _ in range(2):
        carry_out(system, A_JOB)
        system.database._wal.close()  # type: ignore[attr-defined]

    (told,) = [record.getMessage() for record in caplog.records]
    assert told.endswith("-wal cannot be copied into the database: can't start new thread")
    assert log_bytes(system) < LIMIT_BYTES
    assert verified(system).differences == []


# --- what may be committed


def test_a_commit_that_the_disk_may_have_taken_is_told_as_unknown(
    system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    carry_out(system, A_JOB)

    error = sqlite3.OperationalError("disk I/O error")
    error.sqlite_errorcode = sqlite3.SQLITE_IOERR_FSYNC
    database: Any = system.database

    class Driver:
        def __init__(self, driver: sqlite3.Connection) -> None:
            self._driver = driver

        def __getattr__(self, name: str) -> Any:
            return getattr(self._driver, name)

        def execute(self, statement: str, *parameters: Any) -> sqlite3.Cursor:
            if statement == "COMMIT":
                raise error
            return self._driver.execute(statement, *parameters)

    with monkeypatch.context() as patched:
        patched.setattr(
            "ledger.database.sqlite.driver_of", lambda connection: Driver(driver_of(connection))
        )
        with pytest.raises(OutcomeUnknown, match=r"changes were recorded: /.*: disk I/O error"):
            carry_out(system, A_JOB)

    assert database._writer is None
    carry_out(system, A_JOB)
    assert verified(system).differences == []


@pytest.fixture
def postgres(postgres_url: str) -> Iterator[System]:
    with closing(open_system(postgres_url)) as opened:
        migrate(opened.database)
        yield opened


def _sessions(connection: Connection) -> Sequence[int]:
    """Return the processes of the server that serve a session."""
    return connection.scalars(text("SELECT pid FROM pg_stat_activity")).all()


def test_a_session_that_ends_at_the_commit_leaves_it_unknown(
    postgres: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = postgres.database
    assert isinstance(database, PostgresDatabase)
    commit = database._commit

    def cut_off(connection: Any) -> None:
        own = connection.exec_driver_sql("SELECT pg_backend_pid()").scalar_one()
        with database.engine.connect() as other:
            other.execute(text("SELECT pg_terminate_backend(:pid)"), {"pid": own})
            wait_until(lambda: own not in _sessions(other), "the session has ended")
        commit(connection)

    with monkeypatch.context() as patched:
        patched.setattr(database, "_commit", cut_off)
        with pytest.raises(OutcomeUnknown, match="unknown whether the changes were recorded: "):
            carry_out(postgres, A_JOB)

    assert rows(postgres, "SELECT 1 FROM ledger_events") == []
    carry_out(postgres, A_JOB)
    assert verified(postgres).differences == []


def test_a_commit_that_the_server_refuses_is_not_recorded(postgres: System) -> None:
    """It answers, so the outcome is known."""
    with postgres.database.write() as tx:
        tx.exec_driver_sql("CREATE TABLE a (id int PRIMARY KEY)")
        tx.exec_driver_sql("CREATE TABLE b (a int REFERENCES a DEFERRABLE INITIALLY DEFERRED)")

    def break_the_rule() -> None:
        with postgres.database.write() as tx:
            store.lock_head(tx)
            tx.exec_driver_sql("INSERT INTO b VALUES (1)")

    with pytest.raises(exc.IntegrityError, match="violates foreign key"):
        break_the_rule()

"""What is acknowledged is not in a log that somebody has removed."""

import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Final

import pytest
from sqlalchemy import text

from ledger.database.migration import migrate
from ledger.database.sqlite_open_log import OpenLog
from ledger.errors import OutcomeUnknown, Replaced, Unavailable
from ledger.processes.composition import System
from ledger.queue import presence
from ledger.rules.commands import Create
from tests.builders import carry_out, open_sqlite, rows, verified

SUFFIXES: Final = (("wal",), ("shm",), ("wal", "shm"))
each_removal = pytest.mark.parametrize("suffixes", SUFFIXES, ids="-".join)
REMOVED: Final = "was removed while"


@pytest.fixture
def path(tmp_path: Path, sqlite_template: Path) -> Path:
    """Return the file of a ledger."""
    return Path(shutil.copy(sqlite_template, tmp_path / "ledger.db"))


@pytest.fixture
def system(path: Path) -> Iterator[System]:
    """Yield a ledger whose first two jobs are in its log alone."""
    with closing(open_sqlite(path, check_file_every_s=0.0)) as system:
        carry_out(system, Create(type="t"), Create(type="t"))
        yield system


def create(system: System) -> int:
    return carry_out(system, Create(type="t"))[0].job_id


def jobs(system: System) -> int:
    return len(rows(system, "SELECT * FROM ledger_jobs"))


def remove(path: Path, *suffixes: str) -> None:
    for suffix in suffixes:
        path.with_name(f"{path.name}-{suffix}").unlink()


def jobs_after_kill(path: Path) -> int:
    """Return the number of jobs that a machine would find whose processes were all killed."""
    copy = path.with_name("copy")
    copy.mkdir()
    for each in path.parent.glob("ledger.db*"):
        if each.is_file():
            shutil.copy(each, copy)
    with closing(open_sqlite(copy / path.name)) as system:
        assert verified(system).differences == []
        return jobs(system)


@each_removal
def test_nothing_is_read_or_written_once_the_log_is_gone_and_nothing_is_lost(
    system: System, path: Path, suffixes: tuple[str, ...]
) -> None:
    assert jobs(system) == 2
    with system.database.snapshot():
        # Its connection goes back to the pool.
        pass
    remove(path, *suffixes)

    with pytest.raises(Unavailable, match=REMOVED):
        jobs(system)
    with pytest.raises(Unavailable, match=REMOVED), system.database.snapshot():
        pass
    with pytest.raises(Unavailable, match=REMOVED) as refused:
        create(system)
    assert "nothing that was committed is lost" in str(refused.value)
    for read_or_write in (create, jobs):
        with pytest.raises(Unavailable, match="restart all processes"):
            read_or_write(system)

    assert jobs_after_kill(path) == 2


@each_removal
def test_the_log_of_a_ledger_that_was_just_created_is_watched_too(
    tmp_path: Path, suffixes: tuple[str, ...]
) -> None:
    path = tmp_path / "new.db"
    with closing(open_sqlite(path)) as system:
        migrate(system.database)
        assert create(system) == 1
        remove(path, *suffixes)

        with pytest.raises(Unavailable, match=REMOVED):
            create(system)


def test_a_restart_goes_on_after_the_last_job(system: System, path: Path) -> None:
    remove(path, "wal", "shm")
    with pytest.raises(Unavailable):
        create(system)
    system.close()

    with closing(open_sqlite(path)) as restarted:
        assert create(restarted) == 3
        assert verified(restarted).differences == []


@pytest.mark.parametrize("last", ["system.close()", "pass"])
def test_the_end_of_a_process_destroys_nothing_of_another(path: Path, last: str) -> None:
    """Its last connection would have removed the log that the other one has begun."""
    assert in_another_process(path, f"lose_the_log(system); {last}") == "3\n"

    assert jobs_after_kill(path) == 3


def lose_the_log(system: System) -> None:
    """Lose the log of two jobs, then have another process create a third one."""
    path = Path(str(system.database.engine.url.database))
    carry_out(system, Create(type="t"), Create(type="t"))
    remove(path, "wal", "shm")
    with suppress(Unavailable):
        create(system)
    sys.stdout.write(in_another_process(path, "print(create(system), flush=True); os._exit(9)"))


IN_ANOTHER_PROCESS: Final = """if True:
    import os
    from pathlib import Path
    from tests.builders import open_sqlite
    from tests.integration.test_removed_log import create, jobs, lose_the_log
    system = open_sqlite(Path({path!r}))
"""


def in_another_process(path: Path, then: str) -> str:
    """Run *then* in another process, with a ledger in *path* as ``system``; return its output."""
    script = IN_ANOTHER_PROCESS.format(path=str(path)) + f"    {then}\n"
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Traceback" not in done.stderr
    return done.stdout


@each_removal
def test_a_log_that_is_gone_at_the_commit_is_saved_before_the_acknowledgement(
    system: System, path: Path, suffixes: tuple[str, ...], caplog: pytest.LogCaptureFixture
) -> None:
    add_worker(system, lambda: remove(path, *suffixes))
    said = [each for each in caplog.messages if "nothing that was committed is lost" in each]
    # The next write finds that the `-shm` alone is gone.
    assert bool(said) is ("wal" in suffixes)

    with pytest.raises(Unavailable, match=REMOVED):
        create(system)
    system.close()
    with closing(open_sqlite(path)) as restarted:
        assert len(rows(restarted, "SELECT * FROM ledger_workers")) == 1


def test_a_commit_is_not_acknowledged_that_cannot_be_saved(system: System, path: Path) -> None:
    def another_begins_a_log() -> None:
        remove(path, "wal", "shm")
        assert in_another_process(path, "print(jobs(system), flush=True); os._exit(9)") == "0\n"

    with pytest.raises(OutcomeUnknown, match="may be lost"):
        add_worker(system, another_begins_a_log)
    with pytest.raises(Unavailable, match="may be lost"):
        create(system)


def test_a_commit_into_a_file_that_is_being_replaced_is_not_acknowledged(
    system: System, path: Path, sqlite_template: Path
) -> None:
    def replace() -> None:
        for each in path.parent.glob("ledger.db*"):
            each.unlink()
        shutil.copy(sqlite_template, path)

    with pytest.raises(OutcomeUnknown, match="was replaced"):
        add_worker(system, replace)

    with pytest.raises(Replaced):
        create(system)
    assert create(system) == 1


def add_worker(system: System, meanwhile: Callable[[], None]) -> None:
    """Commit a change, and call *meanwhile* in its transaction."""
    with system.database.write() as tx:
        presence.beat(tx, "w", {"t": 1}, now_ms=1, lease_ms=1)
        meanwhile()


def test_a_log_is_not_missed_that_sqlite_itself_has_removed(path: Path) -> None:
    """Another thread may close the last connection between two steps of the check."""

    class Closed(OpenLog):
        def _there(self) -> None:
            self.closing(connection)

    connection = object()
    with closing(open_sqlite(path)) as system:
        create(system)
        log = Closed(path)
        log._opened[id(connection)] = (1, 1), (2, 1)

        assert log.is_in_place()


def test_a_log_is_not_missed_that_began_after_a_connection_had_looked_for_one(
    tmp_path: Path,
) -> None:
    """Of processes that start together, another one may create the ledger, and end."""
    path = tmp_path / "ledger.db"
    log = OpenLog(path)
    with closing(sqlite3.connect(path)) as ours:
        ours.execute("SELECT * FROM sqlite_master").fetchall()
        with closing(sqlite3.connect(path)) as anothers:
            anothers.execute("PRAGMA journal_mode=WAL")
            anothers.execute("CREATE TABLE ledger_head (id)")
            log.opened(ours)
        assert not path.with_name("ledger.db-wal").exists()

        log.require_in_place()


def test_what_another_process_has_begun_is_not_overwritten(system: System, path: Path) -> None:
    with closing(sqlite3.connect(path)) as applications:
        applications.execute("SELECT count(*) FROM ledger_events").fetchone()
        remove(path, "wal", "shm")
        # It saw an empty ledger, and gives out the first number again.
        assert in_another_process(path, "print(create(system), flush=True); os._exit(9)") == "1\n"

        with pytest.raises(Unavailable, match="another process has begun a new log"):
            create(system)
        with pytest.raises(Unavailable, match="may be lost"):
            jobs(system)
        system.close()

    assert jobs_after_kill(path) == 1


def test_a_log_that_cannot_be_seen_after_the_commit_makes_no_failure_of_it(
    system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    def hidden(_: str) -> None:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patched, system.database.write() as tx:
        tx.execute(text("UPDATE ledger_head SET at_ms = at_ms + 1"))
        patched.setattr("ledger.database.sqlite_open_log._stat", hidden)
    assert create(system) == 3


def test_a_removed_log_that_cannot_be_saved_is_told_as_such(
    system: System, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ledger.database.sqlite_open_log._copy_all", lambda _: False)
    remove(path, "wal")

    with pytest.raises(Unavailable) as refused:
        create(system)

    assert "the removed log could not be copied into the database, so what was" in str(
        refused.value
    )
    assert "may be lost" in str(refused.value)

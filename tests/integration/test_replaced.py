"""What is acknowledged is in the file at the path, also when somebody has replaced it."""

import shutil
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import pytest

from ledger.database.file_lock import FileLeadership
from ledger.errors import Replaced, Unavailable
from ledger.processes.composition import System, compose
from ledger.processes.settings import Settings
from ledger.projections.search.whoosh.engine import WhooshEngine
from ledger.rules.commands import Create
from tests.builders import carry_out, open_sqlite, open_system, rows
from tests.integration.servers import DEADLINE_S
from tests.integration.test_catch_up import eventually


@pytest.fixture
def path(tmp_path: Path, sqlite_template: Path) -> Path:
    """Return the file of a ledger."""
    return Path(shutil.copy(sqlite_template, tmp_path / "ledger.db"))


@pytest.fixture
def backup(tmp_path: Path, sqlite_template: Path) -> Path:
    """Return another file, of an empty ledger."""
    return Path(shutil.copy(sqlite_template, tmp_path / "backup.db"))


@pytest.fixture
def system(path: Path) -> Iterator[System]:
    """Yield a ledger that has its file open, and looks for it each time."""
    with closing(open_sqlite(path, check_file_every_s=0.0)) as system:
        carry_out(system, Create(type="old"), Create(type="old"))
        yield system


def remove(path: Path) -> None:
    for each in path.parent.glob(f"{path.name}*"):
        each.unlink()


def types(system: System) -> list[str]:
    return [row["type"] for row in rows(system, "SELECT type FROM ledger_jobs ORDER BY id")]


def types_on_disk(path: Path) -> list[str]:
    with closing(open_system(f"sqlite:///{path}")) as fresh:
        return types(fresh)


def test_a_write_goes_into_the_file_that_took_the_others_place(
    system: System, path: Path, backup: Path, caplog: pytest.LogCaptureFixture
) -> None:
    remove(path)
    backup.replace(path)

    # The first write is told of it: what it was about may not exist there.
    with pytest.raises(Replaced) as told:
        carry_out(system, Create(type="new"))
    (created,) = carry_out(system, Create(type="new"))

    assert created.job_id == 1
    assert types(system) == types_on_disk(path) == ["new"]
    assert caplog.messages == [
        f"{path} was replaced by another file; opening that one",
        str(told.value),
    ]


@pytest.mark.parametrize("removed", [(), ("shm",)], ids=["all", "without shm"])
def test_a_file_is_not_opened_beside_which_the_others_log_is_left(
    system: System, path: Path, backup: Path, removed: Sequence[str]
) -> None:
    """SQLite would mix the commits of both ledgers."""
    types(system)
    for suffix in removed:
        path.with_name(f"ledger.db-{suffix}").unlink()
    backup.replace(path)

    for read_or_write in (types, lambda system: carry_out(system, Create(type="new"))):
        with pytest.raises(Unavailable) as refused:
            read_or_write(system)
        assert f"{path}-wal still belongs to the file that was there before" in str(refused.value)
    for suffix in {"wal", "shm"}.difference(removed):
        path.with_name(f"ledger.db-{suffix}").unlink()
    with pytest.raises(Replaced):
        carry_out(system, Create(type="new"))
    carry_out(system, Create(type="new"))
    assert types(system) == types_on_disk(path) == ["new"]


def test_readers_see_the_file_that_took_the_others_place(
    system: System, path: Path, backup: Path
) -> None:
    assert types(system) == ["old", "old"]
    remove(path)
    backup.replace(path)

    assert types(system) == []
    with system.database.snapshot() as connection:
        assert system.jobs.any_claimable(connection, "old") is False


def test_what_is_removed_is_neither_written_nor_read_nor_made_anew(
    system: System, path: Path, backup: Path
) -> None:
    remove(path)
    with pytest.raises(Unavailable, match="was removed; put it back to continue"):
        carry_out(system, Create(type="lost"))
    with pytest.raises(Unavailable, match="was removed"):
        types(system)
    with pytest.raises(Unavailable, match="was removed"), system.database.snapshot():
        pass
    left = list(path.parent.glob("ledger.db*"))
    backup.replace(path)
    with pytest.raises(Replaced):
        carry_out(system, Create(type="new"))
    carry_out(system, Create(type="new"))

    assert left == []
    assert types(system) == types_on_disk(path) == ["new"]


def test_who_waits_for_news_hears_of_those_in_the_new_file(
    system: System, path: Path, backup: Path
) -> None:
    notified = threading.Event()
    with system.commit_notifier.subscribed(notified.set):
        # It rings once when it begins to watch, which may be a moment after this.
        assert notified.wait(DEADLINE_S)
        remove(path)
        backup.replace(path)
        with closing(open_system(f"sqlite:///{path}")) as other:

            def rings() -> bool:
                notified.clear()
                carry_out(other, Create(type="new"))
                return notified.wait(0.2)

            # It looks every other second.
            eventually(rings)
            assert rings()


def test_writers_queue_on_one_file_also_when_it_was_removed(system: System, path: Path) -> None:
    path.with_name("ledger.db-writer").unlink()
    with closing(compose(Settings(database_url=f"sqlite:///{path}"))) as other:
        carry_out(other, Create(type="new"))
    assert types(system) == ["old", "old", "new"]
    carry_out(system, Create(type="new"))

    with system.database.write():
        waits = FileLeadership(path.with_name("ledger.db-writer"))
        assert not waits.held()
        waits.release()


def test_a_role_is_held_on_the_file_that_others_find(tmp_path: Path) -> None:
    path = tmp_path / "role"
    first, second = FileLeadership(path), FileLeadership(path)
    assert first.held()
    path.unlink()

    assert first.held()
    assert not second.held()
    path.unlink()
    assert second.held()
    assert not first.held()
    for each in (first, second):
        each.release()


def test_who_indexes_makes_the_directory_anew(system: System, tmp_path: Path) -> None:
    folder = tmp_path / "search"
    engine, other = (WhooshEngine(system.database, folder) for _ in range(2))
    leader, waiting = engine.leadership(), other.leadership()
    assert leader.held()
    shutil.rmtree(folder)

    assert leader.held()
    assert not waiting.held()
    for each in (leader, waiting):
        each.release()

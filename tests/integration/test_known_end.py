"""A process notices that the ledger is not the one that it has written to, however long it is."""

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from ledger.errors import Refused, Replaced, Unavailable
from ledger.log import store
from ledger.processes.composition import System
from ledger.rules.commands import Create, Start
from tests.builders import carry_out, open_sqlite, open_system, relink, rows, tamper, verified

OTHER_ACTOR = "UPDATE ledger_events SET actor = 'other' WHERE position = 1"


def create(system: System, type_: str = "t") -> int:
    return carry_out(system, Create(type=type_))[0].job_id


@pytest.fixture
def other(system: System) -> Iterator[System]:
    """Yield the same ledger as another process has it."""
    url = system.database.engine.url.render_as_string(hide_password=False)
    with closing(open_system(url)) as opened:
        yield opened


def test_a_ledger_of_the_same_length_is_noticed_and_then_continued(
    system: System, other: System, caplog: pytest.LogCaptureFixture
) -> None:
    assert create(system) == 1
    tamper(other, OTHER_ACTOR)
    relink(other)

    with pytest.raises(Replaced) as noticed:
        create(system)

    assert noticed.value.position == 1
    assert str(noticed.value).startswith("nothing was recorded: event 1 of ")
    assert caplog.messages == [str(noticed.value)]
    assert len(rows(system, "SELECT * FROM ledger_events")) == 1
    assert create(system) == 2
    assert verified(system).position == 2


def test_a_ledger_that_is_longer_by_now_is_noticed(system: System, other: System) -> None:
    assert create(system) == 1
    tamper(other, OTHER_ACTOR)
    relink(other)
    assert create(other) == 2

    with pytest.raises(Replaced, match="the last event is 2"):
        create(system)
    assert create(system) == 3


def test_a_shorter_ledger_is_noticed(system: System, other: System) -> None:
    assert [create(system), create(system)] == [1, 2]
    tamper(
        other,
        "DELETE FROM ledger_events WHERE position = 2",
        "UPDATE ledger_head SET position = 1",
    )
    relink(other)

    with pytest.raises(Replaced, match=r"event 2 of .* the last event is 1"):
        create(system)


def test_what_other_processes_append_is_no_other_ledger(system: System, other: System) -> None:
    assert [create(each) for each in (system, other, other, system, other)] == [1, 2, 3, 4, 5]
    # Nothing is appended, but what others have appended is known from now on.
    with pytest.raises(Refused):
        carry_out(system, Start(job_id=9))
    assert create(system) == 6


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_mixture_is_noticed_each_time(system: System, other: System) -> None:
    """Later events are as they were, so they came from the log of an overwritten file."""
    assert [create(system), create(system)] == [1, 2]
    # It is looked at once a second.
    system.ledger._known_end._check_first_at_s = 0.0
    tamper(other, "UPDATE ledger_events SET chain = digest WHERE position = 1")

    for _ in range(2):
        with pytest.raises(Unavailable, match=r"event 1 of .* was overwritten while in use"):
            create(system)
    assert len(rows(system, "SELECT * FROM ledger_events")) == 2


def test_the_check_needs_no_statement_of_its_own(system: System) -> None:
    create(system)
    with system.database.write() as tx:
        found = [store.lock_for_append(tx, known=known).known_chain for known in (0, 1, 2)]
        head = store.lock_head(tx)

    assert found == [None, head.chain, None]


# --- a SQLite file over which another one is copied


@pytest.mark.parametrize("length", [1, 3, 6])
def test_a_file_that_is_overwritten_in_place_is_noticed(
    tmp_path: Path, sqlite_template: Path, length: int
) -> None:
    path, backup = (Path(shutil.copy(sqlite_template, tmp_path / name)) for name in "ab")
    with closing(open_sqlite(backup)) as system:
        for _ in range(length):
            create(system, "backup")
    with closing(open_sqlite(path, check_file_every_s=0.0)) as system:
        for _ in range(3):
            create(system)
        assert len(types(system)) == 3
        # All is in the database, as it is most of the time in a ledger that is not busy.
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("PRAGMA wal_checkpoint(FULL)")
        overwrite(path, backup)

        assert types(system) == ["backup"] * length
        with pytest.raises(Replaced, match=f"the last event is {length};"):
            create(system)
        assert create(system) == length + 1
        assert verified(system).differences == []


def test_a_file_that_is_overwritten_while_all_is_in_the_log_stays_as_it_was(
    tmp_path: Path, sqlite_template: Path
) -> None:
    path, backup = (Path(shutil.copy(sqlite_template, tmp_path / name)) for name in "ab")
    with closing(open_sqlite(backup)) as system:
        create(system, "backup")
    with closing(open_sqlite(path)) as system:
        create(system)
        overwrite(path, backup)

        assert create(system) == 2
        assert types(system) == ["t", "t"]
    with closing(open_sqlite(path)) as system:
        assert verified(system).differences == []


def types(system: System) -> list[str]:
    return [row["type"] for row in rows(system, "SELECT type FROM ledger_jobs ORDER BY id")]


def overwrite(path: Path, backup: Path) -> None:
    """Copy a file over another one; not with `cp`, as a mapped page would be gone for a moment."""
    with path.open("r+b") as file:
        file.write(backup.read_bytes())

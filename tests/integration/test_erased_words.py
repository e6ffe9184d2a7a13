"""Once an index has followed an erasure, the words of the erased data are in none of its files."""

import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest

from ledger.database.sqlite_connection import configure
from ledger.processes.composition import System, compose
from ledger.processes.settings import SearchOn, Settings
from ledger.projections.follower import catch_up
from ledger.projections.following import Following
from ledger.projections.rebuild.rebuild import rebuild
from ledger.projections.search.engine import SearchEngine
from ledger.projections.search.sql_words import Fts5
from ledger.projections.search.whoosh.engine import WhooshEngine
from ledger.projections.search.whoosh.writer import Storage
from ledger.rules.commands import Create, Erase, Remove
from tests.builders import carry_out, rows, silently
from tests.integration.servers import wait_until

# Words that are not stemmed, and begin like no other, because FTS5 stores a word's beginning once.
ERASED: Final = "qzx7391vbn"
KEPT: Final = "wkj4482mlp"
# Followed in batches of this size, so that there are several segments.
BATCH: Final = 40


@pytest.fixture(params=["whoosh", "sql"])
def system(
    request: pytest.FixtureRequest, tmp_path: Path, sqlite_template: Path
) -> Iterator[System]:
    (tmp_path / "ledger.db").write_bytes(sqlite_template.read_bytes())
    kind: SearchOn = request.param
    system = compose(Settings(database_url=f"sqlite:///{tmp_path / 'ledger.db'}", search=kind))
    yield system
    system.close()


def engine_of(system: System) -> SearchEngine:
    assert system.search.engine is not None
    return system.search.engine


def filled(system: System) -> int:
    """Fill the index; return the one job, among many, whose data has the secret."""
    words = [f"w{number * 7919 % 1000}x filler{number}" for number in range(300)]
    words[100] += f" {ERASED}"
    words[200] += f" {KEPT}"
    system.ledger.submit([Create(type="t", data=f'"{each}"') for each in words], actor="test")
    follow(system)
    return 101


def follow(system: System) -> None:
    catch_up(system.database, engine_of(system), batch=BATCH)


def files_with(system: System, word: str) -> list[str]:
    """Return the files of the ledger that contain a word, after a checkpoint of the log."""
    with system.database.read() as connection:
        connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
    folder = Path(system.database.engine.url.database or "").parent
    return sorted(
        path.name
        for path in folder.rglob("*")
        if path.is_file() and word.encode() in path.read_bytes()
    )


def found(system: System, word: str) -> list[int]:
    return list(system.search.find(word).job_ids)


@pytest.mark.parametrize("is_removed", [False, True])
def test_no_file_has_the_words_once_the_index_has_followed(
    system: System, *, is_removed: bool
) -> None:
    job_id = filled(system)
    before = files_with(system, ERASED)
    if is_removed:
        carry_out(system, Remove(job_id=job_id))
        follow(system)
        removed = files_with(system, ERASED)
        assert "ledger.db" in removed
    carry_out(system, Erase(job_id=job_id))
    follow(system)

    assert before
    assert files_with(system, ERASED) == []
    assert found(system, ERASED) == []
    assert found(system, KEPT) == [201]
    assert len(found(system, "filler7")) == 1
    assert len(files_with(system, KEPT)) == len(before)


def test_an_index_of_erased_data_alone_ends_empty(system: System) -> None:
    carry_out(system, Create(type="t", data=f'"{ERASED}"'))
    follow(system)
    carry_out(system, Erase(job_id=1))
    follow(system)

    assert files_with(system, ERASED) == []
    assert found(system, ERASED) == []


def test_data_that_is_erased_while_a_rebuild_is_under_way_is_not_in_its_result(
    system: System,
) -> None:
    job_id = filled(system)
    # Interrupted behind the creation of the job.
    catch_up(system.database, engine_of(system).replacement(), through=250)
    carry_out(system, Erase(job_id=job_id))
    follow(system)
    rebuild(system.database, [engine_of(system)], silently)

    assert files_with(system, ERASED) == []
    assert found(system, KEPT) == [201]


# --- what a killed process leaves behind


class Killed(BaseException):
    """The end of a process."""


def kill_between(system: System, monkeypatch: pytest.MonkeyPatch) -> None:
    """Follow the erasure in a process that is killed once the erasure is committed."""
    # Of Whoosh's index, what a process before has left is removed first.
    left = [int(isinstance(engine_of(system), WhooshEngine))]

    def step(do: Callable[..., object]) -> Callable[..., object]:
        def steps(*arguments: object) -> object:
            if not left[0]:
                raise Killed
            left[0] -= 1
            return do(*arguments)

        return steps

    with monkeypatch.context() as patched:
        patched.setattr(Storage, "_remove_left_over", step(Storage._remove_left_over))
        patched.setattr(Fts5, "merge", step(Fts5.merge))
        with pytest.raises(Killed):
            follow(system)


def test_the_next_process_that_follows_completes_it(
    system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = filled(system)
    carry_out(system, Erase(job_id=job_id))
    kill_between(system, monkeypatch)
    left = files_with(system, ERASED)
    follow(system)

    assert left
    assert files_with(system, ERASED) == []
    assert found(system, KEPT) == [201]
    assert rows(system, "SELECT name FROM ledger_search_checkpoints WHERE name != 'search'") == []


def test_one_that_begins_to_lead_completes_it_without_a_further_event(
    system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = filled(system)
    carry_out(system, Erase(job_id=job_id))
    kill_between(system, monkeypatch)
    following = Following(system.database, engine_of(system), system.commit_notifier)

    following.start()
    wait_until(lambda: not files_with(system, ERASED), "the words are gone")
    following.stop()


# --- SQLite


def test_what_is_deleted_from_the_database_is_overwritten() -> None:
    """Not every build of SQLite does so by default."""
    driver = sqlite3.connect(":memory:")
    driver.execute("PRAGMA secure_delete = 0")

    configure(driver, {})

    assert driver.execute("PRAGMA secure_delete").fetchone() == (1,)
    driver.close()

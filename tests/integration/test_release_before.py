"""A ledger that the release before made, under common names, is migrated with all its rows."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from sqlalchemy import MetaData, Table, inspect, select, text

from ledger.database.migration import migrate
from ledger.database.revision import require_current
from ledger.database.table_names import TABLES
from ledger.errors import SchemaMismatch
from ledger.log.schema import head
from ledger.processes.composition import System
from ledger.projections.follower import catch_up
from ledger.projections.rebuild.build import Build
from ledger.projections.rebuild.rebuild import rebuild
from ledger.projections.search.sql_engine import SqlEngine
from ledger.rules.commands import Complete, Create, Erase, FailAttempt, Pause, Remove, Start
from tests.builders import carry_out, open_system, rows, silently, verified
from tests.integration.shell import Shell

HEAD: Final = "0011"
BEFORE: Final = "0004"
OLD_NAMES: Final = {
    *("events", "ledger_head", "jobs", "job_ranks", "state_counts", "unique_keys", "workers"),
    *("pauses", "checkpoints", "rebuilds", "failures", "activity", "search_checkpoints"),
    *("search_words", "alembic_version"),
}


@pytest.fixture
def bare(database_url: str, tmp_path: Path) -> Iterator[System]:
    """Yield a system on an empty database."""
    system = open_system(database_url, search_directory=tmp_path / "search")
    yield system
    system.close()


@pytest.fixture
def old(bare: System) -> System:
    """Return a system on a ledger as the release before left it."""
    migrate(bare.database)
    fill(bare, jobs=20)
    migrate(bare.database, to=BEFORE)
    return bare


def fill(system: System, *, jobs: int) -> None:
    """Create jobs in all states, and have all read models follow."""
    carry_out(system, Pause(type="fax"))
    for first in range(0, jobs, 1_000):
        system.ledger.submit(
            [
                Create(
                    type=f"type {number % 7}",
                    priority=number % 3 - 1,
                    data=f'{{"to": "user{number}"}}',
                    unique=f"{number}",
                )
                for number in range(first, min(jobs, first + 1_000))
            ],
            actor="test",
        )
    carry_out(
        system,
        Start(job_id=1, worker="w"),
        Complete(job_id=1, attempt=1, result='{"sent": true}'),
        Start(job_id=2, worker="w"),
        FailAttempt(job_id=2, attempt=1, error='"broken"'),
        Start(job_id=3, worker="w"),
        Remove(job_id=4),
        Erase(job_id=1, reason="asked"),
    )
    for follower in (system.activity, SqlEngine(system.database)):
        catch_up(system.database, follower)


def table_names(system: System) -> set[str]:
    with system.database.read() as connection:
        return {
            name
            for name in inspect(connection).get_table_names()
            if not name.startswith(("ledger_search_words_", "search_words_"))
        }


def contents(system: System) -> dict[str, list[tuple[Any, ...]]]:
    """Return the rows of all tables, by the names of now, in an order that both have."""
    found = {}
    with system.database.read() as connection:
        for name in sorted(table_names(system)):
            if name.endswith("alembic_version"):
                continue
            table = Table(name, MetaData(), autoload_with=connection)
            kept = [tuple(row) for row in connection.execute(select(table))]
            found[name if name == head.name else f"ledger_{name.removeprefix('ledger_')}"] = sorted(
                kept, key=repr
            )
    # What it tells of is the definition of its table, in which the name is.
    found["ledger_checkpoints"] = [row[:2] for row in found["ledger_checkpoints"]]
    # Its runs are others; what they count is verified.
    found.pop("ledger_job_ranks", None)
    found.pop("ledger_job_runs", None)
    # The lowest version of a reader came later, and so did entries that are not pauses.
    found["ledger_head"] = [row[:5] for row in found["ledger_head"]]
    if "ledger_state" in found:
        entries = found.pop("ledger_state")
        found["ledger_pauses"] = [(name, since_ms) for _, name, _, since_ms, _ in entries]
    return found


def names_in_catalog(system: System) -> set[str]:
    """Return the names of all tables, indexes, constraints, triggers and functions."""
    query = (
        "SELECT name FROM sqlite_master WHERE name NOT LIKE 'sqlite_%'"
        if system.database.is_embedded
        else """
        SELECT relname AS name FROM pg_class WHERE relnamespace = 'public'::regnamespace
        UNION SELECT conname FROM pg_constraint WHERE connamespace = 'public'::regnamespace
        UNION SELECT tgname FROM pg_trigger WHERE NOT tgisinternal
        UNION SELECT proname FROM pg_proc WHERE pronamespace = 'public'::regnamespace
        UNION SELECT typname FROM pg_type WHERE typnamespace = 'public'::regnamespace
          AND typname NOT LIKE '\\_%'
        """
    )
    return {row["name"] for row in rows(system, query)}


def test_a_ledger_goes_down_and_up(bare: System) -> None:
    go_down_and_up(bare, jobs=1_500)


def go_down_and_up(bare: System, *, jobs: int) -> None:
    """Downgrade and upgrade a ledger with many jobs; tests/soak does it with more."""
    migrate(bare.database)
    fill(bare, jobs=jobs)
    before = contents(bare)

    steps = [migrate(bare.database, to=BEFORE)]
    names, old = table_names(bare), contents(bare)
    steps.append(migrate(bare.database))

    assert steps == [(HEAD, BEFORE), (BEFORE, HEAD)]
    assert names == OLD_NAMES
    assert old == before
    assert table_names(bare) == set(TABLES)
    assert contents(bare) == before
    report = verified(bare)
    assert (report.differences, report.erased) == ([], 2)
    # As nothing has to be built anew, it is followed as before.
    assert bare.activity.checkpoint() == report.position
    assert SqlEngine(bare.database).checkpoint() == report.position


def test_a_migrated_ledger_is_made_of_what_a_new_one_is(old: System) -> None:
    migrate(old.database)
    migrated = names_in_catalog(old)
    rebuild(old.database, list(old.models.values()), silently)
    migrate(old.database, to="base")
    migrate(old.database)

    assert migrated == names_in_catalog(old)
    assert [name for name in migrated if not name.startswith("ledger_")] == []


def test_it_is_guarded_as_before_after_both_ways(old: System) -> None:
    def refusal(table: str) -> str:
        with pytest.raises(Exception, match="append-only") as refused, old.database.write() as tx:
            tx.exec_driver_sql(f"DELETE FROM {table}")  # noqa: S608 - one of the two below
        return str(refused.value)

    assert "events is append-only" in refusal("events")
    migrate(old.database)
    assert "ledger_events is append-only" in refusal("ledger_events")


def test_it_is_not_served_and_the_text_says_to_migrate(old: System) -> None:
    with pytest.raises(SchemaMismatch, match="has the tables of revision 0004, this version needs"):
        require_current(old.database)


def test_ledger_migrate_says_what_it_did(old: System, database_url: str, tmp_path: Path) -> None:
    said = Shell(database_url, tmp_path / "search").says("migrate")

    assert "upgraded from revision 0004 to 0011" in said


@pytest.mark.parametrize("revision", ["0001", "0002", "0003"])
def test_one_of_an_earlier_release_is_migrated_too(bare: System, revision: str) -> None:
    migrate(bare.database)
    fill(bare, jobs=20)
    events = rows(bare, "SELECT * FROM ledger_events ORDER BY position")
    migrate(bare.database, to=revision)
    carried = migrate(bare.database)
    rebuild(bare.database, list(bare.models.values()), silently)

    assert carried == (revision, HEAD)
    assert rows(bare, "SELECT * FROM ledger_events ORDER BY position") == events
    assert verified(bare).differences == []


def test_a_rebuild_that_was_interrupted_begins_again(old: System) -> None:
    migrate(old.database)
    Build(old.database, [old.jobs, old.activity]).begin()
    SqlEngine(old.database).replacement()
    migrate(old.database, to=BEFORE)
    dropped = table_names(old)
    migrate(old.database)

    assert dropped == OLD_NAMES
    assert rows(old, "SELECT * FROM ledger_rebuilds") == []
    rebuild(old.database, list(old.models.values()), silently)
    assert verified(old).differences == []


def test_what_a_swap_left_is_dropped_and_what_looks_like_it_is_not(old: System) -> None:
    with old.database.write() as tx:
        tx.exec_driver_sql("CREATE TABLE jobs_old (theirs INTEGER)")
        tx.exec_driver_sql("CREATE TABLE pauses_green (theirs INTEGER)")
        if old.database.is_embedded:
            tx.exec_driver_sql("CREATE TABLE pauses_old (type TEXT PRIMARY KEY, since_ms INTEGER)")

    migrate(old.database)

    assert table_names(old) == {*TABLES, "jobs_old", "pauses_green"}


def test_a_number_of_ours_in_an_application_s_version_table_is_not_ours(old: System) -> None:
    """The tables must have the columns of a ledger as well."""
    with old.database.write() as tx:
        tx.exec_driver_sql("ALTER TABLE events RENAME TO history")
        tx.exec_driver_sql("CREATE TABLE events (id INTEGER)")

    with pytest.raises(SchemaMismatch, match="has no ledger yet"):
        require_current(old.database)
    with pytest.raises(SchemaMismatch, match="a name that Ledger needs is taken"):
        migrate(old.database)


def test_the_version_of_something_else_stays_in_its_table(old: System) -> None:
    with old.database.write() as tx:
        tx.exec_driver_sql("INSERT INTO alembic_version VALUES ('9f3b')")

    migrate(old.database)

    assert rows(old, "SELECT version_num FROM alembic_version") == [{"version_num": "9f3b"}]
    assert rows(old, "SELECT version_num FROM ledger_alembic_version") == [{"version_num": HEAD}]


def test_what_was_tampered_with_is_copied_as_it_is(old: System) -> None:
    """A row that breaks a CHECK must not stop the migration: verifying tells of it."""
    with old.database.write() as tx:
        if old.database.is_embedded:
            tx.exec_driver_sql("PRAGMA ignore_check_constraints = ON")
        else:
            tx.exec_driver_sql("ALTER TABLE jobs DROP CONSTRAINT jobs_made_bounded")
        tx.execute(text("UPDATE jobs SET made = 99 WHERE id = 5"))
        if old.database.is_embedded:
            tx.exec_driver_sql("PRAGMA ignore_check_constraints = OFF")

    migrate(old.database)

    where = [each.where for each in verified(old).differences]
    assert "ledger_jobs id=5" in where

"""The tables are what the code describes, at every step there and back."""

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from importlib.resources import as_file, files

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import MetaData, inspect, text

from ledger.database.migration import migrate
from ledger.database.revision import REVISIONS, require_current
from ledger.database.table_names import TABLES
from ledger.errors import Replaced, SchemaMismatch
from ledger.log import schema, store
from ledger.processes.composition import System, prepare
from ledger.projections.model_versions import record_versions
from ledger.projections.rebuild.rebuild import rebuild
from ledger.projections.search.sql_engine import SqlEngine
from ledger.rules.commands import Create, Pause, Remove, Start
from tests.builders import carry_out, open_system, rows, silently, tamper, verified
from tests.integration.servers import wait_until

HEAD = "0011"


@pytest.fixture
def bare(database_url: str) -> Iterator[System]:
    """Yield a system on an empty database."""
    system = open_system(database_url)
    yield system
    system.close()


def tables(system: System) -> set[str]:
    with system.database.read() as connection:
        # What SQLite makes for a full text index is its own affair.
        return {
            name
            for name in inspect(connection).get_table_names()
            if not name.startswith(("ledger_search_words_", "search_words_"))
        }


def described(system: System) -> list[MetaData]:
    return [schema.metadata, *(live.metadata for live, _ in system.compared)]


def differences(system: System) -> list[object]:
    """Return what Alembic would change to get from the tables to the code."""
    whole = MetaData()
    for metadata in described(system):
        for table in metadata.tables.values():
            table.to_metadata(whole)
    for table in SqlEngine(system.database).tables:
        table.to_metadata(whole)
    with system.database.read() as connection:
        context = MigrationContext.configure(
            connection,
            opts={
                "version_table": "ledger_alembic_version",
                "compare_type": True,
                "compare_server_default": True,
                "include_name": lambda name, kind, _: (
                    not (
                        system.database.is_embedded
                        and kind == "table"
                        and name.startswith("ledger_search_words")
                    )
                ),
            },
        )
        return list(compare_metadata(context, whole))


def test_a_migrated_database_is_what_the_code_describes(system: System) -> None:
    assert differences(system) == []


def test_the_comparison_sees_a_difference(system: System) -> None:
    with system.database.write() as tx:
        tx.execute(text("ALTER TABLE ledger_state_counts ADD COLUMN surplus INTEGER"))
        tx.execute(text("DROP INDEX ledger_jobs_by_priority"))

    assert len(differences(system)) == 2


def test_every_constraint_and_index_has_its_name_in_the_database(system: System) -> None:
    with system.database.read() as connection:
        inspector = inspect(connection)
        named = {
            table.name: (
                {index["name"] for index in inspector.get_indexes(table.name)},
                {check["name"] for check in inspector.get_check_constraints(table.name)},
                {unique["name"] for unique in inspector.get_unique_constraints(table.name)},
            )
            for metadata in described(system)
            for table in metadata.tables.values()
        }

    # PostgreSQL shows a unique constraint's index as well.
    indexes, checks, uniques = named["ledger_events"]
    assert indexes - {"ledger_events_stream"} == {"ledger_events_log"}
    assert checks == {
        "ledger_events_position_positive",
        "ledger_events_version_positive",
        "ledger_events_content_committed",
    }
    assert uniques == {"ledger_events_stream"}
    indexes, checks, _ = named["ledger_jobs"]
    assert indexes == {
        "ledger_jobs_by_state",
        "ledger_jobs_by_type",
        "ledger_jobs_by_priority",
        "ledger_jobs_by_state_priority",
        "ledger_jobs_by_type_priority",
        "ledger_jobs_due",
        "ledger_jobs_held",
    }
    assert checks == {"ledger_jobs_state_known", "ledger_jobs_made_bounded"}


def test_the_revisions_that_the_code_names_are_those_of_the_files() -> None:
    with as_file(files("ledger.migrations")) as folder:
        script = ScriptDirectory(str(folder))
        found = [revision.revision for revision in script.walk_revisions()]

    assert found[::-1] == list(REVISIONS)


def test_up_down_and_up_again(bare: System) -> None:
    before = tables(bare)
    steps = [migrate(bare.database)]
    created = tables(bare)
    carry_out(bare, Create(type="email"), Start(job_id=1))
    steps.append(migrate(bare.database, to="base"))
    left = tables(bare)
    steps.append(migrate(bare.database))

    assert steps == [(None, HEAD), (HEAD, None), (None, HEAD)]
    assert before == set()
    assert left == set()
    assert tables(bare) == created
    assert rows(bare, "SELECT * FROM ledger_head") == [
        {
            "id": 1,
            "position": 0,
            "chain": bytes(32),
            "last_job_id": 0,
            "at_ms": 0,
            "reader_version": 1,
            "inline_rebuilds": 0,
        }
    ]
    assert differences(bare) == []
    # This process knew another ledger.
    with pytest.raises(Replaced):
        carry_out(bare, Create(type="email"))
    carry_out(bare, Create(type="email"))
    assert verified(bare).differences == []


def test_a_ledger_of_the_first_revision_keeps_its_history_on_the_way_up_down_and_up(
    bare: System,
) -> None:
    migrate(bare.database, to="0001")
    first = tables(bare)
    steps = [migrate(bare.database)]
    carry_out(bare, Create(type="email"), Pause(type="email"), Start(job_id=1, worker="w"))
    whole = tables(bare)
    steps.append(migrate(bare.database, to="0001"))
    left = tables(bare)
    steps.append(migrate(bare.database))
    rebuild(bare.database, bare.projections, silently)

    assert steps == [("0001", HEAD), (HEAD, "0001"), ("0001", HEAD)]
    assert first == {
        *("events", "ledger_head", "jobs", "job_ranks", "state_counts", "unique_keys"),
        "alembic_version",
    }
    assert left == first
    assert whole == set(TABLES)
    assert rows(bare, "SELECT name AS type FROM ledger_state") == [{"type": "email"}]
    assert differences(bare) == []
    assert verified(bare).differences == []


def test_down_leaves_no_function_and_no_trigger(bare: System) -> None:
    migrate(bare.database)

    migrate(bare.database, to="base")

    query = {
        True: "SELECT name FROM sqlite_master WHERE type = 'trigger'",
        False: "SELECT proname AS name FROM pg_proc WHERE proname LIKE '%append_only'",
    }
    assert rows(bare, query[bare.database.is_embedded]) == []


def test_migrating_twice_changes_nothing(system: System) -> None:
    carry_out(system, Create(type="email"))

    steps = migrate(system.database)

    assert steps == (HEAD, HEAD)
    assert verified(system).position == 1


def test_the_current_tables_are_served(system: System) -> None:
    require_current(system.database)

    assert system.database.has_tables()


def test_an_empty_database_is_not_served_but_says_what_to_do(bare: System) -> None:
    with pytest.raises(SchemaMismatch, match="has no ledger yet; create it with `ledger migrate`"):
        require_current(bare.database)

    assert not bare.database.has_tables()


def set_revision(system: System, revision: str) -> None:
    with system.database.write() as tx:
        tx.execute(text("UPDATE ledger_alembic_version SET version_num = :r"), {"r": revision})


def test_newer_tables_are_not_served_and_the_text_says_to_upgrade(system: System) -> None:
    set_revision(system, "9999")

    with pytest.raises(SchemaMismatch) as refusal:
        require_current(system.database)

    assert str(refusal.value) == (
        f"{system.database.shown_url} has the tables of revision 9999, which this version does "
        "not know: it was migrated by a newer Ledger; upgrade this one"
    )


def test_older_tables_are_not_served_and_the_text_says_to_migrate(bare: System) -> None:
    migrate(bare.database, to="0001")

    with pytest.raises(SchemaMismatch) as refusal:
        require_current(bare.database)

    assert str(refusal.value) == (
        f"{bare.database.shown_url} has the tables of revision 0001, this version needs 0011; "
        "run `ledger migrate`"
    )


def test_commands_on_an_empty_database_say_what_to_do(bare: System) -> None:
    with pytest.raises(SchemaMismatch, match="run `ledger migrate`"):
        bare.ledger.execute(Create(type="email"), actor="test")


def test_a_file_is_prepared_unasked_and_a_server_is_not(bare: System) -> None:
    if bare.database.is_embedded:
        prepare(bare)
        prepare(bare)
        assert bare.database.has_tables()
        return

    with pytest.raises(SchemaMismatch, match="`ledger migrate`"):
        prepare(bare)

    assert tables(bare) == set()


def test_a_migration_that_fails_half_way_changes_nothing(
    bare: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    with monkeypatch.context() as patched:
        patched.setattr("alembic.operations.Operations.create_index", broken)
        with pytest.raises(ZeroDivisionError):
            migrate(bare.database)

    assert tables(bare) == set()
    assert migrate(bare.database) == (None, HEAD)


def test_the_shown_url_hides_the_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PGPASSWORD", raising=False)
    system = open_system("postgresql://ann:secret@db.example/ledger")

    assert system.database.shown_url == "postgresql://ann:***@db.example/ledger"


def test_the_runs_of_the_release_before_are_counted_anew(bare: System) -> None:
    migrate(bare.database)
    jobs = [
        Create(type=f"type {number % 3}", priority=(0, 0, 5, -5, 2**40)[number % 5])
        for number in range(2_000)
    ]
    bare.ledger.submit(jobs, actor="test")
    bare.ledger.submit([Remove(job_id=number) for number in range(1, 2_000, 7)], actor="test")

    migrate(bare.database, to="0008")
    ranks = rows(bare, "SELECT * FROM ledger_job_ranks")
    left = rows(bare, "SELECT id, type, state FROM ledger_jobs")
    migrate(bare.database)

    expected = Counter(
        (type_, job["state"], span, job["id"] >> span)
        for job in left
        for type_ in (job["type"], "")
        for span in (10, 20, 62)
    )
    assert Counter({tuple(row.values())[:4]: row["jobs"] for row in ranks}) == expected
    assert verified(bare).differences == []


def test_a_rebuild_that_was_interrupted_does_not_bring_the_old_index_back(bare: System) -> None:
    migrate(bare.database)
    for revision in ("0010", HEAD):
        with bare.database.write() as tx:
            tx.execute(text("CREATE TABLE ledger_jobs_green AS SELECT * FROM ledger_jobs"))

        migrate(bare.database, to=revision)

        assert "ledger_jobs_green" not in tables(bare)


def test_a_process_of_the_release_before_is_told_that_its_rows_are_others(bare: System) -> None:
    migrate(bare.database)
    carry_out(bare, Create(type="email"))
    migrate(bare.database, to="0008")
    record_versions(bare.database, bare.projections)
    tamper(bare, "UPDATE ledger_checkpoints SET fingerprint = 'version 1' WHERE name = 'jobs'")
    (before,) = rows(bare, "SELECT inline_rebuilds FROM ledger_head")

    migrate(bare.database)

    (now,) = rows(bare, "SELECT inline_rebuilds FROM ledger_head")
    assert now["inline_rebuilds"] == before["inline_rebuilds"] + 2
    stored = rows(bare, "SELECT fingerprint FROM ledger_checkpoints WHERE name = 'jobs'")
    assert stored == [{"fingerprint": "version 3"}]
    carry_out(bare, Create(type="email"))
    assert verified(bare).differences == []


@pytest.mark.parametrize("database_url", ["postgres"], indirect=True)
def test_nobody_appends_while_jobs_are_counted(bare: System, database_url: str) -> None:
    migrate(bare.database, to="0008")
    waiting = (
        "SELECT pid FROM pg_stat_activity "
        "WHERE wait_event_type = 'Lock' AND datname = current_database()"
    )
    with closing(open_system(database_url)) as other, ThreadPoolExecutor(1) as thread:
        with other.database.write() as tx:
            store.lock_head(tx)
            migrated = thread.submit(migrate, bare.database)
            wait_until(lambda: bool(rows(bare, waiting)), "the migration waits for the append")
            tables_meanwhile = tables(bare)
        steps = migrated.result()

    assert "ledger_job_runs" not in tables_meanwhile
    assert steps == ("0008", HEAD)

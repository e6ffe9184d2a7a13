"""Several ledgers in one PostgreSQL database, each in a schema of its own."""

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import pytest
from sqlalchemy import inspect

import ledger
from ledger.database.migration import migrate
from ledger.database.revision import require_current
from ledger.database.table_names import TABLES
from ledger.database.url import open_database
from ledger.errors import InvalidInput, SchemaMismatch
from ledger.log import store
from ledger.processes.composition import System, compose
from ledger.processes.settings import Settings
from ledger.projections.rebuild.rebuild import rebuild
from ledger.rules.commands import Create
from ledger.testing import drain
from tests.builders import carry_out, rows, silently, tamper, verified
from tests.integration import application
from tests.integration.application import Application
from tests.integration.servers import DEADLINE_S
from tests.integration.shell import NO_DATABASE, USAGE, invoke

HEAD: Final = "0011"
# Names that a statement made of text would stumble over.
ODD: Final = 'Ünïted "Jobs"; %s, public'

Opens = Callable[[str], System]


@pytest.fixture
def opens(postgres_url: str, tmp_path: Path) -> Iterator[Opens]:
    """Yield a function that opens the system in a schema of the same database."""
    with ExitStack() as stack:

        def open_schema(schema: str) -> System:
            settings = Settings(
                database_url=postgres_url, schema=schema, search_directory=str(tmp_path / "search")
            )
            system = compose(settings)
            stack.callback(system.close)
            return system

        yield open_schema


@pytest.fixture
def one(opens: Opens) -> System:
    """Return a migrated, empty ledger in a schema."""
    system = opens("one")
    migrate(system.database)
    return system


@pytest.fixture
def other(opens: Opens) -> System:
    """Return another one, in another schema of the same database."""
    system = opens("other")
    migrate(system.database)
    return system


def tables_of(system: System, schema: str) -> set[str]:
    with system.database.read() as connection:
        return set(inspect(connection).get_table_names(schema))


# --- where the tables are


@pytest.mark.parametrize("schema", ["one", ODD, "x" * 63])
def test_migrating_creates_the_schema_and_all_tables_in_it(opens: Opens, schema: str) -> None:
    system = opens(schema)

    steps = [migrate(system.database), migrate(system.database)]
    carry_out(system, Create(type="email"))
    rebuild(system.database, list(system.models.values()), silently)

    assert steps == [(None, HEAD), (HEAD, HEAD)]
    assert tables_of(system, schema) == set(TABLES)
    assert tables_of(system, "public") == set()
    functions = "SELECT pronamespace::regnamespace::text AS of FROM pg_proc WHERE proname = :name"
    (function,) = rows(system, functions, name="ledger_events_append_only")
    assert function["of"].strip('"').replace('""', '"') == schema
    assert verified(system).differences == []


def test_a_schema_that_is_there_needs_no_right_to_create_it(
    opens: Opens, postgres_url: str
) -> None:
    default = opens("")
    with default.database.write() as tx:
        tx.exec_driver_sql("CREATE ROLE tenant LOGIN")
        tx.exec_driver_sql("CREATE SCHEMA theirs AUTHORIZATION tenant")
    url = postgres_url.replace("postgres:@", "tenant@").replace("postgres@", "tenant@")
    tenant = compose(Settings(database_url=url, schema="theirs", search="off"))

    steps = migrate(tenant.database)
    carry_out(tenant, Create(type="email"))
    clean = verified(tenant).differences
    tenant.close()

    with default.database.write() as tx:
        tx.exec_driver_sql("DROP OWNED BY tenant")
        tx.exec_driver_sql("DROP ROLE tenant")
    assert (steps, clean) == ((None, HEAD), [])


def test_a_ledger_in_another_schema_is_not_found(opens: Opens) -> None:
    default, other = opens(""), opens("other")
    migrate(default.database)

    with pytest.raises(SchemaMismatch, match=r"schema other has no ledger yet; .*`ledger migrate`"):
        require_current(other.database)


def test_without_a_schema_the_ledger_on_the_search_path_counts(
    opens: Opens, postgres_url: str
) -> None:
    """A schema with the role's name comes first on the path, and may be created later."""
    default = opens("")
    migrate(default.database)
    carry_out(default, Create(type="email"))
    with default.database.write() as tx:
        tx.exec_driver_sql("CREATE SCHEMA AUTHORIZATION CURRENT_USER")

    later = opens("")
    rebuild(later.database, list(later.models.values()), silently)

    assert verified(later).position == 1
    assert tables_of(later, "public") == set(TABLES)


def test_a_ledger_is_the_same_whether_its_schema_is_named_or_not(opens: Opens) -> None:
    default, public = opens(""), opens("public")
    migrate(default.database)
    leader, standby = default.database.leadership("x"), public.database.leadership("x")

    assert leader.held()
    assert not standby.held()
    watch = public.database.watch()
    carry_out(default, Create(type="email"))
    assert watch.wait(DEADLINE_S)
    watch.close()
    leader.release()


# --- side by side


def test_two_ledgers_verify_each_for_itself(one: System, other: System, opens: Opens) -> None:
    default = opens("")
    migrate(default.database)
    for number, system in enumerate((one, other, default), start=1):
        carry_out(system, *(Create(type="email") for _ in range(number)))
    tamper(other, "DELETE FROM ledger_jobs WHERE id = 1")
    tamper(default, "DROP TRIGGER ledger_events_no_change ON ledger_events")

    reports = [verified(system) for system in (one, other, default)]

    assert [report.position for report in reports] == [1, 2, 3]
    assert [[each.where for each in report.differences] for report in reports] == [
        [],
        ["ledger_jobs id=1"],
        ["trigger ledger_events_no_change of ledger_events"],
    ]


def test_two_queues_work_each_for_itself(postgres_url: str, one: System, other: System) -> None:
    with ExitStack() as stack:
        queues = {}
        for schema in ("one", "other"):
            queue = queues[schema] = ledger.connect(postgres_url, schema=schema)
            stack.callback(queue.close)
            queue.process("email")(lambda job: job.data)
            queue.create("email", {"in": schema})

        ran = {schema: drain(queue) for schema, queue in queues.items()}

    assert {schema: [run.job.result for run in runs] for schema, runs in ran.items()} == {
        "one": [{"in": "one"}],
        "other": [{"in": "other"}],
    }
    assert [verified(system).position for system in (one, other)] == [3, 3]


def test_workers_of_two_ledgers_run_at_once(postgres_url: str, one: System, other: System) -> None:
    together = threading.Barrier(2, timeout=DEADLINE_S)
    with ExitStack() as stack:
        jobs = []
        for schema in ("one", "other"):
            queue = ledger.connect(postgres_url, schema=schema)
            stack.callback(queue.close)
            queue.process("email")(lambda _: together.wait() >= 0)
            worker = ledger.Worker(queue)
            thread = threading.Thread(target=worker.run)
            thread.start()
            stack.callback(thread.join)
            stack.callback(worker.stop)
            jobs.append(queue.create("email"))

        results = [job.wait(timeout=DEADLINE_S) for job in jobs]

    assert results == [True, True]


def test_a_commit_wakes_those_who_wait_for_that_ledger_alone(one: System, other: System) -> None:
    watch = one.database.watch()
    carry_out(other, Create(type="email"))
    told_of_the_other = watch.wait(0.2)
    carry_out(one, Create(type="email"))
    told_of_ours = watch.wait(DEADLINE_S)
    watch.close()

    assert (told_of_the_other, told_of_ours) == (False, True)


def test_one_ledger_does_not_wait_for_another(one: System, other: System) -> None:
    """What is locked in one: its head, its tables' changes, its roles."""
    roles = [system.database.leadership("sweeper") for system in (one, other)]
    with one.database.migrating() as session, session.transaction() as tx:
        store.lock_head(tx)
        carry_out(other, Create(type="email"))
        migrate(other.database)
        rebuild(other.database, list(other.models.values()), silently)

    assert [role.held() for role in roles] == [True, True]
    assert verified(other).differences == []
    for role in roles:
        role.release()


def test_each_has_a_search_index_of_its_own(one: System, other: System) -> None:
    for system, word in ((one, "ann"), (other, "bob")):
        carry_out(system, Create(type="email", data=f'"{word}"'))

    found = [
        [system.search.find(word, limit=9, offset=0).job_ids for word in ("ann", "bob")]
        for system in (one, other)
    ]

    assert found == [[[1], []], [[], [1]]]


def test_a_ledger_goes_and_the_other_stays(one: System, other: System) -> None:
    carry_out(other, Create(type="email"))

    steps = [
        migrate(one.database, to="0004"),
        migrate(one.database),
        migrate(one.database, to="base"),
    ]

    assert steps == [(HEAD, "0004"), ("0004", HEAD), (HEAD, None)]
    assert tables_of(one, "one") == set()
    assert verified(other).differences == []


@pytest.mark.parametrize("comes_first", ["application", "ledger"])
def test_an_application_s_tables_are_in_another_schema(
    postgres_url: str, opens: Opens, tmp_path: Path, comes_first: str
) -> None:
    app, system = Application(postgres_url, tmp_path / "app"), opens("one")
    if comes_first == "application":
        app.upgrade()
        migrate(system.database)
    else:
        migrate(system.database)
        app.upgrade()
    carry_out(system, Create(type="email"))

    assert app.rows() == application.ROWS
    assert app.proposed() == ""
    assert verified(system).differences == []


# --- the setting


def test_the_command_line_takes_the_schema_from_the_environment(
    postgres_url: str, tmp_path: Path
) -> None:
    def said(*arguments: str, schema: str = "one") -> str:
        result = invoke(
            *("--database", postgres_url, *arguments),
            LEDGER_SCHEMA=schema,
            LEDGER_SEARCH_DIRECTORY=str(tmp_path),
        )
        return result.output if result.exit_code in {0, NO_DATABASE} else f"{result!r}"

    assert "schema one: created the tables of revision 0011" in said("migrate")
    assert "job 1 created" in said("create", "email")
    assert "1 events verified" in said("verify")
    assert ", schema one" in said("status")
    assert "has no ledger yet" in said("status", schema="other")
    assert "has no ledger yet" in said("status", schema="")


@pytest.mark.parametrize("command", ["status", "migrate"])
def test_a_sqlite_file_has_no_schemas(tmp_path: Path, command: str) -> None:
    result = invoke(
        "--database", f"sqlite:///{tmp_path / 'ledger.db'}", command, LEDGER_SCHEMA="one"
    )

    assert result.exit_code == USAGE
    assert result.stderr == (
        "Error: LEDGER_SCHEMA: expected none, as the ledger is in a SQLite file, which has no "
        "schemas; got 'one'\n"
    )
    assert list(tmp_path.iterdir()) == []


def test_nor_when_it_is_named_in_python(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="a SQLite file, which has no schemas"):
        open_database(f"sqlite:///{tmp_path / 'ledger.db'}", schema="one")

"""A ledger in an application's database: neither touches what is the other's."""

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from sqlalchemy import inspect, make_url

import ledger
from ledger.database.migration import migrate
from ledger.database.table_names import TABLES
from ledger.errors import Replaced, SchemaMismatch
from ledger.processes.composition import System, prepare, queue_of
from ledger.projections.projection import REPLACEMENT_SUFFIX
from ledger.projections.rebuild.dependents import HasDependents
from ledger.projections.rebuild.rebuild import rebuild
from ledger.queue.queue import Queue
from ledger.rules.commands import Create
from ledger.testing import drain
from tests.builders import carry_out, open_system, rows, silently, verified
from tests.integration import application
from tests.integration.application import Application
from tests.integration.shell import NO_DATABASE, Shell

HEAD: Final = "0011"


@pytest.fixture
def app(database_url: str, tmp_path: Path) -> Application:
    """Return an application on an empty database, on each engine in turn."""
    return Application(database_url, tmp_path / "app")


@pytest.fixture
def bare(database_url: str, tmp_path: Path) -> Iterator[System]:
    """Yield a system on the same database, without a ledger yet."""
    system = open_system(database_url, search_directory=tmp_path / "search")
    yield system
    system.close()


@pytest.fixture
def both(app: Application, bare: System) -> System:
    """Return a ledger in the database of an application."""
    app.upgrade()
    migrate(bare.database)
    return bare


def table_names(system: System) -> set[str]:
    with system.database.read() as connection:
        return {
            name
            for name in inspect(connection).get_table_names()
            if not name.startswith("ledger_search_words_")
        }


def use(system: System) -> None:
    """Create jobs, do them, and build everything anew, twice."""
    queue: Queue = queue_of(system, actor="app:test", lease_ms=30_000)
    queue.process("email")(lambda job: {"sent": job.data["to"]})
    first = queue.create("email", {"to": "ann"})
    queue.create("fax", {"to": "bob"})
    assert [ran.state for ran in drain(queue)] == ["complete"]
    assert first.result == {"sent": "ann"}
    for _ in range(2):
        rebuild(system.database, list(system.models.values()), silently)
    report = verified(system)
    assert (report.differences, report.position) == ([], 4)


# --- whichever migrates first


def test_an_application_comes_first(app: Application, bare: System) -> None:
    app.upgrade()

    steps = migrate(bare.database)
    use(bare)

    assert steps == (None, HEAD)
    assert app.rows() == application.ROWS
    assert app.proposed() == ""
    assert table_names(bare) == {*TABLES, *application.TABLES, "alembic_version"}


def test_a_ledger_comes_first(app: Application, bare: System) -> None:
    migrate(bare.database)
    use(bare)

    app.upgrade(application.FIRST)
    app.upgrade()

    assert verified(bare).differences == []
    assert app.rows() == application.ROWS
    assert app.proposed() == ""
    assert migrate(bare.database) == (HEAD, HEAD)


def test_a_ledger_comes_between_two_revisions_of_an_application(
    app: Application, bare: System
) -> None:
    app.upgrade(application.FIRST)
    migrate(bare.database)
    use(bare)

    app.upgrade()

    assert verified(bare).differences == []
    assert app.rows() == application.ROWS
    assert app.proposed() == ""


def test_without_our_filter_autogenerate_would_drop_the_ledger(
    app: Application, both: System
) -> None:
    assert "ledger_events" in app.proposed(leaves_ledger_alone=False)


@pytest.mark.parametrize("name", ["ledger_jobs", "ledger_jobs_green", "ledger_search_words_data"])
def test_the_filter_hides_our_tables(name: str) -> None:
    assert not ledger.alembic_include_name(name, "table", {"schema_name": None})


@pytest.mark.parametrize(
    ("name", "type_"),
    [
        ("ledger_entries", "table"),
        ("my_ledger_jobs", "table"),
        ("ledger_jobs_archive", "table"),
        ("ledger_events", "column"),
        (None, "schema"),
    ],
)
def test_the_filter_shows_all_else(name: str | None, type_: str) -> None:
    assert ledger.alembic_include_name(name, type_, {"schema_name": None})


# --- and back


def test_a_ledger_goes_and_the_application_stays(app: Application, both: System) -> None:
    use(both)

    steps = migrate(both.database, to="base")

    assert steps == (HEAD, None)
    assert table_names(both) == {*application.TABLES, "alembic_version"}
    assert app.rows() == application.ROWS
    app.upgrade()
    assert app.proposed() == ""
    assert migrate(both.database) == (None, HEAD)
    with pytest.raises(Replaced):
        use(both)
    use(both)


def test_an_application_goes_and_the_ledger_stays(app: Application, both: System) -> None:
    use(both)

    app.downgrade()

    assert table_names(both) == {*TABLES, "alembic_version"}
    assert verified(both).differences == []


@pytest.mark.parametrize("revision", ["0001", "0004"])
def test_it_cannot_go_back_to_tables_with_the_application_s_names(
    app: Application, both: System, revision: str
) -> None:
    use(both)

    with pytest.raises(SchemaMismatch, match="in which an application has its own"):
        migrate(both.database, to=revision)

    assert verified(both).differences == []
    assert app.rows() == application.ROWS
    assert migrate(both.database) == (HEAD, HEAD)


def test_nor_where_the_application_has_the_tables_but_no_alembic(
    app: Application, both: System
) -> None:
    use(both)
    app.execute("DROP TABLE alembic_version")

    with pytest.raises(SchemaMismatch, match="a name that Ledger needs is taken"):
        migrate(both.database, to="0004")

    assert verified(both).differences == []
    assert app.rows() == application.ROWS


# --- names that are taken


def test_a_table_of_the_application_s_with_one_of_our_names_is_left_alone(
    app: Application, bare: System, database_url: str, tmp_path: Path
) -> None:
    app.execute("CREATE TABLE ledger_jobs (theirs INTEGER)", "INSERT INTO ledger_jobs VALUES (7)")

    code, complaint = Shell(database_url, tmp_path / "search").refusal("migrate")

    assert code == NO_DATABASE
    assert "a name that Ledger needs is taken" in complaint
    assert "ledger_jobs" in complaint
    assert rows(bare, "SELECT * FROM ledger_jobs") == [{"theirs": 7}]
    assert table_names(bare) == {"ledger_jobs"}


def test_a_table_called_alembic_version_may_be_anything(app: Application, bare: System) -> None:
    app.execute(
        "CREATE TABLE alembic_version (what TEXT)", "INSERT INTO alembic_version VALUES ('0004')"
    )

    assert migrate(bare.database) == (None, HEAD)
    assert rows(bare, "SELECT * FROM alembic_version") == [{"what": "0004"}]


# --- nothing unasked


def test_nothing_is_created_unasked_beside_an_application_s_tables(
    app: Application, bare: System
) -> None:
    app.upgrade()
    before = table_names(bare)

    with pytest.raises(SchemaMismatch, match="create it with `ledger migrate`; its other tables"):
        prepare(bare)

    assert table_names(bare) == before


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize("command", ["status", "jobs", "create email", "serve"])
def test_a_file_without_a_ledger_is_not_touched(
    app: Application, database_url: str, tmp_path: Path, command: str
) -> None:
    app.upgrade()
    path = tmp_path / "ledger.db"
    before = path.read_bytes()

    code, _ = Shell(database_url, tmp_path / "search").refusal(*command.split())

    assert code != 0
    assert path.read_bytes() == before
    assert journal_mode(path) == "delete"


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_file_with_a_ledger_has_a_write_ahead_log(both: System, tmp_path: Path) -> None:
    assert journal_mode(tmp_path / "ledger.db") == "wal"


def journal_mode(path: Path) -> str:
    connection = sqlite3.connect(path)
    (mode,) = connection.execute("PRAGMA journal_mode").fetchone()
    connection.close()
    return str(mode)


# --- what an application makes of our tables


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_view_that_is_broken_does_not_stop_a_rebuild(app: Application, both: System) -> None:
    app.execute("CREATE TABLE gone (id INTEGER)", "CREATE VIEW stale AS SELECT * FROM gone")
    app.execute("DROP TABLE gone")

    use(both)


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_rebuild_leaves_views_and_foreign_keys_as_they_are(
    app: Application, both: System
) -> None:
    made = (
        "CREATE VIEW mine AS SELECT id FROM ledger_jobs",
        "CREATE TABLE linked (job INTEGER REFERENCES ledger_jobs (id))",
    )
    app.execute(*made)

    use(both)

    kept = "SELECT sql FROM sqlite_master WHERE name IN ('mine', 'linked') ORDER BY name DESC"
    assert [row["sql"] for row in rows(both, kept)] == list(made)
    assert rows(both, "SELECT id FROM mine ORDER BY id") == [{"id": 1}, {"id": 2}]


@pytest.mark.parametrize("database_url", ["postgres"], indirect=True)
@pytest.mark.parametrize(
    ("made", "named"),
    [
        ("CREATE VIEW mine AS SELECT id FROM ledger_jobs", "view public.mine"),
        (
            "CREATE MATERIALIZED VIEW mine AS SELECT id FROM ledger_jobs",
            "materialized view public.mine",
        ),
        (
            "CREATE TABLE mine (job bigint CONSTRAINT a_job REFERENCES ledger_jobs (id))",
            "table constraint a_job on public.mine",
        ),
        ("CREATE TABLE mine () INHERITS (ledger_jobs)", "table public.mine"),
        (
            "CREATE FUNCTION mine(ledger_jobs[]) RETURNS int LANGUAGE sql AS 'SELECT 1'",
            "function public.mine(public.ledger_jobs[])",
        ),
        (
            "CREATE TABLE mine (); CREATE RULE r AS ON INSERT TO mine DO DELETE FROM ledger_jobs",
            "rule r on public.mine",
        ),
    ],
)
def test_a_rebuild_names_what_refers_to_a_table_that_it_would_replace(
    app: Application, both: System, tmp_path: Path, database_url: str, made: str, named: str
) -> None:
    carry_out(both, Create(type="email"))
    app.execute(made)

    code, complaint = Shell(database_url, tmp_path / "search").refusal("rebuild", "jobs")

    assert code != 0
    assert (
        f"{named} uses ledger_jobs; a rebuild replaces the table, so drop it and create it again"
        in complaint
    )
    assert not any(name.endswith(REPLACEMENT_SUFFIX) for name in table_names(both))


@pytest.mark.parametrize("database_url", ["postgres"], indirect=True)
def test_it_looks_again_at_the_swap(app: Application, both: System) -> None:
    carry_out(both, Create(type="email"))
    made = iter(
        [
            "CREATE VIEW mine AS SELECT id FROM ledger_jobs",
            "CREATE VIEW ours AS SELECT job_id FROM ledger_unique_keys",
        ]
    )

    def create_a_view(done: int, total: int) -> None:
        for statement in made:
            app.execute(statement)

    models = list(both.models.values())
    with pytest.raises(HasDependents, match="mine uses ledger_jobs, view public"):
        rebuild(both.database, models, create_a_view)
    assert rows(both, "SELECT id FROM mine") == [{"id": 1}]

    app.execute("DROP VIEW mine", "DROP VIEW ours")
    rebuild(both.database, models, silently)
    assert verified(both).differences == []


@pytest.mark.parametrize("database_url", ["postgres"], indirect=True)
def test_what_is_on_a_table_itself_goes_with_it(app: Application, both: System) -> None:
    app.execute(
        "CREATE INDEX mine ON ledger_jobs (created_at_ms)",
        "ALTER TABLE ledger_jobs ENABLE ROW LEVEL SECURITY",
        "CREATE POLICY theirs ON ledger_jobs USING (type <> 'sms')",
        "CREATE FUNCTION told() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'",
        "CREATE TRIGGER told BEFORE INSERT ON ledger_jobs FOR EACH ROW EXECUTE FUNCTION told()",
    )

    use(both)

    assert rows(both, "SELECT 1 FROM pg_trigger WHERE tgname = 'told'") == []


def test_a_role_that_may_not_create_tables_is_told(postgres_url: str, tmp_path: Path) -> None:
    owner = open_system(postgres_url)
    with owner.database.write() as tx:
        tx.exec_driver_sql("CREATE ROLE newcomer LOGIN")
        tx.exec_driver_sql("REVOKE CREATE ON SCHEMA public FROM PUBLIC")
    url = make_url(postgres_url).set(username="newcomer").render_as_string(hide_password=False)

    code, complaint = Shell(url, tmp_path / "search").refusal("migrate")

    with owner.database.write() as tx:
        tx.exec_driver_sql("DROP ROLE newcomer")
    owner.close()
    assert code == NO_DATABASE
    assert "does not let this role create tables: permission denied for schema public" in complaint


def test_a_role_that_may_not_use_the_tables_is_told(postgres_url: str, tmp_path: Path) -> None:
    owner = open_system(postgres_url)
    migrate(owner.database)
    with owner.database.write() as tx:
        tx.exec_driver_sql("CREATE ROLE outsider LOGIN")
    url = make_url(postgres_url).set(username="outsider").render_as_string(hide_password=False)
    shell = Shell(url, tmp_path / "search")

    refusals = [shell.refusal(*words) for words in (("status",), ("create", "email"))]

    with owner.database.write() as tx:
        tx.exec_driver_sql("DROP ROLE outsider")
    owner.close()
    for code, complaint in refusals:
        assert code == NO_DATABASE
        assert "a right that it needs: permission denied for table ledger_" in complaint
        assert "grant the right" in complaint


def test_an_application_s_row_is_nothing_to_a_ledger(app: Application, both: System) -> None:
    carry_out(both, Create(type="email"))

    app.execute("DELETE FROM jobs", "DELETE FROM events")

    assert verified(both).differences == []

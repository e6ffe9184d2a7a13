"""Fixtures: a fresh ledger for each test, on SQLite and on PostgreSQL."""

import gc
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis
from sqlalchemy.engine import URL

from ledger.database.migration import migrate
from ledger.processes.composition import System
from tests.builders import open_system
from tests.postgres import Databases, databases_on, running_server

ENGINES = ("sqlite", "postgres")
# Each pytest process has a PostgreSQL server.
MOST_PROCESSES = 16

# Containers often forbid bytecode.  Without it each pytest process rewrites the asserts of all
# tests, and each of the many processes that tests start compiles Ledger.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# A developer's own settings are not those of the tests.
for name in [*os.environ]:
    if name.startswith("LEDGER_") and not name.startswith("LEDGER_TEST_"):
        del os.environ[name]

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


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int | None:
    """Return the number of pytest processes: a third of a test's time is waiting for others."""
    if "PYTEST_XDIST_AUTO_NUM_WORKERS" in os.environ:
        return None
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    return min(max(1, 3 * cores // 2), MOST_PROCESSES)


def pytest_collection_finish() -> None:
    """Exempt the collected tests from garbage collection; it took a tenth of the time."""
    gc.collect()
    gc.freeze()


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
    with running_server() as url:
        yield url


@pytest.fixture(scope="session")
def postgres_databases(postgres_server: URL) -> Iterator[Databases]:
    """Yield the databases that tests use on the PostgreSQL server."""
    with databases_on(postgres_server) as databases:
        yield databases


@pytest.fixture
def postgres_url(request: pytest.FixtureRequest, postgres_databases: Databases) -> Iterator[str]:
    """Yield the URL of a database that only this test uses; see ``database_url``."""
    kind = postgres_databases.migrated if _wants_tables(request) else postgres_databases.empty
    with kind() as url:
        yield url


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the file of a migrated, empty ledger, to be copied."""
    path = tmp_path_factory.mktemp("template") / "ledger.db"
    system = open_system(f"sqlite:///{path}")
    migrate(system.database)
    system.close()
    return path


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
    system = open_system(database_url, search_directory=tmp_path / "search")
    yield system
    system.close()

"""Fixtures of the HTTP tests: clients on an empty ledger, or on one with a job in each state."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.engine import URL

from ledger.database.migration import migrate
from ledger.processes.composition import System
from tests.builders import job_in, make_empty, open_system
from tests.conftest import ENGINES
from tests.contract.client import Client

# The jobs of ``crowd``, by state.
CROWD = ("inactive", "delayed", "active", "complete", "failed", "removed")


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an empty ledger's file; copying it is faster than a migration."""
    path = tmp_path_factory.mktemp("template") / "ledger.db"
    system = open_system(f"sqlite:///{path}")
    migrate(system.database)
    system.close()
    return path


@pytest.fixture(scope="session")
def postgres_ledger(postgres_server: URL) -> Iterator[str]:
    """Yield the URL of a ledger; emptying it is faster than creating one."""
    name = f"wire_{uuid4().hex}"
    admin = create_engine(postgres_server, isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    url = postgres_server.set(database=name).render_as_string(hide_password=False)
    system = open_system(url)
    migrate(system.database)
    system.close()
    yield url
    with admin.connect() as connection:
        connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
    admin.dispose()


@pytest.fixture(params=ENGINES)
def system(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[System]:
    """Yield an empty ledger, on each engine in turn."""
    if request.param == "sqlite":
        template: Path = request.getfixturevalue("sqlite_template")
        shutil.copy(template, tmp_path / "ledger.db")
        system = open_system(f"sqlite:///{tmp_path / 'ledger.db'}")
    else:
        url: str = request.getfixturevalue("postgres_ledger")
        system = open_system(url, search_directory=tmp_path / "search")
        make_empty(system)
    yield system
    system.close()


@pytest.fixture
def client(system: System) -> Client:
    """Return a client on an empty ledger, on each engine in turn."""
    return Client(system)


@pytest.fixture(scope="module")
def crowd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """Yield a client on a ledger with jobs 1 to 6, one in each state, for read-only tests."""
    yield from _with_one_job_in_each_state(tmp_path_factory)


@pytest.fixture(scope="module")
def rabble(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """Yield a client on another such ledger, for tests that may change anything."""
    yield from _with_one_job_in_each_state(tmp_path_factory)


def _with_one_job_in_each_state(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    system = open_system(f"sqlite:///{tmp_path_factory.mktemp('ledger') / 'ledger.db'}")
    migrate(system.database)
    for state in CROWD:
        job_in(system, state)
    # Random requests to wait are answered at once.
    yield Client(system, most_waiting=0)
    system.close()

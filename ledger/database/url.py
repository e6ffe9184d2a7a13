"""Tell which engine a database URL names, and open it."""

from pathlib import Path

from sqlalchemy.engine import URL, make_url

from ledger.database.contract import Database
from ledger.database.postgres import PostgresDatabase
from ledger.database.sqlite import SqliteDatabase, SqliteSynchronous
from ledger.database.url_syntax import check_url


def open_database(
    url: str, *, synchronous: SqliteSynchronous = "FULL", directory: Path | None = None
) -> Database:
    """Return the database at *url*; nothing is connected yet.

    Args:
        url: ``sqlite:///PATH`` or ``postgresql+psycopg://…``; ``postgresql://``
            and ``postgres://`` mean the same.
        synchronous: SQLite's pragma.  FULL survives a power cut; NORMAL may
            lose the last commits in one, but no crash of the process; OFF may lose
            all in one.
        directory: From where a relative PATH leads; None is the working directory.

    Raises:
        InvalidInput: *url* is no URL, or names another engine.
    """
    parsed = parse_url(url)
    if parsed.get_backend_name() == "sqlite":
        return SqliteDatabase(parsed, synchronous=synchronous, directory=directory)
    return PostgresDatabase(parsed)


def parse_url(url: str) -> URL:
    """Return the URL with the driver that is used for it.

    Raises:
        InvalidInput: *url* is no URL, or names no file or another engine.
    """
    check_url(url)
    parsed = make_url(url)
    is_sqlite = parsed.get_backend_name() == "sqlite"
    return parsed.set(drivername="sqlite+pysqlite" if is_sqlite else "postgresql+psycopg")

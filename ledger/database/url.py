"""Database URLs: which engine a URL names, and opening the database."""

from pathlib import Path

from sqlalchemy.engine import URL, make_url

from ledger.database.contract import Database
from ledger.database.postgres import PostgresDatabase
from ledger.database.sqlite import SqliteDatabase, SqliteSynchronous
from ledger.database.url_syntax import check_url


def open_database(
    url: str, *, synchronous: SqliteSynchronous = "FULL", directory: Path | None = None
) -> Database:
    """Return the database at *url*, not yet connected.

    Args:
        url: ``sqlite:///PATH`` or ``postgresql+psycopg://…``; ``postgresql://``
            and ``postgres://`` mean the same.
        synchronous: SQLite's pragma.  FULL survives a power failure.  NORMAL may lose the
            last commits in a power failure, but none in a crash of the process.  OFF may
            lose everything in a power failure.
        directory: The directory to which a relative PATH refers; None is the working
            directory.

    Raises:
        InvalidInput: *url* is invalid, or names no file or another engine.
    """
    parsed = parse_url(url)
    if parsed.get_backend_name() == "sqlite":
        return SqliteDatabase(parsed, synchronous=synchronous, directory=directory)
    return PostgresDatabase(parsed)


def parse_url(url: str) -> URL:
    """Return *url*, parsed, with the driver that is used for it.

    Raises:
        InvalidInput: *url* is invalid, or names no file or another engine.
    """
    check_url(url)
    parsed = make_url(url)
    is_sqlite = parsed.get_backend_name() == "sqlite"
    return parsed.set(drivername="sqlite+pysqlite" if is_sqlite else "postgresql+psycopg")

"""Database URLs: which engine a URL names, and opening the database."""

import re
from typing import Final

from sqlalchemy import exc
from sqlalchemy.engine import URL, make_url

from ledger.database.contract import Database
from ledger.database.postgres import PostgresDatabase
from ledger.database.sqlite import SqliteDatabase, SqliteSynchronous
from ledger.errors import InvalidInput

_EXPECTED_URL: Final = "sqlite:///PATH or postgresql+psycopg://USER@HOST/NAME"


def open_database(url: str, *, synchronous: SqliteSynchronous = "FULL") -> Database:
    """Return the database at *url*, not yet connected.

    Args:
        url: ``sqlite:///PATH`` or ``postgresql+psycopg://…``; ``postgresql://``
            and ``postgres://`` mean the same.
        synchronous: SQLite's pragma.  FULL survives a power failure.  NORMAL may lose the
            last commits in a power failure, but none in a crash of the process.  OFF may
            lose everything in a power failure.

    Raises:
        InvalidInput: *url* is invalid, or names no file or another engine.
    """
    parsed = parse_url(url)
    if parsed.get_backend_name() == "sqlite":
        return SqliteDatabase(parsed, synchronous=synchronous)
    return PostgresDatabase(parsed)


def parse_url(url: str) -> URL:
    """Return *url*, parsed, with the driver that is used for it.

    Raises:
        InvalidInput: *url* is invalid, or names no file or another engine.
    """
    try:
        parsed = make_url(url)
    except (exc.ArgumentError, ValueError) as error:
        shown = hide_password(url)
        raise InvalidInput.expected("database url", _EXPECTED_URL, shown) from error
    if parsed.drivername in {"sqlite", "sqlite+pysqlite"}:
        if parsed.database in {None, "", ":memory:"} or parsed.query:
            raise InvalidInput.expected("database url", "a file: sqlite:///PATH", url)
        return parsed.set(drivername="sqlite+pysqlite")
    if parsed.drivername in {"postgresql", "postgres", "postgresql+psycopg"}:
        return parsed.set(drivername="postgresql+psycopg")
    raise InvalidInput.expected("database url", _EXPECTED_URL, hide_password(url))


def hide_password(url: str) -> str:
    """Return *url*, which may be invalid, with the part hidden that may be its password."""
    return re.sub(r"(://[^:/@]*):.*@", r"\1:***@", url)

"""Tell which engine a database URL names, and open it."""

import re
from typing import Final

from sqlalchemy import exc
from sqlalchemy.engine import URL, make_url

from ledger.database.contract import Database
from ledger.database.postgres import PostgresDatabase
from ledger.database.sqlite import SqliteDatabase, SqliteSynchronous
from ledger.errors import InvalidInput

_EXPECTED_URL: Final = "sqlite:///PATH or postgresql+psycopg://USER@HOST/NAME"
# PostgreSQL's NAMEDATALEN, less one; what is longer it cuts, with a mere notice.
_LONGEST_SCHEMA: Final = 63
SCHEMA_EXPECTED: Final = (
    f"the name of a PostgreSQL schema, up to {_LONGEST_SCHEMA} bytes, not pg_… nor $user"
)
NO_SCHEMA_IN_SQLITE: Final = (
    "expected none, as the ledger is in a SQLite file, which has no schemas; got {!r}"
)


def open_database(
    url: str, *, synchronous: SqliteSynchronous = "FULL", schema: str | None = None
) -> Database:
    """Return the database at *url*; nothing is connected yet.

    Args:
        url: ``sqlite:///PATH`` or ``postgresql+psycopg://…``; ``postgresql://``
            and ``postgres://`` mean the same.
        synchronous: SQLite's pragma.  FULL survives a power cut; NORMAL may
            lose the last commits in one, but no crash of the process; OFF may lose
            all in one.
        schema: The PostgreSQL schema that the tables are in; None is the one in which the
            server creates tables by itself, mostly ``public``.

    Raises:
        InvalidInput: *url* is no URL, or names another engine; or *schema* is no name of a
            schema, or the database a SQLite file, which has none.
    """
    parsed = parse_url(url)
    if schema is not None:
        parse_schema(schema)
    if parsed.get_backend_name() == "sqlite":
        if schema is not None:
            raise InvalidInput("schema", NO_SCHEMA_IN_SQLITE.format(schema))
        return SqliteDatabase(parsed, synchronous=synchronous)
    return PostgresDatabase(parsed, schema=schema)


def parse_url(url: str) -> URL:
    """Return the URL with the driver that is used for it.

    Raises:
        InvalidInput: *url* is no URL, or names no file or another engine.
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


def parse_schema(name: str) -> str:
    """Return the name of a PostgreSQL schema as it is.

    Raises:
        InvalidInput: PostgreSQL has no such name for an application's schema, would cut it
            short, or takes it for something else.
    """
    if (
        not 0 < len(name.encode("utf-8", "replace")) <= _LONGEST_SCHEMA
        or not name.isprintable()
        or name.startswith("pg_")
        # On a search path, it stands for the role's name.
        or name in {"information_schema", "$user"}
    ):
        raise InvalidInput.expected("schema", SCHEMA_EXPECTED, name)
    return name


def hide_password(url: str) -> str:
    """Return *url*, which may be none, without what may be its password."""
    return re.sub(r"(://[^:/@]*):.*@", r"\1:***@", url)

"""Database URLs: which engine a URL names, and opening the database."""

from pathlib import Path

from sqlalchemy.engine import URL, make_url

from ledger.database.contract import Database
from ledger.database.postgres import PostgresDatabase
from ledger.database.sqlite import SqliteDatabase, SqliteSynchronous
from ledger.database.url_syntax import NO_SCHEMA_IN_SQLITE, check_schema, check_url
from ledger.errors import InvalidInput


def open_database(
    url: str,
    *,
    synchronous: SqliteSynchronous = "FULL",
    schema: str | None = None,
    direct_url: str | None = None,
    directory: Path | None = None,
    allow_network_file: bool = False,
) -> Database:
    """Return the database at *url*, not yet connected.

    Args:
        url: ``sqlite:///PATH`` or ``postgresql+psycopg://…``; ``postgresql://``
            and ``postgres://`` mean the same.
        synchronous: SQLite's pragma.  FULL survives a power failure.  NORMAL may lose the
            last commits in a power failure, but none in a crash of the process.  OFF may
            lose everything in a power failure.
        schema: The PostgreSQL schema that the tables are in; None is the one in which the
            server creates tables by itself, mostly ``public``.
        direct_url: The same PostgreSQL database without the connection pooler that *url* leads
            to; None if there is no pooler, or no such way.
        directory: The directory to which a relative PATH refers; None is the working
            directory.
        allow_network_file: Whether a SQLite file may be on a network file system.

    Raises:
        InvalidInput: *url* is invalid, or names no file or another engine; or *schema* is
            no name of a schema, or the database is a SQLite file, which has none.
    """
    parsed = parse_url(url)
    if schema is not None:
        check_schema(schema)
    if parsed.get_backend_name() == "sqlite":
        if schema is not None:
            raise InvalidInput("schema", NO_SCHEMA_IN_SQLITE.format(schema))
        return SqliteDatabase(
            parsed,
            synchronous=synchronous,
            directory=directory,
            allow_network_file=allow_network_file,
        )
    direct = None if direct_url is None else parse_url(direct_url)
    return PostgresDatabase(parsed, schema=schema, direct_url=direct)


def parse_url(url: str) -> URL:
    """Return *url*, parsed, with the driver that is used for it.

    Raises:
        InvalidInput: *url* is invalid, or names no file or another engine.
    """
    check_url(url)
    parsed = make_url(url)
    is_sqlite = parsed.get_backend_name() == "sqlite"
    return parsed.set(drivername="sqlite+pysqlite" if is_sqlite else "postgresql+psycopg")

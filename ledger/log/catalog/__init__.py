"""Compare the tables in a database with what this version of Ledger creates.

Whoever may change tables can take a guard off, or plant a trigger that changes what is
written, and leave no event behind.  So ``ledger verify`` asks the database's own catalog
what its tables are made of: columns, constraints, unique indexes, triggers, and on
PostgreSQL rules and row-level security.

What is expected is not written down a second time.  The tables are created once more, by
the same definitions and on the same engine, where nobody else sees them, and both are
described by the same queries: so a release of the engine that words things otherwise
words both of them so.
"""

from collections.abc import Sequence
from typing import Final

from sqlalchemy import Connection, Table

from ledger.log.catalog import postgres, sqlite
from ledger.log.catalog.description import NOTHING, Description, Deviation, Kind, compare

__all__ = ["NOTHING", "Deviation", "Kind", "deviations"]

_DESCRIBE: Final = {"sqlite": sqlite.describe, "postgresql": postgres.describe}


def deviations(connection: Connection, tables: Sequence[Table]) -> list[Deviation]:
    """Return what is not as this version creates it, in the order of *tables*.

    Indexes that are not unique may be added by anyone: they change no row.

    Args:
        connection: In a transaction; on PostgreSQL with the right to create temporary
            tables.  What is created on it for the comparison is gone on return.
        tables: The tables to look at, with their constraints and indexes.
    """
    expected, found = _describe(connection, tables)
    return compare(expected, found, [table.name for table in tables])


def _describe(connection: Connection, tables: Sequence[Table]) -> tuple[Description, Description]:
    return _DESCRIBE[connection.dialect.name](connection, tables)

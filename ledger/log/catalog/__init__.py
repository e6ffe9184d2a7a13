"""Comparison of the tables in a database with those that this version of Ledger creates.

A user with the right to change tables can drop a constraint, or add a trigger that changes
what is written, and leave no event behind.  So ``ledger verify`` reads from the database's
own catalog what its tables consist of: columns, constraints, unique indexes, triggers, and
on PostgreSQL rules and row-level security.

The expected tables are not described a second time.  They are created once more, by the
same definitions and on the same engine, where no other connection sees them, and both are
described by the same queries.  If a release of the engine words a definition differently,
it does so on both sides.
"""

from collections.abc import Sequence
from typing import Final

from sqlalchemy import Connection, Table

from ledger.log.catalog import postgres, sqlite
from ledger.log.catalog.description import NOTHING, Description, Deviation, Kind, compare

__all__ = ["NOTHING", "Deviation", "Kind", "deviations"]

_DESCRIBE: Final = {"sqlite": sqlite.describe, "postgresql": postgres.describe}


def deviations(connection: Connection, tables: Sequence[Table]) -> list[Deviation]:
    """Return the parts that differ from what this version creates, in the order of *tables*.

    Additional indexes that are not unique are allowed, because they change no row.

    Args:
        connection: In a transaction; on PostgreSQL with the right to create temporary
            tables.  What is created on it for the comparison is gone on return.
        tables: The tables to compare, with their constraints and indexes.
    """
    expected, found = _describe(connection, tables)
    return compare(expected, found, [table.name for table in tables])


def _describe(connection: Connection, tables: Sequence[Table]) -> tuple[Description, Description]:
    return _DESCRIBE[connection.dialect.name](connection, tables)

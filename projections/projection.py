"""Say what a projection is: tables that follow the ledger, and can be built anew.

A projection is told what changed, in order, a batch at a time, and writes each
batch set-based.  The same ``apply`` serves live batches and rebuilds, so a
rebuilt projection cannot differ from one that was kept up to date, but by a bug
that ``ledger verify`` shows.

Each instance owns its tables' definitions.  A *shadow* is the same projection on
temporary tables of its own, built to be compared with the live ones.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, TypeVar

from sqlalchemy import ColumnElement, Connection, Index, MetaData, Select, Table, delete
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.schema import SchemaItem

from ledger.record import Change
from ledger.rows import Rows

SHADOW_PREFIX = "shadow_"
# SQLite takes 32,766 parameters in a statement, PostgreSQL 65,535.
LARGEST_IN = 10_000


class Projection(ABC):
    """Be a read model that commits in the same transaction as the events.

    Args:
        shadow: Define temporary tables, named apart from the live ones and
            without the indexes that only queries need.
    """

    name: ClassVar[str]

    def __init__(self, *, shadow: bool = False) -> None:
        self.metadata = MetaData()
        self.shadow = shadow

    @property
    def tables(self) -> Sequence[Table]:
        """Return the projection's tables, the main one first."""
        return tuple(self.metadata.tables.values())

    @abstractmethod
    def apply(self, tx: Connection, changes: Sequence[Change]) -> None:
        """Follow *changes*, which come in order, a batch at a time."""

    @abstractmethod
    def contents(self) -> Mapping[str, Select[Any]]:
        """Return, for each table, the rows that two equal projections share.

        A count of nothing may stand as 0 or not at all: the selects leave it out.
        """

    def clear(self, tx: Connection) -> None:
        """Delete all rows, to have them all applied again, before ``complete``."""
        for table in self.tables:
            for index in _deferrable(table, tx):
                index.drop(tx)
            tx.execute(delete(table))

    def complete(self, tx: Connection) -> None:
        """Finish what ``clear`` began."""
        for table in self.tables:
            for index in _deferrable(table, tx):
                index.create(tx)

    def _define(self, name: str, *items: SchemaItem) -> Table:
        """Return one of the projection's tables, or the shadow of it."""
        if not self.shadow:
            return Table(name, self.metadata, *items)
        columns = [item for item in items if not isinstance(item, Index)]
        return Table(SHADOW_PREFIX + name, self.metadata, *columns, prefixes=["TEMPORARY"])


def _deferrable(table: Table, tx: Connection) -> list[Index]:
    """Return the indexes that are quicker built at once than row by row.

    On PostgreSQL dropping one would lock readers out until the commit; on SQLite
    they keep seeing the old schema with the old rows.
    """
    if tx.dialect.name != "sqlite":
        return []
    return sorted(table.indexes, key=lambda index: str(index.name))


Item = TypeVar("Item")


def in_parts(items: Sequence[Item]) -> Iterator[list[Item]]:
    """Cut *items* into lists that a statement can take as parameters."""
    for start in range(0, len(items), LARGEST_IN):
        yield list(items[start : start + LARGEST_IN])


class Upsert:
    """Add to a row, or insert it if there is none; on both engines.

    Args:
        table: Where; the primary key tells which row.
        adds: The columns to which the new values are added.
    """

    def __init__(self, table: Table, *, adds: Sequence[str]) -> None:
        self._statements = {}
        names = [column.name for column in table.columns]
        for dialect in (sqlite, postgresql):
            statement = dialect.insert(table)
            added: dict[str, ColumnElement[int]] = {
                name: table.c[name] + statement.excluded[name] for name in adds
            }
            upsert = statement.on_conflict_do_update(
                index_elements=list(table.primary_key.columns), set_=added
            )
            self._statements[dialect.dialect.name] = Rows(upsert, names)

    def execute(self, tx: Connection, rows: Sequence[Sequence[object]]) -> None:
        """Apply *rows*, whose values stand in the order of the columns."""
        self._statements[tx.dialect.name].execute(tx, rows)

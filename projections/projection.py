"""Say what a projection is: tables that follow the ledger, and can be built anew.

A projection is told what changed, in order, a batch at a time, and writes each
batch set-based.  The same ``apply`` serves live batches and rebuilds, so a
rebuilt projection cannot differ from one that was kept up to date, but by a bug
that ``ledger verify`` shows.

Each instance owns its tables' definitions.  A *shadow* is the same projection on
temporary tables of its own, built to be compared with the live ones.  The *green* one
is the same on tables that stay, built to take the live ones' place.
"""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Final, Self, TypeVar

from sqlalchemy import (
    ColumnElement,
    Connection,
    ForeignKeyConstraint,
    Index,
    MetaData,
    Select,
    Table,
    UniqueConstraint,
    select,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.schema import SchemaItem
from sqlalchemy.sql import quoted_name

from ledger.database.fast_sql import Rows
from ledger.log.recorded import Change

SHADOW_PREFIX: Final = "ledger_shadow_"
GREEN_SUFFIX: Final = "_green"
# SQLite takes 32,766 parameters in a statement, PostgreSQL 65,535.
LARGEST_IN = 10_000


class Projection(ABC):
    """Be a read model in tables of the ledger's database.

    Args:
        shadow: Define temporary tables, named apart from the live ones and
            without the indexes that only queries need.
        green: Define tables to take the live ones' place.

    Attributes:
        name: Its name, in tables, on the command line and in messages.
        version: Of what ``apply`` makes of events; raised with it, a rebuild that was
            begun by the older code is not continued.
        is_inline: Whether it commits in the same transaction as the events.
        wants_content: Whether it is told ``recorded.event.content``; not if it is inline.
    """

    name: ClassVar[str]
    version: ClassVar[int] = 1
    is_inline: ClassVar[bool] = True
    wants_content: bool = False

    def __init__(self, *, shadow: bool = False, green: bool = False) -> None:
        self.metadata = MetaData()
        self.shadow = shadow
        self._green = green
        self._names: dict[str, Table] = {}

    @property
    def tables(self) -> Sequence[Table]:
        """Return the projection's tables, the main one first."""
        return tuple(self._names.values())

    @property
    def fingerprint(self) -> str:
        """Return what tells this definition of the tables from another one."""
        told = "\n".join([f"{self.version}", *map(_described, self.tables)])
        return hashlib.sha256(told.encode()).hexdigest()[:16]

    @abstractmethod
    def apply(self, tx: Connection, changes: Sequence[Change]) -> None:
        """Follow *changes*, which come in order, a batch at a time."""

    def contents(self) -> Mapping[str, Select[Any]]:
        """Return, for each table, the rows that two equal projections share.

        A count of nothing may stand as 0 or not at all: such selects leave it out.
        """
        return {name: select(table) for name, table in self._names.items()}

    def twin(self, *, shadow: bool = False, green: bool = False) -> Self:
        """Return the same projection on other tables."""
        return type(self)(shadow=shadow, green=green)

    def _define(self, name: str, *items: SchemaItem) -> Table:
        """Return one of the projection's tables, or its shadow, or its green twin."""
        for item in items:
            if isinstance(item, ForeignKeyConstraint | UniqueConstraint):
                # The first would point at tables that are swapped, the second has a
                # name that its twin needs too.
                raise TypeError(f"{name}: use Index(…, unique=True) in place of {item!r}")
        self._names[name] = table = self._placed(name, items)
        return table

    def _placed(self, name: str, items: Sequence[SchemaItem]) -> Table:
        if self.shadow:
            columns = [item for item in items if not isinstance(item, Index)]
            return Table(SHADOW_PREFIX + name, self.metadata, *columns, prefixes=["TEMPORARY"])
        if self._green:
            for item in items:
                if isinstance(item, Index):
                    item.name = quoted_name(f"{item.name}{GREEN_SUFFIX}", quote=None)
            return Table(name + GREEN_SUFFIX, self.metadata, *items)
        return Table(name, self.metadata, *items)


def _described(table: Table) -> str:
    """Return the table's definition as text; it stays the same from version to version."""
    columns = [f"{c.name} {c.type!r} {c.nullable} {c.primary_key}" for c in table.columns]
    indexes = [
        f"{index.name} {index.unique} {[str(each) for each in index.expressions]}"
        for index in table.indexes
    ]
    return "; ".join([table.name, *columns, *sorted(indexes)])


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

"""Projections: tables that follow the ledger and can be rebuilt from it.

A projection receives changes in order, a batch at a time, and writes each batch with
set-based statements.  The same ``apply`` serves live batches and rebuilds, so a rebuilt
projection can differ from a followed one only through a bug, which ``ledger verify`` reports.

Each instance has its own table definitions and statements.  Instances that need no database
have no other state, so all systems of a process share them.  A *shadow* is the same projection
on temporary tables, which are built to be compared with the live ones.  A *replacement*
(``green``) is the same on permanent tables, which are built to take the place of the live ones.
"""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property, partial
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
from ledger.log.recorded import AnyChange, Change, LedgerChange, of_jobs, of_ledger

SHADOW_PREFIX: Final = "ledger_shadow_"
# The name in databases stays, so that a rebuild that an earlier release began is found.
REPLACEMENT_SUFFIX: Final = "_green"
# SQLite allows 32,766 parameters in a statement, PostgreSQL 65,535.
LARGEST_IN = 10_000


class Projection(ABC):
    """A read model in tables of the ledger's database.

    Args:
        shadow: Define temporary tables, with names of their own and without indexes, which
            only queries need.
        replacement: Define replacement tables, which take the place of the live ones.

    Attributes:
        name: Its name in tables, on the command line and in messages.
        version: Version of what ``apply`` writes.  If it has been raised, a rebuild that older
            code began is not continued.
        is_inline: Whether it commits in the same transaction as the events.
        wants_content: Whether ``recorded.event.content`` is filled; not if it is inline.
        wants_envelope: Whether ``recorded.stored`` is filled, which ``recorded.leaf`` needs;
            not if it is inline.
    """

    name: ClassVar[str]
    version: ClassVar[int] = 1
    is_inline: ClassVar[bool] = True
    wants_content: bool = False
    wants_envelope: bool = False

    def __init__(self, *, shadow: bool = False, replacement: bool = False) -> None:
        self.metadata = MetaData()
        self.shadow = shadow
        self._replacement = replacement
        self._names: dict[str, Table] = {}

    @property
    def tables(self) -> Sequence[Table]:
        """Return the projection's tables, the main one first."""
        return tuple(self._names.values())

    @cached_property
    def fingerprint(self) -> str:
        """Return what tells the rows of this model from those of another version of it.

        For a model that follows, it is a hash of the version and the table definitions.  The
        tables of one that commits with the events are created by migrations, so for it the
        version alone counts, which does not depend on how SQLAlchemy describes a type.
        """
        if self.is_inline:
            return f"version {self.version}"
        definition = "\n".join([f"{self.version}", *map(_described, self.tables)])
        return hashlib.sha256(definition.encode()).hexdigest()[:16]

    @abstractmethod
    def apply(self, tx: Connection, changes: Sequence[Change]) -> None:
        """Apply *changes* of jobs, which come in order, a batch at a time."""

    def apply_ledger(  # noqa: B027 - most projections use changes of jobs only
        self, tx: Connection, changes: Sequence[LedgerChange]
    ) -> None:
        """Apply *changes* of the ledger itself, in order, after the batch's changes of jobs."""

    def apply_all(self, tx: Connection, changes: Sequence[AnyChange]) -> None:
        """Apply *changes* of jobs and of the ledger itself."""
        jobs = of_jobs(changes)
        if jobs:
            self.apply(tx, jobs)
        if len(jobs) < len(changes):
            self.apply_ledger(tx, of_ledger(changes))

    def contents(self) -> Mapping[str, Select[Any]]:
        """Return, for each table, the rows that two equal projections have in common.

        A zero count may be a row with 0 or no row; such selects return only non-zero rows.
        """
        return {name: select(table) for name, table in self._names.items()}

    def twin(self, *, shadow: bool = False, replacement: bool = False) -> Self:
        """Return the same projection on other tables."""
        return type(self)(shadow=shadow, replacement=replacement)

    def _define(self, name: str, *items: SchemaItem, has_rowids: bool = True) -> Table:
        """Return one of the projection's tables, in its live, shadow or replacement form.

        Args:
            name: Its name in its live form.
            items: Its columns, constraints and indexes.
            has_rowids: Whether SQLite keeps the primary key beside the table, rather than the table
                in the order of the key.  Without, short rows take half the room, and half the time.
        """
        for item in items:
            if isinstance(item, ForeignKeyConstraint | UniqueConstraint):
                # A foreign key would reference tables that are swapped.  A unique constraint
                # has a name that its replacement would need too.
                raise TypeError(f"{name}: use Index(…, unique=True) instead of {item!r}")
        self._names[name] = table = self._placed(name, items, has_rowids)
        return table

    def _placed(self, name: str, items: Sequence[SchemaItem], has_rowids: bool) -> Table:  # noqa: FBT001 - as _define
        place = partial(Table, sqlite_with_rowid=has_rowids)
        if self.shadow:
            columns = [item for item in items if not isinstance(item, Index)]
            return place(SHADOW_PREFIX + name, self.metadata, *columns, prefixes=["TEMPORARY"])
        if self._replacement:
            for item in items:
                if isinstance(item, Index):
                    item.name = quoted_name(f"{item.name}{REPLACEMENT_SUFFIX}", quote=None)
            return place(name + REPLACEMENT_SUFFIX, self.metadata, *items)
        return place(name, self.metadata, *items)


def _described(table: Table) -> str:
    """Return the table's definition as text, which does not change between versions."""
    columns = [f"{c.name} {c.type!r} {c.nullable} {c.primary_key}" for c in table.columns]
    indexes = [
        f"{index.name} {index.unique} {[str(each) for each in index.expressions]}"
        for index in table.indexes
    ]
    return "; ".join([table.name, *columns, *sorted(indexes)])


Item = TypeVar("Item")


def in_parts(items: Sequence[Item]) -> Iterator[list[Item]]:
    """Split *items* into lists that fit into the parameters of a statement."""
    for start in range(0, len(items), LARGEST_IN):
        yield list(items[start : start + LARGEST_IN])


class Upsert:
    """A statement that adds to a row, or inserts it if it does not exist, on both engines.

    Args:
        table: The table; its primary key identifies the row.
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
        """Apply *rows*, whose values are in column order."""
        self._statements[tx.dialect.name].execute(tx, rows)

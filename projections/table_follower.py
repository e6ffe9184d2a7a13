"""Followers whose read model is in tables, with the checkpoint in the same transaction.

Rows and checkpoint commit together, so they agree whenever a process is killed: no event is
applied twice, and none is skipped.
"""

from collections.abc import Sequence
from typing import ClassVar, Self

from sqlalchemy import Connection, bindparam, inspect, select

from ledger.database.contract import Database, Leadership
from ledger.errors import Overtaken, SchemaMismatch
from ledger.log import store
from ledger.log.recorded import AnyChange
from ledger.log.schema import checkpoints
from ledger.projections.follower import ChangeConsumer, Follower
from ledger.projections.projection import Projection
from ledger.projections.rebuild import table_swap
from ledger.projections.rebuild.build import (
    Build,
    begin_checkpoint,
    read_checkpoint,
    set_checkpoint,
)
from ledger.projections.rebuild.rebuild import complete

_LOCK = (
    select(checkpoints.c.position, checkpoints.c.fingerprint)
    .where(checkpoints.c.name == bindparam("name"))
    .with_for_update()
)


class TableFollower(Projection, Follower):
    """A read model in tables of the ledger's database, shortly behind the ledger.

    A subclass defines its tables with ``self._define`` in its constructor.  Its ``apply`` writes
    what the changes of a batch do to them.

    Args:
        database: The ledger's database.
        shadow: See ``Projection``.
        replacement: See ``Projection``.
    """

    is_inline: ClassVar[bool] = False

    def __init__(
        self, database: Database, *, shadow: bool = False, replacement: bool = False
    ) -> None:
        super().__init__(shadow=shadow, replacement=replacement)
        self.database = database

    def twin(self, *, shadow: bool = False, replacement: bool = False) -> Self:
        return type(self)(self.database, shadow=shadow, replacement=replacement)

    def create(self) -> bool:
        """Create the tables unless they exist; return whether they were created.

        Raises:
            SchemaMismatch: The database has another table with the name of one of them.
        """
        with self.database.migrating() as session, session.transaction() as tx:
            is_known = read_checkpoint(tx, self.name) is not None
            if is_known and table_swap.are_there(tx, self.tables):
                return False
            # Left by a downgrade, which dropped the checkpoint.
            self._require_own(tx)
            table_swap.drop_tables(tx, self)
            for table in self.tables:
                table.create(tx)
            set_checkpoint(tx, self, 0)
        return True

    def _require_own(self, tx: Connection) -> None:
        """Refuse tables that have other columns than ours; an application may need them."""
        inspector = inspect(tx)
        for table in self.tables:
            if not inspector.has_table(table.name):
                continue
            found = [column["name"] for column in inspector.get_columns(table.name)]
            if found != [column.name for column in table.columns]:
                raise SchemaMismatch(
                    f"the read model {self.name} cannot have the table {table.name}: there is "
                    "another one of that name, with other columns; rename one of them"
                )

    # --- following

    def checkpoint(self) -> int:
        with self.database.read() as connection:
            found = read_checkpoint(connection, self.name)
            if found is None and not table_swap.are_there(connection, self.tables):
                raise SchemaMismatch(table_swap.not_there(self.name))
        return self._checked(found)

    def follow(self, changes: Sequence[AnyChange], *, through: int) -> None:
        with self.database.write() as tx:
            position = self._locked(tx)
            if position != changes[0].recorded.position - 1:
                raise Overtaken(self.name, position)
            store.require_recorded(tx, changes[-1].recorded)
            self.apply_all(tx, changes)
            set_checkpoint(tx, self, through)

    def _locked(self, tx: Connection) -> int:
        """Return the checkpoint, locked against changes by others until *tx* ends."""
        row = tx.execute(_LOCK, {"name": self.name}).first()
        if row is None:
            # A missing row cannot be locked, so two transactions could both begin: insert it first.
            begin_checkpoint(tx, self)
            row = tx.execute(_LOCK, {"name": self.name}).one()
        return self._checked((row.position, row.fingerprint))

    def leadership(self) -> Leadership:
        return self.database.leadership(f"follower-{self.name}")

    def _checked(self, found: tuple[int, str | None] | None) -> int:
        if found is None:
            return 0
        position, fingerprint = found
        if fingerprint != self.fingerprint:
            raise SchemaMismatch(
                f"the tables of {self.name} belong to another version of it; "
                f"run `ledger rebuild {self.name}`"
            )
        return position

    # --- the replacement that a rebuild builds beside the live read model

    def replacement(self) -> ChangeConsumer:
        build = Build(self.database, [self])
        build.begin()
        return build

    def swap(self) -> None:
        complete(self.database, Build(self.database, [self]), _silently)

    def drop_replacement(self) -> None:
        Build(self.database, [self]).drop()

    def replacement_checkpoint(self) -> int | None:
        return Build(self.database, [self]).begun()


def _silently(done: int, total: int) -> None:
    pass

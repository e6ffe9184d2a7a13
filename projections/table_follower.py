"""Keep a read model that catches up in tables, its checkpoint in the same transaction.

Whatever is killed when, rows and checkpoint are of the same moment, since they commit
together: nothing is applied twice, and nothing is skipped.
"""

from collections.abc import Sequence
from typing import ClassVar, Self

from sqlalchemy import Connection, bindparam, inspect, select

from ledger.database.contract import Database, Leadership
from ledger.errors import Overtaken, SchemaMismatch
from ledger.log.recorded import Change
from ledger.log.schema import checkpoints
from ledger.projections.follower import Follower, Told
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
    """Be a read model in tables of the ledger's database, a little behind the ledger.

    A subclass defines its tables with ``self._define`` in its constructor, and says in
    ``apply`` what the changes of a batch do to them.

    Args:
        database: The ledger's.
        shadow: As of ``Projection``.
        green: As of ``Projection``.
    """

    is_inline: ClassVar[bool] = False

    def __init__(self, database: Database, *, shadow: bool = False, green: bool = False) -> None:
        super().__init__(shadow=shadow, green=green)
        self.database = database

    def twin(self, *, shadow: bool = False, green: bool = False) -> Self:
        return type(self)(self.database, shadow=shadow, green=green)

    def create(self) -> bool:
        """Create the tables if there are none; return whether there were none.

        Raises:
            SchemaMismatch: Somebody else's table has the name of one.
        """
        with self.database.write() as tx:
            self.database.lock_schema(tx)
            is_known = read_checkpoint(tx, self.name) is not None
            if is_known and table_swap.are_there(tx, self.tables):
                return False
            # Left of a downgrade, which dropped how far they had come.
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

    def follow(self, changes: Sequence[Change], *, through: int) -> None:
        with self.database.write() as tx:
            position = self._locked(tx)
            if position != changes[0].recorded.position - 1:
                raise Overtaken(self.name, position)
            self.apply(tx, changes)
            set_checkpoint(tx, self, through)

    def _locked(self, tx: Connection) -> int:
        """Return the checkpoint, which nobody else moves until *tx* ends."""
        row = tx.execute(_LOCK, {"name": self.name}).first()
        if row is None:
            # What is not there cannot be locked: two could both be the first.
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
                f"the tables of {self.name} are of another version of it; "
                f"run `ledger rebuild {self.name}`"
            )
        return position

    # --- the twin that a rebuild builds beside the live one

    def green(self) -> Told:
        build = Build(self.database, [self])
        build.begin()
        return build

    def swap(self) -> None:
        complete(self.database, Build(self.database, [self]), _silently)

    def drop_green(self) -> None:
        Build(self.database, [self]).drop()

    def green_checkpoint(self) -> int | None:
        return Build(self.database, [self]).begun()


def _silently(done: int, total: int) -> None:
    pass

"""The types of jobs that are paused, and since when."""

from collections.abc import Collection, Sequence

from sqlalchemy import Column, Connection, Text, bindparam, delete, insert, select

from ledger.database.fast_sql import Query, Rows
from ledger.log.recorded import Change, LedgerChange
from ledger.log.schema import BIGINT
from ledger.projections.projection import Projection
from ledger.rules.ledger_state import Entry, EntryState, Key


class Pauses(Projection):
    """The types of which no worker may start a job."""

    name = "pauses"

    def __init__(self, *, shadow: bool = False, green: bool = False) -> None:
        super().__init__(shadow=shadow, green=green)
        self._table = table = self._define(
            "ledger_pauses",
            Column("type", Text, primary_key=True),
            Column("since_ms", BIGINT, nullable=False),
        )
        self._insert = Rows(insert(table), ("type", "since_ms"))
        self._delete = Rows(delete(table).where(table.c.type == bindparam("type_")), ("type_",))
        self._select = Query(select(table.c.type, table.c.since_ms).order_by(table.c.type))

    def apply(self, tx: Connection, changes: Sequence[Change]) -> None:
        """Ignore changes of jobs."""

    def apply_ledger(self, tx: Connection, changes: Sequence[LedgerChange]) -> None:
        for recorded, _, after in changes:
            if after.state is EntryState.PAUSED:
                self._insert.execute(tx, [(after.name, recorded.at_ms)])
            else:
                self._delete.execute(tx, [(after.name,)])

    def load(self, tx: Connection, keys: Collection[Key]) -> dict[Key, Entry]:
        """Return those of the entries that differ from their initial state."""
        paused = self.paused(tx)
        return {
            key: Entry(key.subject, key.name, EntryState.PAUSED, paused[key.name])
            for key in keys
            if key.name in paused
        }

    def paused(self, connection: Connection) -> dict[str, int]:
        """Return the paused types, each with the start of its pause in UTC milliseconds."""
        return dict(tuple(row) for row in self._select.all(connection))

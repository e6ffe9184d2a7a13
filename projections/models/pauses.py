"""Answer which types of jobs are paused, and since when."""

from collections.abc import Sequence

from sqlalchemy import Column, Connection, Text, bindparam, delete, insert, select

from ledger.database.fast_sql import Query, Rows
from ledger.log.recorded import LEDGER_STREAM, Change
from ledger.log.schema import BIGINT
from ledger.projections.projection import Projection
from ledger.rules.events import Paused, Resumed


class Pauses(Projection):
    """Be the types of which no worker may begin a job."""

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
        for recorded, before, _ in changes:
            # Of all other events, most by far, no more is asked than this.
            if before.id != LEDGER_STREAM:
                continue
            event = recorded.event
            if isinstance(event, Paused):
                self._insert.execute(tx, [(event.type, recorded.at_ms)])
            elif isinstance(event, Resumed):
                self._delete.execute(tx, [(event.type,)])

    def paused(self, connection: Connection) -> dict[str, int]:
        """Return the paused types, and since when: UTC milliseconds."""
        return dict(tuple(row) for row in self._select.all(connection))

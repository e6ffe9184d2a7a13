"""The durations of jobs by type: an example of a read model that is not part of Ledger."""

from collections import Counter
from collections.abc import Sequence

from sqlalchemy import BigInteger, Column, Connection, Index, Text, select

from ledger.database.contract import Database
from ledger.log.recorded import Change
from ledger.projections.projection import Upsert
from ledger.projections.table_follower import TableFollower
from ledger.rules.events import Completed


class Durations(TableFollower):
    """One row per type: the number of completed jobs and their total duration."""

    name = "durations"

    def __init__(
        self, database: Database, *, shadow: bool = False, replacement: bool = False
    ) -> None:
        super().__init__(database, shadow=shadow, replacement=replacement)
        self._table = self._define(
            "durations",
            Column("type", Text, primary_key=True),
            Column("jobs", BigInteger, nullable=False),
            Column("total_ms", BigInteger, nullable=False),
            Index("durations_by_total", "total_ms"),
        )
        self._add = Upsert(self._table, adds=("jobs", "total_ms"))

    def apply(self, tx: Connection, changes: Sequence[Change]) -> None:
        """Add up a batch, then write one row per type."""
        jobs: Counter[str] = Counter()
        total_ms: Counter[str] = Counter()
        for recorded, _, job in changes:
            event = recorded.event
            if isinstance(event, Completed) and event.duration_ms is not None:
                jobs[job.type] += 1
                total_ms[job.type] += event.duration_ms
        self._add.execute(tx, [(type_, jobs[type_], total_ms[type_]) for type_ in sorted(jobs)])

    def mean_ms(self, connection: Connection) -> dict[str, float]:
        """Return the mean duration of a job by type, in milliseconds."""
        table = self._table
        rows = connection.execute(select(table.c.type, table.c.jobs, table.c.total_ms))
        return {type_: total_ms / jobs for type_, jobs, total_ms in rows}

"""What happened in each minute, for the charts.

This read model follows about a second behind the ledger, so it costs writers nothing: no
decision needs it, and no client needs it right after a write.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Final, NamedTuple

from sqlalchemy import BigInteger, Column, Connection, Text, bindparam, func, select

from ledger.database.contract import Database
from ledger.database.fast_sql import Query
from ledger.log.hash_chain import GENESIS
from ledger.log.recorded import Change
from ledger.log.schema import BIGINT, checkpoints, events
from ledger.projections.projection import Upsert
from ledger.projections.table_follower import TableFollower
from ledger.rules.events import Completed, Created, Event, Failed, Started

MINUTE_MS: Final = 60_000


class MinuteCounts(NamedTuple):
    """The counts of one minute.

    Attributes:
        minute_ms: Its start, UTC milliseconds.
        created: Jobs that were created.
        started: Attempts that workers started.
        completed: Attempts that succeeded.
        failed: Attempts that failed, whether or not they were the last of their job.
        work_ms: Total duration of the attempts that succeeded.
    """

    minute_ms: int
    created: int
    started: int
    completed: int
    failed: int
    work_ms: int


class Busy(NamedTuple):
    """The minutes of a range in which something happened.

    Attributes:
        position: The ledger's position up to which they are counted.
        chain: The chain value of that position; zeros at 0.
    """

    position: int
    minutes: Sequence[MinuteCounts]
    chain: bytes = GENESIS


_COUNTED: Final[dict[type[Event], str]] = {
    Created: "created",
    Started: "started",
    Completed: "completed",
    Failed: "failed",
}


class Activity(TableFollower):
    """A table with one row per minute and type."""

    name = "activity"
    # Charts by minute can wait, and one commit applies everything that gathers.
    pause_s = 1.0

    def __init__(
        self, database: Database, *, shadow: bool = False, replacement: bool = False
    ) -> None:
        super().__init__(database, shadow=shadow, replacement=replacement)
        self._table = table = self._define(
            "ledger_activity",
            Column("minute_ms", BIGINT, primary_key=True, autoincrement=False),
            Column("type", Text, primary_key=True),
            *(Column(name, BigInteger, nullable=False) for name in MinuteCounts._fields[1:]),
        )
        self._add = Upsert(table, adds=MinuteCounts._fields[1:])
        moment = (
            select(checkpoints.c.position).where(checkpoints.c.name == self.name).scalar_subquery()
        )
        chain = select(events.c.chain).where(events.c.position == moment).scalar_subquery()
        self._version = Query(select(moment, chain))
        range_ = (
            select(
                table.c.minute_ms, *(func.sum(table.c[name]) for name in MinuteCounts._fields[1:])
            )
            .where(
                table.c.minute_ms >= bindparam("from_ms"), table.c.minute_ms < bindparam("to_ms")
            )
            .group_by(table.c.minute_ms)
            .order_by(table.c.minute_ms)
        )
        self._minutes = Query(range_)
        self._minutes_of_type = Query(range_.where(table.c.type == bindparam("type")))

    def apply(self, tx: Connection, changes: Sequence[Change]) -> None:
        counts: Counter[tuple[int, str, str]] = Counter()
        minute_ms, end_ms = 0, 0
        for recorded, _, after in changes:
            event = recorded.event
            name = _COUNTED.get(type(event))
            if name is None:
                continue
            # Times of events never decrease, and a batch mostly lies within one minute.
            if recorded.at_ms >= end_ms:
                minute_ms = recorded.at_ms - recorded.at_ms % MINUTE_MS
                end_ms = minute_ms + MINUTE_MS
            counts[minute_ms, after.type, name] += 1
            if isinstance(event, Completed) and event.duration_ms:
                counts[minute_ms, after.type, "work_ms"] += event.duration_ms
        keys = sorted({(minute_ms, type_) for minute_ms, type_, _ in counts})
        self._add.execute(
            tx, [(*key, *(counts[*key, name] for name in MinuteCounts._fields[1:])) for key in keys]
        )

    def minutes(
        self, connection: Connection, *, from_ms: int, to_ms: int, type_: str | None = None
    ) -> Busy:
        """Return the minutes that begin in a range, oldest first.

        Args:
            connection: Where to read.
            from_ms: Start of the range, UTC milliseconds.
            to_ms: End of the range, exclusive.
            type_: Type of the jobs to count; None counts all types together.
        """
        # Read before the rows: they may be newer than the position, never older.
        position, chain = self._version.first(connection)
        if type_ is None:
            rows = self._minutes.all(connection, from_ms=from_ms, to_ms=to_ms)
        else:
            rows = self._minutes_of_type.all(connection, from_ms=from_ms, to_ms=to_ms, type=type_)
        return Busy(position or 0, [MinuteCounts(*map(int, row)) for row in rows], chain or GENESIS)

"""The number of jobs by type and state, kept up to date so that a query need not count them."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from sqlalchemy import (
    BigInteger,
    Column,
    ColumnElement,
    Connection,
    Select,
    Table,
    Text,
    bindparam,
    case,
    func,
    or_,
    select,
)

from ledger.database.code_point_order import ByCodePoint
from ledger.database.fast_sql import Query
from ledger.log import schema, store
from ledger.log.recorded import Change
from ledger.projections.projection import Projection, Upsert
from ledger.rules.commands import LARGEST_INTEGER
from ledger.rules.events import Completed
from ledger.rules.job import LIVE_STATES, State

# The type of the rows that sum up all types; no job has it.
EVERY_TYPE = ""


class Totals(NamedTuple):
    """The counts at one ledger position.

    Attributes:
        position: The ledger's position at that moment.
        counts: Number of jobs in each of the five states.
        work_ms: Time that completed jobs took, including removed ones.
        chain: The chain value of that position.
    """

    position: int
    counts: Mapping[State, int]
    work_ms: int
    chain: bytes


class StateCounts(Projection):
    """The counts: one row per type and state, and one per state for all types."""

    name = "state_counts"

    def __init__(self, *, shadow: bool = False, replacement: bool = False) -> None:
        super().__init__(shadow=shadow, replacement=replacement)
        self._table = table = self._define(
            "ledger_state_counts",
            Column("type", Text, primary_key=True),
            Column("state", Text, primary_key=True),
            Column("jobs", BigInteger, nullable=False),
            Column("work_ms", BigInteger, nullable=False),
        )
        self._add = Upsert(table, adds=("jobs", "work_ms"))
        self._stats = Query(_stats_statement(table))
        self._count = Query(
            select(schema.head.c.position, schema.head.c.chain, table.c.jobs)
            .select_from(schema.head)
            .outerjoin(
                table,
                (table.c.type == bindparam("type")) & (table.c.state == bindparam("state")),
            )
        )
        name = ByCodePoint(table.c.type)
        # EVERY_TYPE comes before all types.
        types = (
            select(table.c.type)
            .where(name > bindparam("after"))
            .group_by(table.c.type)
            .having(func.sum(table.c.jobs) > 0)
        )
        self._types = Query(types.order_by(name).limit(bindparam("limit")))
        self._count_types = Query(select(func.count()).select_from(types.subquery()))
        page = types.order_by(name).limit(bindparam("limit")).subquery("page")
        self._by_type = Query(
            select(table.c.type, table.c.state, table.c.jobs)
            .where(table.c.type.in_(select(page.c.type)), table.c.jobs != 0)
            .order_by(name)
        )

    def apply(self, tx: Connection, changes: Sequence[Change]) -> None:
        # Not counters, whose methods are in Python, which each creation would pay for.
        moves: defaultdict[tuple[str, State, State], int] = defaultdict(int)
        worked: defaultdict[tuple[str, State], int] = defaultdict(int)
        for recorded, before, after in changes:
            moves[after.type, before.state, after.state] += 1
            event = recorded.event
            if type(event) is Completed and event.duration_ms:
                worked[after.type, after.state] += event.duration_ms
        jobs: defaultdict[tuple[str, str], int] = defaultdict(int)
        for (type_, old, new), number in moves.items():
            for state, change in ((old, -number), (new, number)):
                if state in LIVE_STATES:
                    jobs[type_, state.value] += change
                    jobs[EVERY_TYPE, state.value] += change
        work_ms: defaultdict[tuple[str, str], int] = defaultdict(int)
        for (type_, state), duration_ms in worked.items():
            work_ms[type_, state.value] += duration_ms
            work_ms[EVERY_TYPE, state.value] += duration_ms
        # Always in the same order; otherwise two writers of a shared row could deadlock.
        self._add.execute(
            tx,
            [
                (*key, jobs[key], work_ms[key])
                for key in sorted(jobs.keys() | work_ms.keys())
                if jobs[key] or work_ms[key]
            ],
        )

    def contents(self) -> Mapping[str, Select[Any]]:
        table = self._table
        rows = select(table).where(or_(table.c.jobs != 0, table.c.work_ms != 0))
        return {"ledger_state_counts": rows}

    def stats(self, connection: Connection, type_: str | None = None) -> Totals:
        """Return the counts over all types, or of one type, read in one statement."""
        counted = EVERY_TYPE if type_ is None else type_
        position, chain, work_ms, *jobs = self._stats.first(connection, type=counted)
        counts = dict(zip(LIVE_STATES, map(int, jobs), strict=True))
        return Totals(position, counts, int(work_ms), chain)

    def count(self, connection: Connection, type_: str, state: State) -> tuple[int, bytes, int]:
        """Return the ledger's position, its chain value, and the jobs of a type in a state."""
        position, chain, jobs = self._count.first(connection, type=type_, state=state.value)
        return position, chain, jobs or 0

    def by_type(
        self, connection: Connection, *, after: str = EVERY_TYPE, limit: int = LARGEST_INTEGER
    ) -> Mapping[str, Mapping[State, int]]:
        """Return the number of jobs in each state that has some, by type; types as ``types``."""
        found: dict[str, dict[State, int]] = {}
        for type_, state, jobs in self._by_type.all(connection, after=after, limit=limit):
            found.setdefault(type_, {})[State(state)] = jobs
        return found

    def types(
        self, connection: Connection, *, after: str = EVERY_TYPE, limit: int = LARGEST_INTEGER
    ) -> list[str]:
        """Return types that have jobs, sorted by code point.

        Args:
            connection: Where to read.
            after: Return only types that follow this one in that order.
            limit: Maximum number of types.
        """
        return [type_ for (type_,) in self._types.all(connection, after=after, limit=limit)]

    def count_types(self, connection: Connection, *, after: str = EVERY_TYPE) -> int:
        """Return how many types that follow a type have jobs."""
        number: int = self._count_types.first(connection, after=after)[0]
        return number


def _stats_statement(table: Table) -> Select[Any]:
    """Return the statement whose row is the ledger's version, the work time, and five counts."""

    def of(state: State) -> ColumnElement[int]:
        return func.coalesce(func.sum(case((table.c.state == state.value, table.c.jobs))), 0)

    work_ms = func.coalesce(func.sum(table.c.work_ms), 0)
    return select(*store.MOMENT, work_ms, *map(of, LIVE_STATES)).where(
        table.c.type == bindparam("type")
    )

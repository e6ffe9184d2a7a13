"""Answer what a job is now, and which jobs a list shows.

``jobs`` holds a row a job: what the rules decide upon, the order in which to claim,
and the JSON that the views show, ready but for its content.  Content is not in it.
The columns ``*_position`` point at the events that hold it, so there is one copy of
it, and what is erased there is gone here.

The list that SQL does not have
-------------------------------
A page of Kue's lists is a range of *ranks*: ``/jobs/failed/90000..90019``.  SQL
finds a rank by walking to it (``OFFSET``), so a deep page of a long list costs
its depth.  ``job_ranks`` makes the walk short: it counts the jobs of each list in
every run of 1,024 ids and of 1,048,576 ids.  A page that is deep from both ends
sums up runs until it is in the right one, and walks at most 1,023 entries.  The
counts change with the jobs, in the same transaction.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from operator import itemgetter
from typing import Any, Final, NamedTuple

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    ColumnElement,
    Connection,
    Index,
    Integer,
    Select,
    Table,
    Text,
    and_,
    bindparam,
    delete,
    func,
    insert,
    literal_column,
    select,
    text,
    update,
)

from ledger import schema
from ledger.job import LIVE_STATES, Job, State
from ledger.record import Change
from ledger.rows import Listed, Query, Rows
from ledger.schema import BIGINT
from ledger.service import Claimable
from projections.projection import Projection, Upsert, in_parts
from projections.shown import Frame, Shown, frame_of, json_of

# Lists over all types are counted under this, which no job has for its type.
EVERY_TYPE: Final = ""
# Ids in a run, as powers of two: 1,024 and 1,048,576; the last is the whole list.
SPANS: Final = (10, 20, 62)
WHOLE_LIST: Final = SPANS[-1]
# Up to this depth, walking is quicker than finding out where to start.
SHALLOW: Final = 1_000


class JobList(NamedTuple):
    """Name a list of jobs: all, those in a state, or those of a type in a state."""

    state: State | None = None
    type: str | None = None


class Held(NamedTuple):
    """Be an attempt, and the worker that holds it."""

    job_id: int
    attempt: int
    worker: str


# What never changes after creation is not written again.
_CONSTANT: Final = frozenset(
    {
        "id",
        "type",
        "max_attempts",
        "ttl_ms",
        "backoff",
        "backoff_delay_ms",
        "backoff_max_ms",
        "remove_on_complete",
        "created_at_ms",
        "data_position",
        "json_start",
    }
)
_COLUMNS: Final = (*Job._fields, *Frame._fields)
_CHANGING: Final = tuple(name for name in _COLUMNS if name not in _CONSTANT)
# Not with IN, for which SQLite builds a table at every statement: 3 of 15 µs a row.
_STATE_IS_KNOWN: Final = " OR ".join(f"state = '{state}'" for state in LIVE_STATES)


class Jobs(Projection):
    """Be the jobs, and the counts that find a page of them."""

    name = "jobs"

    def __init__(self, *, shadow: bool = False, green: bool = False) -> None:
        super().__init__(shadow=shadow, green=green)
        self._jobs = jobs = self._define("jobs", *_job_columns(), *_job_indexes())
        self._ranks = ranks = self._define(
            "job_ranks",
            Column("type", Text, primary_key=True),
            Column("state", Text, primary_key=True),
            Column("span", Integer, primary_key=True),
            Column("bucket", BIGINT, primary_key=True),
            Column("jobs", BigInteger, nullable=False),
        )
        self._insert = Rows(insert(jobs), _COLUMNS)
        self._update = Rows(
            update(jobs)
            .where(jobs.c.id == bindparam("id_"))
            .values({name: bindparam(name) for name in _CHANGING}),
            (*_CHANGING, "id_"),
        )
        self._delete = Rows(delete(jobs).where(jobs.c.id == bindparam("id_")), ("id_",))
        self._add_ranks = Upsert(ranks, adds=("jobs",))
        self._load = Listed(select(*(jobs.c[name] for name in Job._fields)), jobs.c.id)
        content = select(schema.events.c.content)
        self._claimable = Query(
            select(
                *(jobs.c[name] for name in Job._fields),
                content.where(schema.events.c.position == jobs.c.data_position)
                .scalar_subquery()
                .label("data"),
            )
            .where(
                jobs.c.type == bindparam("type"),
                jobs.c.state == literal_column(f"'{State.INACTIVE.value}'"),
            )
            .order_by(jobs.c.priority, jobs.c.id)
            .limit(bindparam("limit"))
        )
        self._any_claimable = Query(
            select(jobs.c.id)
            .where(
                jobs.c.type == bindparam("type"),
                jobs.c.state == literal_column(f"'{State.INACTIVE.value}'"),
            )
            .limit(1)
        )
        self._held = Query(
            select(jobs.c.id, jobs.c.attempt, jobs.c.worker)
            .where(
                jobs.c.state == literal_column(f"'{State.ACTIVE.value}'"),
                jobs.c.worker.is_not(None),
                # By hand an operator begins attempts that no worker holds.
                jobs.c.started_attempt == jobs.c.attempt,
            )
            .order_by(jobs.c.id)
        )
        self._running = Listed(
            select(jobs.c.id, jobs.c.attempt, json_of(jobs)).where(
                jobs.c.state == literal_column(f"'{State.ACTIVE.value}'")
            ),
            jobs.c.id,
        )
        self._due = Query(
            select(jobs.c.id)
            .where(jobs.c.due_at_ms <= bindparam("now_ms"))
            .order_by(jobs.c.due_at_ms)
            .limit(bindparam("limit"))
        )
        self._moment = select(schema.head.c.position).scalar_subquery()
        self._get = Query(
            select(self._moment, json_of(jobs)).where(jobs.c.id == bindparam("job_id"))
        )
        in_list = and_(
            ranks.c.type == bindparam("list_type"),
            ranks.c.state.in_(bindparam("list_states", expanding=True)),
        )
        self._length = select(func.sum(ranks.c.jobs)).where(in_list, ranks.c.span == WHOLE_LIST)
        self._run = _run_of_rank(ranks, in_list)
        self._pages: dict[tuple[object, ...], Query] = {}

    # --- following the ledger

    def apply(self, tx: Connection, changes: Sequence[Change]) -> None:
        before: dict[int, Job] = {}
        after: dict[int, Job] = {}
        for recorded, was, job in changes:
            before.setdefault(recorded.job_id, was)
            after[recorded.job_id] = job
        new, changed, gone = [], [], []
        for job in after.values():
            existed = before[job.id].exists
            if not job.exists:
                if existed:
                    gone.append((job.id,))
            elif existed:
                changed.append(_changing(_row(job)))
            else:
                new.append(_row(job))
        self._insert.execute(tx, new)
        self._update.execute(tx, changed)
        self._delete.execute(tx, gone)
        self._count_ranks(tx, before, after)

    def _count_ranks(
        self, tx: Connection, before: Mapping[int, Job], after: Mapping[int, Job]
    ) -> None:
        fine, *coarser = SPANS
        moves = Counter(
            (job.type, before[job.id].state, job.state, job.id >> fine) for job in after.values()
        )
        counts: Counter[tuple[str, str, int, int]] = Counter()
        for (type_, old, new, bucket), number in moves.items():
            if old is new:
                continue
            for state, change in ((old, -number), (new, number)):
                if state not in LIVE_STATES:
                    continue
                for name in (type_, EVERY_TYPE):
                    counts[name, state.value, fine, bucket] += change
                    for span in coarser:
                        counts[name, state.value, span, bucket >> (span - fine)] += change
        self._add_ranks.execute(tx, [(*key, counts[key]) for key in sorted(counts) if counts[key]])

    def contents(self) -> Mapping[str, Select[Any]]:
        return {
            "jobs": select(self._jobs),
            "job_ranks": select(self._ranks).where(self._ranks.c.jobs != 0),
        }

    # --- what the rules and the sweeper ask

    def load(self, tx: Connection, job_ids: Sequence[int]) -> Mapping[int, Job]:
        """Return those of the jobs that there are."""
        found = {}
        for some in in_parts(job_ids):
            for row in self._load.all(tx, some):
                job = _job(row)
                found[job.id] = job
        return found

    def claimable(self, tx: Connection, type_: str, *, limit: int) -> list[Claimable]:
        """Return jobs of a type that wait, by priority, then age."""
        return [
            Claimable(_job(row[:-1]), row[-1])
            for row in self._claimable.all(tx, type=type_, limit=limit)
        ]

    def any_claimable(self, connection: Connection, type_: str) -> bool:
        """Return whether a job of a type waits."""
        return self._any_claimable.first(connection, type=type_) is not None

    def held(self, connection: Connection) -> list[Held]:
        """Return the attempts that workers hold."""
        return [Held(*row) for row in self._held.all(connection)]

    def due(self, connection: Connection, *, now_ms: int, limit: int) -> list[int]:
        """Return ids of jobs that time changes by *now_ms*, the longest due first."""
        return [job_id for (job_id,) in self._due.all(connection, now_ms=now_ms, limit=limit)]

    # --- what the views ask

    def get(self, connection: Connection, job_id: int) -> Shown | None:
        """Return the job's JSON object, None if there is no such job."""
        row = self._get.first(connection, job_id=job_id)
        return None if row is None else Shown(*row)

    def running(self, connection: Connection, attempts: Mapping[int, int]) -> list[tuple[str, int]]:
        """Return the JSON object and attempt of those jobs whose attempt still runs.

        Args:
            connection: Where to read.
            attempts: The jobs, in the order of the answer, and the attempt of each.
        """
        rows = self._running.all(connection, list(attempts))
        found = {(job_id, attempt): json for job_id, attempt, json in rows}
        return [(found[key], key[1]) for key in attempts.items() if key in found]

    def page(
        self,
        connection: Connection,
        jobs: JobList,
        first: int,
        last: int,
        *,
        descending: bool = False,
        by_priority: bool = False,
    ) -> Shown:
        """Return the jobs with the ranks *first* to *last* of a list.

        Args:
            connection: On a snapshot, unless ``is_shallow(first, last)``.
            jobs: Which list.
            first: Rank of the first job, from 0; negative counts from the end.
            last: Rank of the last job, inclusive; as *first*.
            descending: Reverse the whole list first.
            by_priority: Order by priority, then age, in place of age alone.
        """
        order = _Order(descending, by_priority)
        if is_shallow(first, last):
            if first >= 0:
                return self._walk(connection, jobs, first, last - first + 1, order)
            return self._walk(connection, jobs, -1 - last, last - first + 1, order, backwards=True)
        length = self.length(connection, jobs)
        first, last = clip(first, last, length)
        return self._find(connection, jobs, first, last, length, order)

    def _find(
        self,
        connection: Connection,
        jobs: JobList,
        first: int,
        last: int,
        length: int,
        order: "_Order",
    ) -> Shown:
        """Return the page of ranks within the list, from whichever place is nearest."""
        size = last - first + 1
        behind = length - 1 - last
        if min(first, behind) > SHALLOW and not order.by_priority:
            oldest = behind if order.descending else first
            start, skip = self._seek(connection, jobs, oldest)
            return self._walk(
                connection, jobs, skip, size, order, backwards=order.descending, start=start
            )
        if behind < first:
            return self._walk(connection, jobs, behind, size, order, backwards=True)
        return self._walk(connection, jobs, first, size, order)

    def length(self, connection: Connection, jobs: JobList) -> int:
        """Return how many jobs a list has."""
        return int(connection.scalar(self._length, self._in_list(jobs)) or 0)

    def _seek(self, connection: Connection, jobs: JobList, rank: int) -> tuple[int, int]:
        """Return an id, and how many jobs from there *rank* is away."""
        start = 0
        coarser = WHOLE_LIST
        for span in reversed(SPANS[:-1]):
            parameters = {
                "span": span,
                "start": start >> span,
                "end": (start >> span) + (1 << (coarser - span)),
                "rank": rank,
            }
            run = connection.execute(self._run, parameters | self._in_list(jobs)).one()
            start, rank, coarser = run.bucket << span, rank - int(run.before), span
        return start, rank

    @staticmethod
    def _in_list(jobs: JobList) -> dict[str, Any]:
        states = LIVE_STATES if jobs.state is None else (jobs.state,)
        return {
            "list_type": EVERY_TYPE if jobs.type is None else jobs.type,
            "list_states": [state.value for state in states],
        }

    def _walk(
        self,
        connection: Connection,
        jobs: JobList,
        skip: int,
        size: int,
        order: "_Order",
        *,
        backwards: bool = False,
        start: int = 0,
    ) -> Shown:
        """Return *size* jobs of a list after skipping some, from id *start* on.

        *backwards* walks from the other end, and shows what it meets in *order*.
        """
        shape = jobs.state is None, jobs.type is None, order, backwards
        query = self._pages.get(shape)
        if query is None:
            query = self._pages[shape] = Query(self._page_statement(jobs, order, backwards))
        position, json = query.first(
            connection,
            # An empty list has no rank at all to begin at.
            skip=max(0, skip),
            size=max(0, size),
            start=start,
            state=jobs.state and jobs.state.value,
            type=jobs.type,
        )
        return Shown(position, f"[{json or ''}]")

    def _page_statement(
        self,
        jobs: JobList,
        order: "_Order",
        backwards: bool,  # noqa: FBT001 - part of the shape, as the others
    ) -> Select[Any]:
        """Return the statement for all pages of the shape of *jobs*.

        Its one row is the moment, and the page's objects in a line; the aggregate
        takes them in the subselect's order, on both engines.
        """
        table = self._jobs
        # By priority there is no starting in the middle, and a condition on the id
        # would tempt the planner to sort.
        conditions = [] if order.by_priority else [table.c.id >= bindparam("start")]
        if jobs.state is not None:
            conditions.append(table.c.state == bindparam("state"))
        if jobs.type is not None:
            conditions.append(table.c.type == bindparam("type"))
        columns = [table.c.priority, table.c.id] if order.by_priority else [table.c.id]
        walked = order.reversed if backwards else order
        page = (
            select(*columns, json_of(table))
            .where(*conditions)
            .order_by(*(column.desc() if walked.descending else column for column in columns))
            .limit(bindparam("size"))
            .offset(bindparam("skip"))
            .subquery("page")
        )
        if backwards:
            shown = [page.c[column.name] for column in columns]
            page = (
                select(page.c.json)
                .order_by(*(column.desc() if order.descending else column for column in shown))
                .subquery("shown")
            )
        return select(self._moment, func.aggregate_strings(page.c.json, ","))


_STATE: Final = Job._fields.index("state")
_REMOVE_ON_COMPLETE: Final = Job._fields.index("remove_on_complete")


def _job(row: Sequence[Any]) -> Job:
    """Return the job of a row, whose values are as the database has them."""
    values = list(row)
    values[_STATE] = State(values[_STATE])
    values[_REMOVE_ON_COMPLETE] = bool(values[_REMOVE_ON_COMPLETE])
    return Job._make(values)


class _Order(NamedTuple):
    descending: bool
    by_priority: bool

    @property
    def reversed(self) -> "_Order":
        return self._replace(descending=not self.descending)


_OLDEST_FIRST: Final = _Order(descending=False, by_priority=False)


def is_shallow(first: int, last: int) -> bool:
    """Tell whether a page is near enough to an end of its list to walk to it."""
    return (0 <= first <= SHALLOW and last >= 0) or (first < 0 and -1 - SHALLOW <= last < 0)


def clip(first: int, last: int, length: int) -> tuple[int, int]:
    """Return ranks from 0 on and within a list of *length*; (1, 0) for no page."""
    first = max(0, first + length if first < 0 else first)
    last = min(length - 1, last + length if last < 0 else last)
    return (first, last) if first <= last else (1, 0)


def _job_columns() -> Sequence[Column[Any] | CheckConstraint]:
    return (
        Column("id", BIGINT, primary_key=True, autoincrement=False),
        Column("version", BIGINT, nullable=False),
        Column("state", Text, nullable=False),
        Column("type", Text, nullable=False),
        Column("priority", BIGINT, nullable=False),
        Column("max_attempts", BIGINT, nullable=False),
        Column("made", BIGINT, nullable=False),
        Column("attempt", BIGINT, nullable=False),
        Column("started_attempt", BIGINT, nullable=False),
        Column("delay_ms", BIGINT),
        Column("ttl_ms", BIGINT),
        Column("backoff", Text),
        Column("backoff_delay_ms", BIGINT, nullable=False),
        Column("backoff_max_ms", BIGINT),
        Column("remove_on_complete", Integer, nullable=False),
        Column("worker", Text),
        Column("progress", Integer),
        Column("created_at_ms", BIGINT, nullable=False),
        Column("promote_at_ms", BIGINT, nullable=False),
        Column("updated_at_ms", BIGINT, nullable=False),
        Column("failed_at_ms", BIGINT),
        Column("started_at_ms", BIGINT),
        Column("duration_ms", BIGINT),
        Column("due_at_ms", BIGINT),
        Column("data_position", BIGINT),
        Column("result_position", BIGINT),
        Column("error_position", BIGINT),
        Column("progress_position", BIGINT),
        *(Column(name, Text, nullable=False) for name in Frame._fields),
        CheckConstraint(_STATE_IS_KNOWN, name="jobs_state_known"),
        CheckConstraint("made <= max_attempts", name="jobs_made_bounded"),
    )


def _job_indexes() -> Sequence[Index]:
    """Return an index a list and order, and one for what time changes."""
    due = text("due_at_ms IS NOT NULL")
    return (
        Index("jobs_by_state", "state", "id"),
        Index("jobs_by_type", "type", "state", "id"),
        Index("jobs_by_priority", "priority", "id"),
        Index("jobs_by_state_priority", "state", "priority", "id"),
        Index("jobs_by_type_priority", "type", "state", "priority", "id"),
        Index("jobs_due", "due_at_ms", sqlite_where=due, postgresql_where=due),
    )


def _run_of_rank(ranks: Table, in_list: ColumnElement[bool]) -> Select[Any]:
    """Return the statement for the run of ids in which a rank falls.

    Its row has the run's ``bucket`` and the number of jobs ``before`` it.
    """
    number = func.sum(ranks.c.jobs)
    runs = (
        select(
            ranks.c.bucket,
            number.label("jobs"),
            func.sum(number).over(order_by=ranks.c.bucket).label("through"),
        )
        .where(
            in_list,
            ranks.c.span == bindparam("span"),
            ranks.c.bucket >= bindparam("start"),
            ranks.c.bucket < bindparam("end"),
        )
        .group_by(ranks.c.bucket)
        .subquery()
    )
    return (
        select(runs.c.bucket, (runs.c.through - runs.c.jobs).label("before"))
        .where(runs.c.through > bindparam("rank"))
        .order_by(runs.c.bucket)
        .limit(1)
    )


_PLACE: Final = {name: place for place, name in enumerate(_COLUMNS)}
_changing = itemgetter(*(_PLACE[name] for name in (*_CHANGING, "id")))


def _row(job: Job) -> Sequence[Any]:
    """Return the job as a row; drivers take a plain text or number more quickly."""
    row: list[Any] = [*job, *frame_of(job)]
    row[_PLACE["state"]] = job.state.value
    row[_PLACE["remove_on_complete"]] = int(job.remove_on_complete)
    return row

"""Answer what a job is now, and which jobs a list shows.

``jobs`` holds a row a job: what the rules decide upon, what the views show, and
the order in which to claim.  Content is not in it.  Its columns ``*_position``
point at the events that hold it, so there is one copy of it, and what is erased
there is gone here.

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
from typing import Any, Final, NamedTuple

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    Connection,
    Index,
    Integer,
    Label,
    Select,
    Table,
    Text,
    and_,
    bindparam,
    delete,
    func,
    insert,
    select,
    text,
    true,
    update,
)

from ledger import schema
from ledger.job import LIVE_STATES, Job, State
from ledger.record import Change
from ledger.schema import BIGINT
from projections.projection import Projection, Upsert, in_parts

# Lists over all types are counted under this, which no job has for its type.
EVERY_TYPE: Final = ""
# Ids in a run, as powers of two: 1,024 and 1,048,576; the last is the whole list.
SPANS: Final = (10, 20, 62)
WHOLE_LIST: Final = SPANS[-1]
# Up to this depth, walking is quicker than finding out where to start.
SHALLOW: Final = 1_000


class JobView(NamedTuple):
    """Be a job as it is shown, with its content.

    Content is JSON text, None where there is none or it was erased.
    """

    id: int
    type: str
    state: str
    priority: int
    progress: int | None
    made: int
    max_attempts: int
    attempt: int
    created_at_ms: int
    promote_at_ms: int
    updated_at_ms: int
    failed_at_ms: int | None
    started_at_ms: int | None
    duration_ms: int | None
    delay_ms: int | None
    ttl_ms: int | None
    worker: str | None
    data: str | None
    result: str | None
    error: str | None
    progress_data: str | None


class JobList(NamedTuple):
    """Name a list of jobs: all, those in a state, or those of a type in a state."""

    state: State | None = None
    type: str | None = None


class Page(NamedTuple):
    """Be a range of a list.

    Attributes:
        position: The ledger's position at the moment that is shown.
        jobs: The jobs, in the order asked for.
    """

    position: int
    jobs: Sequence[JobView]


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
    }
)
_CHANGING: Final = tuple(name for name in Job._fields if name not in _CONSTANT)
_STATES_SQL: Final = ", ".join(f"'{state}'" for state in LIVE_STATES)


class Jobs(Projection):
    """Be the jobs, and the counts that find a page of them."""

    name = "jobs"

    def __init__(self, *, shadow: bool = False) -> None:
        super().__init__(shadow=shadow)
        self._jobs = jobs = self._define("jobs", *_job_columns(), *_job_indexes())
        self._ranks = ranks = self._define(
            "job_ranks",
            Column("type", Text, primary_key=True),
            Column("state", Text, primary_key=True),
            Column("span", Integer, primary_key=True),
            Column("bucket", BIGINT, primary_key=True),
            Column("jobs", BigInteger, nullable=False),
        )
        self._insert = insert(jobs)
        self._update = (
            update(jobs)
            .where(jobs.c.id == bindparam("id_"))
            .values({name: bindparam(name) for name in _CHANGING})
        )
        self._delete = delete(jobs).where(jobs.c.id == bindparam("id_"))
        self._add_ranks = Upsert(ranks, adds=("jobs",))
        self._load = select(*(jobs.c[name] for name in Job._fields)).where(
            jobs.c.id.in_(bindparam("job_ids", expanding=True))
        )
        self._due = (
            select(jobs.c.id)
            .where(jobs.c.due_at_ms <= bindparam("now_ms"))
            .order_by(jobs.c.due_at_ms)
            .limit(bindparam("limit"))
        )
        self._get = _view_of(
            select(jobs.c.id).where(jobs.c.id == bindparam("job_id")).subquery("page"), jobs
        )
        self._pages: dict[tuple[object, ...], Select[Any]] = {}

    # --- following the ledger

    def apply(self, tx: Connection, changes: Sequence[Change]) -> None:
        before: dict[int, Job] = {}
        after: dict[int, Job] = {}
        for change in changes:
            job_id = change.after.id
            before.setdefault(job_id, change.before)
            after[job_id] = change.after
        new = [_row(job) for job in after.values() if job.exists and not before[job.id].exists]
        changed = [
            {"id_": job.id} | {name: row[name] for name in _CHANGING}
            for job in after.values()
            if job.exists and before[job.id].exists
            for row in (_row(job),)
        ]
        gone = [
            {"id_": job.id}
            for job in after.values()
            if not job.exists and before[job.id].exists
        ]
        for statement, rows in (
            (self._insert, new),
            (self._update, changed),
            (self._delete, gone),
        ):
            if rows:
                tx.execute(statement, rows)
        self._count_ranks(tx, before, after)

    def _count_ranks(
        self, tx: Connection, before: Mapping[int, Job], after: Mapping[int, Job]
    ) -> None:
        delta: Counter[tuple[str, str, int]] = Counter()
        fine, *coarser = SPANS
        for job in after.values():
            was = before[job.id]
            if was.state is job.state:
                continue
            for side, sign in ((was, -1), (job, +1)):
                if side.exists:
                    delta[side.type, side.state.value, side.id >> fine] += sign
        counts: Counter[tuple[str, str, int, int]] = Counter()
        for (type_, state, bucket), number in delta.items():
            for name in (type_, EVERY_TYPE):
                counts[name, state, fine, bucket] += number
                for span in coarser:
                    counts[name, state, span, bucket >> (span - fine)] += number
        self._add_ranks.execute(
            tx,
            [
                {"type": key[0], "state": key[1], "span": key[2], "bucket": key[3], "jobs": number}
                for key, number in sorted(counts.items())
                if number
            ],
        )

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
            for row in tx.execute(self._load, {"job_ids": some}):
                job = Job(*row)
                found[job.id] = job._replace(
                    state=State(job.state), remove_on_complete=bool(job.remove_on_complete)
                )
        return found

    def due(self, connection: Connection, *, now_ms: int, limit: int) -> list[int]:
        """Return ids of jobs that time changes by *now_ms*, the longest due first."""
        return list(connection.scalars(self._due, {"now_ms": now_ms, "limit": limit}))

    # --- what the views ask

    def get(self, connection: Connection, job_id: int) -> tuple[int, JobView | None]:
        """Return the ledger's position and the job, None if there is none."""
        page = _page(connection.execute(self._get, {"job_id": job_id}).all())
        return page.position, page.jobs[0] if page.jobs else None

    def exists(self, connection: Connection, job_id: int) -> bool:
        """Tell whether the job has been created and not removed."""
        return self.get(connection, job_id)[1] is not None

    def page(
        self,
        connection: Connection,
        jobs: JobList,
        first: int,
        last: int,
        *,
        descending: bool = False,
        by_priority: bool = False,
    ) -> Page:
        """Return the jobs with the ranks *first* to *last* of a list.

        Args:
            connection: On a snapshot, if a rank is negative or above SHALLOW.
            jobs: Which list.
            first: Rank of the first job, from 0; negative counts from the end.
            last: Rank of the last job, inclusive; as *first*.
            descending: Reverse the whole list first.
            by_priority: Order by priority, then age, in place of age alone.
        """
        if 0 <= first <= SHALLOW and last >= 0:
            return self._walk(
                connection, jobs, first, last - first + 1, descending, by_priority
            )
        length = self.length(connection, jobs)
        first = max(0, first + length if first < 0 else first)
        last = min(length - 1, last + length if last < 0 else last)
        if first > last:
            return self._walk(connection, jobs, 0, 0, descending, by_priority)
        return self._find(connection, jobs, first, last, length, descending, by_priority)

    def _find(
        self,
        connection: Connection,
        jobs: JobList,
        first: int,
        last: int,
        length: int,
        descending: bool,  # noqa: FBT001
        by_priority: bool,  # noqa: FBT001
    ) -> Page:
        """Return a page of known ranks, from whichever place is nearest."""
        size = last - first + 1
        behind = length - 1 - last
        if behind < first and (behind <= SHALLOW or by_priority):
            page = self._walk(connection, jobs, behind, size, not descending, by_priority)
        elif first <= SHALLOW or by_priority:
            return self._walk(connection, jobs, first, size, descending, by_priority)
        else:
            oldest = behind if descending else first
            start, skip = self._seek(connection, jobs, oldest)
            page = self._walk(connection, jobs, skip, size, False, False, start)
            if not descending:
                return page
        return page._replace(jobs=page.jobs[::-1])

    def length(self, connection: Connection, jobs: JobList) -> int:
        """Return how many jobs a list has."""
        ranks = self._ranks
        statement = select(func.coalesce(func.sum(ranks.c.jobs), 0)).where(
            self._in_list(jobs), ranks.c.span == WHOLE_LIST
        )
        return int(connection.scalar(statement) or 0)

    def _seek(self, connection: Connection, jobs: JobList, rank: int) -> tuple[int, int]:
        """Return an id, and how many jobs from there *rank* is away."""
        ranks = self._ranks
        start = 0
        coarser = WHOLE_LIST
        for span in reversed(SPANS[:-1]):
            runs = (
                select(
                    ranks.c.bucket,
                    func.sum(func.sum(ranks.c.jobs)).over(order_by=ranks.c.bucket).label("through"),
                    func.sum(ranks.c.jobs).label("jobs"),
                )
                .where(
                    self._in_list(jobs),
                    ranks.c.span == span,
                    ranks.c.bucket >= bindparam("start"),
                    ranks.c.bucket < bindparam("end"),
                )
                .group_by(ranks.c.bucket)
                .subquery()
            )
            run = (
                select(runs.c.bucket, (runs.c.through - runs.c.jobs).label("before"))
                .where(runs.c.through > bindparam("rank"))
                .order_by(runs.c.bucket)
                .limit(1)
            )
            found = connection.execute(
                run,
                {
                    "start": start >> span,
                    "end": (start >> span) + (1 << (coarser - span)),
                    "rank": rank,
                },
            ).one()
            start, rank, coarser = found.bucket << span, rank - int(found.before), span
        return start, rank

    def _in_list(self, jobs: JobList) -> Any:  # noqa: ANN401 - SQLAlchemy's clause types
        ranks = self._ranks
        states = LIVE_STATES if jobs.state is None else (jobs.state,)
        type_ = EVERY_TYPE if jobs.type is None else jobs.type
        return and_(
            ranks.c.type == type_, ranks.c.state.in_([state.value for state in states])
        )

    def _walk(
        self,
        connection: Connection,
        jobs: JobList,
        skip: int,
        size: int,
        descending: bool,  # noqa: FBT001
        by_priority: bool,  # noqa: FBT001
        start: int = 0,
    ) -> Page:
        """Return *size* jobs of a list after skipping some, from id *start* on."""
        shape = jobs.state is None, jobs.type is None, descending, by_priority
        statement = self._pages.get(shape)
        if statement is None:
            statement = self._pages[shape] = self._page_statement(*shape)
        parameters = {
            "skip": skip,
            "size": max(0, size),
            "start": start,
            "state": jobs.state and jobs.state.value,
            "type": jobs.type,
        }
        return _page(connection.execute(statement, parameters).all())

    def _page_statement(
        self,
        every_state: bool,  # noqa: FBT001
        every_type: bool,  # noqa: FBT001
        descending: bool,  # noqa: FBT001
        by_priority: bool,  # noqa: FBT001
    ) -> Select[Any]:
        jobs = self._jobs
        # By priority there is no starting in the middle, and a condition on the id
        # would tempt the planner to sort.
        conditions = [] if by_priority else [jobs.c.id >= bindparam("start")]
        if not every_state:
            conditions.append(jobs.c.state == bindparam("state"))
        if not every_type:
            conditions.append(jobs.c.type == bindparam("type"))
        columns = [jobs.c.priority, jobs.c.id] if by_priority else [jobs.c.id]
        order = [column.desc() if descending else column.asc() for column in columns]
        page = (
            select(*columns)
            .where(*conditions)
            .order_by(*order)
            .limit(bindparam("size"))
            .offset(bindparam("skip"))
            .subquery("page")
        )
        shown = [page.c[column.name] for column in columns]
        order = [column.desc() if descending else column.asc() for column in shown]
        return _view_of(page, jobs).order_by(*order)


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
        CheckConstraint(f"state IN ({_STATES_SQL})", name="jobs_state_known"),
        CheckConstraint("made <= max_attempts", name="jobs_made_bounded"),
    )


def _job_indexes() -> Sequence[Index]:
    """Return an index a list and order, and one for what time changes."""
    due = {f"{name}_where": text("due_at_ms IS NOT NULL") for name in ("sqlite", "postgresql")}
    return (
        Index("jobs_by_state", "state", "id"),
        Index("jobs_by_type", "type", "state", "id"),
        Index("jobs_by_priority", "priority", "id"),
        Index("jobs_by_state_priority", "state", "priority", "id"),
        Index("jobs_by_type_priority", "type", "state", "priority", "id"),
        Index("jobs_due", "due_at_ms", **due),
    )


def _view_of(page: Any, jobs: Table) -> Select[Any]:  # noqa: ANN401 - a subquery of ids
    """Return the statement that shows the jobs of *page*, behind the position.

    One row comes even if the page is empty, so that position and page are of one
    moment.
    """
    content = {
        name: schema.events.alias(name) for name in ("data", "result", "error", "progress_data")
    }
    pointer = {"progress_data": "progress_position"}
    shown: list[Column[Any] | Label[Any]] = []
    for name in JobView._fields:
        if name in content:
            shown.append(content[name].c.content.label(name))
        else:
            shown.append(jobs.c[name])
    source = schema.head.outerjoin(page, true()).outerjoin(jobs, jobs.c.id == page.c.id)
    for name, events in content.items():
        column = jobs.c[pointer.get(name, f"{name}_position")]
        source = source.outerjoin(events, events.c.position == column)
    return select(schema.head.c.position.label("ledger_position"), *shown).select_from(source)


def _page(rows: Sequence[Any]) -> Page:
    return Page(rows[0][0], [JobView(*row[1:]) for row in rows if row[1] is not None])


def _row(job: Job) -> dict[str, Any]:
    row = job._asdict()
    row["state"] = job.state.value
    row["remove_on_complete"] = int(job.remove_on_complete)
    return row



"""The current state of each job.

``ledger_jobs`` has one row per job: the fields that the rules decide on, the order of claims, and
the job JSON, complete except for its content.  Content is not in the table.  The columns
``*_position`` point to the events that hold it, so there is one copy of it, and content that
is erased there is gone here.
"""

from collections.abc import Mapping, Sequence
from operator import itemgetter
from typing import Any, Final, Self

from sqlalchemy import (
    CheckConstraint,
    Column,
    Connection,
    Index,
    Integer,
    Select,
    Table,
    Text,
    bindparam,
    case,
    delete,
    func,
    insert,
    literal_column,
    null,
    select,
    text,
    update,
)

from ledger.database.answer_bytes import ByteLength
from ledger.database.fast_sql import Listed, Query, Rows
from ledger.log import schema, store
from ledger.log.ports import WaitingJob
from ledger.log.recorded import LEDGER_STREAM, Change
from ledger.log.schema import BIGINT
from ledger.projections.models.job_json import Frame, JobJson, bytes_of, frame_of, json_of
from ledger.projections.models.job_lists import JobLists
from ledger.projections.models.job_runs import LIST_SIZES, STATE_TEXTS, ListSizes, run_columns
from ledger.projections.projection import Projection, in_parts
from ledger.rules.job import LIVE_STATES, JobState, State

# These columns never change after creation, so an update does not write them.
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
_COLUMNS: Final = (*JobState._fields, *Frame._fields)
# Longer data of waiting jobs is not read before it is known which of them are started.
SHORT_DATA_BYTES: Final = 4 * 1024
_CHANGING: Final = tuple(name for name in _COLUMNS if name not in _CONSTANT)
# No worker holds an attempt that an operator began by hand.  It is text, as in the migration: an
# index with a condition serves only queries in which the same condition stands.  The state is
# compared as an expression, so that no other index serves them: databases would prefer one, and
# read all active jobs.
_IS_HELD: Final = "worker IS NOT NULL AND started_attempt = attempt AND state || '' = 'active'"
# Not with IN: SQLite builds a table for it in every statement, which took 3 of 15 µs a row.
_STATE_IS_KNOWN: Final = " OR ".join(f"state = '{state}'" for state in LIVE_STATES)


class Jobs(Projection):
    """The read model of jobs.

    Args:
        shadow: See ``Projection``.
        replacement: See ``Projection``.
        list_sizes: Which runs of the lists are counted; all processes that use the tables must
            agree on it.

    Attributes:
        lists: All lists of them, page by page.
    """

    name = "jobs"
    # 2: lists are counted by priority too.  3: in runs of other lengths.
    version = 3

    def __init__(
        self,
        *,
        shadow: bool = False,
        replacement: bool = False,
        list_sizes: ListSizes = LIST_SIZES,
    ) -> None:
        super().__init__(shadow=shadow, replacement=replacement)
        self._list_sizes = list_sizes
        self._jobs = jobs = self._define("ledger_jobs", *_job_columns(), *_job_indexes())
        self._runs = runs = self._define("ledger_job_runs", *run_columns(), has_rowids=False)
        self.lists = JobLists(jobs, runs, sizes=list_sizes)
        self._insert = Rows(insert(jobs), _COLUMNS)
        self._update = Rows(
            update(jobs)
            .where(jobs.c.id == bindparam("id_"))
            .values({name: bindparam(name) for name in _CHANGING}),
            (*_CHANGING, "id_"),
        )
        self._delete = Rows(delete(jobs).where(jobs.c.id == bindparam("id_")), ("id_",))
        self._load = Listed(select(*(jobs.c[name] for name in JobState._fields)), jobs.c.id)
        content = select(schema.events.c.content)
        data = content.where(schema.events.c.position == jobs.c.data_position).scalar_subquery()
        self._data = Listed(select(jobs.c.id, data), jobs.c.id)
        # Joined, because a database evaluates a subselect as often as it is named.
        creations = schema.events.alias("creations")
        joined_data = creations.c.content
        short_data = case((ByteLength(joined_data) <= SHORT_DATA_BYTES, joined_data))
        waits = (
            jobs.c.type == bindparam("type"),
            jobs.c.state == literal_column(f"'{State.INACTIVE.value}'"),
        )
        # By whether their data is read.
        self._claimable = {
            with_data: Query(
                select(
                    *(jobs.c[name] for name in JobState._fields),
                    bytes_of(jobs, joined_data).label("json_bytes"),
                    (short_data if with_data else null()).label("data"),
                )
                .select_from(
                    jobs.outerjoin(creations, creations.c.position == jobs.c.data_position)
                )
                .where(*waits)
                .order_by(jobs.c.priority, jobs.c.id)
                .limit(bindparam("limit"))
            )
            for with_data in (False, True)
        }
        self._any_claimable = Query(select(jobs.c.id).where(*waits).limit(1))
        # The type is NULL for events of the ledger itself.
        events = schema.events
        self._claimable_between = Query(
            select(jobs.c.type)
            .distinct()
            .select_from(events.outerjoin(jobs, jobs.c.id == events.c.job_id))
            .where(
                events.c.position > bindparam("before"),
                events.c.position <= bindparam("after"),
                (events.c.job_id == LEDGER_STREAM)
                | (jobs.c.state == literal_column(f"'{State.INACTIVE.value}'")),
            )
        )
        # Each uses the index of what workers hold, whose condition it repeats.
        self._held_by = Query(
            select(jobs.c.id, jobs.c.attempt)
            .where(text(_IS_HELD), jobs.c.worker == bindparam("worker"))
            .order_by(jobs.c.id)
        )
        self._held_counts = Query(
            select(jobs.c.worker, func.count()).where(text(_IS_HELD)).group_by(jobs.c.worker)
        )
        self._holders = Query(_holders(jobs))
        self._running = Listed(
            select(jobs.c.id, jobs.c.attempt, json_of(jobs)).where(
                jobs.c.state == literal_column(f"'{State.ACTIVE.value}'"),
                data.is_not(None),
            ),
            jobs.c.id,
        )
        self._due = Query(
            select(jobs.c.id)
            .where(jobs.c.due_at_ms <= bindparam("now_ms"))
            .order_by(jobs.c.due_at_ms)
            .limit(bindparam("limit"))
        )
        self._longest_due = Query(
            select(jobs.c.id, jobs.c.state, jobs.c.due_at_ms)
            .where(jobs.c.due_at_ms <= bindparam("now_ms"))
            .order_by(jobs.c.due_at_ms)
            .limit(1)
        )
        position, chain = store.MOMENT
        self._get = Query(
            select(position, json_of(jobs), chain).where(jobs.c.id == bindparam("job_id"))
        )

    def twin(self, *, shadow: bool = False, replacement: bool = False) -> Self:
        return type(self)(shadow=shadow, replacement=replacement, list_sizes=self._list_sizes)

    # --- following the ledger

    def apply(self, tx: Connection, changes: Sequence[Change]) -> None:
        before: dict[int, JobState] = {}
        after: dict[int, JobState] = {}
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
        self.lists.follow(tx, before, after)

    def contents(self) -> Mapping[str, Select[Any]]:
        return {
            "ledger_jobs": select(self._jobs),
            "ledger_job_runs": select(self._runs).where(self._runs.c.jobs != 0),
        }

    # --- queries of the rules and the sweeper

    def load(self, tx: Connection, job_ids: Sequence[int]) -> Mapping[int, JobState]:
        """Return those of the jobs that exist."""
        found = {}
        for some in in_parts(job_ids):
            for row in self._load.all(tx, some):
                job = _job(row)
                found[job.id] = job
        return found

    def claimable(
        self, tx: Connection, type_: str, *, limit: int, with_data: bool
    ) -> list[WaitingJob]:
        """Return jobs of a type that wait for a worker, by priority, then age."""
        return [
            WaitingJob(_job(row[:-2]), *row[-2:])
            for row in self._claimable[with_data].all(tx, type=type_, limit=limit)
        ]

    def data(self, tx: Connection, job_ids: Sequence[int]) -> Mapping[int, str | None]:
        """Return the data of existing jobs, JSON text; None is data that was erased."""
        return {
            job_id: data for some in in_parts(job_ids) for job_id, data in self._data.all(tx, some)
        }

    def any_claimable(self, connection: Connection, type_: str) -> bool:
        """Return whether a job of a type waits for a worker."""
        return self._any_claimable.first(connection, type=type_) is not None

    def claimable_between(self, connection: Connection, before: int, after: int) -> set[str] | None:
        """Return the types of jobs that events may have made claimable, and that wait now.

        Args:
            connection: Where to read.
            before: The position before the first event.
            after: The position of the last one.

        Returns:
            The types; None if all may be claimable, because a pause has ended.
        """
        rows = self._claimable_between.all(connection, before=before, after=after)
        types = {type_ for (type_,) in rows}
        return None if None in types else types

    def holders(self, connection: Connection) -> list[str]:
        """Return the names of the workers that hold attempts, sorted."""
        return [name for (name,) in self._holders.all(connection)]

    def held_by(self, connection: Connection, worker: str) -> list[tuple[int, int]]:
        """Return the job id and attempt number of each attempt that a worker holds."""
        return [
            (job_id, attempt) for job_id, attempt in self._held_by.all(connection, worker=worker)
        ]

    def held_counts(self, connection: Connection) -> dict[str, int]:
        """Return how many attempts each worker holds that holds any."""
        return dict(tuple(row) for row in self._held_counts.all(connection))

    def due(self, connection: Connection, *, now_ms: int, limit: int) -> list[int]:
        """Return ids of jobs whose delay or ttl is over at *now_ms*, the longest due first."""
        return [job_id for (job_id,) in self._due.all(connection, now_ms=now_ms, limit=limit)]

    def longest_due(self, connection: Connection, *, now_ms: int) -> tuple[int, State, int] | None:
        """Return the job that has been due for longest, its state, and since when; or None."""
        row = self._longest_due.first(connection, now_ms=now_ms)
        return None if row is None else (row[0], State(row[1]), row[2])

    # --- queries for job JSON

    def get(self, connection: Connection, job_id: int) -> JobJson | None:
        """Return the job's JSON object, or None if there is no such job."""
        row = self._get.first(connection, job_id=job_id)
        return None if row is None else JobJson(*row)

    def running(self, connection: Connection, attempts: Mapping[int, int]) -> list[tuple[str, int]]:
        """Return the JSON object and the attempt of each job whose attempt is still running.

        A job whose data was erased meanwhile is left out.

        Args:
            connection: Where to read.
            attempts: The attempt of each job, in the order of the result.
        """
        rows = self._running.all(connection, list(attempts))
        found = {(job_id, attempt): json for job_id, attempt, json in rows}
        return [(found[key], key[1]) for key in attempts.items() if key in found]


def _holders(jobs: Table) -> Select[Any]:
    """Return the statement of the workers that hold attempts.

    It goes from one name to the next in the index, because a worker may hold very many.
    """
    name = select(jobs.c.worker).where(text(_IS_HELD)).order_by(jobs.c.worker).limit(1)
    found = select(name.scalar_subquery().label("name")).cte("found", recursive=True)
    following = name.where(jobs.c.worker > found.c.name).scalar_subquery()
    found = found.union_all(select(following).where(found.c.name.is_not(None)))
    return select(found.c.name).where(found.c.name.is_not(None))


_STATE: Final = JobState._fields.index("state")
_REMOVE_ON_COMPLETE: Final = JobState._fields.index("remove_on_complete")


def _job(row: Sequence[Any]) -> JobState:
    """Return the job of a row, whose values have the database's types."""
    values = list(row)
    values[_STATE] = State(values[_STATE])
    values[_REMOVE_ON_COMPLETE] = bool(values[_REMOVE_ON_COMPLETE])
    return JobState._make(values)


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
        CheckConstraint(_STATE_IS_KNOWN, name="ledger_jobs_state_known"),
        CheckConstraint("made <= max_attempts", name="ledger_jobs_made_bounded"),
    )


def _job_indexes() -> Sequence[Index]:
    """Return one index per list and order, one of jobs that fall due, and one of those held."""
    due = text("due_at_ms IS NOT NULL")
    held = text(_IS_HELD)
    return (
        Index("ledger_jobs_by_state", "state", "id"),
        Index("ledger_jobs_by_type", "type", "state", "id"),
        Index("ledger_jobs_by_priority", "priority", "id"),
        Index("ledger_jobs_by_state_priority", "state", "priority", "id"),
        Index("ledger_jobs_by_type_priority", "type", "state", "priority", "id"),
        Index("ledger_jobs_due", "due_at_ms", sqlite_where=due, postgresql_where=due),
        Index("ledger_jobs_held", "worker", "id", sqlite_where=held, postgresql_where=held),
    )


_PLACE: Final = {name: place for place, name in enumerate(_COLUMNS)}
_changing = itemgetter(*(_PLACE[name] for name in (*_CHANGING, "id")))


def _row(job: JobState) -> Sequence[Any]:
    """Return the job as a row; drivers take plain text and integers faster."""
    row: list[Any] = [*job, *frame_of(job)]
    row[_STATE] = STATE_TEXTS[job.state]
    row[_REMOVE_ON_COMPLETE] = int(job.remove_on_complete)
    return row

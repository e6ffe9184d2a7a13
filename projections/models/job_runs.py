"""The number of jobs in runs of each list, with which the job of a rank is found in a few steps.

A *run* is all jobs of a list that have the same ``id >> id_span`` and the same
``priority >> priority_span``.  A list by age is counted in runs of 131,072 ids and of 256 ids.  To
find a rank, the counts of the longer runs are added up until the right one is found, then those of
the runs in it; at most 255 jobs are left to be skipped.

A list by priority needs the same for each priority.  If it has very many of them, it also needs
runs of priorities, in which only jobs are counted whose priority is not small.  As most jobs have
priority 0, they are counted once, and all others also in the runs of all other priorities, so that
a list by age is the sum of both.

The counts change in the same transaction as the jobs.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import msgspec
from sqlalchemy import (
    BigInteger,
    Column,
    ColumnElement,
    Connection,
    FromClause,
    Integer,
    Select,
    Table,
    Text,
    and_,
    bindparam,
    cast,
    delete,
    func,
    literal_column,
    select,
)

from ledger.database.answer_bytes import ANSWER_BYTES
from ledger.database.fast_sql import Query, Rows
from ledger.log.schema import BIGINT
from ledger.projections.projection import Upsert
from ledger.rules.job import LIVE_STATES, JobState, State

# The type of lists over all types, and the state of the list of all jobs; no job has them.
EVERY: Final = ""
# The span of a run that has all ids, or all priorities but 0.
WHOLE: Final = 62


class ListSizes(NamedTuple):
    """Which runs of a list are counted, and how far a page is walked to.

    Attributes:
        id_spans: Lengths of the runs of ids, as powers of two, ascending.
        priority_spans: The same for runs of priorities, but without the small ones.
        small: A priority is small if it is less than this, and not less than the negative of it.
        few: Number of runs that are added up without a look at longer ones.
        shallow: Up to this depth, walking is faster than finding the job to start at.
        page_bytes: Bytes of JSON that a page has at most, unless it has a single job.
    """

    id_spans: tuple[int, ...] = (8, 17)
    priority_spans: tuple[int, ...] = (12, 24, 36, 48)
    small: int = 256
    few: int = 512
    shallow: int = 250
    page_bytes: int = ANSWER_BYTES


LIST_SIZES: Final = ListSizes()


class JobList(NamedTuple):
    """A list of jobs: all, those in a state, of a type, or of a type in a state."""

    state: State | None = None
    type: str | None = None


class Place(NamedTuple):
    """A place in a list from which a rank is reached by skipping jobs.

    Attributes:
        priority: The priority of the jobs there; 0 in a list by age.
        job_id: Skipping starts at this id, or the next one that exists.
        skip: Number of jobs to skip.
    """

    priority: int
    job_id: int
    skip: int


class _Run(NamedTuple):
    """The priorities and the ids of a run, each divided by the length of the run."""

    priority: int
    ids: int


# The number of jobs in each run.
_Runs = dict[tuple[int, int], int]


_Key = tuple[str, str, int, int, int, int]


class JobRuns:
    """The counts of all lists.

    Args:
        table: Their table, with ``run_columns``.
        sizes: What is counted; all processes that use the table must agree on it.
    """

    def __init__(self, table: Table, *, sizes: ListSizes = LIST_SIZES) -> None:
        self._sizes = sizes
        self._small = range(-sizes.small, sizes.small)
        self._add = Upsert(table, adds=("jobs",))
        self._lengths = _BothKinds(table, _length)
        self._of_age = _BothKinds(table, _of_age)
        self._of_priority = _BothKinds(table, _of_priority)
        self._priorities = _BothKinds(table, _priorities)
        # Elsewhere, a row of 0 is left.  If each job has its own priority, most rows would be such.
        self._purge = Rows(
            delete(table).where(
                *(column == bindparam(f"{column.name}_") for column in table.primary_key),
                table.c.jobs == literal_column("0"),
            ),
            [f"{column.name}_" for column in table.primary_key],
        )

    # --- following

    def follow(
        self, tx: Connection, before: Mapping[int, JobState], after: Mapping[int, JobState]
    ) -> None:
        """Count the jobs of *after*, which were counted as they are in *before*."""
        fine = self._sizes.id_spans[0]
        # Few jobs of a batch differ in any of this, so little is done for each.
        moves: Counter[tuple[str, State, int, State, int, int]] = Counter()
        for id_, job in after.items():
            was = before[id_]
            moves[job.type, was.state, was.priority, job.state, job.priority, id_ >> fine] += 1
        counts: Counter[_Key] = Counter()
        for (type_, left, old_priority, entered, priority, run), number in moves.items():
            if left is entered and old_priority == priority:
                continue
            old_state, state = (
                each.value if each in LIVE_STATES else EVERY for each in (left, entered)
            )
            # The list of all jobs stays as it is while a job exists and keeps its priority.
            stays = old_state and state and old_priority == priority
            for of_state, of_priority, change in (
                (old_state, old_priority, -number),
                (state, priority, number),
            ):
                if not of_state:
                    continue
                keys = self._keys(of_priority, run << fine)
                for key in keys:
                    counts[(type_, of_state, *key)] += change
                    counts[(EVERY, of_state, *key)] += change
                if not stays:
                    for key in keys:
                        counts[(EVERY, EVERY, *key)] += change
        changes = [(*key, counts[key]) for key in sorted(counts) if counts[key]]
        self._add.execute(tx, changes)
        self._purge.execute(tx, [change[:-1] for change in changes if self._may_be_over(change)])

    def _keys(self, priority: int, job_id: int) -> list[tuple[int, int, int, int]]:
        """Return the runs of a list in which a job is counted."""
        ids = self._sizes.id_spans
        keys = [(0, span, priority, job_id >> span) for span in ids]
        if priority:
            keys += [(WHOLE, span, 0, job_id >> span) for span in ids]
        if priority not in self._small:
            keys += [(span, WHOLE, priority >> span, 0) for span in self._sizes.priority_spans]
        return keys

    def _may_be_over(self, change: tuple[str, str, int, int, int, int, int]) -> bool:
        """Return whether a run of one priority that is not small may be empty after a change."""
        _, _, priority_span, _, priority_run, _, jobs = change
        return jobs < 0 and priority_span == 0 and priority_run not in self._small

    # --- finding

    def length(self, connection: Connection, jobs: JobList) -> int:
        """Return the number of jobs in a list."""
        row = self._lengths.first(connection, jobs, id_span=self._sizes.id_spans[-1])
        return int(row[0] or 0)

    def by_age(self, connection: Connection, jobs: JobList, rank: int) -> Place:
        """Return the place of a rank in a list, the oldest job first.

        Args:
            connection: On a snapshot.
            jobs: The list.
            rank: From 0, and less than the list's length.
        """
        found = _Run(0, 0), rank
        longer = WHOLE
        for span in reversed(self._sizes.id_spans):
            ids = _within(found[0].ids, longer - span)
            runs = self._of_age.runs(
                connection, jobs, id_span=span, first_id=ids.start, end_id=ids.stop
            )
            found = _run_of(runs, found[1])
            longer = span
        run, rank = found
        return Place(0, run.ids << longer, rank)

    def by_priority(self, connection: Connection, jobs: JobList, rank: int) -> Place:
        """Return the place of a rank in a list by priority, then age; see ``by_age``."""
        run, rank = self._of_one_priority(connection, jobs, rank)
        *finer, longer = self._sizes.id_spans
        for span in reversed(finer):
            ids = _within(run.ids, longer - span)
            runs = self._of_priority.runs(
                connection,
                jobs,
                priority=run.priority,
                id_span=span,
                first_id=ids.start,
                end_id=ids.stop,
            )
            (_, of_ids), rank = _run_of(runs, rank)
            run, longer = run._replace(ids=of_ids), span
        return Place(run.priority, run.ids << longer, rank)

    def _of_one_priority(
        self, connection: Connection, jobs: JobList, rank: int
    ) -> tuple[_Run, int]:
        """Return the longest run of a rank whose jobs have one priority, and the rank in it."""

        def runs(priority_span: int, priorities: range, most: int = _ALL.stop) -> _Runs:
            return self._priorities.runs(
                connection,
                jobs,
                priority_span=priority_span,
                id_span=WHOLE if priority_span else self._sizes.id_spans[-1],
                first_priority=priorities.start,
                end_priority=priorities.stop,
                most=most,
            )

        few = self._sizes.few
        found = runs(0, _ALL, most=few + 1)
        if len(found) <= few:
            return _run_of(found, rank)
        # There are many priorities.  The small ones, which are not in runs, are between the others.
        *finer, span = self._sizes.priority_spans
        small = runs(0, self._small)
        for found in (runs(span, range(_ALL.start, 0)), small, runs(span, range(_ALL.stop))):
            number = sum(found.values())
            if rank < number:
                break
            rank -= number
        run, rank = _run_of(found, rank)
        if found is small:
            return run, rank
        for shorter in reversed(finer):
            run, rank = _run_of(runs(shorter, _within(run.priority, span - shorter)), rank)
            span = shorter
        found = runs(0, _within(run.priority, span))
        return _run_of({run: found[run] for run in found if run[0] not in self._small}, rank)


_ALL: Final = range(-(1 << WHOLE), 1 << WHOLE)


def _within(run: int, shift: int) -> range:
    """Return the shorter runs of which a run consists."""
    return range(run << shift, (run + 1) << shift)


def _run_of(runs: _Runs, rank: int) -> tuple[_Run, int]:
    """Return the run that has the job of a rank, and the rank in it."""
    for run in sorted(runs):
        if rank < runs[run]:
            return _Run(*run), rank
        rank -= runs[run]
    raise AssertionError(f"the runs of a list end {rank + 1} jobs before the one that was asked")


def run_columns() -> Sequence[Column[Any]]:
    """Return the columns of the table."""
    return (
        Column("type", Text, primary_key=True),
        Column("state", Text, primary_key=True),
        Column("priority_span", Integer, primary_key=True, autoincrement=False),
        Column("id_span", Integer, primary_key=True, autoincrement=False),
        Column("priority_run", BIGINT, primary_key=True, autoincrement=False),
        Column("id_run", BIGINT, primary_key=True, autoincrement=False),
        Column("jobs", BigInteger, nullable=False),
    )


class _BothKinds:
    """A query of the runs of a list, and one that adds up the lists of a type in all states.

    Args:
        table: The table of runs.
        statement: Returns the statement for runs of which a condition is true.
    """

    def __init__(
        self, table: Table, statement: Callable[[Table, ColumnElement[bool]], Select[Any]]
    ) -> None:
        of_type = table.c.type == bindparam("type")
        states: list[ColumnElement[str]] = [literal_column(f"'{state}'") for state in LIVE_STATES]
        self._one = Query(statement(table, of_type & (table.c.state == bindparam("state"))))
        self._merged = Query(statement(table, of_type & table.c.state.in_(states)))

    def first(self, connection: Connection, jobs: JobList, **values: int) -> Any:  # noqa: ANN401 - SQL's
        """Return the first row of the query for a list."""
        query = self._merged if jobs.state is None and jobs.type is not None else self._one
        type_ = EVERY if jobs.type is None else jobs.type
        state = EVERY if jobs.state is None else jobs.state.value
        return query.first(connection, type=type_, state=state, **values)

    def runs(self, connection: Connection, jobs: JobList, **values: int) -> _Runs:
        """Return the runs that are the query's one row for a list.

        A row for each run would take longer to read than the runs themselves.
        """
        priorities, ids, numbers = (
            _numbers(f"[{text or ''}]") for text in self.first(connection, jobs, **values)
        )
        found: _Runs = {}
        for place, number in zip(zip(priorities, ids, strict=True), numbers, strict=True):
            found[place] = found.get(place, 0) + number
        return found


_numbers = msgspec.json.Decoder(list[int]).decode


def _of_any_priority(table: Table) -> ColumnElement[bool]:
    """Return the condition of the runs of the jobs of priority 0, and of all others."""
    return and_(
        table.c.priority_span.in_((literal_column("0"), literal_column(str(WHOLE)))),
        table.c.priority_run == literal_column("0"),
        table.c.id_span == bindparam("id_span"),
    )


def _length(table: Table, in_list: ColumnElement[bool]) -> Select[Any]:
    return select(func.sum(table.c.jobs)).where(in_list, _of_any_priority(table))


def _of_age(table: Table, in_list: ColumnElement[bool]) -> Select[Any]:
    return _as_one_row(table).where(in_list, _of_any_priority(table), *_of_ids(table))


def _of_priority(table: Table, in_list: ColumnElement[bool]) -> Select[Any]:
    return _as_one_row(table).where(
        in_list,
        table.c.priority_span == literal_column("0"),
        table.c.priority_run == bindparam("priority"),
        table.c.id_span == bindparam("id_span"),
        *_of_ids(table),
    )


def _of_ids(table: Table) -> Sequence[ColumnElement[bool]]:
    return table.c.id_run >= bindparam("first_id"), table.c.id_run < bindparam("end_id")


def _priorities(table: Table, in_list: ColumnElement[bool]) -> Select[Any]:
    place = table.c.priority_run, table.c.id_run
    runs = (
        select(*place, func.sum(table.c.jobs).label("jobs"))
        .where(
            in_list,
            table.c.priority_span == bindparam("priority_span"),
            table.c.id_span == bindparam("id_span"),
            table.c.priority_run >= bindparam("first_priority"),
            table.c.priority_run < bindparam("end_priority"),
        )
        .group_by(*place)
        .limit(bindparam("most"))
    )
    return _as_one_row(runs.subquery())


def _as_one_row(runs: FromClause) -> Select[Any]:
    """Return the statement of the priorities, ids and numbers of jobs, each joined by commas."""
    columns = runs.c.priority_run, runs.c.id_run, runs.c.jobs
    texts: list[ColumnElement[Any]] = [
        func.aggregate_strings(cast(column, Text), ",") for column in columns
    ]
    return select(*texts)

"""The search for the place in a list from which a rank is reached by skipping a few jobs.

``job_runs`` counts the jobs in runs of each list.  A search begins with the longest runs of the
list.  It adds up their numbers of jobs until it has found the one with the rank, and goes on with
the shorter runs in that one.  Each step is a statement that returns its runs as text: a row for
each run would take longer to read than the runs themselves.
"""

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from typing import Any, Final, Generic, NamedTuple, TypeVar

import msgspec
from sqlalchemy import (
    ColumnElement,
    Connection,
    FromClause,
    Select,
    Table,
    Text,
    bindparam,
    func,
    literal_column,
    select,
    union_all,
)
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

from ledger.database.fast_sql import Query
from ledger.projections.models.job_runs import EVERY, LIST_SIZES, WHOLE, JobList, ListSizes
from ledger.rules.job import LIVE_STATES

# The ids of a run divided by its length; with its priorities, divided in the same way, before them
# where they are not the same in all runs.
_Run = TypeVar("_Run", int, tuple[int, int])
_ALL: Final = range(-(1 << WHOLE), 1 << WHOLE)


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


class Runs(Generic[_Run]):
    """Runs of one length in a list.

    Args:
        numbers: The number of jobs in each.
        priority_span: The number of priorities in each, as a power of two.

    Attributes:
        jobs: The number of jobs in all of them.
    """

    def __init__(self, numbers: Mapping[_Run, int], *, priority_span: int = 0) -> None:
        self.priority_span = priority_span
        self._numbers: Mapping[_Run, int] = numbers
        self._runs: list[_Run] = sorted(numbers)
        self._through = list(accumulate(map(numbers.__getitem__, self._runs)))
        self.jobs = self._through[-1] if self._through else 0

    def of_rank(self, rank: int) -> tuple[_Run, int, int]:
        """Return the run that has the job of a rank, the rank in it, and its number of jobs."""
        if rank >= self.jobs:
            raise AssertionError(
                f"the runs of a list end {rank - self.jobs + 1} jobs before the one that was asked"
            )
        found = bisect_right(self._through, rank)
        run = self._runs[found]
        number = self._numbers[run]
        return run, rank - self._through[found] + number, number


AnyRuns = Runs[int] | Runs[tuple[int, int]]


class ListPlaces:
    """The places in all lists.

    Args:
        table: The counts of the runs, with ``run_columns``.
        sizes: What is counted.
    """

    def __init__(self, table: Table, *, sizes: ListSizes = LIST_SIZES) -> None:
        self._sizes = sizes
        self._length = _BothKinds(table, lambda of: _length(table, of.all, sizes))
        self._of_age = _BothKinds(table, lambda of: _of_ids(table, of.all & _any_priority(table)))
        self._of_priority = _BothKinds(
            table, lambda of: _of_ids(table, of.all & _one_priority(table))
        )
        self._of_priorities = _BothKinds(table, lambda of: _of_priorities(table, of.all))
        self._longest = _BothKinds(table, lambda of: _longest(table, of, sizes))

    def length(self, connection: Connection, jobs: JobList) -> int:
        """Return the number of jobs in a list."""
        ((number,),) = self._length.rows(connection, jobs)
        return int(number or 0)

    def longest_runs(
        self, connection: Connection, jobs: JobList, *, by_priority: bool
    ) -> Sequence[AnyRuns]:
        """Return a list's longest runs, which have all of its jobs, in parts that are in order."""
        if not by_priority:
            return (self._ids(connection, jobs, self._sizes.id_spans[-1], _ALL),)
        few_below, below, small, few_above, above = (
            _numbers_of(row[1:]) for row in sorted(self._longest.rows(connection, jobs))
        )
        few, span = self._sizes.few, self._sizes.priority_spans[-1]
        return (
            Runs(few_below) if len(few_below) <= few else Runs(below, priority_span=span),
            Runs(small),
            Runs(few_above) if len(few_above) <= few else Runs(above, priority_span=span),
        )

    def place(
        self,
        connection: Connection,
        jobs: JobList,
        longest: Sequence[AnyRuns],
        rank: int,
        *,
        by_priority: bool,
    ) -> Place:
        """Return the place of a rank.

        Args:
            connection: On a snapshot.
            jobs: The list.
            longest: Its longest runs, in the same snapshot and order.
            rank: From 0, and less than the list's length.
            by_priority: Whether the order is by priority, then age, instead of age alone.
        """
        part, *others = longest
        for following in others:
            if rank < part.jobs:
                break
            rank -= part.jobs
            part = following
        run, rank, number = part.of_rank(rank)
        if isinstance(run, int):
            return self._of_id(connection, jobs, run, rank)
        priority, ids = run
        span = part.priority_span
        while span:
            shorter = self._shorter(span, number)
            runs = self._priorities(connection, jobs, shorter, _within(priority, span - shorter))
            (priority, ids), rank, number = runs.of_rank(rank)
            span = shorter
        return self._of_id(connection, jobs, ids, rank, priority)

    def _of_id(
        self,
        connection: Connection,
        jobs: JobList,
        ids: int,
        rank: int,
        priority: int | None = None,
    ) -> Place:
        """Return the place of a rank in one of the longest runs of ids."""
        *finer, span = self._sizes.id_spans_of(priority or 0)
        for shorter in reversed(finer):
            runs = self._ids(connection, jobs, shorter, _within(ids, span - shorter), priority)
            ids, rank, _ = runs.of_rank(rank)
            span = shorter
        return Place(priority or 0, ids << span, rank)

    def _shorter(self, span: int, jobs: int) -> int:
        """Return the length of the runs of priorities to look at in one with a number of jobs."""
        if jobs <= self._sizes.few:
            return 0
        return max((shorter for shorter in self._sizes.priority_spans if shorter < span), default=0)

    def _ids(
        self,
        connection: Connection,
        jobs: JobList,
        span: int,
        ids: range,
        priority: int | None = None,
    ) -> Runs[int]:
        """Return the runs of ids of a priority, or of all for None."""
        given = {"id_span": span, "first_id": ids.start, "end_id": ids.stop}
        if priority is None:
            (row,) = self._of_age.rows(connection, jobs, **given)
        else:
            (row,) = self._of_priority.rows(connection, jobs, priority=priority, **given)
        found, numbers = map(_numbers, row)
        return Runs(_added_up(found, numbers))

    def _priorities(
        self, connection: Connection, jobs: JobList, span: int, priorities: range
    ) -> Runs[tuple[int, int]]:
        """Return the runs of priorities that are not small."""
        (row,) = self._of_priorities.rows(
            connection,
            jobs,
            priority_span=span,
            id_span=WHOLE if span else self._sizes.id_spans[-1],
            first_priority=priorities.start,
            end_priority=priorities.stop,
        )
        numbers = _numbers_of(row)
        if not span:
            small = self._sizes.small_priorities
            numbers = {run: numbers[run] for run in numbers if run[0] not in small}
        return Runs(numbers, priority_span=span)


def _within(run: int, shift: int) -> range:
    """Return the shorter runs of which a run consists."""
    return range(run << shift, (run + 1) << shift)


class _Lists(NamedTuple):
    """The condition of the runs of some lists, and of each of them."""

    all: ColumnElement[bool]
    each: Sequence[ColumnElement[bool]]


class _BothKinds:
    """A query of the runs of a list, and one that adds up the lists of a type in all states.

    Args:
        table: The table of runs.
        statement: Returns the statement for the runs of lists.
    """

    def __init__(self, table: Table, statement: Callable[[_Lists], Select[Any]]) -> None:
        of_type = table.c.type == bindparam("type")
        states: list[ColumnElement[str]] = [literal_column(f"'{state}'") for state in LIVE_STATES]
        one = of_type & (table.c.state == bindparam("state"))
        each = [of_type & (table.c.state == state) for state in states]
        self._one = Query(statement(_Lists(one, [one])))
        self._merged = Query(statement(_Lists(of_type & table.c.state.in_(states), each)))

    def rows(self, connection: Connection, jobs: JobList, **values: int) -> Sequence[Any]:
        """Return the rows of the query for a list."""
        query = self._merged if jobs.state is None and jobs.type is not None else self._one
        type_ = EVERY if jobs.type is None else jobs.type
        state = EVERY if jobs.state is None else jobs.state.value
        return query.all(connection, type=type_, state=state, **values)


_decode: Final = msgspec.json.Decoder(list[int]).decode


def _numbers(text: str | None) -> list[int]:
    return _decode(f"[{text or ''}]")


def _numbers_of(row: Sequence[str | None]) -> dict[tuple[int, int], int]:
    """Return the number of jobs in each run of a row of priorities, ids and numbers."""
    priorities, ids, numbers = map(_numbers, row)
    return _added_up(list(zip(priorities, ids, strict=True)), numbers)


def _added_up(runs: Sequence[_Run], numbers: Sequence[int]) -> dict[_Run, int]:
    """Return the number of jobs in each run, of which some may be there more than once."""
    found: dict[_Run, int] = dict(zip(runs, numbers, strict=True))
    if len(found) == len(numbers):
        return found
    found.clear()
    for run, number in zip(runs, numbers, strict=True):
        found[run] = found.get(run, 0) + number
    return found


class _Joined(FunctionElement[str]):
    """Numbers joined by commas, as SQL."""

    type = Text()
    name = "joined"
    inherit_cache = True


@compiles(_Joined, "postgresql")
def _on_postgresql(element: _Joined, compiler: Any, **given: Any) -> str:  # noqa: ANN401 - SQLAlchemy's
    return f"string_agg(CAST({compiler.process(element.clauses, **given)} AS TEXT), ',')"


@compiles(_Joined, "sqlite")
def _on_sqlite(element: _Joined, compiler: Any, **given: Any) -> str:  # noqa: ANN401 - as above
    # The same cast takes half of the time.
    return f"group_concat({compiler.process(element.clauses, **given)})"


def _in_one_row(runs: FromClause) -> list[ColumnElement[Any]]:
    return [_Joined(column) for column in (runs.c.priority_run, runs.c.id_run, runs.c.jobs)]


def _number(value: int) -> ColumnElement[int]:
    return literal_column(str(value))


def _any_priority(table: Table) -> ColumnElement[bool]:
    """Return the condition of the runs of the jobs of priority 0, and of all others."""
    spans = table.c.priority_span.in_((_number(0), _number(WHOLE)))
    return spans & (table.c.priority_run == _number(0))


def _one_priority(table: Table) -> ColumnElement[bool]:
    return (table.c.priority_span == _number(0)) & (table.c.priority_run == bindparam("priority"))


def _length(table: Table, runs: ColumnElement[bool], sizes: ListSizes) -> Select[Any]:
    longest = table.c.id_span == _number(sizes.id_spans[-1])
    return select(func.sum(table.c.jobs)).where(runs, _any_priority(table), longest)


def _of_ids(table: Table, runs: ColumnElement[bool]) -> Select[Any]:
    columns: list[ColumnElement[Any]] = [_Joined(table.c.id_run), _Joined(table.c.jobs)]
    return select(*columns).where(
        runs,
        table.c.id_span == bindparam("id_span"),
        table.c.id_run >= bindparam("first_id"),
        table.c.id_run < bindparam("end_id"),
    )


def _of_priorities(table: Table, runs: ColumnElement[bool]) -> Select[Any]:
    return select(*_in_one_row(table)).where(
        runs,
        table.c.priority_span == bindparam("priority_span"),
        table.c.id_span == bindparam("id_span"),
        table.c.priority_run >= bindparam("first_priority"),
        table.c.priority_run < bindparam("end_priority"),
    )


def _longest(table: Table, lists: _Lists, sizes: ListSizes) -> Select[Any]:
    """Return the statement of runs that have all jobs, and of those of which there may be few."""
    small, top = sizes.small_priorities, sizes.priority_spans[-1]

    def part(number: int, span: int, priorities: range, most: int | None = None) -> Select[Any]:
        runs = select(table.c.priority_run, table.c.id_run, table.c.jobs).where(
            table.c.priority_span == _number(span),
            table.c.id_span == _number(WHOLE if span else sizes.id_spans[-1]),
            table.c.priority_run >= _number(priorities.start),
            table.c.priority_run < _number(priorities.stop),
        )
        if most is None:
            found = runs.where(lists.all).subquery()
        else:
            # From each list, as a limit of all of them would first read all.
            cut = (runs.where(one).limit(_number(most)).subquery() for one in lists.each)
            found = union_all(*(select(one) for one in cut)).subquery()
        return select(_number(number).label("part"), *_in_one_row(found))

    parts = (
        part(0, 0, range(_ALL.start, small.start), sizes.few + 1),
        part(1, top, range(_ALL.start, 0)),
        part(2, 0, small),
        part(3, 0, range(small.stop, _ALL.stop), sizes.few + 1),
        part(4, top, range(_ALL.stop)),
    )
    return select(union_all(*parts).subquery("parts"))

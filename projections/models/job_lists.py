"""Pages of job lists, found by rank.

A page of Kue's lists is a range of *ranks*: ``/jobs/failed/90000..90019``.  SQL finds a rank
by walking to it (``OFFSET``), so the cost of a page grows with its depth.  ``job_ranks``
keeps the walk short: it counts the jobs of each list in every run of 1,024 ids and of
1,048,576 ids.  For a page that is far from both ends, the counts are added up until the
right run is found, and at most 1,023 entries are walked.  The counts change in the same
transaction as the jobs.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from sqlalchemy import (
    BigInteger,
    Column,
    ColumnElement,
    Connection,
    Integer,
    Select,
    Table,
    Text,
    and_,
    bindparam,
    func,
    select,
)

from ledger.database.answer_bytes import ANSWER_BYTES
from ledger.log.schema import BIGINT
from ledger.projections.models.job_json import JobPage, bytes_of, json_of
from ledger.projections.models.page_reader import PageReader
from ledger.projections.projection import Upsert
from ledger.rules.job import LIVE_STATES, JobState, State

# The type under which lists over all types are counted; no job has it.
EVERY_TYPE: Final = ""
# The span of a run that is the whole list.
WHOLE_LIST: Final = 62


class ListSizes(NamedTuple):
    """Which runs of a list are counted, and how far a page is walked to.

    Attributes:
        spans: Lengths of the runs of ids that are counted, as powers of two, ascending; the
            default is 1,024 and 1,048,576.  The whole list is always counted.
        shallow: Up to this depth, walking is faster than finding the id to start at.
        page_bytes: Bytes of JSON that a page has at most, unless it has a single job.
    """

    spans: tuple[int, ...] = (10, 20)
    shallow: int = 1_000
    page_bytes: int = ANSWER_BYTES


LIST_SIZES: Final = ListSizes()


class JobList(NamedTuple):
    """A list of jobs: all, those in a state, or those of a type in a state."""

    state: State | None = None
    type: str | None = None


class _Order(NamedTuple):
    descending: bool
    by_priority: bool

    @property
    def reversed(self) -> "_Order":
        return self._replace(descending=not self.descending)


def clip(first: int, last: int, length: int) -> tuple[int, int]:
    """Return the ranks counted from 0 and within a list of *length*; (1, 0) for an empty page."""
    first = max(0, first + length if first < 0 else first)
    last = min(length - 1, last + length if last < 0 else last)
    return (first, last) if first <= last else (1, 0)


class JobLists:
    """All lists of the jobs in a table.

    Args:
        jobs: The table.
        ranks: The table of its counts, with ``rank_columns``.
        sizes: What is counted and what is walked; the table keeps the counts of the same spans.
    """

    def __init__(self, jobs: Table, ranks: Table, *, sizes: ListSizes = LIST_SIZES) -> None:
        self._sizes = sizes
        self._jobs = jobs
        self._add_ranks = Upsert(ranks, adds=("jobs",))
        in_list = and_(
            ranks.c.type == bindparam("list_type"),
            ranks.c.state.in_(bindparam("list_states", expanding=True)),
        )
        self._length = select(func.sum(ranks.c.jobs)).where(in_list, ranks.c.span == WHOLE_LIST)
        self._run = _run_of_rank(ranks, in_list)
        self._pages: dict[tuple[object, ...], PageReader] = {}

    def follow(
        self, tx: Connection, before: Mapping[int, JobState], after: Mapping[int, JobState]
    ) -> None:
        """Move the counts of the jobs from their states in *before* to their states in *after*."""
        fine, *coarser = (*self._sizes.spans, WHOLE_LIST)
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

    def is_shallow(self, first: int, last: int) -> bool:
        """Return whether a page is close enough to an end of its list to walk to it."""
        shallow = self._sizes.shallow
        return (0 <= first <= shallow and last >= 0) or (first < 0 and -1 - shallow <= last < 0)

    def page(
        self,
        connection: Connection,
        jobs: JobList,
        first: int,
        last: int,
        *,
        descending: bool = False,
        by_priority: bool = False,
    ) -> JobPage:
        """Return the jobs with the ranks *first* to *last* of a list, or the first of them.

        Args:
            connection: On a snapshot, unless ``is_shallow(first, last)``.
            jobs: The list.
            first: Rank of the first job, from 0; a negative rank counts from the end.
            last: Rank of the last job, inclusive; negative as *first*.
            descending: Reverse the whole list first.
            by_priority: Order by priority, then age, instead of by age alone.
        """
        order = _Order(descending, by_priority)
        if self.is_shallow(first, last):
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
        order: _Order,
    ) -> JobPage:
        """Return a page of ranks within the list, walked to from the nearest known place."""
        size = last - first + 1
        behind = length - 1 - last
        if min(first, behind) > self._sizes.shallow and not order.by_priority:
            oldest = behind if order.descending else first
            start, skip = self._seek(connection, jobs, oldest)
            return self._walk(
                connection, jobs, skip, size, order, backwards=order.descending, start=start
            )
        if behind < first:
            return self._walk(connection, jobs, behind, size, order, backwards=True)
        return self._walk(connection, jobs, first, size, order)

    def length(self, connection: Connection, jobs: JobList) -> int:
        """Return the number of jobs in a list."""
        return int(connection.scalar(self._length, self._in_list(jobs)) or 0)

    def _seek(self, connection: Connection, jobs: JobList, rank: int) -> tuple[int, int]:
        """Return an id, and the number of jobs to skip from that id to reach *rank*."""
        start = 0
        coarser = WHOLE_LIST
        for span in reversed(self._sizes.spans):
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
        order: _Order,
        *,
        backwards: bool = False,
        start: int = 0,
    ) -> JobPage:
        """Return *size* jobs of a list after skipping *skip* of them, from id *start* on.

        With *backwards*, the walk begins at the other end; the jobs are still in *order*.
        """
        shape = jobs.state is None, jobs.type is None, order, backwards
        page = self._pages.get(shape)
        if page is None:
            page = self._pages[shape] = self._page_of(jobs, order, backwards=backwards)
        return page.read(
            connection,
            # Both are negative where there is nothing to return.
            skip=max(0, skip),
            size=max(0, size),
            most_bytes=self._sizes.page_bytes,
            start=start,
            state=jobs.state and jobs.state.value,
            type=jobs.type,
        )

    def _page_of(self, jobs: JobList, order: _Order, *, backwards: bool) -> PageReader:
        """Return the statements for all pages of lists of this shape."""
        table = self._jobs
        # A list by priority cannot start at an id, and a condition on the id would tempt the
        # planner to sort.
        conditions = [] if order.by_priority else [table.c.id >= bindparam("start")]
        if jobs.state is not None:
            conditions.append(table.c.state == bindparam("state"))
        if jobs.type is not None:
            conditions.append(table.c.type == bindparam("type"))
        columns = [table.c.priority, table.c.id] if order.by_priority else [table.c.id]
        walked = order.reversed if backwards else order
        page = (
            select(*columns)
            .where(*conditions)
            .order_by(*(column.desc() if walked.descending else column for column in columns))
            .limit(bindparam("size"))
            .offset(bindparam("skip"))
        )
        return PageReader(
            page.add_columns(json_of(table)).subquery("page"),
            page.add_columns(bytes_of(table).label("bytes")).subquery("sized"),
            [column.name for column in columns],
            descending=order.descending,
            backwards=backwards,
        )


def rank_columns() -> Sequence[Column[Any]]:
    """Return the columns of the table that counts the jobs in runs of ids."""
    return (
        Column("type", Text, primary_key=True),
        Column("state", Text, primary_key=True),
        Column("span", Integer, primary_key=True),
        Column("bucket", BIGINT, primary_key=True),
        Column("jobs", BigInteger, nullable=False),
    )


def _run_of_rank(ranks: Table, in_list: ColumnElement[bool]) -> Select[Any]:
    """Return the statement that finds the run of ids with a rank.

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

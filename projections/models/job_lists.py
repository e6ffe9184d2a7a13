"""Pages of job lists, found by rank.

A page of Kue's lists is a range of *ranks*: ``/jobs/failed/90000..90019``.  SQL finds a rank by
walking to it (``OFFSET``), so the cost of a page would grow with its depth.  Close to the ends of a
list that is the fastest way.  Elsewhere, ``job_runs`` finds a job that is close to the page.

There is an index for the jobs of a type in a state, but none for the jobs of a type, because every
change of every job would have to update it.  So a page of the jobs of a type is merged from the
lists of its states.
"""

from typing import Any, NamedTuple

from sqlalchemy import (
    BindParameter,
    ColumnElement,
    Connection,
    FromClause,
    Select,
    Table,
    bindparam,
    literal_column,
    select,
    union_all,
)

from ledger.projections.models.job_json import JobPage, bytes_of, json_of
from ledger.projections.models.job_runs import LIST_SIZES, JobList, JobRuns, ListSizes, Place
from ledger.projections.models.page_reader import PageReader
from ledger.rules.job import LIVE_STATES


class _Order(NamedTuple):
    descending: bool
    by_priority: bool

    @property
    def reversed(self) -> "_Order":
        return self._replace(descending=not self.descending)

    @property
    def columns(self) -> list[str]:
        return ["priority", "id"] if self.by_priority else ["id"]

    def of(self, table: FromClause) -> list[ColumnElement[Any]]:
        """Return what to order a table by."""
        columns = [table.c[name] for name in self.columns]
        return [column.desc() if self.descending else column.asc() for column in columns]

    def from_start(self, table: FromClause) -> list[list[ColumnElement[bool]]]:
        """Return the conditions of the jobs from a place on; a walk from a place ascends.

        One condition would be ``(priority, id) >= (…, …)``.  SQLite uses an index for the first
        column of it only.
        """
        from_id = table.c.id >= bindparam("start_id")
        if not self.by_priority:
            return [[from_id]]
        priority: BindParameter[int] = bindparam("start_priority")
        return [[table.c.priority == priority, from_id], [table.c.priority > priority]]


def clip(first: int, last: int, length: int) -> tuple[int, int]:
    """Return the ranks counted from 0 and within a list of *length*; (1, 0) for an empty page."""
    first = max(0, first + length if first < 0 else first)
    last = min(length - 1, last + length if last < 0 else last)
    return (first, last) if first <= last else (1, 0)


class JobLists:
    """All lists of the jobs in a table.

    Args:
        jobs: The table.
        runs: The table of their counts, with ``run_columns``.
        sizes: What is counted and what is walked; the table has the counts of the same spans.

    Attributes:
        follow: Counts jobs whose states have changed; see ``JobRuns.follow``.
        length: Returns the number of jobs in a list.
    """

    def __init__(self, jobs: Table, runs: Table, *, sizes: ListSizes = LIST_SIZES) -> None:
        self._shallow = sizes.shallow
        self._jobs = jobs
        self._runs = JobRuns(runs, sizes=sizes)
        self.follow = self._runs.follow
        self.length = self._runs.length
        self._page_bytes = sizes.page_bytes
        self._pages: dict[tuple[object, ...], PageReader] = {}

    def is_shallow(self, first: int, last: int) -> bool:
        """Return whether a page is close enough to an end of its list to walk to it."""
        shallow = self._shallow
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
        if first <= self._shallow:
            return self._walk(connection, jobs, first, size, order)
        if behind <= self._shallow:
            return self._walk(connection, jobs, behind, size, order, backwards=True)
        find = self._runs.by_priority if order.by_priority else self._runs.by_age
        start = find(connection, jobs, behind if order.descending else first)
        return self._walk(
            connection, jobs, start.skip, size, order, backwards=order.descending, start=start
        )

    def _walk(
        self,
        connection: Connection,
        jobs: JobList,
        skip: int,
        size: int,
        order: _Order,
        *,
        backwards: bool = False,
        start: Place | None = None,
    ) -> JobPage:
        """Return *size* jobs of a list after skipping *skip* of them, from *start* on.

        With *backwards*, the walk begins at the other end; the jobs are still in *order*.
        """
        shape = jobs.state, jobs.type is None, order, backwards, start is None
        page = self._pages.get(shape)
        if page is None:
            page = self._pages[shape] = self._page_of(
                jobs, order, backwards=backwards, starts=start is not None
            )
        return page.read(
            connection,
            # Both are negative where there is nothing to return.
            skip=max(0, skip),
            size=max(0, size),
            most_bytes=self._page_bytes,
            start_priority=start and start.priority,
            start_id=start and start.job_id,
            type=jobs.type,
        )

    def _page_of(
        self, jobs: JobList, order: _Order, *, backwards: bool, starts: bool
    ) -> PageReader:
        """Return the statements for all pages of lists of this shape."""
        walked = order.reversed if backwards else order
        return PageReader(
            self._rows(jobs, walked, starts, json_of(self._jobs)).subquery("page"),
            self._rows(jobs, walked, starts, bytes_of(self._jobs).label("bytes")).subquery("sized"),
            order.columns,
            descending=order.descending,
            backwards=backwards,
        )

    def _rows(
        self,
        jobs: JobList,
        walked: _Order,
        starts: bool,  # noqa: FBT001 - part of the shape
        column: ColumnElement[Any],
    ) -> Select[Any]:
        """Return the statement of the jobs of a page, each with its priority, id, and *column*."""
        table = self._jobs
        parts = self._parts(jobs, walked, starts)
        if len(parts) == 1:
            return _cut(parts[0].add_columns(column).order_by(*walked.of(table)))
        # Each part is read in its order, and only as far as the page needs it.
        merged = union_all(*parts).subquery("merged")
        ids = _cut(select(merged).order_by(*walked.of(merged))).subquery("ids")
        return (
            select(table.c.priority, table.c.id, column)
            .join_from(ids, table, table.c.id == ids.c.id)
            .order_by(*walked.of(table))
        )

    def _parts(
        self,
        jobs: JobList,
        walked: _Order,
        starts: bool,  # noqa: FBT001 - part of the shape
    ) -> list[Select[Any]]:
        """Return statements of the priorities and ids of jobs, for each of which is an index."""
        table = self._jobs
        in_list: list[list[ColumnElement[bool]]] = [[]]
        if jobs.state is not None or jobs.type is not None:
            # Not as a parameter: because of the index of active jobs, SQLite would prepare the
            # statement again for each value, which takes twice as long as the page.
            states = LIVE_STATES if jobs.state is None else (jobs.state,)
            in_list = [[table.c.state == literal_column(f"'{state}'")] for state in states]
        if jobs.type is not None:
            for conditions in in_list:
                conditions.append(table.c.type == bindparam("type"))
        from_start = walked.from_start(table) if starts else [[]]
        return [
            select(table.c.priority, table.c.id).where(*conditions, *from_)
            for conditions in in_list
            for from_ in from_start
        ]


def _cut(page: Select[Any]) -> Select[Any]:
    return page.limit(bindparam("size")).offset(bindparam("skip"))

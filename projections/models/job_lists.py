"""Pages of job lists, found by rank.

A page of Kue's lists is a range of *ranks*: ``/jobs/failed/90000..90019``.  SQL finds a rank by
walking to it (``OFFSET``), so the cost of a page would grow with its depth.  Close to the ends of a
list that is the fastest way.  Elsewhere, ``list_places`` finds a job that is close to the page.

There is an index for the jobs of a type in a state, but none for the jobs of a type, because every
change of every job would have to update it.  So a page of the jobs of a type is merged from the
lists of its states.
"""

from sqlalchemy import Connection, Table

from ledger.projections.models.job_json import JobPage
from ledger.projections.models.job_runs import LIST_SIZES, JobList, JobRuns, ListSizes
from ledger.projections.models.list_places import ListPlaces, Place
from ledger.projections.models.list_rows import Order, Shape
from ledger.projections.models.page_reader import PageReader


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
        self._places = ListPlaces(runs, sizes=sizes)
        self.follow = JobRuns(runs, sizes=sizes).follow
        self.length = self._places.length
        self._page_bytes = sizes.page_bytes
        self._most_skipped = max(sizes.shallow, 1 << max(sizes.id_spans[0], sizes.large_id_span))
        self._pages: dict[Shape, PageReader] = {}

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
        order = Order(descending, by_priority)
        if self.is_shallow(first, last):
            if first >= 0:
                return self._walk(connection, jobs, first, last - first + 1, order)
            return self._walk(connection, jobs, -1 - last, last - first + 1, order, backwards=True)
        longest = self._places.longest_runs(connection, jobs, by_priority=by_priority)
        length = sum(runs.jobs for runs in longest)
        first, last = clip(first, last, length)
        size = last - first + 1
        behind = length - 1 - last
        if first <= self._shallow:
            return self._walk(connection, jobs, first, size, order)
        if behind <= self._shallow:
            return self._walk(connection, jobs, behind, size, order, backwards=True)
        start = self._places.place(
            connection, jobs, longest, behind if descending else first, by_priority=by_priority
        )
        return self._walk(
            connection, jobs, start.skip, size, order, backwards=descending, start=start
        )

    def _walk(
        self,
        connection: Connection,
        jobs: JobList,
        skip: int,
        size: int,
        order: Order,
        *,
        backwards: bool = False,
        start: Place | None = None,
    ) -> JobPage:
        """Return *size* jobs of a list after skipping *skip* of them, from *start* on.

        With *backwards*, the walk begins at the other end; the jobs are still in *order*.
        """
        shape = Shape(
            state=jobs.state,
            of_type=jobs.type is not None,
            order=order,
            backwards=backwards,
            starts=start is not None,
            skips=skip > 0,
            is_embedded=connection.dialect.positional,
        )
        page = self._pages.get(shape)
        if page is None:
            page = self._pages[shape] = PageReader(
                self._jobs, shape, most_skipped=self._most_skipped
            )
        given = {
            # Both are negative where there is nothing to return.
            "skip": max(0, skip),
            "size": max(0, size),
            "most_bytes": self._page_bytes,
            "start_priority": start and start.priority,
            "start_id": start and start.job_id,
            "state": jobs.state and jobs.state.value,
            "type": jobs.type,
        }
        return page.read(connection, given)

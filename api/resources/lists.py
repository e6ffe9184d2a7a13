"""The resources of job lists: ranges of ranks, by age or in the order in which jobs run."""

from urllib.parse import unquote

import falcon

from ledger.api.http import json_out
from ledger.api.http.etag import answer, is_current
from ledger.api.http.links import link_to_rest
from ledger.api.schemas import Count
from ledger.database.contract import Database
from ledger.errors import InvalidInput
from ledger.projections.models.job_lists import JobLists, clip
from ledger.projections.models.job_runs import JobList
from ledger.projections.models.state_counts import StateCounts
from ledger.rules.job import State


class Lists:
    """The ``GET`` resources below ``/jobs/``: the lists of jobs, and the length of one.

    Args:
        database: The ledger's database.
        lists: The read model of lists.
        state_counts: The read model of counts.
        largest_page: Maximum number of jobs in one answer.
    """

    def __init__(
        self, database: Database, lists: JobLists, state_counts: StateCounts, *, largest_page: int
    ) -> None:
        self._database = database
        self._lists = lists
        self._state_counts = state_counts
        self._largest_page = largest_page

    def page(
        self,
        req: falcon.Request,
        resp: falcon.Response,
        *,
        ranks: tuple[int, int],
        state: State | None = None,
        type_: str | None = None,
        descending: bool = False,
        by_priority: bool,
    ) -> None:
        """Answer the jobs of a range: of all jobs, of a state, of a type in a state.

        The first of them, if all would be too long for one answer.
        """
        first, last = ranks
        jobs = JobList(state, type_)
        # If one rank counts from each end, or a page is wide, its width depends on the length of
        # the list: clients ask for 0..100000 of lists that they know to be short.
        clipped = (first < 0) != (last < 0) or last - first >= self._largest_page
        shallow = not clipped and self._lists.is_shallow(first, last)
        with self._database.read() if shallow else self._database.snapshot() as connection:
            if is_current(req, resp, connection):
                return
            if clipped:
                first, last = clip(first, last, self._lists.length(connection, jobs))
                self._check_width(first, last)
            page = self._lists.page(
                connection, jobs, first, last, descending=descending, by_priority=by_priority
            )
        if page.left:
            rest = (last - page.left + 1 if first < 0 else first + page.jobs), last
            sort = "priority" if by_priority else None
            link_to_rest(req, resp, path=_with_ranks(req.path, rest), sort=sort)
        answer(resp, page.json.encode(), (page.position, page.chain))

    def _check_width(self, first: int, last: int) -> None:
        if last - first >= self._largest_page:
            most = self._largest_page
            raise InvalidInput(
                "range",
                f"range: expected at most {most} jobs, such as {first}..{first + most - 1}, "
                f"got {last - first + 1}",
            )

    def count(
        self, req: falcon.Request, resp: falcon.Response, *, type_: str, state: State
    ) -> None:
        """Answer the number of jobs of a type in a state."""
        with self._database.read() as connection:
            if is_current(req, resp, connection):
                return
            position, chain, count = self._state_counts.count(connection, type_, state)
        answer(resp, json_out.encode(Count(count=count)), (position, chain))


def _with_ranks(path: str, ranks: tuple[int, int]) -> str:
    """Return the path of a list with other ranks; the range is the last part with dots."""
    parts = path.split("/")
    range_ = max(place for place, part in enumerate(parts) if ".." in unquote(part))
    parts[range_] = "{}..{}".format(*ranks)
    return "/".join(parts)

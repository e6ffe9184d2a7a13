"""The resources of job lists, by rank in creation order or in the order of running."""

import re
from typing import Final

import falcon

from ledger.api.http.etag import answer, is_current
from ledger.api.resources.jobs import known_state
from ledger.database.contract import Database
from ledger.errors import InvalidInput
from ledger.projections.models.job_lists import JobList, JobLists, clip, is_shallow
from ledger.projections.models.state_counts import StateCounts
from ledger.rules.commands import LARGEST_INTEGER

_RANGE: Final = re.compile(r"(-?[0-9]{1,20})\.\.(-?[0-9]{1,20})", re.ASCII)
_ORDERS: Final = {"asc": False, "desc": True}


class Lists:
    """The ``GET`` resources below ``/jobs/``.

    The range among the parts of a path, which is the one with two dots, determines what the
    others are.  Falcon's router cannot decide by that, so it passes on all of them.
    """

    def __init__(
        self, database: Database, lists: JobLists, state_counts: StateCounts, *, largest_page: int
    ) -> None:
        self._database = database
        self._lists = lists
        self._state_counts = state_counts
        self._largest_page = largest_page

    def on_get(self, req: falcon.Request, resp: falcon.Response, **parts: str) -> None:
        match list(parts.values()):
            case [range_] if ".." in range_:
                self._page(req, resp, JobList(), range_)
            case [state, range_] if ".." in range_:
                self._page(req, resp, JobList(known_state(state)), range_)
            case [range_, order] if ".." in range_:
                self._page(req, resp, JobList(), range_, order)
            case [type_, state, "stats"]:
                self._count(req, resp, type_, state)
            case [type_, state, range_] if ".." in range_:
                self._page(req, resp, JobList(known_state(state), type_), range_)
            case [state, range_, order] if ".." in range_:
                self._page(req, resp, JobList(known_state(state)), range_, order)
            case [type_, state, range_, order] if ".." in range_:
                self._page(req, resp, JobList(known_state(state), type_), range_, order)
            case _:
                raise falcon.HTTPRouteNotFound

    on_head = on_get

    def _page(
        self,
        req: falcon.Request,
        resp: falcon.Response,
        jobs: JobList,
        range_: str,
        order: str = "asc",
    ) -> None:
        first, last = self._ranks(range_)
        descending = _ORDERS.get(order)
        if descending is None:
            raise InvalidInput.expected("order", "asc or desc", order)
        by_priority = _by_priority(req)
        shallow = is_shallow(first, last)
        with self._database.read() if shallow else self._database.snapshot() as connection:
            if is_current(req, resp, connection):
                return
            if (first < 0) != (last < 0):
                # The list's length is needed for the distance between ranks from both ends.
                first, last = clip(first, last, self._lists.length(connection, jobs))
                self._check_width(first, last)
            page = self._lists.page(
                connection, jobs, first, last, descending=descending, by_priority=by_priority
            )
        answer(resp, page.json.encode(), page.position)

    def _ranks(self, range_: str) -> tuple[int, int]:
        found = _RANGE.fullmatch(range_)
        if found is None:
            raise InvalidInput.expected("range", "FROM..TO, two integers", range_)
        first, last = (
            max(-LARGEST_INTEGER, min(int(rank), LARGEST_INTEGER)) for rank in found.groups()
        )
        if (first < 0) == (last < 0):
            self._check_width(first, last)
        return first, last

    def _check_width(self, first: int, last: int) -> None:
        if last - first >= self._largest_page:
            most = self._largest_page
            raise InvalidInput(
                "range",
                f"range: expected at most {most} jobs a page, as in {first}..{first + most - 1}, "
                f"got {last - first + 1}",
            )

    def _count(self, req: falcon.Request, resp: falcon.Response, type_: str, state: str) -> None:
        known = known_state(state)
        with self._database.read() as connection:
            if is_current(req, resp, connection):
                return
            position, count = self._state_counts.count(connection, type_, known)
        answer(resp, b'{"count":%d}' % count, position)


def _by_priority(req: falcon.Request) -> bool:
    sort = req.params.get("sort")
    if sort not in (None, "priority"):  # a list, if it was given twice
        raise InvalidInput.expected("sort", "priority", sort)
    return sort == "priority"

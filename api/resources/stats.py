"""The resources of the counts and the types."""

import falcon

from ledger.api.http import json_out
from ledger.api.http.etag import answer, is_current
from ledger.api.http.links import link_to_rest
from ledger.database.contract import Database
from ledger.log import store
from ledger.projections.models.state_counts import StateCounts


class StatsReads:
    """The resources ``GET /stats`` and ``GET /job/types``: jobs by state, and their types.

    Args:
        database: The ledger's database.
        state_counts: The read model.
        largest_page: Maximum number of types in one answer.
    """

    def __init__(self, database: Database, state_counts: StateCounts, *, largest_page: int) -> None:
        self._database = database
        self._state_counts = state_counts
        self._largest_page = largest_page

    def show(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Answer the number of jobs in each state, and the working time."""
        with self._database.read() as connection:
            if is_current(req, resp, connection):
                return
            stats = self._state_counts.stats(connection)
        answer(resp, json_out.stats(stats), (stats.position, stats.chain))

    def types(self, req: falcon.Request, resp: falcon.Response, *, after: str) -> None:
        """Answer the types that have jobs, sorted, or those after a type."""
        with self._database.read() as connection:
            if is_current(req, resp, connection):
                return
            head = store.read_head(connection)
            types = self._state_counts.types(connection, after=after, limit=self._largest_page + 1)
        if len(types) > self._largest_page:
            types.pop()
            link_to_rest(req, resp, after=types[-1])
        answer(resp, json_out.encode(types), (head.position, head.chain))

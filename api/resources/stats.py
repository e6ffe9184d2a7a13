"""The resources of the counts and the types."""

import falcon

from ledger.api.http import json_out
from ledger.api.http.etag import answer, is_current
from ledger.database.contract import Database
from ledger.log import store
from ledger.projections.models.state_counts import StateCounts


class StatsReads:
    """The resources ``GET /stats`` and ``GET /job/types``: jobs by state, and their types."""

    def __init__(self, database: Database, state_counts: StateCounts) -> None:
        self._database = database
        self._state_counts = state_counts

    def show(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Answer the number of jobs in each state, and the working time."""
        with self._database.read() as connection:
            if is_current(req, resp, connection):
                return
            stats = self._state_counts.stats(connection)
        answer(resp, json_out.stats(stats), (stats.position, stats.chain))

    def types(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Answer the types that have jobs, sorted."""
        with self._database.read() as connection:
            if is_current(req, resp, connection):
                return
            head = store.read_head(connection)
            types = self._state_counts.types(connection)
        answer(resp, json_out.encode(types), (head.position, head.chain))

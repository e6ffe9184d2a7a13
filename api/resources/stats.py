"""The resources of the counts and the types."""

import falcon

from ledger.api.http import json_out
from ledger.api.http.etag import answer, is_current
from ledger.database.contract import Database
from ledger.log import store
from ledger.projections.models.state_counts import StateCounts


class Stats:
    """The resource ``GET /stats``: jobs by state, and the time that workers worked."""

    def __init__(self, database: Database, state_counts: StateCounts) -> None:
        self._database = database
        self._state_counts = state_counts

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        with self._database.read() as connection:
            if is_current(req, resp, connection):
                return
            stats = self._state_counts.stats(connection)
        answer(resp, json_out.stats(stats), stats.position)

    on_head = on_get


class Types:
    """The resource ``GET /job/types``: the types that have jobs, sorted."""

    def __init__(self, database: Database, state_counts: StateCounts) -> None:
        self._database = database
        self._state_counts = state_counts

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        with self._database.read() as connection:
            if is_current(req, resp, connection):
                return
            position = store.read_position(connection)
            types = self._state_counts.types(connection)
        answer(resp, json_out.encode(types), position)

    on_head = on_get

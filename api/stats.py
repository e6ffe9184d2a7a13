"""Serve the counts and the types."""

import falcon

from api import wire
from api.reading import answer, is_current
from ledger import store
from ledger.database import Database
from projections.state_counts import StateCounts


class Stats:
    """Answer ``GET /stats``: jobs by state, and the time that workers worked."""

    def __init__(self, database: Database, state_counts: StateCounts) -> None:
        self._database = database
        self._state_counts = state_counts

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        with self._database.read() as connection:
            if is_current(req, resp, connection):
                return
            stats = self._state_counts.stats(connection)
        answer(resp, wire.stats(stats), stats.position)

    on_head = on_get


class Types:
    """Answer ``GET /job/types``: the types that have jobs, sorted."""

    def __init__(self, database: Database, state_counts: StateCounts) -> None:
        self._database = database
        self._state_counts = state_counts

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        with self._database.read() as connection:
            if is_current(req, resp, connection):
                return
            position = store.read_position(connection)
            types = self._state_counts.types(connection)
        answer(resp, wire.encode(types), position)

    on_head = on_get

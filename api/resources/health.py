"""The health checks: whether the server is alive, and whether it can serve."""

from collections.abc import Callable, Sequence

import falcon

from ledger.api.http import json_out
from ledger.api.http.etag import answer
from ledger.database.contract import Database
from ledger.database.revision import require_current
from ledger.log import store
from ledger.projections.lag import Standing


class Live:
    """The resource ``GET /health/live``: the process answers at all."""

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        answer(resp, b'{"status":"live"}')

    on_head = on_get


class Ready:
    """The resource ``GET /health/ready``: the database answers and has our tables.

    A read model that cannot continue is reported in ``stopped``, and the status stays 200: jobs
    are still served, and a load balancer that considered the server broken would stop them
    because of one report.

    Args:
        database: The ledger's database.
        standings: Returns the lag of the followers of this server.
    """

    def __init__(self, database: Database, standings: Callable[[], Sequence[Standing]]) -> None:
        self._database = database
        self._standings = standings

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        require_current(self._database)
        with self._database.read() as connection:
            position = store.read_position(connection)
        ready: dict[str, object] = {"status": "ready", "position": position}
        stopped = {each.name: each.stopped for each in self._standings() if each.stopped}
        if stopped:
            ready["stopped"] = stopped
        answer(resp, json_out.encode(ready))

    on_head = on_get

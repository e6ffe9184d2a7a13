"""Tell whether the server lives, and whether it can serve."""

from collections.abc import Callable, Sequence

import falcon

from ledger.api.http import json_out
from ledger.api.http.etag import answer
from ledger.database.contract import Database
from ledger.database.revision import require_current
from ledger.log import store
from ledger.projections.lag import Standing


class Live:
    """Answer ``GET /health/live``: the process answers at all."""

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        answer(resp, b'{"status":"live"}')

    on_head = on_get


class Ready:
    """Answer ``GET /health/ready``: the database answers and has our tables.

    A read model that cannot go on is told of, in ``stopped``, and the status stays 200:
    jobs are served all the same, and a load balancer that took the server for broken would
    stop them for the sake of somebody's report.

    Args:
        database: The ledger's.
        standings: Says how far the read models of this server have come.
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

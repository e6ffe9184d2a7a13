"""Tell whether the server lives, and whether it can serve."""

import falcon

from api import wire
from api.reading import answer
from ledger import store
from ledger.database import Database
from ledger.migration import require_current
from projections.catch_up import read_failures


class Live:
    """Answer ``GET /health/live``: the process answers at all."""

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        answer(resp, b'{"status":"live"}')

    on_head = on_get


class Ready:
    """Answer ``GET /health/ready``: the database answers and has our tables.

    A read model that cannot go on is told of, in ``stopped``; all else can be served.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        require_current(self._database)
        with self._database.read() as connection:
            position = store.read_position(connection)
        ready: dict[str, object] = {"status": "ready", "position": position}
        failures = read_failures(self._database)
        if failures:
            ready["stopped"] = {
                failure.name: f"event {failure.position} cannot be applied: {failure.reason}"
                for failure in failures
            }
        answer(resp, wire.encode(ready))

    on_head = on_get

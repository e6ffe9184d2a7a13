"""Tell whether the server lives, and whether it can serve."""

import falcon

from api import wire
from api.reading import answer
from ledger import store
from ledger.database import Database
from ledger.migration import require_current


class Live:
    """Answer ``GET /health/live``: the process answers at all."""

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        answer(resp, b'{"status":"live"}')

    on_head = on_get


class Ready:
    """Answer ``GET /health/ready``: the database answers and has our tables."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        require_current(self._database)
        with self._database.read() as connection:
            position = store.read_position(connection)
        answer(resp, wire.encode({"status": "ready", "position": position}))

    on_head = on_get

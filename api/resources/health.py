"""The health checks: whether the server is alive, and whether it can serve."""

from collections.abc import Callable, Sequence
from typing import Final

import falcon
from msgspec import UNSET

from ledger.api.http import json_out
from ledger.api.http.etag import answer
from ledger.api.schemas import Status
from ledger.database.contract import Database
from ledger.database.revision import require_current
from ledger.log import store
from ledger.projections.lag import Lag


class Health:
    """The health of the server: whether the process answers, and whether it can serve.

    A read model that cannot continue is reported in ``stopped``, and the status stays 200: jobs
    are still served, and a load balancer should not stop that because of one read model.

    Args:
        database: The ledger's database.
        lags: Returns the lag of the followers of this server.
    """

    def __init__(self, database: Database, lags: Callable[[], Sequence[Lag]]) -> None:
        self._database = database
        self._lags = lags

    def live(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Answer that the process is alive."""
        answer(resp, _LIVE)

    def ready(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Answer if the database answers and has the tables of this version."""
        require_current(self._database)
        with self._database.read() as connection:
            position = store.read_position(connection)
        stopped = {each.name: each.stopped for each in self._lags() if each.stopped}
        ready = Status(status="ready", position=position, stopped=stopped or UNSET)
        answer(resp, json_out.encode(ready))


_LIVE: Final = json_out.encode(Status(status="live"))

"""The health checks: whether the server is alive, and whether it can serve."""

from collections.abc import Callable, Sequence
from typing import Final

import falcon
from msgspec import UNSET

from ledger.api.http import json_out
from ledger.api.http.etag import answer
from ledger.api.schemas import LateWork, Status
from ledger.database.revision import require_current
from ledger.log import store
from ledger.log.ledger import Ledger
from ledger.projections.lag import Lag
from ledger.queue.overdue import late_work
from ledger.queue.read_models import ReadModels


class Health:
    """The health of the server: whether the process answers, and whether it can serve.

    A read model that cannot continue is reported in ``stopped``, and work in the background that
    should have been done in ``late``.  The status stays 200: jobs are still served, the work is
    most often another process's, and no server does it sooner because a load balancer stops
    this one.

    Args:
        ledger: The ledger.
        read_models: What is overdue.
        lags: Returns the lag of the followers of this server.
    """

    def __init__(
        self, ledger: Ledger, read_models: ReadModels, lags: Callable[[], Sequence[Lag]]
    ) -> None:
        self._ledger = ledger
        self._read_models = read_models
        self._lags = lags

    def live(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Answer that the process is alive."""
        answer(resp, _LIVE)

    def ready(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Answer if the database answers and has the tables of this version."""
        database = self._ledger.database
        require_current(database)
        with database.read() as connection:
            position = store.read_position(connection)
        lags = self._lags()
        stopped = {each.name: each.stopped for each in lags if each.stopped}
        late = {
            each.name: LateWork(ms=each.ms, reason=each.reason)
            for each in late_work(self._ledger, self._read_models, lags)
        }
        ready = Status(
            status="ready", position=position, stopped=stopped or UNSET, late=late or UNSET
        )
        answer(resp, json_out.encode(ready))


_LIVE: Final = json_out.encode(Status(status="live"))

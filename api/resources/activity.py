"""The resource of the counts per minute."""

from typing import Final

import falcon
from sqlalchemy import Connection

from ledger.api.http import json_out
from ledger.api.http.etag import answer, is_current
from ledger.errors import InvalidInput
from ledger.log.ledger import Ledger
from ledger.projections.models.activity import MINUTE_MS, Activity

_HOUR_MS: Final = 60 * MINUTE_MS


class ActivityByMinute:
    """The resource ``GET /activity``: jobs created, started, completed and failed per minute.

    Args:
        ledger: The ledger; its clock defines "now".
        activity: The read model.
        largest_page: Maximum number of minutes in a range.
    """

    def __init__(self, ledger: Ledger, activity: Activity, *, largest_page: int) -> None:
        self._ledger = ledger
        self._activity = activity
        self._largest_page = largest_page

    def by_minute(
        self,
        req: falcon.Request,
        resp: falcon.Response,
        *,
        from_ms: int | None,
        to_ms: int | None,
        type_: str | None,
    ) -> None:
        """Answer the number of jobs created, started, completed and failed in each minute."""
        # Unless both ends are given, the answer changes without a new event, and has no version.
        fixed = from_ms is not None and to_ms is not None
        with self._ledger.database.read() as connection:
            begin_ms, end_ms = self._range(connection, from_ms, to_ms)
            busy = self._activity.minutes(connection, from_ms=begin_ms, to_ms=end_ms, type_=type_)
            version = (busy.position, busy.chain) if fixed else None
            if version is not None and is_current(req, resp, connection, version):
                return
        answer(resp, json_out.activity(busy.minutes), version)

    def _range(
        self, connection: Connection, from_ms: int | None, to_ms: int | None
    ) -> tuple[int, int]:
        """Return the start of the first minute, and the time before which the last one starts."""
        if to_ms is None:
            to_ms = self._ledger.time_ms(connection) + 1
        if from_ms is None:
            from_ms = max(0, to_ms - _HOUR_MS)
        if from_ms > to_ms:
            raise InvalidInput("from", "from: expected a time before `to`")
        # A minute is returned completely or not at all.
        from_ms -= from_ms % MINUTE_MS
        if to_ms - from_ms > self._largest_page * MINUTE_MS:
            raise InvalidInput(
                "from", f"from: expected at most {self._largest_page} minutes before `to`"
            )
        return from_ms, to_ms

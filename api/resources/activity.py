"""The resource of what happened in each minute."""

import re
from datetime import datetime
from typing import Final

import falcon

from ledger.api.http import json_out
from ledger.api.http.etag import answer, is_current
from ledger.errors import InvalidInput
from ledger.log.ledger import Ledger
from ledger.projections.models.activity import MINUTE_MS, Activity
from ledger.rules.commands import LARGEST_INTEGER

_HOUR_MS: Final = 60 * MINUTE_MS
_MILLISECONDS: Final = re.compile("[0-9]{1,15}", re.ASCII)
# RFC 3339, whose times have a zone; Python alone would accept much more.
_MOMENT: Final = re.compile(
    r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d{1,9})?([Zz]|[+-]\d\d:\d\d)", re.ASCII
)
_EXPECTED: Final = (
    "UTC milliseconds, or an RFC 3339 time from 1970 on, such as 2026-11-22T14:00:00Z; "
    "a + in it is written %2B"
)


class ActivityByMinute:
    """The resource ``GET /activity``: what was created, started, completed and failed.

    Args:
        ledger: The ledger; its clock defines "now".
        activity: The read model.
        largest_page: Maximum number of minutes in a range.
    """

    def __init__(self, ledger: Ledger, activity: Activity, *, largest_page: int) -> None:
        self._ledger = ledger
        self._activity = activity
        self._largest_page = largest_page

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        from_ms, to_ms = self._range(req)
        type_ = _text(req, "type")
        with self._ledger.database.read() as connection:
            busy = self._activity.minutes(connection, from_ms=from_ms, to_ms=to_ms, type_=type_)
            # Unless both ends are given, the answer changes with time alone, and has no version.
            fixed = "from" in req.params and "to" in req.params
            if fixed and is_current(req, resp, connection, busy.position):
                return
        answer(resp, json_out.activity(busy.minutes), busy.position if fixed else None)

    on_head = on_get

    def _range(self, req: falcon.Request) -> tuple[int, int]:
        """Return the start of the first minute, and the time before which the last one starts."""
        to_ms = _moment(req, "to")
        if to_ms is None:
            to_ms = self._ledger.now_ms() + 1
        from_ms = _moment(req, "from")
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


def _text(req: falcon.Request, name: str) -> str | None:
    value = req.params.get(name)
    if isinstance(value, list):
        raise InvalidInput.expected(name, "one value", value)
    if value is not None and "\0" in value:
        raise InvalidInput.expected(name, "text without NUL", value)
    return value


def _moment(req: falcon.Request, name: str) -> int | None:
    text = _text(req, name)
    if text is None:
        return None
    if _MILLISECONDS.fullmatch(text) and int(text) <= LARGEST_INTEGER:
        return int(text)
    try:
        at = datetime.fromisoformat(text.upper()) if _MOMENT.fullmatch(text) else None
        at_ms = int(at.timestamp() * 1000) if at else -1
    except (ValueError, OverflowError):
        at_ms = -1
    if at_ms < 0:
        raise InvalidInput.expected(name, _EXPECTED, text)
    return at_ms

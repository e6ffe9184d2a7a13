"""Times as text and as ``datetime``, also those that ``datetime`` cannot represent.

Delays have up to 2**53 milliseconds, and a clock may be wrong, so a stored time can lie after
the year 9999, the last one of ``datetime``.
"""

from datetime import UTC, datetime, timedelta
from typing import Final

_EPOCH: Final = datetime.fromtimestamp(0, tz=UTC)
_LATEST: Final = datetime.max.replace(tzinfo=UTC)
_MILLISECOND: Final = timedelta(milliseconds=1)
# The first millisecond that datetime cannot represent.
_END_MS: Final = (_LATEST - _EPOCH) // _MILLISECOND + 1
_START_MS: Final = (datetime.min.replace(tzinfo=UTC) - _EPOCH) // _MILLISECOND
# The calendar repeats itself after this time.
_CYCLE_YEARS: Final = 400
_CYCLE_MS: Final = 146_097 * 86_400_000


def iso_text(at_ms: int, *, separator: str = "T", timespec: str = "milliseconds") -> str:
    """Return a time in UTC milliseconds as RFC 3339 text, such as ``2026-11-22T14:00:00.000Z``.

    A year that RFC 3339 cannot express has a sign and at least six digits, as in ISO 8601 and
    in JavaScript: ``+287396-10-12T08:59:00.991Z``.

    Args:
        at_ms: The time.
        separator: Text between date and time.
        timespec: The smallest unit, as for ``datetime.isoformat``.
    """
    if _START_MS <= at_ms < _END_MS:
        at = _EPOCH + timedelta(milliseconds=at_ms)
        return at.isoformat(separator, timespec).replace("+00:00", "Z")
    cycles, rest_ms = divmod(at_ms, _CYCLE_MS)
    text = iso_text(rest_ms, separator=separator, timespec=timespec)
    year = int(text[:4]) + cycles * _CYCLE_YEARS
    return f"{year:+07d}{text[4:]}"


def as_datetime(at_ms: int) -> datetime:
    """Return a time in UTC milliseconds; the last one of ``datetime`` if it lies after that."""
    return _EPOCH + timedelta(milliseconds=at_ms) if at_ms < _END_MS else _LATEST

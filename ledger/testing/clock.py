"""A clock that tests set by hand."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

# 2023-11-14, 22:13:20 UTC: the same in every run.
START_MS: Final = 1_700_000_000_000


@dataclass
class Clock:
    """A clock that stands still until it is set.

    A queue's own time never runs backwards: after the clock was set back, events are recorded
    at the time of the last event until the clock is past it.

    Attributes:
        now_ms: The time, UTC milliseconds.
    """

    now_ms: int = START_MS

    def __call__(self) -> int:
        return self.now_ms

    @property
    def now(self) -> datetime:
        """Return the time, in UTC."""
        return datetime.fromtimestamp(0, tz=UTC) + timedelta(milliseconds=self.now_ms)

    def advance(self, by: float | timedelta) -> None:
        """Move the clock by seconds or a timedelta; backwards if it is negative."""
        step = by if isinstance(by, timedelta) else timedelta(seconds=by)
        self.now_ms += round(step / timedelta(milliseconds=1))

    def set(self, at: datetime) -> None:
        """Set the clock to a time.

        Raises:
            ValueError: *at* has no time zone.
        """
        if at.tzinfo is None:
            raise ValueError(f"expected an aware datetime, got {at!r}")
        self.now_ms = round((at - datetime.fromtimestamp(0, tz=UTC)) / timedelta(milliseconds=1))

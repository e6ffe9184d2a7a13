"""The parameter types of the commands; a refusal states what was expected and what was given."""

import math
import re
from typing import Final

import click

from ledger.errors import InvalidInput
from ledger.rules.commands import LARGEST_INTEGER, storable

# More digits are out of range, and Python refuses to parse thousands of them.
_INTEGER: Final = re.compile(r"[+-]?[0-9]{1,16}", re.ASCII)
_DURATION: Final = re.compile(r"([0-9]{1,16})(ms|s|m|h|d)?", re.ASCII)
_UNITS_MS: Final = {None: 1, "ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}


def _wrong(expected: str, got: object) -> str:
    return str(InvalidInput.expected("", expected, got)).removeprefix(": ")


class Whole(click.IntRange):
    """An integer in a range."""

    name = "number"

    def __init__(self, least: int, most: int = LARGEST_INTEGER) -> None:
        super().__init__(least, most)
        self._expected = f"an integer from {least} to {most}"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> int:
        """Parse *value*, or fail with the expected range."""
        number = int(str(value)) if _INTEGER.fullmatch(str(value)) else None
        if number is None or not (self.min or 0) <= number <= (self.max or 0):
            self.fail(_wrong(self._expected, str(value)), param, ctx)
        return number

    def _describe_range(self) -> str:
        """Return the range for ``--help``, without an upper limit that is the largest integer."""
        return f"x>={self.min}" if self.max == LARGEST_INTEGER else super()._describe_range()


# An id, a position or a version; every database can store it.
NUMBER: Final = Whole(0)


class Seconds(click.ParamType):  # type: ignore[type-arg]  # no generic before click 8.4
    """A duration in seconds, from 0 to seven days."""

    name = "seconds"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Parse *value* into seconds, or fail."""
        try:
            seconds = float(str(value))
        except ValueError:
            seconds = math.nan
        # The operating system refuses waits beyond its limit.
        if not 0 <= seconds <= _LONGEST_S:
            self.fail(_wrong(f"seconds from 0 to {_LONGEST_S}", str(value)), param, ctx)
        return seconds


_LONGEST_S: Final = 7 * 86_400


class Milliseconds(click.ParamType):  # type: ignore[type-arg]  # no generic before click 8.4
    """A duration: milliseconds, or a number with a unit (ms, s, m, h, d)."""

    name = "duration"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> int:
        """Parse *value* into milliseconds, or fail."""
        found = _DURATION.fullmatch(str(value))
        if found is None:
            self.fail(
                _wrong("milliseconds, or a duration such as 90s, 5m, 2h, 1d", str(value)),
                param,
                ctx,
            )
        return int(found[1]) * _UNITS_MS[found[2]]


class Text(click.ParamType):  # type: ignore[type-arg]  # no generic before click 8.4
    """Text that a database can store."""

    name = "text"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> str:
        """Return *value*, or fail if a database could not store it."""
        text = str(value)
        try:
            storable("", text)
        except InvalidInput:
            self.fail(_wrong("text in UTF-8", text), param, ctx)
        return text

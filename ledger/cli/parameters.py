"""Read what stands on a command line, or say what was expected and what came."""

import math
import re
from typing import Final

import click

from ledger.errors import InvalidInput
from ledger.rules.commands import LARGEST_INTEGER, storable

# More digits are out of range, and Python refuses to read them without end.
_INTEGER: Final = re.compile(r"[+-]?[0-9]{1,16}", re.ASCII)
_DURATION: Final = re.compile(r"([0-9]{1,16})(ms|s|m|h|d)?", re.ASCII)
_UNITS_MS: Final = {None: 1, "ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}


def _wrong(expected: str, got: object) -> str:
    return str(InvalidInput.expected("", expected, got)).removeprefix(": ")


class Whole(click.IntRange):
    """Be an integer in a range."""

    name = "number"

    def __init__(self, least: int, most: int = LARGEST_INTEGER) -> None:
        super().__init__(least, most)
        self._expected = f"an integer from {least} to {most}"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> int:
        """Return the integer that *value* is."""
        number = int(str(value)) if _INTEGER.fullmatch(str(value)) else None
        if number is None or not (self.min or 0) <= number <= (self.max or 0):
            self.fail(_wrong(self._expected, str(value)), param, ctx)
        return number

    def _describe_range(self) -> str:
        """Return what a help says of it; the largest integer is no limit to tell of."""
        return f"x>={self.min}" if self.max == LARGEST_INTEGER else super()._describe_range()


# Ids, positions and versions: what every database can hold.
NUMBER: Final = Whole(0)


class Seconds(click.ParamType):  # type: ignore[type-arg]  # no generic before click 8.4
    """Be a time in seconds, from 0 on."""

    name = "seconds"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Return the seconds that *value* says."""
        try:
            seconds = float(str(value))
        except ValueError:
            seconds = math.nan
        # A wait that is longer is refused by the operating system.
        if not 0 <= seconds <= _LONGEST_S:
            self.fail(_wrong(f"seconds from 0 to {_LONGEST_S}", str(value)), param, ctx)
        return seconds


_LONGEST_S: Final = 7 * 86_400


class Milliseconds(click.ParamType):  # type: ignore[type-arg]  # no generic before click 8.4
    """Be a duration: milliseconds, or a number and a unit."""

    name = "duration"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> int:
        """Return the milliseconds that *value* says."""
        found = _DURATION.fullmatch(str(value))
        if found is None:
            self.fail(
                _wrong("milliseconds, or a duration such as 90s, 5m, 2h, 1d", str(value)),
                param,
                ctx,
            )
        return int(found[1]) * _UNITS_MS[found[2]]


class Text(click.ParamType):  # type: ignore[type-arg]  # no generic before click 8.4
    """Be text that a database can be asked for."""

    name = "text"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> str:
        """Return *value*, which must be UTF-8."""
        text = str(value)
        try:
            storable("", text)
        except InvalidInput:
            self.fail(_wrong("text in UTF-8", text), param, ctx)
        return text

"""The command ``activity``, which draws jobs per minute as sparklines."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

import click

from ledger.api.http import json_out
from ledger.cli import output
from ledger.cli.catch_up_once import catch_up_once
from ledger.cli.context import Context, as_json, command
from ledger.cli.parameters import Text, Whole
from ledger.errors import InvalidInput, Stuck
from ledger.projections.models.activity import MINUTE_MS, MinuteCounts

_BARS: Final = " ▁▂▃▄▅▆▇█"
# What the other columns leave of a width of 80.  In a line that is cut off, the newest bars
# would be missing.
_WIDTH: Final = 40
_MOST_MINUTES: Final = 366 * 24 * 60
_FIRST: Final = datetime.fromtimestamp(0, tz=UTC)
_LAST: Final = datetime.max.replace(tzinfo=UTC)


@click.command()
@click.option("--type", "type_", type=Text(), metavar="TYPE", help="Count only jobs of this type.")
@click.option(
    "--minutes",
    type=Whole(1, _MOST_MINUTES),
    default=60,
    show_default=True,
    help="Number of minutes to show.",
)
@click.option("--to", metavar="WHEN", help="End of the period, an RFC 3339 time.  [default: now]")
@as_json
@command
def activity(
    context: Context, *, type_: str | None, minutes: int, to: str | None, as_json: bool
) -> None:
    """Show the jobs created, started, completed and failed in each minute.

    \b
    ledger activity
    ledger activity --type email --minutes 1440
    ledger activity --to 2026-11-22T14:00:00Z --json
    """
    with context.system() as system:
        try:
            catch_up_once(system.database, system.activity)
        except Stuck as error:
            output.line(f"Warning: {error}", err=True)
        with system.database.read() as connection:
            end_ms = system.ledger.time_ms(connection) if to is None else _moment(to)
            last_ms = end_ms - end_ms % MINUTE_MS
            from_ms = last_ms - (minutes - 1) * MINUTE_MS
            busy = system.activity.minutes(
                connection, from_ms=from_ms, to_ms=last_ms + MINUTE_MS, type_=type_
            )
    if as_json:
        output.json_line(json_out.activity(busy.minutes))
    else:
        _print(busy.minutes, from_ms=from_ms, minutes_in_all=minutes)


def _moment(text: str) -> int:
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        at = None
    if at is None or at.tzinfo is None or not _FIRST <= at <= _LAST:
        expected = "a time with a UTC offset, 1970 or later, such as 2026-11-22T14:00:00Z"
        raise InvalidInput.expected("--to", expected, text)
    return int(at.timestamp() * 1000)


def _print(minutes: Sequence[MinuteCounts], *, from_ms: int, minutes_in_all: int) -> None:
    span = -(-minutes_in_all // _WIDTH)
    columns = -(-minutes_in_all // span)
    rows: list[tuple[object, ...]] = []
    for place, name in enumerate(MinuteCounts._fields[1:-1], start=1):
        heights = [0] * columns
        for minute in minutes:
            heights[(minute.minute_ms - from_ms) // (span * MINUTE_MS)] += minute[place]
        rows.append((name, sparkline(heights), sum(heights), max(heights)))
    each = "minute" if span == 1 else f"{span} minutes"
    output.table(
        ("", f"per {each}", "total", "maximum"),
        rows,
        title=f"{minutes_in_all} minutes from {output.moment(from_ms)}",
    )
    work_ms = sum(minute.work_ms for minute in minutes)
    click.echo(f"work time: {work_ms / 1000:,.1f} s")


def sparkline(heights: Sequence[int]) -> str:
    """Return one bar per height; every height above 0 is visible."""
    most = max(heights, default=0)
    steps = len(_BARS) - 1
    return "".join(_BARS[-(-height * steps // most) if height else 0] for height in heights)

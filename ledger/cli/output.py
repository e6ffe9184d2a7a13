"""The output of commands: tables, JSON, progress bars.

Rich is imported by the functions that use it: the import takes as long as everything else
that `ledger create` does apart from the database.
"""

import sys
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, TextIO

import click

from ledger.log.times import iso_text
from ledger.rules.printable import plain, plain_json

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

    from ledger.cli.progress_bar import Advancing

# A pipe has no width, and its lines must not be cut.
PIPED_WIDTH = 1_000


def console() -> "Console":
    """Return the console that prints results."""
    from rich.console import Console

    return Console() if is_terminal(sys.stdout) else Console(width=PIPED_WIDTH)


def is_terminal(stream: TextIO | None) -> bool:
    """Return whether a stream is a terminal; a closed stream is None."""
    return stream is not None and stream.isatty()


def table(
    columns: Sequence[str],
    rows: Iterable[Sequence[object]],
    *,
    title: str = "",
    a_line_each: bool = False,
) -> None:
    """Print a table; numbers are right-aligned, None is empty.

    Args:
        columns: The headings.
        rows: The values.
        title: Text above the table.
        a_line_each: Truncate the last column instead of wrapping it.
    """
    from rich.table import Table
    from rich.text import Text

    drawn = Table(*columns, title=plain(title) or None, title_justify="left", header_style="bold")
    rows = [list(row) for row in rows]
    for place, column in enumerate(drawn.columns):
        if rows and all(isinstance(row[place], int | None) for row in rows):
            column.justify = "right"
    where = console()
    cells = [[Text(plain(value)) for value in row] for row in rows]
    if a_line_each:
        room = where.width - sum(_widest(columns, cells, n) for n in range(len(columns) - 1))
        # A border and two spaces per column, and the last border.
        room -= 3 * len(columns) + 1
        for row in cells:
            row[-1].truncate(max(room, len(columns[-1])), overflow="ellipsis")
    for row in cells:
        drawn.add_row(*row)
    where.print(drawn)


def rest(number: int, what: str, how: str) -> None:
    """Print how many rows a table lacks, and how to see them; nothing if it lacks none."""
    if number:
        line(f"… and {number:,} more {what}; see them with {how}")


def _widest(columns: Sequence[str], rows: "Sequence[Sequence[Text]]", place: int) -> int:
    return max(len(columns[place]), *(row[place].cell_len for row in rows))


def age(ms: int) -> str:
    """Return a duration in one unit: the largest that it contains twice, or seconds."""
    seconds = max(0, ms) // 1000
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds // length} {unit}"
    return f"{seconds} s"


def json_line(data: bytes | str) -> None:
    """Print JSON text on one line, also if content was posted on several."""
    click.echo(plain_json(data.decode() if isinstance(data, bytes) else data))


def json_array(parts: Iterable[str]) -> None:
    """Print one JSON array on one line; each part is the text of some of its items."""
    between = "["
    for part in parts:
        if part:
            click.echo(between + plain_json(part), nl=False)
            between = ","
    click.echo("[]" if between == "[" else "]")


def line(value: object, *, err: bool = False) -> None:
    """Print text, which may be a stranger's, on one line."""
    click.echo(plain(value), err=err)


def moment(at_ms: int | None) -> str | None:
    """Return a time in UTC with milliseconds, such as ``2026-11-22 14:00:00.000Z``."""
    if at_ms is None:
        return None
    return iso_text(at_ms, separator=" ")


def progress(what: str) -> AbstractContextManager["Advancing"]:
    """Return a progress bar on standard error, hidden if that is not a terminal."""
    from ledger.cli.progress_bar import drawn

    return drawn(what, hidden=not is_terminal(sys.stderr))

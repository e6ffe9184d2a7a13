"""Print tables for people, JSON for programs, progress for the impatient.

Rich is imported by what draws with it: it takes as long as all else that `ledger create`
does without a database.
"""

import sys
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, TextIO

import click

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

    from ledger.cli.progress_bar import Advancing

# A pipe has no width; lines must not be cut for want of one.
_PIPED_WIDTH = 1_000


def console() -> "Console":
    """Return where results go."""
    from rich.console import Console

    return Console() if is_terminal(sys.stdout) else Console(width=_PIPED_WIDTH)


def is_terminal(stream: TextIO | None) -> bool:
    """Tell whether a person looks at a stream; one that is closed is None."""
    return stream is not None and stream.isatty()


def table(
    columns: Sequence[str],
    rows: Iterable[Sequence[object]],
    *,
    title: str = "",
    a_line_each: bool = False,
) -> None:
    """Print *rows*; numbers stand on the right, None is empty.

    Args:
        columns: The headings.
        rows: The values.
        title: What stands above.
        a_line_each: Cut what does not fit the last column, in place of wrapping it.
    """
    from rich.table import Table
    from rich.text import Text

    drawn = Table(*columns, title=title or None, title_justify="left", header_style="bold")
    rows = [list(row) for row in rows]
    for place, column in enumerate(drawn.columns):
        if rows and all(isinstance(row[place], int | None) for row in rows):
            column.justify = "right"
    where = console()
    cells = [[Text(plain(value)) for value in row] for row in rows]
    if a_line_each:
        room = where.width - sum(_widest(columns, cells, n) for n in range(len(columns) - 1))
        # Of each column a bar and two blanks, and the last bar.
        room -= 3 * len(columns) + 1
        for row in cells:
            row[-1].truncate(max(room, len(columns[-1])), overflow="ellipsis")
    for row in cells:
        drawn.add_row(*row)
    where.print(drawn)


def _widest(columns: Sequence[str], rows: "Sequence[Sequence[Text]]", place: int) -> int:
    return max(len(columns[place]), *(row[place].cell_len for row in rows))


def age(ms: int) -> str:
    """Return a time gone by as people say it, in one unit."""
    seconds = max(0, ms) // 1000
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds // length} {unit}"
    return f"{seconds} s"


def json_line(data: bytes | str) -> None:
    """Print JSON text as one line; content may have been posted on several."""
    text = data.decode() if isinstance(data, bytes) else data
    # Within a JSON string they are escaped, so these are white space.
    click.echo(text.replace("\r", " ").replace("\n", " "))


def plain(value: object) -> str:
    """Return text that does nothing to a terminal; None is empty."""
    text = "" if value is None else str(value)
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def moment(at_ms: int | None) -> str | None:
    """Return a time as people read it, in UTC."""
    if at_ms is None:
        return None
    at = datetime.fromtimestamp(at_ms / 1000, tz=UTC)
    return at.isoformat(sep=" ", timespec="milliseconds").replace("+00:00", "Z")


def progress(what: str) -> AbstractContextManager["Advancing"]:
    """Give what is told how far something is; it draws a bar on stderr."""
    from ledger.cli.progress_bar import drawn

    return drawn(what, hidden=not is_terminal(sys.stderr))

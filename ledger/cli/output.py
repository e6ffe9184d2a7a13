"""Print tables for people, JSON for programs, progress for the impatient."""

import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TextIO

import click
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

# A pipe has no width; lines must not be cut for want of one.
_PIPED_WIDTH = 1_000


def console() -> Console:
    """Return where results go."""
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


def _widest(columns: Sequence[str], rows: Sequence[Sequence[Text]], place: int) -> int:
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


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:,.0f} events/s")


class Count(MofNCompleteColumn):
    """Draw how many of how many, where that is known."""

    def render(self, task: Task) -> Text:
        return Text("") if task.total is None else super().render(task)


class Advancing:
    """Be told how far something is: called with events done and events in all."""

    def __init__(self, bar: Progress, what: str) -> None:
        self._bar = bar
        self._task = bar.add_task(what, total=None)
        self._phase: TaskID | None = None
        self._what = ""

    def __call__(self, done: int, total: int) -> None:
        """Draw how far it is."""
        self._bar.update(self._task, completed=done, total=total)

    def phase(self, what: str) -> None:
        """Draw below what it does now, of which nobody knows how long it takes; "" is nothing."""
        if what == self._what:
            return
        self._what = what
        if self._phase is not None:
            self._bar.remove_task(self._phase)
        self._phase = self._bar.add_task(what, total=None) if what else None


@contextmanager
def progress(what: str) -> Iterator[Advancing]:
    """Give what is told how far something is; it draws a bar on stderr."""
    is_seen = is_terminal(sys.stderr)
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        Count(),
        _Rate(),
        TimeRemainingColumn(),
        # Rich before 14.3 ends even a disabled bar with an empty line.
        console=Console(stderr=True, quiet=not is_seen),
        disable=not is_seen,
    )
    with bar:
        advancing = Advancing(bar, what)
        yield advancing
        advancing.phase("")

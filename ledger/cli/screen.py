"""The screen of ``ledger work``, which shows what workers do, four times a second.

Handlers run in child processes, whose output this process reads and prints above the screen;
its own log is printed there too.  Rich's own redirection would not do: it does not print a
line and draw the screen in one step, so a line that another thread prints while the screen is
drawn leaves parts of an old screen behind.
"""

import io
import logging
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from datetime import timedelta
from types import TracebackType
from typing import Final, Self

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from ledger.errors import LedgerError
from ledger.processes.child_output import ChildOutput
from ledger.processes.counters import Count, Rate
from ledger.projections.models.state_counts import StateCounts
from ledger.queue.queue import Queue
from ledger.rules.job import State
from ledger.rules.printable import plain

_COLUMNS: Final = {
    "waiting": State.INACTIVE,
    "delayed": State.DELAYED,
    "active": State.ACTIVE,
    "complete": State.COMPLETE,
    "failed": State.FAILED,
}


class Screen:
    """The screen of `ledger work`.

    If the terminal is gone, the screen is no longer drawn, but the work continues.

    Args:
        queue: The queue whose jobs it shows.
        title: First line: the import target and the database.
        types: The types of jobs that the workers run.

    Attributes:
        child_output: The output of child processes, which is printed above the screen.
    """

    def __init__(self, queue: Queue, title: str, types: Sequence[str]) -> None:
        self._queue = queue
        self._title = title
        self._types = types
        self._counts = StateCounts()
        self._rate = Rate()
        self._began_s = time.monotonic()
        self._rows: list[tuple[str, ...]] = []
        self._error = ""
        self._mutex = threading.Lock()
        self._live = Live(
            console=Console(file=sys.stdout),
            auto_refresh=False,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self.child_output = ChildOutput(self.print)

    def __enter__(self) -> Self:
        if isinstance(sys.stdout, io.TextIOWrapper):
            # A program that a handler runs may print what the terminal's encoding lacks.
            sys.stdout.reconfigure(errors="backslashreplace")
        with suppress(OSError):
            self._live.start()
        self.child_output.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.child_output.close()
        with self._mutex, suppress(OSError):
            self._live.stop()

    def print(self, lines: Sequence[str]) -> None:
        """Print lines above the screen, not wrapped by Rich, so that they can be copied."""
        with self._mutex, suppress(OSError):
            self._live.console.print(Text("\n".join(map(plain, lines))), soft_wrap=True)

    def log_handler(self) -> logging.Handler:
        """Return a logging handler that prints above the screen."""
        return _ScreenHandler(self)

    def show(self, count: Count) -> None:
        """Draw *count* and the ledger's current state."""
        self._read_counts()
        now_s = time.monotonic()
        rate = self._rate.of(count.completed, now_s=now_s)
        uptime = timedelta(seconds=int(now_s - self._began_s))
        head = Text.assemble(
            (plain(self._title), "bold"),
            f"  up {uptime}  {rate:,.0f}/s completed\n",
            f"this run: {count.completed:,} completed, {count.failed:,} attempts failed, "
            f"{count.running:,} running; press Ctrl-C to stop",
            # Set here, because lines printed above the screen are not wrapped.
            no_wrap=False,
            overflow="fold",
        )
        parts: list[Text | Table] = [head, self._types_table(), *_running_table(count, now_s)]
        if self._error:
            parts.append(Text(self._error, style="red", no_wrap=False, overflow="fold"))
        with self._mutex, suppress(OSError):
            self._live.update(Group(*parts), refresh=True)

    def _read_counts(self) -> None:
        """Read the counts of each type; while the database is unavailable, keep the last ones."""
        try:
            with self._queue.database.read() as connection:
                counts = {
                    type_: self._counts.stats(connection, type_).counts for type_ in self._types
                }
                paused = self._queue.read_models.paused(connection)
        except LedgerError as error:
            self._error = plain(error)
            return
        self._error = ""
        self._rows = [
            (
                f"{plain(type_)}{' (paused)' if type_ in paused else ''}",
                *(f"{counts[type_][state]:,}" for state in _COLUMNS.values()),
            )
            for type_ in self._types
        ]

    def _types_table(self) -> Table:
        table = Table("type", header_style="bold")
        for name in _COLUMNS:
            table.add_column(name, justify="right")
        for row in self._rows:
            table.add_row(*map(Text, row))
        return table


def _running_table(count: Count, now_s: float) -> list[Table]:
    if not count.longest:
        return []
    table = Table("job", "type", "attempt", "running for", header_style="bold")
    for one in count.longest:
        table.add_row(
            str(one.job_id),
            Text(plain(one.type)),
            str(one.attempt),
            f"{now_s - one.since_s:.1f} s",
        )
    if count.running > len(count.longest):
        table.caption = f"and {count.running - len(count.longest):,} more"
    return [table]


class _ScreenHandler(logging.Handler):
    """A logging handler that prints above a screen."""

    def __init__(self, screen: Screen) -> None:
        super().__init__()
        self._screen = screen

    def emit(self, record: logging.LogRecord) -> None:
        """Print a record."""
        try:
            self._screen.print([self.format(record)])
        except Exception:  # noqa: BLE001 - as every handler, it must not end what logs
            self.handleError(record)

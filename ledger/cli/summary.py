"""The screen of ``ledger work``, which shows what workers do, four times a second.

Other output appears above it.  Rich's own redirection would capture only what goes through
Python's standard output, and does not print it and draw the screen in one step: a line that
another thread prints while the screen is drawn leaves parts of an old screen behind.
"""

import os
import sys
import threading
import time
from collections.abc import Sequence
from datetime import timedelta
from types import TracebackType
from typing import Final, Self

from rich.console import Console, ConsoleDimensions, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from ledger.cli.captured import Captured
from ledger.cli.output import is_terminal, plain
from ledger.errors import LedgerError
from ledger.processes.counters import Count, Rate
from ledger.projections.models.state_counts import StateCounts
from ledger.queue.queue import Queue
from ledger.rules.job import State

_COLUMNS: Final = {
    "waiting": State.INACTIVE,
    "delayed": State.DELAYED,
    "active": State.ACTIVE,
    "complete": State.COMPLETE,
    "failed": State.FAILED,
}


class Summary:
    """The screen of `ledger work`.

    Args:
        queue: The queue whose jobs it shows.
        title: First line: the import target and the database.
        types: The types of jobs that the workers run.
    """

    def __init__(self, queue: Queue, title: str, types: Sequence[str]) -> None:
        self._queue = queue
        self._title = title
        self._types = types
        self._counts = StateCounts()
        self._rate = Rate()
        self._began_s = time.monotonic()
        self._rows: list[tuple[str, ...]] = []
        self._trouble = ""
        self._mutex = threading.Lock()
        self._terminal = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding=sys.stdout.encoding)
        self._live = Live(
            console=Console(file=self._terminal),
            auto_refresh=False,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._captured = Captured(self._print)

    def __enter__(self) -> Self:
        self._live.__enter__()
        self._captured.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._captured.__exit__(kind, error, trace)
        self._live.__exit__(kind, error, trace)
        self._terminal.close()

    def _print(self, lines: Sequence[str]) -> None:
        """Print lines above the screen, not wrapped by Rich, so that they can be copied."""
        with self._mutex:
            self._live.console.print(Text("\n".join(map(plain, lines))), soft_wrap=True)

    def show(self, count: Count) -> None:
        """Draw *count* and the ledger's current state."""
        self._look()
        now_s = time.monotonic()
        rate = self._rate.of(count.completed, now_s=now_s)
        uptime = timedelta(seconds=int(now_s - self._began_s))
        head = Text.assemble(
            (self._title, "bold"),
            f"  up {uptime}  {rate:,.0f}/s completed\n",
            f"this run: {count.completed:,} completed, {count.failed:,} attempts failed, "
            f"{count.running:,} running; press Ctrl-C to stop",
            # Set here, because lines printed above the screen are not wrapped.
            no_wrap=False,
            overflow="fold",
        )
        parts: list[Text | Table] = [head, self._types_table(), *_running_table(count, now_s)]
        if self._trouble:
            parts.append(Text(self._trouble, style="red", no_wrap=False, overflow="fold"))
        with self._mutex:
            self._measure()
            self._live.update(Group(*parts), refresh=True)

    def _measure(self) -> None:
        """Set the console's size from the terminal: Rich would use the captured descriptors."""
        columns, lines = os.get_terminal_size(self._terminal.fileno())
        if columns and lines and not os.environ.keys() & {"COLUMNS", "LINES"}:
            self._live.console.size = ConsoleDimensions(columns, lines)

    def _look(self) -> None:
        """Read the counts of each type; while the database is unavailable, keep the last ones."""
        try:
            with self._queue.database.read() as connection:
                counts = self._counts.by_type(connection)
                paused = self._queue.read_models.paused(connection)
        except LedgerError as error:
            self._trouble = plain(error)
            return
        self._trouble = ""
        self._rows = [
            (
                f"{plain(type_)}{' (paused)' if type_ in paused else ''}",
                *(f"{counts.get(type_, {}).get(state, 0):,}" for state in _COLUMNS.values()),
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


def is_watched() -> bool:
    """Return whether standard output is a terminal."""
    return is_terminal(sys.stdout)

"""A progress bar."""

from collections.abc import Iterator
from contextlib import contextmanager

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
from rich.text import Text


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:,.0f} events/s")


class CountColumn(MofNCompleteColumn):
    """A column with done and total numbers, empty while the total is unknown."""

    def render(self, task: Task) -> Text:
        return Text("") if task.total is None else super().render(task)


class Advancing:
    """The progress of an operation: call it with the events done and the events in total."""

    def __init__(self, bar: Progress, what: str) -> None:
        self._bar = bar
        self._task = bar.add_task(what, total=None)
        self._phase: TaskID | None = None
        self._what = ""

    def __call__(self, done: int, total: int) -> None:
        """Draw the progress."""
        self._bar.update(self._task, completed=done, total=total)

    def phase(self, what: str) -> None:
        """Show below the bar a phase whose duration is unknown; "" removes it."""
        if what == self._what:
            return
        self._what = what
        if self._phase is not None:
            self._bar.remove_task(self._phase)
        self._phase = self._bar.add_task(what, total=None) if what else None


@contextmanager
def drawn(what: str, *, hidden: bool) -> Iterator[Advancing]:
    """Draw a progress bar on standard error, unless *hidden*; yield what to report to."""
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        CountColumn(),
        _Rate(),
        TimeRemainingColumn(),
        # Rich before 14.3 ends even a disabled bar with an empty line.
        console=Console(stderr=True, quiet=hidden),
        disable=hidden,
    )
    with bar:
        advancing = Advancing(bar, what)
        yield advancing
        advancing.phase("")

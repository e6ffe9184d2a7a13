"""Reports of figures: ours, the peer's, the ratio, the target, and whether it is reached."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A figure with all its runs.

    Attributes:
        name: What was measured.
        unit: Unit of the runs, such as ``requests/s``.
        ours: Results of our runs.
        peer: Results of the peer's runs, in the same order; empty if there is no peer.
        target: The lowest (if *at_most*, the highest) value to reach; None if there is none.
        at_most: Whether lower is better.
        note: Remarks for the reader.
    """

    name: str
    unit: str
    ours: Sequence[float]
    peer: Sequence[float] = ()
    target: float | None = None
    at_most: bool = False
    note: str = ""

    @property
    def judged(self) -> float:
        """Return the value to compare with the target: the ratio if there is a peer, else ours."""
        return median(self.ours) / median(self.peer) if self.peer else median(self.ours)

    @property
    def reached(self) -> bool | None:
        """Return whether the target is reached, or None if there is no target."""
        if self.target is None:
            return None
        return self.judged <= self.target if self.at_most else self.judged >= self.target


@dataclass(slots=True, kw_only=True)
class Report:
    """The figures of one topic, and the conditions of the measurement.

    Attributes:
        title: The topic.
        peer: Name of the project that ours is compared with.
        facts: Versions, settings, disk: one line each.
        figures: Figures in the order of measurement.
    """

    title: str
    peer: str = "peer"
    facts: list[str] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)

    def show(self, console: Console) -> None:
        """Print the report as a table."""
        table = Table(title=self.title, title_justify="left")
        for column in self._columns():
            table.add_column(column, justify="left" if column in {"figure", "note"} else "right")
        for figure in self.figures:
            colour = {True: "green", False: "red", None: ""}[figure.reached]
            table.add_row(*_cells(figure), style=colour)
        console.print(table)
        for fact in self.facts:
            console.print(f"  {fact}", highlight=False)
        console.print()

    def markdown(self) -> str:
        """Return the report as Markdown."""
        columns = self._columns()
        rows = [columns, ["---" for _ in columns], *map(_cells, self.figures)]
        lines = [f"| {' | '.join(row)} |" for row in rows]
        facts = [f"* {fact}" for fact in self.facts]
        return "\n".join([f"## {self.title}", "", *facts, "", *lines, ""])

    def _columns(self) -> list[str]:
        return ["figure", "ours", self.peer, "ratio", "target", "reached", "note"]


def write_markdown(reports: Sequence[Report], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("# Benchmarks\n\n" + "\n".join(report.markdown() for report in reports))


def _cells(figure: Figure) -> list[str]:
    target = ""
    if figure.target is not None:
        bound = "≤" if figure.at_most else "≥"
        target = f"{bound} {_number(figure.target)}"
    return [
        figure.name,
        f"{_runs(figure.ours)} {figure.unit}",
        _runs(figure.peer),
        _number(figure.judged) if figure.peer else "",
        target,
        {True: "yes", False: "NO", None: ""}[figure.reached],
        figure.note,
    ]


def _runs(runs: Sequence[float]) -> str:
    """Return the median, with the range if there are several runs."""
    if not runs:
        return ""
    shown = _number(median(runs))
    return shown if len(runs) == 1 else f"{shown} ({_number(min(runs))}-{_number(max(runs))})"


_EXACT_BELOW = 100


def _number(value: float) -> str:
    return f"{value:.2f}" if value < _EXACT_BELOW else f"{value:,.0f}"

"""Show figures: ours, the peer's, the ratio, the target, and whether it is reached."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """Be one figure with all its runs.

    Attributes:
        name: What was measured.
        unit: Of the runs, such as ``requests/s``.
        ours: Our runs.
        peer: The peer's runs, in the same order; empty where there is none.
        target: The least (or, if *at_most*, the greatest) that is to be reached.
        at_most: Whether less is better.
        note: What the reader must know of it.
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
        """Return the number that the target is about: the ratio, if there is a peer."""
        return median(self.ours) / median(self.peer) if self.peer else median(self.ours)

    @property
    def reached(self) -> bool | None:
        """Tell whether the target is reached; None if there is no target."""
        if self.target is None:
            return None
        return self.judged <= self.target if self.at_most else self.judged >= self.target


@dataclass(slots=True, kw_only=True)
class Report:
    """Be the figures of one topic, and what they were measured with.

    Attributes:
        title: The topic.
        peer: Whom ours is compared with.
        facts: Versions, settings, disk: a line each.
        figures: In the order in which they were measured.
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
    """Return the median, and the range where there are several runs."""
    if not runs:
        return ""
    shown = _number(median(runs))
    return shown if len(runs) == 1 else f"{shown} ({_number(min(runs))}-{_number(max(runs))})"


_EXACT_BELOW = 100


def _number(value: float) -> str:
    return f"{value:.2f}" if value < _EXACT_BELOW else f"{value:,.0f}"

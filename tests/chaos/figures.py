"""What happened in a run, in figures and in words."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field


@dataclass(slots=True, kw_only=True)
class Figures:
    """What happened, and what does not hold.

    Attributes:
        seconds: How long things happened.
        jobs: Number of jobs that were created.
        events: Number of events.
        attempts: Number of attempts that handlers of the application made.
        ruled: Of the attempts, by how others ended them.
        answers: Number of answers of the server by status; ``none`` where it gave
            none, and ``none in time`` where it gave none within a minute.
        longest_wait_s: The longest time in seconds until a request was acknowledged.
        ended_after_s: Seconds from the last incident until all jobs had ended.
        signals: Number of signals by the kind of process and the signal.
        incidents: Number of other things that happened, by what they are.
        starts: Number of starts of each program.
        refusals: How often programs ended at once, because they could not use the database, or a
            port that the children of a killed server still had.
        used_mib: What each disk holds at the end.
        faults: What does not hold.
    """

    seconds: float = 0.0
    jobs: int = 0
    events: int = 0
    attempts: int = 0
    ruled: Counter[str] = field(default_factory=Counter)
    answers: Counter[str] = field(default_factory=Counter)
    longest_wait_s: float = 0.0
    ended_after_s: float = 0.0
    signals: Counter[tuple[str, str]] = field(default_factory=Counter)
    incidents: Counter[str] = field(default_factory=Counter)
    starts: dict[str, int] = field(default_factory=dict)
    refusals: Counter[str] = field(default_factory=Counter)
    used_mib: dict[str, int] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)

    def never(self) -> list[str]:
        """Return what did not happen, because the run was too short."""
        signals = [f"{name} to a {kind}" for (kind, name), n in self.signals.items() if not n]
        return signals + [what for what, times in self.incidents.items() if not times]

    def lines(self) -> Iterator[str]:
        """Yield the figures as lines of a Markdown table, then what does not hold."""
        yield "| figure | value |"
        yield "|---|---|"
        for name, value in self._rows():
            yield f"| {name} | {value} |"
        yield ""
        if never := self.never():
            yield f"Never happened: {', '.join(never)}."
        yield from self.faults or ["Everything holds."]

    def _rows(self) -> Iterator[tuple[str, object]]:
        yield "seconds in which things happened", f"{self.seconds:.0f}"
        yield "jobs; events", f"{self.jobs:,}; {self.events:,}"
        yield "attempts of the application's handler", f"{self.attempts:,}"
        yield "of these, ended by others", _counted(self.ruled)
        yield "answers of the server", _counted(self.answers)
        yield "longest wait until a job was created", f"{self.longest_wait_s:.1f} s"
        yield "until all jobs had ended, after the last incident", f"{self.ended_after_s:.1f} s"
        for kind in sorted({kind for kind, _ in self.signals}):
            sent = {name: n for (of, name), n in self.signals.items() if of == kind}
            yield f"signals to a {kind}", _counted(sent)
        yield from sorted(self.incidents.items())
        yield "starts of programs", _counted(self.starts)
        yield (
            "of these, ended at once: the database was away, or the port still taken",
            _counted(self.refusals),
        )
        yield "used of each disk, MiB", _counted(self.used_mib)


def _counted(counts: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {number:,}" for name, number in sorted(counts.items())) or "none"

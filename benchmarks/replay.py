"""Measure how fast history is replayed, and that memory does not grow with it.

A ledger is written as a queue of 20 workers would write it, to a quarter of its
length and measured, then to its whole length and measured again: a peak that is the
same twice does not grow.
"""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import NamedTuple

from benchmarks import history, machine, servers
from benchmarks.one_pass import PASSES
from benchmarks.report import Figure, Report
from ledger.database.migration import migrate
from ledger.processes.composition import compose
from ledger.processes.settings import Settings

# What a rebuild on SQLite is to reach, in events a second.
REBUILD_TARGET = 100_000
# What no pass over any ledger may exceed.
MEMORY_TARGET_MB = 300
# Two peaks within this are the same: page caches and batches end where they end.
SAME_MEMORY = 1.25
# More events than a replay takes to fill its memory of jobs.
TELLING = 240_000
REBUILD = "rebuild all"

Tell = Callable[[str], None]


class Pass(NamedTuple):
    """Be the outcome of going through history once."""

    events: int
    seconds: float
    cpu_s: float
    peak_mb: float


def measure(directory: Path, *, events: int, rounds: int, tell: Tell) -> Report:
    """Return the figures, of SQLite and PostgreSQL.

    Args:
        directory: An empty one, on the disk to be measured.
        events: Length of the ledger.
        rounds: How many passes of each kind over the whole on SQLite, whose median
            counts; on PostgreSQL, which has no target, one.
        tell: Told what is going on.
    """
    report = Report(title=f"Replay of {events:,} events")
    report.facts += machine.facts(directory)
    tell("sqlite")
    _measure_engine("SQLite", f"sqlite:///{directory / 'ledger.db'}", report, events, rounds, tell)
    with servers.postgres(directory) as server, server.database() as database:
        report.facts.append(server.facts())
        url = database.render_as_string(hide_password=False)
        _measure_engine("PostgreSQL", url, report, events, 1, tell)
    report.facts.append(f"at the end: {machine.disk(directory)}")
    return report


def _measure_engine(
    engine: str, url: str, report: Report, events: int, rounds: int, tell: Tell
) -> None:
    system = compose(Settings(database_url=url))
    migrate(system.database)
    asked = history.busy_queue()
    tell(f"{engine}: writing {events // 4:,} events")
    history.write(system.ledger, asked, events // 4)
    short = {name: _pass(url, name, f"{engine}: a quarter", tell) for name in PASSES}
    tell(f"{engine}: writing {events:,} events")
    history.write(system.ledger, asked, events - events // 4)
    with system.database.read() as connection:
        jobs = system.state_counts.stats(connection).counts
    report.facts.append(f"{engine}: {events:,} events of {sum(jobs.values()):,} jobs")
    system.close()
    for name in PASSES:
        runs = [_pass(url, name, engine, tell) for _ in range(rounds)]
        report.figures += _figures(engine, name, short[name], runs)


def _figures(engine: str, name: str, short: Pass, runs: list[Pass]) -> list[Figure]:
    aimed = name == REBUILD and engine == "SQLite"
    peak_mb = median(run.peak_mb for run in runs)
    # A shorter ledger ends before the replay remembers as many jobs as it ever will.
    tells = short.events > TELLING
    return [
        Figure(
            name=f"{engine}: {name}",
            unit="events/s",
            ours=[run.events / run.seconds for run in runs],
            target=REBUILD_TARGET if aimed else None,
            note=f"{median(run.events / run.cpu_s for run in runs):,.0f} a second of our CPU time",
        ),
        Figure(
            name="  its peak memory",
            unit="MB",
            ours=[run.peak_mb for run in runs],
            target=MEMORY_TARGET_MB,
            at_most=True,
        ),
        Figure(
            name="  times that of a quarter",
            unit="x",
            ours=[peak_mb / short.peak_mb],
            target=SAME_MEMORY if tells else None,
            at_most=True,
            note=f"a quarter: {short.peak_mb:.0f} MB" + ("" if tells else "; too short to tell"),
        ),
    ]


def _pass(url: str, name: str, where: str, tell: Tell) -> Pass:
    tell(f"{where}: {name}")
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.one_pass", url, name],
        cwd=Path(__file__).parents[1],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return Pass(**json.loads(done.stdout))

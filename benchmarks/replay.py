"""Benchmark of how fast history is replayed, and of whether memory grows with its length.

A ledger is written as a queue with 20 workers would write it: first to a quarter of its
length, then to its whole length.  It is measured at both lengths; if both peaks of memory are
the same, memory does not grow.
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

# Target of a rebuild on SQLite, in events per second.
REBUILD_TARGET = 100_000
# Limit for every pass over every ledger.
MEMORY_TARGET_MB = 300
# Peaks whose ratio is at most this count as the same: fill levels of caches and batches vary.
SAME_MEMORY = 1.25
# More events than a replay needs to fill its cache of jobs.
TELLING = 240_000
REBUILD = "rebuild all"

Tell = Callable[[str], None]


class Pass(NamedTuple):
    """The result of one pass over the history."""

    events: int
    seconds: float
    cpu_s: float
    peak_mb: float


def measure(directory: Path, *, events: int, rounds: int, tell: Tell) -> Report:
    """Run the benchmark on SQLite and PostgreSQL; return its report.

    Args:
        directory: An empty directory on the disk to be measured.
        events: Length of the ledger in events.
        rounds: Passes of each kind over the whole ledger on SQLite, of which the median
            counts.  On PostgreSQL, which has no target for its rate, there is one.
        tell: Called with what is being done.
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
    # The replay of a shorter ledger ends before its cache of jobs is full.
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

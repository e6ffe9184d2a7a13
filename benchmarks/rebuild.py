"""Benchmark of how long writers and readers wait while all read models are rebuilt.

On SQLite and on PostgreSQL, a ledger is rebuilt while two processes create jobs and one reads
pages; each process reports its longest wait.  Then the ledger is verified.
"""

import json
import select
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from benchmarks import machine, servers
from benchmarks.report import Figure, Report
from ledger.database.migration import migrate
from ledger.processes.composition import System, compose
from ledger.processes.settings import Settings
from ledger.projections.follower import catch_up
from ledger.projections.models.job_runs import JobList
from ledger.projections.rebuild.rebuild import rebuild
from ledger.projections.verify.verify import verify
from ledger.rules.commands import Complete, Create, Start

JOBS: Final = 200_000
# Longest permitted wait of a write, and of a read with its whole snapshot.
TARGET_S: Final = 1.0
_BATCH: Final = 500
_WORKS: Final = ("write", "write", "read")

Tell = Callable[[str], None]


def measure(directory: Path, *, jobs: int, tell: Tell) -> Report:
    """Run the benchmark on SQLite and PostgreSQL; return its report.

    Args:
        directory: An empty directory on the disk to be measured.
        jobs: Number of jobs in the ledger; every second one is complete.
        tell: Called with what is being done.

    Raises:
        RuntimeError: The verification of a rebuilt ledger failed.
    """
    report = Report(title=f"Rebuilding all of {jobs:,} jobs under load")
    report.facts += machine.facts(directory)
    report.facts.append("beside: two processes create jobs, one reads a page in the middle")
    report.figures += _measure("SQLite", f"sqlite:///{directory / 'ledger.db'}", jobs, tell)
    with servers.postgres(directory) as server, server.database() as database:
        report.facts.append(server.facts())
        url = database.render_as_string(hide_password=False)
        report.figures += _measure("PostgreSQL", url, jobs, tell)
    report.facts.append(f"at the end: {machine.disk(directory)}")
    return report


def _write_jobs(system: System, jobs: int) -> None:
    for start in range(1, jobs + 1, _BATCH):
        ids = range(start, start + _BATCH)
        creations = [Create(type=f"type {job_id % 9}", data='{"to": "tj"}') for job_id in ids]
        system.ledger.submit(creations, actor="benchmark")
        done = [job_id for job_id in ids if job_id % 2]
        system.ledger.submit([Start(job_id=job_id) for job_id in done], actor="benchmark")
        system.ledger.submit(
            [Complete(job_id=job_id, attempt=1) for job_id in done], actor="benchmark"
        )


def _beside(url: str, work: str) -> None:
    """Write or read until standard input ends; then print the longest wait as JSON."""
    system = compose(Settings(database_url=url))
    waits_s = []
    while not select.select([sys.stdin], [], [], 0)[0]:
        began_s = time.monotonic()
        if work == "write":
            system.ledger.execute(Create(type="beside"), actor="benchmark")
        else:
            with system.database.snapshot() as connection:
                page = system.jobs.lists.page(connection, JobList(), 10_000, 10_019)
                if len(json.loads(page.json)) != 20:  # noqa: PLR2004 - the ranks above
                    raise RuntimeError("a view was seen that is not whole")
        waits_s.append(time.monotonic() - began_s)
        time.sleep(0.002)
    waits_s.sort()
    told = {"work": work, "number": len(waits_s), "longest_s": waits_s[-1]}
    print(json.dumps(told | {"p99_s": waits_s[len(waits_s) * 99 // 100]}))
    system.close()


def _measure(engine: str, url: str, jobs: int, tell: Tell) -> list[Figure]:
    # Search in the database, so that its rebuild is measured too: Whoosh's index is in a
    # directory, and blocks no reader or writer of the database.
    system = compose(Settings(database_url=url, search="sql"))
    migrate(system.database)
    tell(f"{engine}: writing {jobs:,} jobs")
    _write_jobs(system, jobs)
    for follower in system.followers:
        catch_up(system.database, follower)
    tell(f"{engine}: rebuilding")
    command = [sys.executable, "-m", "benchmarks.rebuild", url]
    children = [
        subprocess.Popen([*command, work], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for work in _WORKS
    ]
    time.sleep(1)
    began_s = time.monotonic()
    events = rebuild(system.database, list(system.models.values()), _ignore)
    seconds = time.monotonic() - began_s
    found: list[Any] = [json.loads(child.communicate("over")[0]) for child in children]
    tell(f"{engine}: verifying")
    report = verify(system.database, system.compared, _ignore, tables=system.own_tables)
    system.close()
    if not report.clean:
        raise RuntimeError(f"{engine}: the rebuilt ledger is not clean: {report.differences}")
    rate = Figure(
        name=f"{engine}: rebuild all, under load",
        unit="events/s",
        ours=[events / seconds],
        note=f"{events:,} events in {seconds:.1f} s; verified, and clean",
    )
    return [rate, *(_wait(engine, work, found) for work in dict.fromkeys(_WORKS))]


def _wait(engine: str, work: str, found: list[Any]) -> Figure:
    those = [each for each in found if each["work"] == work]
    told = ", ".join(f"{each['number']:,}, 99 % in {each['p99_s'] * 1000:.0f} ms" for each in those)
    return Figure(
        name=f"  longest wait to {work}",
        unit="s",
        ours=[max(each["longest_s"] for each in those)],
        target=TARGET_S,
        at_most=True,
        note=told,
    )


def _ignore(done: int, total: int) -> None:
    pass


if __name__ == "__main__":
    _beside(*sys.argv[1:])

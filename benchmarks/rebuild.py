"""Measure how long writers and readers wait while everything is rebuilt.

``python -m benchmarks.rebuild [JOBS]``: on SQLite, and on PostgreSQL, a ledger of JOBS jobs
(200,000) is rebuilt while two processes create jobs and one reads pages; each tells its
longest wait.  Then everything is verified.
"""

import json
import select
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

from benchmarks import servers
from ledger.commands import Complete, Create, Start
from ledger.composition import System, compose
from ledger.migration import migrate
from ledger.settings import Settings
from projections.job_lists import JobList
from projections.rebuild import rebuild
from projections.verify import verify

JOBS: Final = 200_000
# A writer, and the whole of a reader's views, must not wait longer.
TARGET_S: Final = 1.0
_BATCH: Final = 500


def _write_jobs(system: System, jobs: int) -> None:
    for start in range(1, jobs + 1, _BATCH):
        ids = range(start, start + _BATCH)
        creations = [Create(type=f"type {job_id % 9}", data='{"to": "tj"}') for job_id in ids]
        system.ledger.submit(creations, actor="test")
        done = [job_id for job_id in ids if job_id % 2]
        system.ledger.submit([Start(job_id=job_id) for job_id in done], actor="test")
        system.ledger.submit([Complete(job_id=job_id, attempt=1) for job_id in done], actor="test")


def _beside(url: str, work: str) -> None:
    """Write or read until standard input ends; then tell the longest wait as JSON."""
    system = compose(Settings(database_url=url))
    waits_s = []
    while not select.select([sys.stdin], [], [], 0)[0]:
        began_s = time.monotonic()
        if work == "write":
            system.ledger.execute(Create(type="beside"), actor="test")
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


def _measure(url: str, jobs: int) -> bool:
    """Return whether the target was met."""
    system = compose(Settings(database_url=url))
    migrate(system.database)
    _write_jobs(system, jobs)
    command = [sys.executable, "-m", "benchmarks.rebuild", "beside", url]
    children = [
        subprocess.Popen([*command, work], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for work in ("write", "write", "read")
    ]
    time.sleep(1)
    began_s = time.monotonic()
    events = rebuild(system.database, list(system.models.values()), _ignore)
    seconds = time.monotonic() - began_s
    found: list[Any] = [json.loads(child.communicate("over")[0]) for child in children]
    report = verify(system.database, system.compared, _ignore)
    system.close()
    print(
        f"{system.database.engine.name}: {events:,} events rebuilt in {seconds:.1f} s, under load"
    )
    for each in found:
        print(
            f"  {each['work']}: {each['number']:,}, 99 % within {each['p99_s'] * 1000:.0f} ms, "
            f"longest {each['longest_s'] * 1000:.0f} ms"
        )
    print(f"  verified: {'clean' if report.clean else report.differences}")
    return report.clean and max(each["longest_s"] for each in found) <= TARGET_S


def _ignore(done: int, total: int) -> None:
    pass


def main(jobs: int) -> None:
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        directory = Path(folder)
        directory.chmod(0o755)
        met = [_measure(f"sqlite:///{directory / 'ledger.db'}", jobs)]
        with servers.postgres(directory) as server, server.database() as database:
            met.append(_measure(database.render_as_string(hide_password=False), jobs))
    if not all(met):
        sys.exit(f"the target is {TARGET_S} s, and a clean ledger")


if __name__ == "__main__":
    if sys.argv[1:2] == ["beside"]:
        _beside(*sys.argv[2:])
    else:
        main(int(sys.argv[1]) if sys.argv[1:] else JOBS)

"""What a long reader of a SQLite file costs its writers, minute by minute.

Run as ``python -m benchmarks.long_reader DIRECTORY MINUTES``, on the disk to be measured.  Two
processes write to a file that a third one reads in one snapshot; at the same time, two more write
to a copy of the file that has no reader.  So other load on the machine affects both.
"""

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import Final

from benchmarks import history
from benchmarks.contestants import ROOT
from benchmarks.idle_workers import TYPE
from ledger.database.migration import migrate
from ledger.log import store
from ledger.processes.composition import System, compose
from ledger.processes.settings import Settings
from ledger.rules.commands import Claim, Complete, Create

JOBS: Final = 100_000
# Between two commits of a process.
PAUSE_S: Final = 0.004
CLAIMED: Final = 2
READ_AT_ONCE: Final = 200
MINUTE_S: Final = 60.0


def main(directory: Path, minutes: int) -> None:
    files = {kind: directory / f"{kind}.db" for kind in ("with", "without")}
    system = _system(files["with"])
    migrate(system.database)
    history.write(system.ledger, history.half_complete(JOBS))
    system.close()
    shutil.copyfile(files["with"], files["without"])
    processes = [
        _started(role, file, minutes) for file in files.values() for role in ("create", "work")
    ]
    reader = _started("read", files["with"], minutes)
    for minute in range(1, minutes + 1):
        lines = [json.loads(process.stdout.readline()) for process in processes if process.stdout]
        print(json.dumps({"minute": minute, "writers": lines}), flush=True)
    for process in (*processes, reader):
        process.wait()


def _started(role: str, file: Path, minutes: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "benchmarks.long_reader", role, str(file), str(minutes)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def _system(file: Path) -> System:
    return compose(Settings(database_url=f"sqlite:///{file}"))


def _write(role: str, file: Path, minutes: int) -> None:
    """Create jobs, or start and complete them; print a line for each minute."""
    system = _system(file)
    for _ in range(minutes):
        times_s, cpu_s = [], []
        end_s = time.monotonic() + MINUTE_S
        while time.monotonic() < end_s:
            began_s, began_cpu_s = time.perf_counter(), time.thread_time()
            if role == "create":
                system.ledger.execute(Create(type=TYPE, data=history.job_data(1)), actor="test")
            else:
                _work(system)
            times_s.append(time.perf_counter() - began_s)
            cpu_s.append(time.thread_time() - began_cpu_s)
            time.sleep(PAUSE_S)
        found = {
            "file": file.name,
            "role": role,
            "number": len(times_s),
            "median_ms": median(times_s) * 1000,
            "p99_ms": sorted(times_s)[len(times_s) * 99 // 100] * 1000,
            "cpu_ms": median(cpu_s) * 1000,
            "log_mb": file.with_name(f"{file.name}-wal").stat().st_size / 1e6,
        }
        print(json.dumps(found), flush=True)
    system.close()


def _work(system: System) -> None:
    claimed = system.ledger.claim(Claim(worker="host:1:1", slots={TYPE: CLAIMED}), actor="test")
    done = [Complete(job_id=one.job.id, attempt=one.job.attempt) for one in claimed.jobs]
    system.ledger.submit(done, actor="test")


def _read(file: Path, minutes: int) -> None:
    system = _system(file)
    with system.database.snapshot() as connection:
        position = 0
        end_s = time.monotonic() + minutes * MINUTE_S
        while time.monotonic() < end_s:
            envelopes = store.read_after(connection, after=position, limit=READ_AT_ONCE)
            position = envelopes[-1].position if envelopes else 0
            # A reader need not be busy: its snapshot alone keeps the log from being cut.
            time.sleep(1)
    system.close()


if __name__ == "__main__":
    what, *words = sys.argv[1:]
    if what == "read":
        _read(Path(words[0]), int(words[1]))
    elif what in {"create", "work"}:
        _write(what, Path(words[0]), int(words[1]))
    else:
        main(Path(what), int(words[0]))

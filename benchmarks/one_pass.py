"""One pass over a ledger's history; its time and peak memory are printed as JSON.

``replay.py`` runs ``python -m benchmarks.one_pass URL PASS`` in a new process for each pass,
because peak memory is measured per process.
"""

import json
import re
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from ledger.log import store
from ledger.processes.composition import System, compose
from ledger.processes.settings import Settings
from ledger.projections.rebuild.rebuild import rebuild
from ledger.projections.replay import replay
from ledger.projections.verify.verify import verify


def _ignore(done: int, total: int) -> None:
    pass


def _rebuild_all(system: System) -> int:
    return rebuild(system.database, list(system.models.values()), _ignore)


def _rebuild_jobs(system: System) -> int:
    return rebuild(system.database, [system.jobs], _ignore)


def _rebuild_counts(system: System) -> int:
    return rebuild(system.database, [system.state_counts], _ignore)


def _replay(system: System) -> int:
    with system.database.snapshot() as connection:
        through = store.read_head(connection).position
        for _ in replay(connection, through=through):
            pass
    return through


def _verify(system: System) -> int:
    shadows = system.compared
    report = verify(system.database, shadows, _ignore, tables=system.own_tables)
    if not report.clean:
        raise RuntimeError(f"the ledger is not as it must be: {report.differences}")
    return report.position


PASSES: Final[Mapping[str, Callable[[System], int]]] = {
    "rebuild all": _rebuild_all,
    "rebuild jobs": _rebuild_jobs,
    "rebuild state_counts": _rebuild_counts,
    "replay": _replay,
    "verify": _verify,
}


def _peak_mb() -> float:
    """Return the peak memory of this process, in MB of 1,024 kB.

    ``ru_maxrss`` is not used, because a child inherits it from its parent across fork and exec.
    """
    status = Path("/proc/self/status").read_text()
    found = re.search(r"^VmHWM:\s+(\d+) kB", status, re.MULTILINE)
    if found is None:
        raise RuntimeError("/proc/self/status has no VmHWM; memory is measured on Linux only")
    return int(found[1]) / 1024


def main(url: str, name: str) -> None:
    system = compose(Settings(database_url=url))
    # Read models are imported on first use, which is not part of a pass over history.
    _ = system.models, system.compared, system.own_tables
    start, start_cpu = time.perf_counter(), time.process_time()
    events = PASSES[name](system)
    seconds, cpu_s = time.perf_counter() - start, time.process_time() - start_cpu
    system.close()
    found = {"events": events, "seconds": seconds, "cpu_s": cpu_s, "peak_mb": _peak_mb()}
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])

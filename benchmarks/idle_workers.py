"""Idle workers, one per process, which run until they are killed.

Run as ``python -m benchmarks.idle_workers URL NUMBER READY``: the workers' process ids
are written to the file READY once all workers have sent a heartbeat.
"""

import json
import multiprocessing
import signal
import sys
import time
from importlib import import_module
from pathlib import Path

import ledger

TYPE = "email"


def _work(url: str) -> None:
    queue = ledger.connect(url)

    @queue.process(TYPE, concurrency=20)
    def started(_: ledger.RunningJob) -> float:
        # This clock is the same in all processes.
        return time.monotonic()

    ledger.Worker(queue).run()


def main(url: str, number: int, ready: Path) -> None:
    # Imported before the forks; otherwise every worker would import it.
    import_module("ledger.processes.composition")
    fork = multiprocessing.get_context("fork")
    workers = [fork.Process(target=_work, args=(url,), daemon=True) for _ in range(number)]
    for worker in workers:
        worker.start()
    queue = ledger.connect(url)
    while len(queue.workers()) < number:
        if not all(worker.is_alive() for worker in workers):
            raise RuntimeError("a worker did not start")
        time.sleep(0.1)
    queue.close()
    ready.write_text(json.dumps([worker.pid for worker in workers]))
    signal.pause()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))

"""Run workers that have nothing to do, a process each, until they are killed.

Run as ``python -m benchmarks.idle_workers URL NUMBER READY``: the workers' process ids
are in the file READY as soon as all have told the ledger of themselves.
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
    # What every worker would import by itself.
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

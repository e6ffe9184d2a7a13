"""The time from the creation of a job to its start on an idle worker.

Run as ``python -m benchmarks.start_latency URL NUMBER``: it creates jobs one at a time and
prints a JSON list of milliseconds, each from the call of ``create`` to that of the handler.
"""

import json
import random
import sys
import time

import ledger
from benchmarks.idle_workers import TYPE

# Long enough for the worker to become idle; random, so that it is not in step with its polling.
PAUSE_S = (0.5, 0.7)
LONGEST_WAIT_S = 30.0


def _start_ms(queue: ledger.Queue) -> float:
    time.sleep(random.uniform(*PAUSE_S))
    created_s = time.monotonic()
    started_s: float = queue.create(TYPE, {}).wait(LONGEST_WAIT_S)
    return (started_s - created_s) * 1000


def main(url: str, number: int) -> None:
    queue = ledger.connect(url)
    # The first job is not counted, because it includes our own start.
    _start_ms(queue)
    print(json.dumps([_start_ms(queue) for _ in range(number)]))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))

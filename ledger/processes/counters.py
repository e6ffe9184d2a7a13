"""Counters of what workers do: running jobs, ended attempts, jobs per second."""

import threading
import time
from collections import Counter, deque
from collections.abc import Iterable
from itertools import islice
from typing import Final, NamedTuple

from ledger.worker.worker import WorkerReport

# Number of running jobs that fit on a screen.
LARGEST_SHOWN: Final = 10
# Period over which the rate is measured.
_RATE_S: Final = 5.0


class Running(NamedTuple):
    """A running job; *since_s* is its start on the machine's monotonic clock."""

    job_id: int
    type: str
    attempt: int
    since_s: float


class Count(NamedTuple):
    """The counters of one or more workers.

    Attributes:
        completed: Completed attempts.
        failed: Failed attempts, including expired ones.
        returned: Jobs that were returned to the queue.
        running: Number of running jobs.
        longest: The jobs that have run longest, at most ``LARGEST_SHOWN``.
        steps: Steps of the worker's loop; 0 of more than one worker.
    """

    completed: int = 0
    failed: int = 0
    returned: int = 0
    running: int = 0
    longest: tuple[Running, ...] = ()
    steps: int = 0


class Counters:
    """The counters of one worker, which several threads may update and read.

    Attributes:
        steps: Steps of the worker's loop.
    """

    def __init__(self) -> None:
        self.steps = 0
        self._mutex = threading.Lock()
        # By job and attempt: the handler of an earlier attempt may still run.
        self._running: dict[tuple[int, int], Running] = {}
        self._ended: Counter[str] = Counter()

    def record(self, report: WorkerReport) -> None:
        """Count an event of an attempt."""
        with self._mutex:
            job = report.job
            if report.kind == "started":
                now_s = time.monotonic()
                self._running[job.key] = Running(job.id, job.type, job.attempt, now_s)
            else:
                self._running.pop(job.key, None)
                self._ended[report.kind] += 1

    def count(self) -> Count:
        """Return the current counters."""
        with self._mutex:
            ended = self._ended
            return Count(
                completed=ended["completed"],
                failed=ended["failed"] + ended["expired"],
                returned=ended["returned"],
                running=len(self._running),
                # The dictionary is in the order in which jobs started.
                longest=tuple(islice(self._running.values(), LARGEST_SHOWN)),
                steps=self.steps,
            )


def total(counts: Iterable[Count]) -> Count:
    """Return the sum of the counters of several workers."""
    counts = list(counts)
    longest = sorted((one for count in counts for one in count.longest), key=_since)
    return Count(
        completed=sum(count.completed for count in counts),
        failed=sum(count.failed for count in counts),
        returned=sum(count.returned for count in counts),
        running=sum(count.running for count in counts),
        longest=tuple(longest[:LARGEST_SHOWN]),
    )


def _since(running: Running) -> float:
    return running.since_s


class Rate:
    """The rate at which a number grew in the last few seconds."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque()

    def of(self, number: int, *, now_s: float) -> float:
        """Return the growth per second, given that the number is *number* at *now_s*."""
        self._seen.append((now_s, number))
        while len(self._seen) > 2 and now_s - self._seen[0][0] > _RATE_S:  # noqa: PLR2004 - two ends
            self._seen.popleft()
        since_s, before = self._seen[0]
        return (number - before) / (now_s - since_s) if now_s > since_s else 0.0

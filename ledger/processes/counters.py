"""Keep count of what workers do: what runs, what was done, how fast."""

import threading
import time
from collections import Counter, deque
from collections.abc import Iterable
from itertools import islice
from typing import Final, NamedTuple

from ledger.worker.running_job import RunningJob
from ledger.worker.worker import Told

# As many running jobs as a screen has room for.
LARGEST_SHOWN: Final = 10
# Over how long the rate is measured.
_RATE_S: Final = 5.0


class Running(NamedTuple):
    """Be a job that runs, and since when on the machine's monotonic clock."""

    job_id: int
    type: str
    attempt: int
    since_s: float


class Count(NamedTuple):
    """Be what a worker has done so far.

    Attributes:
        running: How many jobs it runs.
        longest: Those of them that run longest.
    """

    completed: int = 0
    failed: int = 0
    returned: int = 0
    running: int = 0
    longest: tuple[Running, ...] = ()


class Tally:
    """Count what a worker tells; its threads and the one that reads may differ."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._running: dict[RunningJob, Running] = {}
        self._ended: Counter[str] = Counter()

    def told(self, told: Told) -> None:
        """Count what was told."""
        with self._mutex:
            job = told.job
            if told.kind == "started":
                now_s = time.monotonic()
                self._running[job] = Running(job.id, job.type, job.attempt, now_s)
            else:
                self._running.pop(job, None)
                self._ended[told.kind] += 1

    def count(self) -> Count:
        """Return the count so far."""
        with self._mutex:
            ended = self._ended
            return Count(
                completed=ended["completed"],
                failed=ended["failed"] + ended["expired"],
                returned=ended["returned"],
                running=len(self._running),
                # They are in the order in which they began.
                longest=tuple(islice(self._running.values(), LARGEST_SHOWN)),
            )


def total(counts: Iterable[Count]) -> Count:
    """Return what several workers have done together."""
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
    """Measure how fast a number that only grows has grown of late."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque()

    def of(self, number: int, *, now_s: float) -> float:
        """Return by how much it grew a second, now that it is *number*."""
        self._seen.append((now_s, number))
        while len(self._seen) > 2 and now_s - self._seen[0][0] > _RATE_S:  # noqa: PLR2004 - two ends
            self._seen.popleft()
        since_s, before = self._seen[0]
        return (number - before) / (now_s - since_s) if now_s > since_s else 0.0

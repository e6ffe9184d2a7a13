"""The waiting jobs that the claims of one batch may start.

Hundreds of claims share a batch, and most ask for the same types.  If each of them read the jobs
that wait, it would read again what the claims before it have been given, and the time under the
head's lock would grow with the square of their number.  So the read model is asked once for
what all of them ask for, and the claims are served from that.

Jobs that the batch itself makes ready or more urgent are not so in the read model yet; the next
batch finds them.
"""

from bisect import bisect_right
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate
from typing import Final

from sqlalchemy import Connection

from ledger.database.answer_bytes import ANSWER_BYTES
from ledger.log.ports import JobStore, JobWithData
from ledger.rules.commands import Claim
from ledger.rules.job import JobState, State

# If jobs that were read no longer wait, this many times as many are read.
_GROWTH: Final = 2


class WaitingJobs:
    """The waiting jobs of each type, by priority, then by age, read when they are first needed.

    Args:
        tx: The transaction of the batch.
        jobs: The read model.
        claims: All claims of the batch.
    """

    def __init__(self, tx: Connection, jobs: JobStore, claims: Iterable[Claim]) -> None:
        self._tx = tx
        self._jobs = jobs
        self._expected: dict[str, int] = {}
        # Data can be long.  Where a claim may leave jobs that it looked at, only the data of those
        # that are chosen is read.
        self._with_data = True
        for claim in claims:
            self._expect(claim)
        self._types: dict[str, _OfType] = {}
        self._data: dict[int, str | None] = {}
        self._json_bytes: dict[int, int] = {}

    def _expect(self, claim: Claim) -> None:
        takes_all = claim.limit is None or len(claim.slots) == 1
        self._with_data = self._with_data and takes_all
        for type_, slots in claim.slots.items():
            number = slots if claim.limit is None else min(slots, claim.limit)
            before = self._expected.get(type_, 0)
            self._expected[type_] = before + number if takes_all else max(before, number)

    def first(self, type_: str, number: int, states: Mapping[int, JobState]) -> list[JobState]:
        """Return the first jobs of a type that wait, at most *number*.

        Args:
            type_: The type.
            number: How many to return at most.
            states: The jobs that the batch has loaded or changed, as it has left them.
        """
        of_type = self._types.setdefault(type_, _OfType())
        found: list[JobState] = []
        while len(found) < number:
            if not of_type.unused:
                if not self._read_more(type_, of_type, number - len(found)):
                    break
                continue
            job = of_type.unused.popleft()
            job = states.get(job.id, job)
            # One that does not wait has been started, moved or removed, and is dropped.
            if job.state is State.INACTIVE:
                found.append(job)
        of_type.unused.extendleft(reversed(found))
        return found

    def fitting(self, jobs: Sequence[JobState]) -> int:
        """Return how many of *jobs*, which ``first`` has returned, fit into an answer."""
        through = accumulate([self._json_bytes[job.id] for job in jobs])
        return max(1, bisect_right(list(through), ANSWER_BYTES))

    def with_data(self, jobs: Sequence[JobState]) -> list[JobWithData]:
        """Return *jobs*, which are among those that ``first`` has returned, with their data."""
        missing = [job.id for job in jobs if job.id not in self._data]
        if missing:
            self._data.update(self._jobs.data(self._tx, missing))
        return [JobWithData(job, self._data.get(job.id)) for job in jobs]

    def forget(self) -> None:
        """Forget what was read: changes that caused jobs to be dropped were undone."""
        self._types.clear()

    def _read_more(self, type_: str, of_type: "_OfType", missing: int) -> bool:
        """Read more jobs of a type; return whether there are more."""
        if of_type.is_complete:
            return False
        known = of_type.read
        limit = known + missing
        limit = max(limit, known * _GROWTH if known else self._expected.get(type_, 0))
        read = self._jobs.claimable(self._tx, type_, limit=limit, with_data=self._with_data)
        # Nothing is written before the end of the batch, so those before are the same.
        for one in read[known:]:
            of_type.unused.append(one.job)
            self._json_bytes[one.job.id] = one.json_bytes
            if one.data is not None:
                self._data[one.job.id] = one.data
        of_type.read = len(read)
        of_type.is_complete = len(read) < limit
        return len(read) > known


class _OfType:
    """What was read of the waiting jobs of one type.

    Attributes:
        unused: Those that no claim has been given.
        read: How many were read.
        is_complete: Whether these are all.
    """

    def __init__(self) -> None:
        self.unused: deque[JobState] = deque()
        self.read = 0
        self.is_complete = False

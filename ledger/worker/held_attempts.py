"""The attempts of a worker, kept in agreement with the ledger.

What a worker runs and what the ledger says that it holds can differ.  The answer to a claim
was lost: it holds jobs that it does not run, and returns them.  An attempt was failed for its
ttl or for the worker's silence, or its job was moved or removed: it runs a job that it does
not hold, and tells the handler.  A worker of the same name died: it holds that worker's jobs,
and fails them, because its own heartbeats would keep them for ever.
"""

import math
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Final

from ledger.errors import LedgerError
from ledger.log.answers import Answer, Outcome
from ledger.queue.queue import Queue
from ledger.rules import commands
from ledger.rules.events import Failed
from ledger.worker.outbox import Outbox
from ledger.worker.running_job import RunningJob

# When to look again at an attempt that is past its ttl here and not in the ledger.
_CHECK_AGAIN_S: Final = 2.0


class HeldAttempts:
    """The running jobs of a worker, and what the ledger says about them.

    It is used by the worker's loop only.

    Args:
        queue: The queue whose ledger is asked.
        worker: The worker's name.
        on_over: Called with each job whose attempt is over, although its handler has not
            ended.

    Attributes:
        actor: The worker as an actor.
        may_hold_unknown: Whether the ledger may say that we hold jobs that we do not run; set
            when the answer to a claim was lost.
        must_compare: Whether to check that we still hold all jobs that we run.
    """

    def __init__(self, queue: Queue, worker: str, *, on_over: Callable[[RunningJob], None]) -> None:
        self.actor = f"worker:{worker}"
        self.may_hold_unknown = False
        self.must_compare = False
        self._queue = queue
        self._worker = worker
        self._on_over = on_over
        self._running: dict[tuple[int, int], RunningJob] = {}
        # When each attempt expires, by this machine's monotonic clock, which nobody can set.
        self._expires_s: dict[tuple[int, int], float] = {}
        # The attempts past their ttl, each with the number of reports to answer before it fails.
        self._late: dict[tuple[int, int], int] = {}
        # True until we have checked for attempts left by a dead predecessor with our name
        # (restarted containers reuse it).
        self._may_have_predecessor = True

    def __len__(self) -> int:
        return len(self._running)

    def __iter__(self) -> Iterator[RunningJob]:
        return iter(self._running.values())

    def add(self, jobs: Iterable[RunningJob]) -> None:
        """Add jobs that were started just now."""
        for job in jobs:
            self._running[job.key] = job
            self.renew(job)

    def renew(self, job: RunningJob) -> None:
        """Start the job's ttl, or restart it, unless the job has been removed."""
        if job.ttl_ms is not None and job.key in self._running:
            self._expires_s[job.key] = time.monotonic() + job.ttl_ms / 1000

    def remove(self, job: RunningJob) -> None:
        """Remove a job whose handler has ended, and whose last report needs no more answer."""
        self._running.pop(job.key, None)
        self._expires_s.pop(job.key, None)

    def clear(self) -> None:
        """Remove all jobs, and discard what their handlers still report."""
        for job in self:
            job.end()
        self._running.clear()
        self._expires_s.clear()
        self._late.clear()

    def free(
        self, slots: Mapping[str, int], ending: Collection[tuple[int, int]] = ()
    ) -> dict[str, int]:
        """Return how many jobs of each type can be started, once those *ending* have ended."""
        held = Counter(job.type for key, job in self._running.items() if key not in ending)
        free = {type_: number - held[type_] for type_, number in slots.items()}
        return {type_: number for type_, number in free.items() if number > 0}

    def next_expiry_s(self) -> float:
        """Return when the next attempt expires, on the monotonic clock; infinite if none does."""
        return min(self._expires_s.values(), default=math.inf)

    def fail_predecessor(self, silent_ms: int) -> None:
        """Fail attempts held by a dead worker with our name, once.

        Our own heartbeats would keep them alive.

        Args:
            silent_ms: How long that worker had been silent when its name became ours.
        """
        if not self._may_have_predecessor:
            return
        with self._queue.database.read() as connection:
            held = self._queue.read_models.held_by(connection, self._worker)
        lost = [
            commands.Lose(job_id=id_, attempt=attempt, worker=self._worker, silent_ms=silent_ms)
            for id_, attempt in held
        ]
        for _ in self._queue.ledger.submit_in_parts(lost, actor=self.actor, cause="worker restart"):
            pass
        self._may_have_predecessor = False

    def collect_late(self, outbox: Outbox[RunningJob]) -> None:
        """Add what attempts past their ttl have reported to *outbox*, once for each attempt.

        A handler that has returned, or reported progress, before its ttl was over came first,
        however late the loop or the database is.  So ``expire`` fails an attempt only once the
        ledger has answered all that was reported until now.
        """
        now_s = time.monotonic()
        over = [key for key, at_s in self._expires_s.items() if at_s <= now_s]
        for key in over:
            job = self._running[key]
            if job.expired:
                # It is over already, by the ledger's answer to a report.
                del self._expires_s[key]
            elif key not in self._late:
                outbox.add(job, job.take())
                self._late[key] = outbox.added

    def expire(self, outbox: Outbox[RunningJob]) -> None:
        """Fail the attempts that are still past their ttl, and tell their handlers."""
        ready = [key for key, number in self._late.items() if number <= outbox.answered]
        for key in ready:
            del self._late[key]
        now_s = time.monotonic()
        over = [key for key in ready if self._expires_s.get(key, math.inf) <= now_s]
        late = [job for job in map(self._running.__getitem__, over) if not job.expired]
        if not late:
            return
        elapse = [commands.Elapse(job_id=job.key[0]) for job in late]
        answers = self._queue.ledger.submit(elapse, actor=self.actor, cause="ttl")
        for job, answer in zip(late, answers, strict=True):
            if isinstance(answer, LedgerError):
                self._release(job)
            elif isinstance(answer, Outcome) and not any(
                isinstance(event, Failed) for event in answer.events
            ):
                # Someone else's report kept it alive, or the sweeper was first: check.
                self._check(job)
            else:
                self._release(job)

    def reconcile(self) -> None:
        """Compare what the ledger says we hold with what we run, if there is reason to.

        Jobs that we do not know are returned.  Handlers of jobs that we no longer hold are told,
        even if they would never report anything and so never be refused.
        """
        if not (self.may_hold_unknown or self.must_compare):
            return
        held = self._held()
        if self.may_hold_unknown:
            unknown = sorted(held - self._running.keys())
            self.give_back(unknown, "the answer to the claim was lost", cause="claim")
            self.may_hold_unknown = False
        for key, job in self._running.items():
            if key not in held and not job.ended and not job.expired:
                self._release(job)
        self.must_compare = False

    def give_back(
        self, held: Sequence[tuple[int, int]], reason: str, *, cause: str
    ) -> list[Answer]:
        """Return attempts, unfinished, to the queue."""
        back = [
            commands.Return(job_id=id_, attempt=attempt, reason=reason) for id_, attempt in held
        ]
        parts = self._queue.ledger.submit_in_parts(back, actor=self.actor, cause=cause)
        return [answer for part in parts for answer in part]

    def _check(self, job: RunningJob) -> None:
        if job.key in self._held():
            # It continues; only the ledger knows until when, so check again soon.
            self._expires_s[job.key] = time.monotonic() + _CHECK_AGAIN_S
        else:
            self._release(job)

    def _held(self) -> frozenset[tuple[int, int]]:
        with self._queue.database.read() as connection:
            return frozenset(self._queue.read_models.held_by(connection, self._worker))

    def _release(self, job: RunningJob) -> None:
        """Tell a handler that its attempt is over; its thread stays occupied until it ends."""
        job.expire_at(None)
        self._expires_s.pop(job.key, None)
        self._on_over(job)
        job.end()

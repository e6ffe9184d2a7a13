"""The worker: it claims jobs, calls their handlers and reports the results.

Theory of operation
-------------------
A worker is one loop and one thread for each job that may run at once.  The threads call
handlers and do nothing else: what a handler logs, reports or returns is left with its
``RunningJob``, which notifies the loop.  The loop collects the reports of all jobs and
claims new jobs, both in one transaction, so each commit carries everything since the last
one.

No job is done twice unnoticed.  Each start has an attempt number; the ledger refuses a
report on an attempt that is over, because its ttl ran out or because this worker was silent
for too long.  The loop then sets ``job.expired`` and discards whatever the handler still
reports.

Nothing is lost.  Reports that the database could not take stay in the outbox and are sent
again (``outbox.py``).  If the answer to a claim was lost, the ledger may show that we hold jobs
that we do not know: the loop returns them (``held_attempts.py``).
"""

import logging
import math
import secrets
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Final, Literal, NamedTuple

from ledger.errors import InvalidInput, LedgerError, NameTaken, Unavailable
from ledger.log.answers import Answer, Claimed, Outcome
from ledger.queue.queue import Queue, own_name
from ledger.rules import commands, json_text
from ledger.rules.events import Completed, Failed, Progressed
from ledger.worker.chosen_handlers import chosen_handlers
from ledger.worker.held_attempts import HeldAttempts
from ledger.worker.last_report import give_up, perform
from ledger.worker.mailbox import Mailbox
from ledger.worker.outbox import Outbox
from ledger.worker.pauses import PAUSES, Pauses
from ledger.worker.registration import Registration
from ledger.worker.running_job import RunningJob
from ledger.worker.step_failures import StepFailures
from ledger.worker.submitter import Submitter
from ledger.worker.sweeper import start_sweeper
from ledger.worker.thread_pool import ThreadPool

# How long running jobs may take to end once the worker is told to stop.
GRACE_S: Final = 10.0
# The reports that end an attempt.
_LAST_REPORTS: Final = (commands.Complete, commands.FailAttempt)

_log = logging.getLogger(__name__)


class WorkerReport(NamedTuple):
    """What a worker tells its observer about an attempt.

    Attributes:
        kind: ``started``; later ``completed``, ``failed``, ``returned`` if it was returned
            unfinished, or ``expired`` if the handler's reports no longer count.
        error: Why, in one line; empty if it started or completed.
        next: The state that follows a failure.
    """

    kind: Literal["started", "completed", "failed", "returned", "expired"]
    job: RunningJob
    error: str = ""
    next: str = ""


class Worker:
    """A worker that does the jobs of a queue in this process.

    Args:
        queue: The queue whose handlers to call.
        types: The types of jobs to do; None for all that have a handler.
        name: A name that no other worker has; by default ``HOST:PID:RANDOM``.  If a dead worker's
            entry has this name, the new worker waits until that lease is over and it has watched
            the entry for half of it, at least 2 s.
        grace_s: Seconds that running jobs may take to end once the worker is told to stop.
        observer: Called when an attempt starts and when it ends, by the worker's only loop: it
            must return quickly and not raise.
        sweep: Whether to sweep as well: promote jobs that are due and find lost workers,
            where neither a server nor ``ledger work`` does.
        pauses: How long the loop waits; tests pass shorter or longer ones.

    Attributes:
        steps: Steps of the loop so far; one takes some seconds at most while all is well.

    Raises:
        InvalidInput: A type has no handler, or there is none at all; or *name* or
            *grace_s* is invalid.
    """

    def __init__(
        self,
        queue: Queue,
        *,
        types: Collection[str] | None = None,
        name: str | None = None,
        grace_s: float = GRACE_S,
        observer: Callable[[WorkerReport], None] | None = None,
        sweep: bool = False,
        pauses: Pauses = PAUSES,
    ) -> None:
        self.name = commands.worker_name(name or f"{own_name()}:{secrets.token_hex(4)}")
        if not grace_s >= 0:
            raise InvalidInput.expected("grace_s", "seconds, 0 or more", grace_s)
        self.steps = 0
        self._queue = queue
        self._handlers = chosen_handlers(queue, types)
        self._slots = {type_: handler.concurrency for type_, handler in self._handlers.items()}
        self._grace_s = grace_s
        self._observer = observer
        self._sweeps = sweep
        self._pauses = pauses
        self._mailbox = Mailbox()
        threads = sum(self._slots.values())
        self._pool = ThreadPool(self._perform, give_up, name=self.name, threads=threads)
        self._registration = Registration(queue, self.name, self._slots)
        self._held = HeldAttempts(queue, self.name, on_over=self._on_over)
        self._outbox = Outbox[RunningJob]()
        self._submitter = Submitter(queue, self._held.actor)
        # Whether a claim whose answer was lost may have been recorded.
        self._has_lost_claim = False
        self._failures = StepFailures(self.name)
        # Whether there may be jobs to claim; set by other threads too.
        self._wants_jobs = True
        # The types that had free slots when it last looked for jobs.
        self._asked: Collection[str] = ()
        self._stop_by_s = math.inf
        self._stopped_at_s = math.inf
        self._stopping = False

    def __repr__(self) -> str:
        return f"<Worker {self.name}: {', '.join(self._handlers)}>"

    @property
    def running(self) -> int:
        """Return the number of running jobs."""
        return len(self._held)

    def stop(self, *, grace_s: float | None = None) -> None:
        """Make ``run`` return: claim no more jobs, wait for the running ones, return the rest.

        May be called from a signal handler, and again with a shorter *grace_s*.
        """
        now_s = time.monotonic()
        self._stop_by_s = now_s + (self._grace_s if grace_s is None else grace_s)
        self._stopped_at_s = min(self._stopped_at_s, now_s)
        self._stopping = True
        self._mailbox.interrupt()

    def run(self) -> None:
        """Work until ``stop`` is called, even if the database becomes unavailable.

        Raises:
            NameTaken: Another live worker has this one's name.
            SchemaMismatch: The tables are not those of this version.
            Unavailable: The database is unavailable at the beginning.
            WorkerFailed: Too many steps in a row failed, not because of the database.
        """
        self._queue.open()
        self._pool.start()
        sweeper = start_sweeper(self._queue) if self._sweeps else None
        try:
            with self._queue.commit_notifier.subscribed(self._on_commit, types=self._awaited):
                while not self._is_over():
                    self._step()
                    self.steps += 1
        finally:
            if sweeper is not None:
                sweeper.stop()
            self._pool.close()
            self._leave()

    def start(self) -> threading.Thread:
        """Run in a thread of this process, and return the thread; raises as ``run``."""
        self._queue.open()
        thread = threading.Thread(target=self.run, name=self.name, daemon=True)
        thread.start()
        return thread

    # --- other threads

    def _perform(self, job: RunningJob) -> None:
        job.finish(perform(self._handlers[job.type], job))

    def _awaited(self) -> Collection[str]:
        return () if self._wants_jobs else self._slots

    def _on_commit(self) -> None:
        if not self._wants_jobs:
            self._wants_jobs = True
            self._mailbox.interrupt()

    # --- the loop

    def _is_over(self) -> bool:
        return self._stopping and (not self._held or time.monotonic() >= self._stop_by_s)

    def _step(self) -> None:
        """Wait for reports, and bring the ledger up to date."""
        for job in self._wait_for_reports():
            self._outbox.add(job, job.take())
            if job.ended and job.expired:
                # Its last report was discarded: there is no answer to wait for.
                self._held.remove(job)
                # Nor is there a commit that would notify us, although its slot is free.
                self._wants_jobs = True
        try:
            self._beat()
            if not self._registration.is_ours:
                self._pause()
                return
            self._held.fail_predecessor(self._registration.predecessor_silent_ms)
            self._held.reconcile()
            self._held.collect_late(self._outbox)
            self._exchange()
            self._held.expire(self._outbox)
        except NameTaken:
            raise
        except Unavailable as error:
            _log.warning("worker %s cannot continue, will retry: %s", self.name, error)
            self._failures.clear()
            self._pause()
        except Exception as error:  # noqa: BLE001 - one failure must not end the thread
            self._failures.add(error)
            # It may have claimed jobs and not started them.
            self._held.may_hold_unknown = True
            self._pause()
        else:
            self._failures.clear()

    def _pause(self) -> None:
        self._wants_jobs = True
        time.sleep(min(self._pauses.retry_s, max(0.0, self._stop_by_s - time.monotonic())))

    def _wait_for_reports(self) -> list[RunningJob]:
        """Wait until jobs have new reports or something else is due; return those jobs."""
        if self._outbox.is_full:
            # Leave the reports with their jobs: then the handlers wait for the database too.
            return []
        pause_s = 0.0 if self._outbox else self._pause_s()
        jobs = self._mailbox.take(timeout_s=pause_s, enough=len(self._held))
        if not jobs and pause_s > 0:
            # It was not woken, but checks for jobs all the same.
            self._wants_jobs = True
        return jobs

    def _pause_s(self) -> float:
        if self._wants_jobs and self._held.free(self._slots):
            return 0.0
        now_s = time.monotonic()
        until_s = min(
            now_s + self._pauses.longest_s,
            self._registration.next_beat_s,
            self._stop_by_s,
            self._held.next_expiry_s(),
        )
        return max(0.001, until_s - now_s)

    def _beat(self) -> None:
        """Record a heartbeat if it is due."""
        if self._registration.is_due:
            self._registration.beat()
            self._held.must_compare = bool(self._held)

    def _exchange(self) -> None:
        """Send the reports and claim jobs, in one commit."""
        batch = self._outbox.batch()
        submitted: list[commands.Command] = [report for _, report in batch]
        slots = {} if self._stopping else self._slots_to_claim(batch)
        if slots:
            submitted.append(commands.Claim(worker=self.name, slots=slots))
        if not submitted:
            return
        try:
            answers = self._submitter.submit(submitted)
        except Unavailable:
            # The claim may be recorded all the same, now or a moment later.
            self._has_lost_claim = self._has_lost_claim or bool(slots)
            self._held.may_hold_unknown = self._has_lost_claim
            raise
        # From now on no lost claim can be recorded any more: look once again.
        self._held.may_hold_unknown, self._has_lost_claim = self._has_lost_claim, False
        self._outbox.remove(len(batch))
        for (job, report), answer in zip(batch, answers, strict=False):
            self._process(job, report, answer)
        if slots and isinstance(claimed := answers[-1], Claimed):
            self._begin(claimed, slots)

    def _slots_to_claim(
        self, batch: Sequence[tuple[RunningJob, commands.OnAttempt]]
    ) -> dict[str, int]:
        """Return how many jobs of each type to claim with the reports of *batch*."""
        ending = [job for job, report in batch if isinstance(report, _LAST_REPORTS)]
        # No commit tells of a slot that becomes free, and jobs may have waited for it.
        if not self._wants_jobs and all(job.type in self._asked for job in ending):
            return {}
        slots = self._held.free(self._slots, {job.key for job in ending})
        if slots:
            # Cleared before the check: a commit after that sets it again.
            self._wants_jobs = False
            self._asked = slots
            # Without reports, a claim that finds nothing would be a commit for nothing.
            if not batch and not self._any_waits(slots):
                return {}
        return slots

    def _any_waits(self, types: Collection[str]) -> bool:
        with self._queue.database.read() as connection:
            return self._queue.read_models.any_claimable(connection, types)

    def _process(self, job: RunningJob, report: commands.OnAttempt, answer: Answer) -> None:
        """Process the ledger's answer to a job's report."""
        if isinstance(answer, LedgerError):
            if not job.expired:
                _log.warning("worker %s: %s", self.name, answer)
                self._observe("expired", job, str(answer))
            job.end()
        elif isinstance(answer, Outcome):
            for event in answer.events:
                if isinstance(event, Progressed):
                    job.expire_at(event.expires_at_ms)
                    self._held.renew(job)
                elif isinstance(event, Failed) and isinstance(report, commands.FailAttempt):
                    line = json_text.log_line("failed", report.error)
                    self._observe("failed", job, line, event.next)
                elif isinstance(event, Completed):
                    self._observe("completed", job)
        if isinstance(report, _LAST_REPORTS):
            job.end()
            self._held.remove(job)

    def _begin(self, claimed: Claimed, slots: Mapping[str, int]) -> None:
        jobs = [RunningJob(self._queue, one, self._mailbox.put) for one in claimed.jobs]
        self._held.add(jobs)
        self._pool.put(jobs)
        for job in jobs:
            self._observe("started", job)
        counts = Counter(job.type for job in jobs)
        if claimed.is_cut or any(counts[type_] == most for type_, most in slots.items()):
            # As many as we asked for, or as fit into an answer: there may be more.
            self._wants_jobs = True

    # --- the end

    def _leave(self) -> None:
        """Return what still runs, and remove the worker from the list."""
        for job in self._held:
            self._outbox.add(job, job.take())
        try:
            while batch := self._outbox.batch():
                reports = [report for _, report in batch]
                answers = self._submitter.submit(reports)
                self._outbox.remove(len(batch))
                for (job, report), answer in zip(batch, answers, strict=True):
                    self._process(job, report, answer)
                # Handlers that have ended in the meantime count: their reports go first.
                for job in self._held:
                    self._outbox.add(job, job.take() if job.ended else ())
            self._give_back_rest()
            self._registration.leave()
        except Exception as error:  # noqa: BLE001 - must not hide why the worker ends
            # The sweeper will fail them as lost.
            _log.warning("worker %s could not return its jobs: %s", self.name, error)
        self._held.clear()

    def _give_back_rest(self) -> None:
        waited_s = max(0.0, time.monotonic() - self._stopped_at_s)
        reason = f"worker {self.name} was stopped; the job had not ended after {waited_s:.1f} s"
        rest = list(self._held)
        answers = self._held.give_back([job.key for job in rest], reason, cause="stop")
        for job, answer in zip(rest, answers, strict=True):
            if isinstance(answer, Outcome):
                self._observe("returned", job, reason)

    # --- the observer

    def _on_over(self, job: RunningJob) -> None:
        self._observe(
            "expired",
            job,
            "the attempt is over: its ttl expired, or its worker was considered lost",
        )

    def _observe(
        self,
        kind: Literal["started", "completed", "failed", "returned", "expired"],
        job: RunningJob,
        error: str = "",
        next_: str = "",
    ) -> None:
        if self._observer is not None:
            self._observer(WorkerReport(kind, job, error, next_))

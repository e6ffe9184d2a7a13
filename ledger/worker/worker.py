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

Nothing is lost.  Reports that the database could not take are kept and sent again.  If the
answer to a claim was lost, the ledger may show that we hold jobs that we do not know: the
loop returns them.
"""

import logging
import math
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Sequence
from itertools import count, islice
from typing import Final, Literal, NamedTuple

from ledger.errors import InvalidInput, LedgerError, Unavailable
from ledger.log.answers import Answer, Claimed, Outcome
from ledger.queue import heartbeats
from ledger.queue.queue import Handler, Queue, own_name
from ledger.rules import commands, json_text
from ledger.rules.events import Completed, Failed, Progressed
from ledger.worker.mailbox import Mailbox
from ledger.worker.running_job import MOST_CHARACTERS, RunningJob, perform, size
from ledger.worker.sweeper import Sweeper
from ledger.worker.thread_pool import ThreadPool

# How long running jobs may take to end once the worker is told to stop.
GRACE_S: Final = 10.0
# The loop checks for jobs at least this often, even if it is not woken.
_LONGEST_PAUSE_S: Final = 2.0
# Bounds, with MOST_CHARACTERS, how long a commit holds the lock.
_MOST_WORDS: Final = 1_000
# Pause between tries while the database is unavailable.
_RETRY_S: Final = 0.5
# Heartbeats per lease, the time for which a worker may be silent.
_BEATS_A_LEASE: Final = 3

_LAST_WORDS: Final = (commands.Complete, commands.FailAttempt)

_log = logging.getLogger(__name__)
_numbers = count(1)


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
        name: A name that no other worker has; by default ``HOST:PID:N``.
        grace_s: Seconds that running jobs may take to end once the worker is told to stop.
        observer: Called when an attempt starts and when it ends, by the worker's only loop: it
            must return quickly and not raise.
        sweep: Whether to sweep as well: promote jobs that are due and find lost workers,
            where neither a server nor ``ledger work`` does.

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
    ) -> None:
        self.name = commands.worker_name(name or f"{own_name()}:{next(_numbers)}")
        if not grace_s >= 0:
            raise InvalidInput.expected("grace_s", "seconds, 0 or more", grace_s)
        self._queue = queue
        self._handlers = _chosen(queue, types)
        self._slots = {type_: handler.concurrency for type_, handler in self._handlers.items()}
        self._grace_s = grace_s
        self._observer = observer
        self._sweeps = sweep
        self._actor = f"worker:{self.name}"
        self._mailbox = Mailbox()
        self._pool = ThreadPool[RunningJob]()
        self._running: dict[tuple[int, int], RunningJob] = {}
        # Reports that the database has not taken yet.
        self._unsent: deque[tuple[RunningJob, commands.OnAttempt]] = deque()
        # Whether there may be jobs to claim; set by other threads too.
        self._wants_jobs = True
        # Whether we may hold jobs that we do not know.
        self._unsure = False
        # True until we have checked for attempts left by a dead predecessor with our name
        # (restarted containers reuse it).
        self._may_have_predecessor = True
        # Whether to check that we still hold all jobs that we run.
        self._must_reconcile = False
        self._next_beat_s = 0.0
        self._stop_by_s = math.inf
        self._stopped_at_s = math.inf
        self._stopping = False

    def __repr__(self) -> str:
        return f"<Worker {self.name}: {', '.join(self._handlers)}>"

    @property
    def running(self) -> int:
        """Return the number of running jobs."""
        return len(self._running)

    def stop(self, *, grace_s: float | None = None) -> None:
        """Make ``run`` return: claim no more jobs, wait for the running ones, return the rest.

        May be called from a signal handler, and again with a shorter *grace_s*.
        """
        now_s = time.monotonic()
        self._stop_by_s = now_s + (self._grace_s if grace_s is None else grace_s)
        self._stopped_at_s = min(self._stopped_at_s, now_s)
        self._stopping = True
        self._mailbox.nudge()

    def run(self) -> None:
        """Work until ``stop`` is called, even if the database becomes unavailable.

        Raises:
            SchemaMismatch: The tables are not those of this version.
            Unavailable: The database is unavailable at the beginning.
        """
        self._queue.open()
        threads = [
            threading.Thread(target=self._perform, name=f"{self.name}-{n}", daemon=True)
            for n in range(sum(self._slots.values()))
        ]
        for thread in threads:
            thread.start()
        sweeper = self._sweeper()
        try:
            with self._queue.commit_notifier.subscribed(self._notify):
                while not self._over():
                    self._step()
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

    def _sweeper(self) -> Sweeper | None:
        if not self._sweeps:
            return None
        queue = self._queue
        sweeper = Sweeper(queue.ledger, queue.read_models, lease_ms=queue.lease_ms)
        sweeper.start()
        return sweeper

    # --- the threads

    def _perform(self) -> None:
        while (job := self._pool.take()) is not None:
            job.finish(perform(self._handlers[job.type], job))

    def _notify(self) -> None:
        if not self._wants_jobs:
            self._wants_jobs = True
            self._mailbox.nudge()

    # --- the loop

    def _over(self) -> bool:
        return self._stopping and (not self._running or time.monotonic() >= self._stop_by_s)

    def _step(self) -> None:
        """Wait for reports, and bring the ledger up to date."""
        for job in self._news():
            self._unsent.extend((job, word) for word in job.take())
            if job.ended and job.expired:
                # Its last report was discarded: there is no answer to wait for.
                self._running.pop((job.id, job.attempt), None)
                # Nor is there a commit that would notify us, although its slot is free.
                self._wants_jobs = True
        try:
            self._fail_predecessor()
            self._beat()
            self._expire()
            self._reconcile()
            self._exchange()
        except Unavailable as error:
            _log.warning("worker %s cannot continue, will retry: %s", self.name, error)
            self._pause()
        except Exception:  # noqa: BLE001 - must not end the thread
            # If the loop ended here, no job would be done any more, and no one would notice.
            _log.exception("worker %s failed; retrying", self.name)
            # It may have claimed jobs and not started them.
            self._unsure = True
            self._pause()

    def _pause(self) -> None:
        self._wants_jobs = True
        time.sleep(min(_RETRY_S, max(0.0, self._stop_by_s - time.monotonic())))

    def _news(self) -> list[RunningJob]:
        """Wait until jobs have new reports or something else is due; return those jobs."""
        pause_s = 0.0 if self._unsent else self._pause_s()
        news = self._mailbox.take(timeout_s=pause_s, enough=len(self._running))
        if not news and pause_s > 0:
            # It was not woken, but checks for jobs all the same.
            self._wants_jobs = True
        return news

    def _pause_s(self) -> float:
        if self._wants_jobs and self._free():
            return 0.0
        now_s = time.monotonic()
        until_s = min(now_s + _LONGEST_PAUSE_S, self._next_beat_s, self._stop_by_s)
        expiries = [job.expires_at_ms for job in self._running.values() if job.expires_at_ms]
        if expiries:
            until_s = min(until_s, now_s + (min(expiries) - self._queue.ledger.now_ms()) / 1000)
        return max(0.001, until_s - now_s)

    def _exchange(self) -> None:
        """Send the reports and claim jobs, in one commit."""
        told = self._next_words()
        said: list[commands.Command] = [word for _, word in told]
        ending = {(word.job_id, word.attempt) for _, word in told if isinstance(word, _LAST_WORDS)}
        slots = self._free(ending) if self._wants_jobs and not self._stopping else {}
        if slots:
            # Cleared before the check: a commit after that sets it again.
            self._wants_jobs = False
            if said or self._any_waits(slots):
                said.append(commands.Claim(worker=self.name, slots=slots))
            else:
                slots = {}
        if not said:
            return
        try:
            answers = self._queue.ledger.submit(said, actor=self._actor)
        except Unavailable:
            # It may have been committed all the same.
            self._unsure = self._unsure or bool(slots)
            raise
        for _ in told:
            self._unsent.popleft()
        for (job, word), answer in zip(told, answers, strict=False):
            self._heard(job, word, answer)
        if slots and isinstance(claimed := answers[-1], Claimed):
            self._begin(claimed, slots)

    def _next_words(self) -> list[tuple[RunningJob, commands.OnAttempt]]:
        """Return the reports for the next commit, limited in number and in characters."""
        words: list[tuple[RunningJob, commands.OnAttempt]] = []
        characters = 0
        for job, word in islice(self._unsent, _MOST_WORDS):
            characters += size(word)
            if words and characters > MOST_CHARACTERS:
                break
            words.append((job, word))
        return words

    def _heard(self, job: RunningJob, word: commands.OnAttempt, answer: Answer) -> None:
        """Process the ledger's answer to a job's report."""
        if isinstance(answer, LedgerError):
            if not job.expired:
                _log.warning("worker %s: %s", self.name, answer)
                self._tell("expired", job, str(answer))
            job.end()
        elif isinstance(answer, Outcome):
            for event in answer.events:
                if isinstance(event, Progressed):
                    job.expires_at_ms = event.expires_at_ms
                elif isinstance(event, Failed) and isinstance(word, commands.FailAttempt):
                    self._tell("failed", job, json_text.log_line("failed", word.error), event.next)
                elif isinstance(event, Completed):
                    self._tell("completed", job)
        if isinstance(word, _LAST_WORDS):
            job.end()
            self._running.pop((job.id, job.attempt), None)

    def _begin(self, claimed: Claimed, slots: dict[str, int]) -> None:
        begun = [RunningJob(self._queue, one, self._mailbox.put) for one in claimed.jobs]
        self._running.update({(job.id, job.attempt): job for job in begun})
        self._pool.put(begun)
        for job in begun:
            self._tell("started", job)
        if begun:
            counts = Counter(one.job.type for one in claimed.jobs)
            if any(counts[type_] == most for type_, most in slots.items()):
                # As many as we asked for: there may be more.
                self._wants_jobs = True

    def _free(self, ending: Collection[tuple[int, int]] = ()) -> dict[str, int]:
        """Return how many jobs of each type can be started, once those *ending* have ended."""
        held = Counter(job.type for key, job in self._running.items() if key not in ending)
        free = {type_: slots - held[type_] for type_, slots in self._slots.items()}
        return {type_: slots for type_, slots in free.items() if slots > 0}

    def _any_waits(self, types: Collection[str]) -> bool:
        with self._queue.database.read() as connection:
            return self._queue.read_models.any_claimable(connection, types)

    def _expire(self) -> None:
        """Fail the attempts that are past their ttl, and tell their handlers."""
        now_ms = self._queue.ledger.now_ms()
        late = [
            job
            for job in self._running.values()
            if job.expires_at_ms is not None and job.expires_at_ms <= now_ms and not job.expired
        ]
        if not late:
            return
        elapse = [commands.Elapse(job_id=job.id) for job in late]
        answers = self._queue.ledger.submit(elapse, actor=self._actor, cause="ttl")
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

    def _release(self, job: RunningJob) -> None:
        """Tell a handler that its attempt is over; its thread stays occupied until it ends."""
        job.expires_at_ms = None
        self._tell(
            "expired",
            job,
            "the attempt is over: its ttl expired, or its worker was considered lost",
        )
        job.end()

    def _check(self, job: RunningJob) -> None:
        with self._queue.database.read() as connection:
            held = self._queue.read_models.held_by(connection, self.name)
        if (job.id, job.attempt) not in set(held):
            self._release(job)
        else:
            # It continues; only the ledger knows until when, so check again soon.
            job.expires_at_ms = self._queue.ledger.now_ms() + int(_LONGEST_PAUSE_S * 1000)

    def _fail_predecessor(self) -> None:
        """Fail attempts held by a dead worker with our name.

        Our own heartbeats would keep them alive.
        """
        if not self._may_have_predecessor:
            return
        queue = self._queue
        with queue.database.read() as connection:
            held = queue.read_models.held_by(connection, self.name)
            seen = heartbeats.find(connection, self.name) if held else None
        silent_ms = 0 if seen is None else max(0, queue.ledger.now_ms() - seen.seen_at_ms)
        lost = [
            commands.Lose(job_id=id_, attempt=attempt, worker=self.name, silent_ms=silent_ms)
            for id_, attempt in held
        ]
        queue.ledger.submit(lost, actor=self._actor, cause="worker restart")
        self._may_have_predecessor = False

    def _beat(self) -> None:
        """Record a heartbeat if it is due."""
        now_s = time.monotonic()
        if now_s < self._next_beat_s:
            return
        queue = self._queue
        with queue.database.write() as tx:
            heartbeats.beat(
                tx,
                self.name,
                self._slots,
                now_ms=queue.ledger.now_ms(),
                lease_ms=queue.lease_ms,
            )
        self._next_beat_s = now_s + queue.lease_ms / 1000 / _BEATS_A_LEASE
        self._must_reconcile = bool(self._running)

    def _reconcile(self) -> None:
        """Compare what the ledger says we hold with what we run.

        Jobs that we do not know are returned.  Handlers of jobs that we no longer hold are told,
        even if they would never report anything and so never be refused.
        """
        if not (self._unsure or self._must_reconcile):
            return
        with self._queue.database.read() as connection:
            held = self._queue.read_models.held_by(connection, self.name)
        if self._unsure:
            unknown = [key for key in held if key not in self._running]
            self._give_back(unknown, "the answer to the claim was lost", cause="claim")
            self._unsure = False
        for key, job in self._running.items():
            if key not in held and not job.ended and not job.expired:
                self._release(job)
        self._must_reconcile = False

    def _give_back(
        self, held: Sequence[tuple[int, int]], reason: str, *, cause: str
    ) -> list[Answer]:
        back = [
            commands.Return(job_id=id_, attempt=attempt, reason=reason) for id_, attempt in held
        ]
        return self._queue.ledger.submit(back, actor=self._actor, cause=cause)

    def _leave(self) -> None:
        """Return what still runs, and remove the worker from the list."""
        for job in self._running.values():
            self._unsent.extend((job, word) for word in job.take())
        try:
            words = [word for _, word in self._unsent]
            answers = self._queue.ledger.submit(words, actor=self._actor)
            for (job, word), answer in zip(self._unsent, answers, strict=True):
                self._heard(job, word, answer)
            waited_s = max(0.0, time.monotonic() - self._stopped_at_s)
            reason = f"worker {self.name} was stopped; the job had not ended after {waited_s:.1f} s"
            left = list(self._running.values())
            held = [(job.id, job.attempt) for job in left]
            answers = self._give_back(held, reason, cause="stop")
            for job, answer in zip(left, answers, strict=True):
                if isinstance(answer, Outcome):
                    self._tell("returned", job, reason)
            with self._queue.database.write() as tx:
                heartbeats.leave(tx, self.name)
        except LedgerError as error:
            # The sweeper will fail them as lost.
            _log.warning("worker %s could not return its jobs: %s", self.name, error)
        for job in self._running.values():
            job.end()
        self._running.clear()

    def _tell(
        self,
        kind: Literal["started", "completed", "failed", "returned", "expired"],
        job: RunningJob,
        error: str = "",
        next_: str = "",
    ) -> None:
        if self._observer is not None:
            self._observer(WorkerReport(kind, job, error, next_))


def _chosen(queue: Queue, types: Collection[str] | None) -> dict[str, Handler]:
    if types is None:
        if not queue.handlers:
            raise InvalidInput("types", "no handler is registered; use @queue.process(TYPE)")
        return dict(queue.handlers)
    if not types:
        raise InvalidInput.expected("types", "at least one", types)
    missing = sorted(set(types) - queue.handlers.keys())
    if missing:
        known = ", ".join(queue.handlers) or "none"
        raise InvalidInput(
            "types", f"no handler for {', '.join(missing)}; registered types: {known}"
        )
    return {type_: queue.handlers[type_] for type_ in types}

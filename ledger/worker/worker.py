"""Do jobs: claim them, call their handlers, and report what came of it.

Theory of operation
-------------------
A worker is one loop and as many threads as it may run jobs at once.  The threads
call handlers and do nothing else: what a handler logs, reports or returns is left
with its ``RunningJob``, which tells the loop that it has news.  The loop collects
the news of all jobs and asks for new ones, both in one transaction, so a commit
carries as much as has come since the last one.

Nothing is done twice unnoticed.  Each start has an attempt number; the ledger
refuses the word of an attempt that is over, because its ttl ran out or because this
worker was silent for too long.  The loop then sets ``job.expired``, and drops
whatever the handler still says.

Nothing is lost.  News that the database could not take is kept and told again.  If
the answer to a claim was lost, the ledger may say that we hold jobs of which we know
nothing: the loop gives those back.
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
from ledger.log.ledger import Answer, Claimed, Outcome
from ledger.queue import heartbeats
from ledger.queue.queue import Handler, Queue, own_name
from ledger.rules import commands, json_text
from ledger.rules.events import Completed, Failed, Progressed
from ledger.worker.mailbox import Inbox
from ledger.worker.running_job import MOST_CHARACTERS, RunningJob, perform, size
from ledger.worker.sweeper import Sweeper
from ledger.worker.thread_pool import Handout

# How long what runs may take to end once the worker is told to stop.
GRACE_S: Final = 10.0
# The loop looks by itself this often, should nobody wake it.
_LONGEST_PAUSE_S: Final = 2.0
# Bounds how long a commit holds the lock; so do MOST_CHARACTERS.
_MOST_WORDS: Final = 1_000
# While the database is away.
_RETRY_S: Final = 0.5
# Signs of life in the time that a worker may be silent.
_BEATS_A_LEASE: Final = 3

_LAST_WORDS: Final = (commands.Complete, commands.FailAttempt)

_log = logging.getLogger(__name__)
_numbers = count(1)


class Told(NamedTuple):
    """Be what a worker tells of an attempt.

    Attributes:
        kind: ``started``; later ``completed``, ``failed``, ``returned`` if it was given
            back unfinished, or ``expired`` if what the handler says no longer counts.
        error: Why, unless it was completed; a line.
        next: The state that follows a failure.
    """

    kind: Literal["started", "completed", "failed", "returned", "expired"]
    job: RunningJob
    error: str = ""
    next: str = ""


class Worker:
    """Do the jobs of a queue in this process.

    Args:
        queue: Whose handlers to call.
        types: Of which jobs; None for all that have a handler.
        name: What tells it from all other workers; by default ``HOST:PID:N``.
        grace_s: Seconds that what runs may take to end once it is told to stop.
        told: Called when an attempt began and when it ended, by the one loop that does
            everything: it must be quick, and not raise.
        sweep: Whether to sweep as well: promote what is due and find lost workers,
            where neither a server nor ``ledger work`` does.

    Raises:
        InvalidInput: A type has no handler, or there is none at all; or *name* or
            *grace_s* is not what it must be.
    """

    def __init__(
        self,
        queue: Queue,
        *,
        types: Collection[str] | None = None,
        name: str | None = None,
        grace_s: float = GRACE_S,
        told: Callable[[Told], None] | None = None,
        sweep: bool = False,
    ) -> None:
        self.name = commands.worker_name(name or f"{own_name()}:{next(_numbers)}")
        if not grace_s >= 0:
            raise InvalidInput.expected("grace_s", "seconds, 0 or more", grace_s)
        self._queue = queue
        self._handlers = _chosen(queue, types)
        self._slots = {type_: handler.concurrency for type_, handler in self._handlers.items()}
        self._grace_s = grace_s
        self._told = told
        self._sweeps = sweep
        self._actor = f"worker:{self.name}"
        self._inbox = Inbox()
        self._handout = Handout[RunningJob]()
        self._running: dict[tuple[int, int], RunningJob] = {}
        # Words that the database has not taken yet.
        self._unsent: deque[tuple[RunningJob, commands.OnAttempt]] = deque()
        # Whether there may be jobs to claim; set by other threads too.
        self._hungry = True
        # Whether we may hold jobs without knowing it.
        self._unsure = False
        # Whether one of our name may have died with jobs: a container has its name again.
        self._succeeds = True
        # Whether to look if all that we run is still ours.
        self._doubts = False
        self._next_beat_s = 0.0
        self._stop_by_s = math.inf
        self._stopped_at_s = math.inf
        self._stopping = False

    def __repr__(self) -> str:
        return f"<Worker {self.name}: {', '.join(self._handlers)}>"

    @property
    def running(self) -> int:
        """Return how many jobs it is doing."""
        return len(self._running)

    def stop(self, *, grace_s: float | None = None) -> None:
        """Make ``run`` return: claim no more, wait for what runs, give back the rest.

        May be called from a signal handler, and again to wait for less.
        """
        now_s = time.monotonic()
        self._stop_by_s = now_s + (self._grace_s if grace_s is None else grace_s)
        self._stopped_at_s = min(self._stopped_at_s, now_s)
        self._stopping = True
        self._inbox.nudge()

    def run(self) -> None:
        """Work until ``stop`` is called, through every later absence of the database.

        Raises:
            SchemaMismatch: The tables are not those of this version.
            Unavailable: The database is away at the beginning.
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
            with self._queue.bell.subscribed(self._ring):
                while not self._over():
                    self._step()
        finally:
            if sweeper is not None:
                sweeper.stop()
            self._handout.close()
            self._leave()

    def start(self) -> threading.Thread:
        """Run in a thread of this process, and return it; raises as ``run``."""
        self._queue.open()
        thread = threading.Thread(target=self.run, name=self.name, daemon=True)
        thread.start()
        return thread

    def _sweeper(self) -> Sweeper | None:
        if not self._sweeps:
            return None
        queue = self._queue
        sweeper = Sweeper(queue.ledger, queue.views, lease_ms=queue.lease_ms)
        sweeper.start()
        return sweeper

    # --- the threads

    def _perform(self) -> None:
        while (job := self._handout.take()) is not None:
            job.finish(perform(self._handlers[job.type], job))

    def _ring(self) -> None:
        if not self._hungry:
            self._hungry = True
            self._inbox.nudge()

    # --- the loop

    def _over(self) -> bool:
        return self._stopping and (not self._running or time.monotonic() >= self._stop_by_s)

    def _step(self) -> None:
        """Wait for news, and bring the ledger up to date."""
        for job in self._news():
            self._unsent.extend((job, word) for word in job.take())
            if job.ended and job.expired:
                # Its last word was dropped: there is no answer to wait for.
                self._running.pop((job.id, job.attempt), None)
                # Nor a commit that would ring: its slot is free all the same.
                self._hungry = True
        try:
            self._succeed()
            self._beat()
            self._expire()
            self._reconcile()
            self._exchange()
        except Unavailable as error:
            _log.warning("worker %s goes on when it can: %s", self.name, error)
            self._pause()
        except Exception:  # noqa: BLE001 - the edge of its thread
            # If it ended here, nobody would do the jobs any more, and who would notice?
            _log.exception("worker %s failed; it goes on", self.name)
            # It may have claimed jobs and not begun them.
            self._unsure = True
            self._pause()

    def _pause(self) -> None:
        self._hungry = True
        time.sleep(min(_RETRY_S, max(0.0, self._stop_by_s - time.monotonic())))

    def _news(self) -> list[RunningJob]:
        """Wait until jobs have news, or it is time for something else."""
        pause_s = 0.0 if self._unsent else self._pause_s()
        news = self._inbox.take(timeout_s=pause_s, enough=len(self._running))
        if not news and pause_s > 0:
            # Nobody woke it, but it looks around all the same.
            self._hungry = True
        return news

    def _pause_s(self) -> float:
        if self._hungry and self._free():
            return 0.0
        now_s = time.monotonic()
        until_s = min(now_s + _LONGEST_PAUSE_S, self._next_beat_s, self._stop_by_s)
        expiries = [job.expires_at_ms for job in self._running.values() if job.expires_at_ms]
        if expiries:
            until_s = min(until_s, now_s + (min(expiries) - self._queue.ledger.now_ms()) / 1000)
        return max(0.001, until_s - now_s)

    def _exchange(self) -> None:
        """Tell what there is to tell and claim what there is to claim, in one commit."""
        told = self._next_words()
        said: list[commands.Command] = [word for _, word in told]
        ending = {(word.job_id, word.attempt) for _, word in told if isinstance(word, _LAST_WORDS)}
        slots = self._free(ending) if self._hungry and not self._stopping else {}
        if slots:
            # Cleared before looking: what comes meanwhile rings again.
            self._hungry = False
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
        """Return what to tell in the next commit: not too many words, nor too long ones."""
        words: list[tuple[RunningJob, commands.OnAttempt]] = []
        characters = 0
        for job, word in islice(self._unsent, _MOST_WORDS):
            characters += size(word)
            if words and characters > MOST_CHARACTERS:
                break
            words.append((job, word))
        return words

    def _heard(self, job: RunningJob, word: commands.OnAttempt, answer: Answer) -> None:
        """Learn what the ledger said to a job's word."""
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
        begun = [RunningJob(self._queue, one, self._inbox.put) for one in claimed.jobs]
        self._running.update({(job.id, job.attempt): job for job in begun})
        self._handout.put(begun)
        for job in begun:
            self._tell("started", job)
        if begun:
            counts = Counter(one.job.type for one in claimed.jobs)
            if any(counts[type_] == most for type_, most in slots.items()):
                # As many as asked for: there may be more.
                self._hungry = True

    def _free(self, ending: Collection[tuple[int, int]] = ()) -> dict[str, int]:
        """Return how many jobs of each type could be begun, once those *ending* are told."""
        held = Counter(job.type for key, job in self._running.items() if key not in ending)
        free = {type_: slots - held[type_] for type_, slots in self._slots.items()}
        return {type_: slots for type_, slots in free.items() if slots > 0}

    def _any_waits(self, types: Collection[str]) -> bool:
        with self._queue.database.read() as connection:
            return self._queue.views.any_claimable(connection, types)

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
                # Another's word kept it alive, or the sweeper was first: look again.
                self._check(job)
            else:
                self._release(job)

    def _release(self, job: RunningJob) -> None:
        """Tell a handler that its attempt is over; its thread stays taken until it ends."""
        job.expires_at_ms = None
        self._tell("expired", job, "the attempt is over: its ttl ran out, or it was taken for lost")
        job.end()

    def _check(self, job: RunningJob) -> None:
        with self._queue.database.read() as connection:
            held = self._queue.views.held_by(connection, self.name)
        if (job.id, job.attempt) not in set(held):
            self._release(job)
        else:
            # It lives on; the ledger knows until when, we ask again in a moment.
            job.expires_at_ms = self._queue.ledger.now_ms() + int(_LONGEST_PAUSE_S * 1000)

    def _succeed(self) -> None:
        """Fail what a worker of our name held that is no more; our beats would keep it."""
        if not self._succeeds:
            return
        queue = self._queue
        with queue.database.read() as connection:
            held = queue.views.held_by(connection, self.name)
            seen = heartbeats.find(connection, self.name) if held else None
        silent_ms = 0 if seen is None else max(0, queue.ledger.now_ms() - seen.seen_at_ms)
        lost = [
            commands.Lose(job_id=id_, attempt=attempt, worker=self.name, silent_ms=silent_ms)
            for id_, attempt in held
        ]
        queue.ledger.submit(lost, actor=self._actor, cause="begun anew")
        self._succeeds = False

    def _beat(self) -> None:
        """Give a sign of life, if it is time."""
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
        self._doubts = bool(self._running)

    def _reconcile(self) -> None:
        """Compare what the ledger says is ours with what we run.

        What we know nothing of is given back; handlers of what was taken from us are told,
        although they may never say a word.
        """
        if not (self._unsure or self._doubts):
            return
        with self._queue.database.read() as connection:
            held = self._queue.views.held_by(connection, self.name)
        if self._unsure:
            unknown = [key for key in held if key not in self._running]
            self._give_back(unknown, "the answer to the claim was lost", cause="claim")
            self._unsure = False
        for key, job in self._running.items():
            if key not in held and not job.ended and not job.expired:
                self._release(job)
        self._doubts = False

    def _give_back(
        self, held: Sequence[tuple[int, int]], reason: str, *, cause: str
    ) -> list[Answer]:
        back = [
            commands.Return(job_id=id_, attempt=attempt, reason=reason) for id_, attempt in held
        ]
        return self._queue.ledger.submit(back, actor=self._actor, cause=cause)

    def _leave(self) -> None:
        """Give back what still runs, and strike the worker from the list."""
        for job in self._running.values():
            self._unsent.extend((job, word) for word in job.take())
        try:
            words = [word for _, word in self._unsent]
            answers = self._queue.ledger.submit(words, actor=self._actor)
            for (job, word), answer in zip(self._unsent, answers, strict=True):
                self._heard(job, word, answer)
            waited_s = max(0.0, time.monotonic() - self._stopped_at_s)
            reason = f"worker {self.name} was stopped and waited {waited_s:.1f} s for it"
            left = list(self._running.values())
            held = [(job.id, job.attempt) for job in left]
            answers = self._give_back(held, reason, cause="stop")
            for job, answer in zip(left, answers, strict=True):
                if isinstance(answer, Outcome):
                    self._tell("returned", job, reason)
            with self._queue.database.write() as tx:
                heartbeats.leave(tx, self.name)
        except LedgerError as error:
            # The sweeper will find them lost.
            _log.warning("worker %s could not give back its jobs: %s", self.name, error)
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
        if self._told is not None:
            self._told(Told(kind, job, error, next_))


def _chosen(queue: Queue, types: Collection[str] | None) -> dict[str, Handler]:
    if types is None:
        if not queue.handlers:
            raise InvalidInput("types", "no function is registered; use @queue.process(TYPE)")
        return dict(queue.handlers)
    if not types:
        raise InvalidInput.expected("types", "at least one", types)
    missing = sorted(set(types) - queue.handlers.keys())
    if missing:
        known = ", ".join(queue.handlers) or "none"
        raise InvalidInput("types", f"no function does {', '.join(missing)}; known are {known}")
    return {type_: queue.handlers[type_] for type_ in types}

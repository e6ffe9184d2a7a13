"""Let workers work, die and speak late while clocks jump; and let no job be lost or done twice.

The workers are simulated, one after the other in one thread, on the real ledger: they
beat, claim, speak, return, fall silent and come back.  Two things watch them.  The
*model* is a second, naive queue: it says what each word must be answered, whom each
claim must give what, and how every job is afterwards.  The *witness* reads nothing but
the recorded events, and knows only what nobody may ever see: two workers at one job, a
try too many, a job begun of a paused type.
"""

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from ledger import workers
from ledger.commands import (
    Claim,
    Command,
    Complete,
    Create,
    Elapse,
    Fail,
    Log,
    Move,
    OnAttempt,
    Pause,
    Progress,
    Remove,
    Reprioritize,
    Resume,
    Return,
)
from ledger.composition import queue_of
from ledger.errors import AttemptOver, JobNotFound, LedgerError
from ledger.events import Backoff
from ledger.service import Answer, Claimed, Outcome
from ledger.sweeper import Sweeper
from projections.rebuild import rebuild
from tests.builders import Clock, open_system, rows, silently, verified
from tests.property.arenas import Arena

TYPES: Final = ("email", "sms", "video")
WORKERS: Final = ("ann", "bob", "eve")
LEASE_MS: Final = 5_000
# Nothing waits for longer than this: neither a delay, a backoff, a ttl nor the lease.
LONGEST_WAIT_MS: Final = 20_000
MOST_ATTEMPTS: Final = 3
UNENDED: Final = ("inactive", "delayed", "active")

waits_ms = st.sampled_from((1, 500, 4_000, LONGEST_WAIT_MS))
creations = st.builds(
    Create,
    type=st.sampled_from(TYPES),
    priority=st.sampled_from((-10, 0, 0, 10)),
    attempts=st.integers(1, MOST_ATTEMPTS),
    delay_ms=st.none() | st.none() | waits_ms,
    ttl_ms=st.none() | waits_ms,
    backoff=st.none() | st.builds(Backoff, type=st.just("fixed"), delay_ms=waits_ms),
    remove_on_complete=st.booleans(),
)
slots = st.dictionaries(st.sampled_from(TYPES), st.integers(0, 3), min_size=1)
clock_steps_ms = st.sampled_from(
    (0, 1, 400, 1_500, 4_999, 5_001, 60_000, 86_400_000, -700, -90_000)
)

# A job that an attempt of a worker is about: its id, and the attempt's number.
Attempt = tuple[int, int]


# --- the model -------------------------------------------------------------------


@dataclass
class Job:
    """Be a job as it must be.

    ``holder`` is who began the running attempt; None is an operator's hand.
    """

    id: int
    asked: Create
    state: str
    due_ms: int | None
    priority: int
    promote_ms: int
    made: int = 0
    attempt: int = 0
    holder: str | None = None

    def fail(self, at_ms: int, *, wait_ms: int | None = None, final: bool = False) -> None:
        """End the running attempt without success."""
        self.made = min(self.made + 1, self.asked.attempts)
        self.holder, self.due_ms = None, None
        if wait_ms is None:
            wait_ms = self.asked.backoff.delay_ms if self.asked.backoff else 0
        if final or self.made == self.asked.attempts:
            self.state = "failed"
        elif wait_ms:
            self.state = "delayed"
            self.due_ms = self.promote_ms = at_ms + wait_ms
        else:
            self.state = "inactive"

    def expires_ms(self, at_ms: int) -> int | None:
        return at_ms + self.asked.ttl_ms if self.asked.ttl_ms else None


@dataclass
class Model:
    """Be the naive queue.

    ``beats`` has when a worker was last seen, ``missed`` since when the sweeper misses
    one that never was.
    """

    jobs: dict[int, Job] = field(default_factory=dict)
    paused: set[str] = field(default_factory=set)
    beats: dict[str, int] = field(default_factory=dict)
    missed: dict[str, int] = field(default_factory=dict)

    def in_state(self, *states: str) -> list[Job]:
        return [job for job in self.jobs.values() if job.state in states]

    def create(self, command: Create, at_ms: int) -> None:
        job_id = len(self.jobs) + 1
        due_ms = at_ms + command.delay_ms if command.delay_ms else None
        state = "delayed" if due_ms else "inactive"
        self.jobs[job_id] = Job(job_id, command, state, due_ms, command.priority, due_ms or at_ms)

    def refusal(self, word: OnAttempt) -> type[LedgerError] | None:
        """Return how a word must be refused, None if it must be heard."""
        job = self.jobs[word.job_id]
        if job.state == "removed":
            return JobNotFound
        running = job.state == "active" and job.attempt == word.attempt
        return None if running else AttemptOver

    def hear(self, word: OnAttempt, at_ms: int) -> None:
        """Let a word that must be heard take effect."""
        job = self.jobs[word.job_id]
        match word:
            case Progress():
                job.due_ms = job.expires_ms(at_ms)
            case Complete():
                job.state = "removed" if job.asked.remove_on_complete else "complete"
                job.made = min(job.made + 1, job.asked.attempts)
                job.holder, job.due_ms = None, None
            case Fail(retry_after_ms=wait_ms, final=final):
                job.fail(at_ms, wait_ms=wait_ms, final=final)
            case Return():
                job.state, job.holder, job.due_ms = "inactive", None, None

    def choose(self, claim: Claim, waiting: Iterable[Job]) -> list[Job]:
        """Return what a claim must be given, in order, of the jobs that wait."""
        limit = claim.limit or sum(claim.slots.values())
        lines: dict[str, list[Job]] = {}
        for type_, free in claim.slots.items():
            line = sorted(
                (job for job in waiting if job.asked.type == type_),
                key=lambda j: (j.priority, j.id),
            )
            if type_ not in self.paused:
                lines[type_] = line[: min(free, limit)]
        chosen: list[Job] = []
        for priority in sorted({job.priority for line in lines.values() for job in line}):
            equals = [[job for job in line if job.priority == priority] for line in lines.values()]
            while any(equals):
                # A turn: the oldest of each type, the oldest of them first.
                turn = [line.pop(0) for line in equals if line]
                chosen += sorted(turn, key=lambda job: job.id)
        return chosen[:limit]

    def begin(self, job: Job, worker: str | None, at_ms: int) -> None:
        job.state, job.holder = "active", worker
        job.attempt += 1
        job.due_ms = job.expires_ms(at_ms)

    def move(self, job: Job, to: str, at_ms: int) -> None:
        if to == job.state:
            return
        if to == "active":
            self.begin(job, None, at_ms)
            return
        job.state, job.holder = to, None
        job.due_ms = job.promote_ms if to == "delayed" else None

    def silent_ms(self, worker: str, now_ms: int) -> int:
        """Return for how long a worker has been silent, as the sweeper sees it."""
        return now_ms - self.beats.get(worker, self.missed.get(worker, now_ms))

    def sweep(self, now_ms: int, at_ms: int) -> None:
        """Let time take effect: on silent workers, delays that are over, and ttls."""
        held = [job for job in self.in_state("active") if job.holder is not None]
        holders = {job.holder for job in held if job.holder is not None}
        self.missed = {
            name: self.missed.get(name, now_ms) for name in holders if name not in self.beats
        }
        for job in held:
            if job.holder is not None and self.silent_ms(job.holder, now_ms) > LEASE_MS:
                job.fail(at_ms)
        for job in self.in_state("delayed", "active"):
            if job.due_ms is None or job.due_ms > now_ms:
                continue
            if job.state == "delayed":
                job.state, job.due_ms = "inactive", None
            else:
                job.fail(at_ms)


# --- the witness -----------------------------------------------------------------


class Witness:
    """Follow the recorded events, and stand for what nobody may ever see."""

    def __init__(self) -> None:
        self.position = 0
        self._running: dict[int, tuple[str | None, int]] = {}
        self._newest: defaultdict[int, int] = defaultdict(int)
        self._allowed: dict[int, int] = {}
        self._tries: defaultdict[int, int] = defaultdict(int)
        self._ended: set[int] = set()
        self._paused: set[str] = set()
        self._types: dict[int, str] = {}

    def see(self, stored: Sequence[Mapping[str, Any]]) -> None:
        for row in stored:
            body = json.loads(row["body"])
            assert row["position"] == self.position + 1
            self.position = row["position"]
            self._see(row["kind"], row["job_id"], row["actor"], body)

    def _see(self, kind: str, job_id: int, actor: str, body: Mapping[str, Any]) -> None:
        match kind:
            case "created":
                self._types[job_id] = body["type"]
                self._allowed[job_id] = body.get("attempts", 1)
            case "started":
                self._begins(job_id, actor, body)
            case "progressed" | "logged" | "completed" | "returned":
                self._speaks(kind, job_id, actor, body)
            case "failed":
                self._fails(job_id, actor, body)
            case "moved":
                self._is_moved(job_id, body)
            case "removed":
                self._running.pop(job_id, None)
                self._ended.add(job_id)
            case "paused":
                self._paused.add(body["type"])
            case "resumed":
                self._paused.remove(body["type"])

    def _begins(self, job_id: int, actor: str, body: Mapping[str, Any]) -> None:
        assert job_id not in self._running, "two workers at one job"
        assert job_id not in self._ended, "begun after its end"
        assert self._types[job_id] not in self._paused, "begun while its type was paused"
        assert body["attempt"] == self._newest[job_id] + 1
        assert actor == f"worker:{body['worker']}"
        self._tries[job_id] += 1
        assert self._tries[job_id] <= self._allowed[job_id], "a try too many"
        self._newest[job_id] = body["attempt"]
        self._running[job_id] = (body["worker"], body["attempt"])

    def _speaks(self, kind: str, job_id: int, actor: str, body: Mapping[str, Any]) -> None:
        worker, attempt = self._running[job_id]
        assert (actor, body["attempt"]) == (f"worker:{worker}", attempt), "a word of a stranger"
        if kind == "completed":
            self._ended.add(job_id)
        if kind == "returned":
            self._tries[job_id] -= 1
        if kind in {"completed", "returned"}:
            del self._running[job_id]

    def _fails(self, job_id: int, actor: str, body: Mapping[str, Any]) -> None:
        worker, attempt = self._running.pop(job_id)
        assert body["attempt"] == attempt
        reason = body.get("reason", "error")
        by_others = {"lost": {"sweeper"}, "ttl": {"sweeper", f"worker:{worker}"}}
        assert actor in by_others.get(reason, {f"worker:{worker}"})
        if body["next"] == "failed":
            self._ended.add(job_id)

    def _is_moved(self, job_id: int, body: Mapping[str, Any]) -> None:
        """An operator's hand gives a job new tries, or takes it from its worker."""
        self._running.pop(job_id, None)
        self._ended.discard(job_id)
        self._tries[job_id] = 0
        if body["to"] == "active":
            self._newest[job_id] += 1
            assert body["attempt"] == self._newest[job_id]
            self._running[job_id] = (None, body["attempt"])
        elif body["to"] in {"complete", "failed"}:
            self._ended.add(job_id)


# --- the machine -----------------------------------------------------------------


@dataclass
class Hand:
    """Be a simulated worker: what it remembers of ever having begun, and whether it lives."""

    name: str
    alive: bool = True
    begun: list[Attempt] = field(default_factory=list)


class WorkerMachine(RuleBasedStateMachine):
    """Do what workers, operators and time may do; after every step look at all jobs."""

    arena: ClassVar[Arena]

    def __init__(self) -> None:
        super().__init__()
        self.model = Model()
        self.witness = Witness()
        self.clock = Clock()
        self.hands = {name: Hand(name) for name in WORKERS}

    @initialize(created=st.lists(creations, min_size=1, max_size=6))
    def open(self, created: list[Create]) -> None:
        self.url = self.arena.fresh()
        self._open()
        for command in created:
            self.create(command)

    def _open(self) -> None:
        self.system = open_system(self.url, self.clock)
        self.ledger = self.system.ledger
        self.queue = queue_of(self.system, actor="app:test", lease_ms=LEASE_MS)
        self.sweeper = Sweeper(self.ledger, self.queue.views, lease_ms=LEASE_MS)

    # --- what applications and operators do

    @rule(command=creations)
    def create(self, command: Create) -> None:
        at_ms = self._at_ms()

        self._order(command)

        self.model.create(command, at_ms)

    @rule(type_=st.sampled_from(TYPES))
    def pause(self, type_: str) -> None:
        outcome = self._order(Pause(type=type_))

        assert [event.kind for event in outcome.events] == ["paused"] * (
            type_ not in self.model.paused
        )
        self.model.paused.add(type_)

    @rule(type_=st.sampled_from(TYPES))
    def resume(self, type_: str) -> None:
        outcome = self._order(Resume(type=type_))

        assert [event.kind for event in outcome.events] == ["resumed"] * (
            type_ in self.model.paused
        )
        self.model.paused.discard(type_)

    @rule(data=st.data(), to=st.sampled_from((*UNENDED, "complete", "failed")))
    @precondition(lambda self: self._in_view())
    def move(self, data: st.DataObject, to: str) -> None:
        job = data.draw(st.sampled_from(self._in_view()), label="job")
        at_ms = self._at_ms()

        self._order(Move(job_id=job.id, to=to))

        self.model.move(job, to, at_ms)

    @rule(data=st.data(), priority=st.sampled_from((-10, 0, 10)))
    @precondition(lambda self: self._in_view())
    def reprioritize(self, data: st.DataObject, priority: int) -> None:
        job = data.draw(st.sampled_from(self._in_view()), label="job")

        self._order(Reprioritize(job_id=job.id, priority=priority))

        job.priority = priority

    @rule(data=st.data())
    @precondition(lambda self: self._in_view())
    def remove(self, data: st.DataObject) -> None:
        job = data.draw(st.sampled_from(self._in_view()), label="job")

        self._order(Remove(job_id=job.id))

        job.state, job.holder, job.due_ms = "removed", None, None

    # --- what workers do

    @rule(name=st.sampled_from(WORKERS), slots=slots, limit=st.none() | st.integers(1, 3))
    def claim(self, name: str, slots: dict[str, int], limit: int | None) -> None:
        """Give a sign of life, as every worker does first, and ask for work."""
        self.beat(name)
        self._exchange(self.hands[name], [], Claim(worker=name, slots=slots, limit=limit))

    @rule(name=st.sampled_from(WORKERS), type_=st.sampled_from(TYPES))
    def claim_unseen(self, name: str, type_: str) -> None:
        """Ask for work without a sign of life, as a worker over HTTP may."""
        self._exchange(self.hands[name], [], Claim(worker=name, slots={type_: 1}))

    @rule(data=st.data(), name=st.sampled_from(WORKERS), asks=st.booleans())
    @precondition(lambda self: any(hand.begun for hand in self.hands.values()))
    def speak(self, data: st.DataObject, name: str, *, asks: bool) -> None:
        """Say things about attempts ever begun, late or not; and ask for more work with it."""
        hand = self.hands[name]
        if not hand.begun:
            return
        # Mostly about the newest ones, or hardly any word would be heard.
        attempts = st.sampled_from(hand.begun[-3:]) | st.sampled_from(hand.begun)
        words = data.draw(
            st.lists(attempts.flatmap(_words_about), min_size=1, max_size=3), label="words"
        )
        claim = Claim(worker=name, slots=data.draw(slots, label="slots")) if asks else None
        self._exchange(hand, words, claim)

    @rule(name=st.sampled_from(WORKERS))
    def beat(self, name: str) -> None:
        """Give a sign of life; who had fallen silent is back."""
        hand = self.hands[name]
        hand.alive = True
        with self.system.database.write() as tx:
            workers.beat(tx, name, {}, now_ms=self.clock.now_ms, lease_ms=LEASE_MS)
        self.model.beats[name] = self.clock.now_ms

    @rule(name=st.sampled_from(WORKERS))
    def die(self, name: str) -> None:
        self.hands[name].alive = False

    @rule(name=st.sampled_from(WORKERS))
    def leave(self, name: str) -> None:
        """Give back what one holds, and go."""
        held = [job for job in self.model.in_state("active") if job.holder == name]
        back = [Return(job_id=job.id, attempt=job.attempt, reason="stopped") for job in held]
        self._exchange(self.hands[name], back, None)
        with self.system.database.write() as tx:
            workers.leave(tx, name)
        self.model.beats.pop(name, None)

    @rule(name=st.sampled_from(WORKERS))
    def expire(self, name: str) -> None:
        """Ask what time has done to one's own attempts, as a worker does for their ttls."""
        at_ms = self._at_ms()
        mine = [job for job in self.model.in_state("active") if job.holder == name]

        self._submit([Elapse(job_id=job.id) for job in mine], f"worker:{name}")

        for job in mine:
            if job.due_ms is not None and job.due_ms <= at_ms:
                job.fail(at_ms)

    # --- what time does

    @rule(step_ms=clock_steps_ms, beating=st.booleans(), sweeping=st.booleans())
    def let_time_pass(self, step_ms: int, *, beating: bool, sweeping: bool) -> None:
        """Move the clock, also backwards; who lives may give a sign of life."""
        self.clock.now_ms += step_ms
        for hand in self.hands.values():
            if hand.alive and beating:
                self.beat(hand.name)
        if sweeping:
            self.sweep()

    @rule()
    def sweep(self) -> None:
        at_ms = self._at_ms()

        self.sweeper.sweep()

        self.model.sweep(self.clock.now_ms, at_ms)
        for job in self.model.in_state(*UNENDED):
            assert self._waits_for(job), job

    @rule()
    def restart(self) -> None:
        """Start the process anew; the new sweeper misses nobody yet."""
        self.system.database.close()
        self._open()
        self.model.missed.clear()

    @rule()
    def audit(self) -> None:
        rebuild(self.system.database, self.system.projections, silently)

        assert verified(self.system).differences == []

    # --- how it is done

    def _in_view(self) -> list[Job]:
        return self.model.in_state(*UNENDED, "complete", "failed")

    def _at_ms(self) -> int:
        """Return the time at which the ledger would record something now."""
        (head,) = rows(self.system, "SELECT at_ms FROM ledger_head")
        return max(self.clock.now_ms, int(head["at_ms"]))

    def _order(self, command: Command) -> Outcome:
        return self.ledger.execute(command, actor="token:operator")

    def _submit(self, commands: Sequence[Command], actor: str) -> list[Answer]:
        return self.ledger.submit(commands, actor=actor)

    def _exchange(self, hand: Hand, words: Sequence[OnAttempt], claim: Claim | None) -> None:
        """Say all in one submission, and compare what is answered."""
        at_ms = self._at_ms()
        before = rows(self.system, "SELECT * FROM ledger_head")
        # What the words make ready is given to the next claim.
        ready = {job.id for job in self.model.in_state("inactive")}
        said: list[Command] = [*words] if claim is None else [*words, claim]

        answers = self._submit(said, f"worker:{hand.name}")

        expected: list[type[Any]] = []
        for word in words:
            refusal = self.model.refusal(word)
            expected.append(refusal or Outcome)
            if refusal is None:
                self.model.hear(word, at_ms)
        assert [type(answer) for answer in answers[: len(words)]] == expected
        begun = [] if claim is None else self._check_claim(hand, claim, ready, answers[-1], at_ms)
        if Outcome not in expected and not begun:
            assert rows(self.system, "SELECT * FROM ledger_head") == before

    def _check_claim(
        self, hand: Hand, claim: Claim, ready: set[int], answer: Answer, at_ms: int
    ) -> list[Attempt]:
        waiting = [job for job in self.model.in_state("inactive") if job.id in ready]
        chosen = self.model.choose(claim, waiting)
        for job in chosen:
            self.model.begin(job, hand.name, at_ms)
        expected = [(job.id, job.attempt) for job in chosen]
        assert isinstance(answer, Claimed)
        assert [(one.job.id, one.job.attempt) for one in answer.jobs] == expected
        hand.begun += expected
        return expected

    def _waits_for(self, job: Job) -> str | None:
        """Return why a job has not ended, just after a sweep; None if it is stuck."""
        now_ms = self.clock.now_ms
        if job.state == "inactive":
            if job.asked.type in self.model.paused:
                return "its type to be resumed"
            with self.system.database.read() as connection:
                waits = self.queue.views.any_claimable(connection, [job.asked.type])
            return "a worker" if waits else None
        if job.due_ms is not None and job.due_ms > now_ms:
            return "its time"
        if job.state == "delayed":
            return None
        if job.holder is None:
            return "the operator who began it" if job.due_ms is None else None
        in_lease = self.model.silent_ms(job.holder, now_ms) <= LEASE_MS
        return f"worker {job.holder}" if in_lease and job.due_ms is None else None

    # --- what holds after every step

    @invariant()
    def every_job_is_as_the_model_says(self) -> None:
        found = rows(
            self.system,
            "SELECT id, state, attempt, made, max_attempts, priority, due_at_ms FROM jobs "
            "ORDER BY id",
        )
        held = {(one.job_id, one.attempt): one.worker for one in self._held()}
        with self.system.database.read() as connection:
            paused = self.queue.views.paused(connection)

        assert found == [
            {
                "id": job.id,
                "state": job.state,
                "attempt": job.attempt,
                "made": job.made,
                "max_attempts": job.asked.attempts,
                "priority": job.priority,
                "due_at_ms": job.due_ms,
            }
            for job in self._by_id(self._in_view())
        ]
        assert all(row["made"] <= row["max_attempts"] for row in found)
        assert held == {
            (job.id, job.attempt): job.holder
            for job in self.model.in_state("active")
            if job.holder is not None
        }
        assert set(paused) == self.model.paused

    @invariant()
    def nothing_happened_that_must_not(self) -> None:
        self.witness.see(
            rows(
                self.system,
                "SELECT position, job_id, kind, actor, body FROM events "
                "WHERE position > :seen ORDER BY position",
                seen=self.witness.position,
            )
        )

    def _held(self) -> Sequence[Any]:
        with self.system.database.read() as connection:
            return self.queue.views.held(connection)

    def _by_id(self, jobs: Iterable[Job]) -> list[Job]:
        return sorted(jobs, key=lambda job: job.id)

    # --- and at the end

    def teardown(self) -> None:
        """Give every job what it waits for: it ends."""
        if not hasattr(self, "system"):
            return
        try:
            self._run_to_the_end()

            assert self.model.in_state(*UNENDED) == []
            assert (
                rows(
                    self.system,
                    "SELECT id FROM jobs WHERE state IN ('inactive', 'delayed', 'active')",
                )
                == []
            )
            self.audit()
        finally:
            self.system.database.close()

    def _run_to_the_end(self) -> None:
        for type_ in TYPES:
            self.resume(type_)
        # All workers fall silent, and another one comes.
        self.hands = {"last": Hand("last")}
        # Sweep, run, wait: for each try of the job that may run most often, and once more.
        for _ in range(MOST_ATTEMPTS + 2):
            if not self.model.in_state(*UNENDED):
                return
            latest_ms = max([self._at_ms(), *self.model.beats.values()])
            # The first look may only begin to miss a worker, the second finds it lost.
            for _ in range(2):
                latest_ms += LONGEST_WAIT_MS + 1
                self.clock.now_ms = latest_ms
                self.sweep()
            for job in self.model.in_state("active"):
                assert job.holder is None
                self._order(Move(job_id=job.id, to="complete"))
                self.model.move(job, "complete", self._at_ms())
            self._work_off()
            self.every_job_is_as_the_model_says()
            self.nothing_happened_that_must_not()

    def _work_off(self) -> None:
        """Run all that can run now; every other attempt fails."""
        hand = self.hands["last"]
        claim = Claim(worker=hand.name, slots=dict.fromkeys(TYPES, 100))
        self.model.beats[hand.name] = self.clock.now_ms
        with self.system.database.write() as tx:
            workers.beat(tx, hand.name, {}, now_ms=self.clock.now_ms, lease_ms=LEASE_MS)
        while self.model.in_state("inactive"):
            begun = len(hand.begun)
            self._exchange(hand, [], claim)
            words = [_last_word(job_id, attempt) for job_id, attempt in hand.begun[begun:]]
            assert words
            self._exchange(hand, words, None)


def _words_about(attempt: Attempt) -> st.SearchStrategy[OnAttempt]:
    job_id, number = attempt
    return st.sampled_from(
        (
            Progress(job_id=job_id, attempt=number, progress=50),
            Log(job_id=job_id, attempt=number, line='"half"'),
            Complete(job_id=job_id, attempt=number, result="1"),
            Fail(job_id=job_id, attempt=number, error='"no"'),
            Fail(job_id=job_id, attempt=number, error='"not now"', retry_after_ms=3_000),
            Fail(job_id=job_id, attempt=number, error='"not now"', retry_after_ms=0),
            Fail(job_id=job_id, attempt=number, error='"never"', final=True),
            Return(job_id=job_id, attempt=number, reason="stopped"),
        )
    )


def _last_word(job_id: int, attempt: int) -> OnAttempt:
    if (job_id + attempt) % 2:
        return Complete(job_id=job_id, attempt=attempt)
    return Fail(job_id=job_id, attempt=attempt, error='"no"')


PROFILE: Final = settings(
    max_examples=40,
    stateful_step_count=40,
    deadline=None,
    # Each step runs a handful of transactions.
    suppress_health_check=[HealthCheck.too_slow],
)


def test_no_job_is_lost_or_done_twice_whatever_workers_do(arena: Arena) -> None:
    here = arena

    class OnThisEngine(WorkerMachine):
        arena = here

    run_state_machine_as_test(OnThisEngine, settings=PROFILE)

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

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from ledger.errors import AttemptOver, JobNotFound, LedgerError
from ledger.log.answers import Answer, Claimed, Outcome
from ledger.processes.composition import queue_of
from ledger.projections.rebuild.rebuild import rebuild
from ledger.queue import presence
from ledger.rules.commands import (
    Claim,
    Command,
    Complete,
    Create,
    Elapse,
    FailAttempt,
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
from ledger.rules.events import Backoff
from ledger.worker.sweeper import Sweeper
from tests.builders import Clock, open_system, rows, silently, verified
from tests.property.arenas import WITHOUT_PAUSES, Arena

TYPES: Final = ("email", "sms")
WORKERS: Final = ("ann", "bob", "eve")
# After so much silence, who holds nothing is forgotten.
A_DAY_MS: Final = 24 * 60 * 60 * 1000
LEASE_MS: Final = 5_000
# Nothing waits for longer than this: neither a delay, a backoff, a ttl nor the lease.
LONGEST_WAIT_MS: Final = 20_000
MOST_ATTEMPTS: Final = 4
MOST_JOBS: Final = 10
# One that never gives a sign of life.
STRANGER: Final = "joe"
UNENDED: Final = ("inactive", "delayed", "active")
IN_VIEW: Final = (*UNENDED, "complete", "failed")

waits_ms = st.sampled_from((1, 500, 4_000, LONGEST_WAIT_MS))
creations = st.builds(
    Create,
    type=st.sampled_from(TYPES),
    priority=st.sampled_from((-10, 0, 0, 10)),
    attempts=st.sampled_from((1, 2, MOST_ATTEMPTS, MOST_ATTEMPTS)),
    delay_ms=st.none() | st.none() | st.none() | waits_ms,
    ttl_ms=st.none() | waits_ms,
    backoff=st.none() | st.none() | st.builds(Backoff, type=st.just("fixed"), delay_ms=waits_ms),
    remove_on_complete=st.sampled_from((False, False, True)),
)
# Mostly some of each type, or most claims would find nothing.
slots = st.fixed_dictionaries(dict.fromkeys(TYPES, st.integers(1, 3))) | st.dictionaries(
    st.sampled_from(TYPES), st.integers(0, 2)
)
JUMPS_MS: Final = (400, 1_500, 60_000, 86_400_000, -700, -90_000)

# A job that an attempt of a worker is about: its id, and the attempt's number.
Attempt = tuple[int, int]


# --- the model -------------------------------------------------------------------


@dataclass
class Job:
    """The expected state of a job.

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

    def fail(self, now_ms: int, *, wait_ms: int | None = None, final: bool = False) -> None:
        """End the running attempt without success."""
        self.made = min(self.made + 1, self.asked.attempts)
        self.holder, self.due_ms = None, None
        if wait_ms is None:
            wait_ms = self.asked.backoff.delay_ms if self.asked.backoff else 0
        if final or self.made == self.asked.attempts:
            self.state = "failed"
        elif wait_ms:
            self.state = "delayed"
            self.due_ms = self.promote_ms = now_ms + wait_ms
        else:
            self.state = "inactive"

    def expires_ms(self, now_ms: int) -> int | None:
        return now_ms + self.asked.ttl_ms if self.asked.ttl_ms else None


@dataclass
class Model:
    """The naive queue.

    ``beats`` has when a worker was last seen, ``missed`` since when the sweeper misses
    one that never was, or was seen at a time that is yet to come.
    """

    jobs: dict[int, Job] = field(default_factory=dict)
    paused: set[str] = field(default_factory=set)
    beats: dict[str, int] = field(default_factory=dict)
    missed: dict[tuple[str, int | None], int] = field(default_factory=dict)

    def in_state(self, *states: str) -> list[Job]:
        return [job for job in self.jobs.values() if job.state in states]

    def create(self, command: Create, now_ms: int, at_ms: int) -> None:
        job_id = len(self.jobs) + 1
        due_ms = now_ms + command.delay_ms if command.delay_ms else None
        state = "delayed" if due_ms else "inactive"
        self.jobs[job_id] = Job(job_id, command, state, due_ms, command.priority, due_ms or at_ms)

    def refusal(self, word: OnAttempt) -> type[LedgerError] | None:
        """Return how a word must be refused, None if it must be heard."""
        job = self.jobs[word.job_id]
        if job.state == "removed":
            return JobNotFound
        running = job.state == "active" and job.attempt == word.attempt
        return None if running else AttemptOver

    def hear(self, word: OnAttempt, now_ms: int) -> None:
        """Let a word that must be heard take effect."""
        job = self.jobs[word.job_id]
        match word:
            case Progress():
                job.due_ms = job.expires_ms(now_ms)
            case Complete():
                job.state = "removed" if job.asked.remove_on_complete else "complete"
                job.made = min(job.made + 1, job.asked.attempts)
                job.holder, job.due_ms = None, None
            case FailAttempt(retry_after_ms=wait_ms, final=final):
                job.fail(now_ms, wait_ms=wait_ms, final=final)
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

    def begin(self, job: Job, worker: str | None, now_ms: int) -> None:
        job.state, job.holder = "active", worker
        job.attempt += 1
        job.due_ms = job.expires_ms(now_ms)

    def move(self, job: Job, to: str, now_ms: int) -> None:
        if to == job.state:
            return
        if to == "active":
            self.begin(job, None, now_ms)
            return
        job.state, job.holder = to, None
        job.due_ms = job.promote_ms if to == "delayed" else None

    def silent_ms(self, worker: str, now_ms: int) -> int:
        """Return for how long a worker has been silent, as the sweeper sees it."""
        return now_ms - self.heard_ms(worker, now_ms)

    def heard_ms(self, worker: str, now_ms: int) -> int:
        """Return since when a worker has been silent, as the sweeper sees it."""
        beat_ms = self.beats.get(worker)
        if beat_ms is None or beat_ms > now_ms:
            return self.missed.get((worker, beat_ms), now_ms)
        return beat_ms

    def forget(self, now_ms: int) -> None:
        """Strike those who hold nothing and have been silent for a day."""
        holders = {job.holder for job in self.in_state("active")}
        for name, beat_ms in list(self.beats.items()):
            if name not in holders and now_ms - beat_ms > A_DAY_MS:
                del self.beats[name]

    def sweep(self, now_ms: int) -> None:
        """Let time take effect: on silent workers, delays that are over, and ttls."""
        held = [job for job in self.in_state("active") if job.holder is not None]
        holders = {job.holder for job in held if job.holder is not None}
        untold = {(name, self.beats.get(name)) for name in holders}
        self.missed = {
            (name, beat_ms): self.missed.get((name, beat_ms), now_ms)
            for name, beat_ms in untold
            if beat_ms is None or beat_ms > now_ms
        }
        for job in held:
            if job.holder is not None and self.silent_ms(job.holder, now_ms) > LEASE_MS:
                job.fail(now_ms)
        self.forget(now_ms)
        for job in self.in_state("delayed", "active"):
            if job.due_ms is None or job.due_ms > now_ms:
                continue
            if job.state == "delayed":
                job.state, job.due_ms = "inactive", None
            else:
                job.fail(now_ms)


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
    """A simulated worker: the attempts that it has started, and whether it is alive."""

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
        self.hands = {name: Hand(name) for name in (*WORKERS, STRANGER)}

    @initialize(created=st.lists(creations, min_size=3, max_size=6))
    def open(self, created: list[Create]) -> None:
        self.url = self.arena.fresh()
        self._open()
        self._submit_creations(created)

    def _open(self) -> None:
        self.system = open_system(self.url, self.clock)
        self.ledger = self.system.ledger
        self.queue = queue_of(self.system, actor="app:test", lease_ms=LEASE_MS)
        self.sweeper = Sweeper(self.ledger, self.queue.read_models, lease_ms=LEASE_MS)

    @rule(data=st.data())
    def work(self, data: st.DataObject) -> None:
        """Let workers and time do some things in a row, so that jobs get old."""
        moves = (self._claim, self._claim, self._speak, self._speak, self._speak_late, self._pass)
        for _ in range(data.draw(st.integers(1, 8), label="moves")):
            data.draw(st.sampled_from(moves), label="move")(data)
            self.look()

    @rule(data=st.data())
    def meddle(self, data: st.DataObject) -> None:
        """Let others do one thing: applications, operators, and accidents."""
        moves = (self._create, self._hold, self._operate, self._come_and_go, self._disturb)
        data.draw(st.sampled_from(moves), label="move")(data)

    # --- what applications and operators do

    def _create(self, data: st.DataObject) -> None:
        if len(self._in_view()) < MOST_JOBS:
            self._submit_creations(data.draw(st.lists(creations, min_size=1, max_size=3)))

    def _submit_creations(self, created: Sequence[Create]) -> None:
        at_ms = self._at_ms()
        self._submit(created, "app:test")
        for command in created:
            self.model.create(command, self.clock.now_ms, at_ms)

    def _hold(self, data: st.DataObject) -> None:
        """Pause a type or resume it, also one that is paused, or not, already."""
        self._pause(data.draw(st.sampled_from(TYPES)), pauses=data.draw(st.booleans()))

    def _pause(self, type_: str, *, pauses: bool) -> None:
        outcome = self._order(Pause(type=type_) if pauses else Resume(type=type_))

        changes = (type_ in self.model.paused) != pauses
        kinds = [event.kind for event in outcome.events]
        assert kinds == ["paused" if pauses else "resumed"] * changes
        (self.model.paused.add if pauses else self.model.paused.discard)(type_)

    def _operate(self, data: st.DataObject) -> None:
        """Move a job by hand, once or twice, or change its priority, or remove it."""
        # One that runs half of the time: there is most to go wrong.
        jobs = (self._in_view(), self._held_by_hands() or self._in_view())
        if not jobs[0]:
            return
        job = data.draw(st.one_of(*map(st.sampled_from, jobs)), label="job")
        match data.draw(st.sampled_from(("move", "move", "reprioritize", "remove")), label="what"):
            case "move":
                to = st.lists(st.sampled_from(IN_VIEW), min_size=1, max_size=2)
                # Taken from its worker and begun by hand.
                for state in data.draw(to | st.just(["inactive", "active"]), label="to"):
                    self._order(Move(job_id=job.id, to=state))
                    self.model.move(job, state, self.clock.now_ms)
            case "reprioritize":
                priority = data.draw(st.sampled_from((-10, 0, 10)), label="priority")
                self._order(Reprioritize(job_id=job.id, priority=priority))
                job.priority = priority
            case "remove":
                self._order(Remove(job_id=job.id))
                job.state, job.holder, job.due_ms = "removed", None, None

    # --- what workers do

    def _claim(self, data: st.DataObject) -> None:
        """Ask for work, after a sign of life; but a stranger gives none, as over HTTP."""
        name = data.draw(st.sampled_from((*WORKERS, STRANGER)), label="worker")
        if name != STRANGER:
            self._beat(name)
        self._exchange(self.hands[name], [], self._claim_of(name, data))

    def _claim_of(self, name: str, data: st.DataObject) -> Claim:
        limit = data.draw(st.none() | st.integers(1, 3), label="limit")
        return Claim(worker=name, slots=data.draw(slots, label="slots"), limit=limit)

    def _speak(self, data: st.DataObject) -> None:
        """Say things about running attempts, and perhaps ask for more work with it.

        Once it has said a last word, the rest of what a worker says is late.
        """
        held = self._held_by_hands()
        if not held:
            return
        first = data.draw(st.sampled_from(held), label="about")
        hand = self.hands[first.holder or ""]
        mine = st.sampled_from([job for job in held if job.holder == hand.name])
        others = data.draw(st.lists(mine, max_size=2), label="and about")
        words = [
            data.draw(_words_about((job.id, job.attempt)), label="word") for job in (first, *others)
        ]
        asks = data.draw(st.booleans(), label="asks")
        self._exchange(hand, words, self._claim_of(hand.name, data) if asks else None)

    def _speak_late(self, data: st.DataObject) -> None:
        """Say something about an attempt that is over, best of a job that runs again."""
        over = self._over()
        if not over:
            return
        active = {job.id for job in self.model.in_state("active")}
        again = [one for one in over if one[1][0] in active] or over
        hand, attempt = data.draw(st.sampled_from(again) | st.sampled_from(over), label="about")
        word = data.draw(_words_about(attempt), label="word")
        asks = data.draw(st.booleans(), label="asks")
        self._exchange(hand, [word], self._claim_of(hand.name, data) if asks else None)

    def _come_and_go(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(WORKERS), label="worker")
        match data.draw(st.sampled_from(("die", "beat", "leave", "expire")), label="what"):
            case "die":
                self.hands[name].alive = False
            case "beat":
                self._beat(name)
            case "leave":
                self._leave(name)
            case "expire":
                self._expire(name)

    def _beat(self, name: str) -> None:
        """Give a sign of life; who had fallen silent is back."""
        self.hands[name].alive = True
        with self.system.database.write() as tx:
            presence.beat(tx, name, {}, now_ms=self.clock.now_ms, lease_ms=LEASE_MS)
        self.model.beats[name] = self.clock.now_ms

    def _leave(self, name: str) -> None:
        """Give back what one holds, and go."""
        held = [job for job in self._held_by_hands() if job.holder == name]
        back = [Return(job_id=job.id, attempt=job.attempt, reason="stopped") for job in held]
        self._exchange(self.hands[name], back, None)
        with self.system.database.write() as tx:
            presence.leave(tx, name)
        self.model.beats.pop(name, None)

    def _expire(self, name: str) -> None:
        """Ask what time has done to one's own attempts, as a worker does for their ttls."""
        mine = [job for job in self._held_by_hands() if job.holder == name]

        self._submit([Elapse(job_id=job.id) for job in mine], f"worker:{name}")

        for job in mine:
            if job.due_ms is not None and job.due_ms <= self.clock.now_ms:
                job.fail(self.clock.now_ms)

    # --- what time does

    def _pass(self, data: st.DataObject) -> None:
        """Set the clock, also backwards, often to a moment at which something is due."""
        now_ms = self.clock.now_ms
        moments = st.sampled_from([now_ms, *self._moments()])
        near = st.builds(int.__add__, moments, st.sampled_from((0, 0, -1, 1)))
        jumps = st.sampled_from(JUMPS_MS).map(lambda jump_ms: now_ms + jump_ms)
        self.clock.now_ms = data.draw(near | near | jumps, label="now")
        for name in data.draw(st.sets(st.sampled_from(WORKERS)), label="who beats"):
            if self.hands[name].alive:
                self._beat(name)
        for _ in range(data.draw(st.integers(0, 2), label="sweeps")):
            self._sweep()

    def _sweep(self) -> None:
        # As if its ten minutes had passed.
        self.sweeper._forget_at_s = 0.0
        self.sweeper.sweep()

        self.model.sweep(self.clock.now_ms)
        for job in self.model.in_state(*UNENDED):
            assert self._waits_for(job), job

    def _disturb(self, data: st.DataObject) -> None:
        """Do what must change nothing."""
        if data.draw(st.booleans(), label="restart"):
            self.system.close()
            self._open()
            # The new sweeper misses nobody yet.
            self.model.missed.clear()
        else:
            self._audit()

    def _audit(self) -> None:
        rebuild(self.system.database, self.system.projections, silently, steps=WITHOUT_PAUSES)

        assert verified(self.system).differences == []

    # --- how it is done

    def _in_view(self) -> list[Job]:
        return self.model.in_state(*IN_VIEW)

    def _held_by_hands(self) -> list[Job]:
        return [job for job in self.model.in_state("active") if job.holder is not None]

    def _over(self) -> list[tuple[Hand, Attempt]]:
        """Return the attempts that are over, and who made them, the newest first."""
        running = {(job.id, job.attempt) for job in self._held_by_hands()}
        return [
            (hand, attempt)
            for hand in self.hands.values()
            for attempt in reversed(hand.begun)
            if attempt not in running
        ]

    def _moments(self) -> list[int]:
        """Return when something becomes due: delays, ttls, and the leases of who holds a job."""
        due = {job.due_ms for job in self.model.in_state("delayed", "active") if job.due_ms}
        holders = {job.holder for job in self._held_by_hands() if job.holder is not None}
        heard_ms = {self.model.heard_ms(name, self.clock.now_ms) for name in holders}
        return sorted(due | {since_ms + LEASE_MS for since_ms in heard_ms})

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
        now_ms = self.clock.now_ms
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
                self.model.hear(word, now_ms)
        assert [type(answer) for answer in answers[: len(words)]] == expected
        begun = [] if claim is None else self._check_claim(hand, claim, ready, answers[-1], now_ms)
        if Outcome not in expected and not begun:
            assert rows(self.system, "SELECT * FROM ledger_head") == before

    def _check_claim(
        self, hand: Hand, claim: Claim, ready: set[int], answer: Answer, now_ms: int
    ) -> list[Attempt]:
        waiting = [job for job in self.model.in_state("inactive") if job.id in ready]
        chosen = self.model.choose(claim, waiting)
        for job in chosen:
            self.model.begin(job, hand.name, now_ms)
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
                waits = self.queue.read_models.any_claimable(connection, [job.asked.type])
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
    def look(self) -> None:
        self._compare_jobs()
        self._show_witness()

    def _compare_jobs(self) -> None:
        found = rows(
            self.system,
            "SELECT id, state, attempt, made, max_attempts, priority, due_at_ms FROM ledger_jobs "
            "ORDER BY id",
        )
        held = self._held()
        seen = {worker.name: worker.seen_at_ms for worker in self.queue.workers()}

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
        assert set(self.queue.paused()) == self.model.paused
        assert seen == self.model.beats

    def _show_witness(self) -> None:
        self.witness.see(
            rows(
                self.system,
                "SELECT position, job_id, kind, actor, body FROM ledger_events "
                "WHERE position > :seen ORDER BY position",
                seen=self.witness.position,
            )
        )

    def _held(self) -> dict[tuple[int, int], str]:
        with self.system.database.read() as connection:
            return {
                attempt: worker
                for worker in self.queue.read_models.holders(connection)
                for attempt in self.queue.read_models.held_by(connection, worker)
            }

    def _by_id(self, jobs: Iterable[Job]) -> list[Job]:
        return sorted(jobs, key=lambda job: job.id)

    # --- and at the end

    def teardown(self) -> None:
        """Give every job what it waits for: it ends."""
        if not hasattr(self, "sweeper"):
            return
        try:
            self._run_to_the_end()

            assert self.model.in_state(*UNENDED) == []
            assert (
                rows(
                    self.system,
                    "SELECT id FROM ledger_jobs WHERE state IN ('inactive', 'delayed', 'active')",
                )
                == []
            )
            self._audit()
        finally:
            self.system.close()

    def _run_to_the_end(self) -> None:
        for type_ in TYPES:
            self._pause(type_, pauses=False)
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
                self._sweep()
            for job in self.model.in_state("active"):
                assert job.holder is None
                self._order(Move(job_id=job.id, to="complete"))
                self.model.move(job, "complete", self._at_ms())
            self._work_off()
            self.look()

    def _work_off(self) -> None:
        """Run all that can run now; every other attempt fails."""
        hand = self.hands["last"]
        claim = Claim(worker=hand.name, slots=dict.fromkeys(TYPES, 100))
        self.model.beats[hand.name] = self.clock.now_ms
        with self.system.database.write() as tx:
            presence.beat(tx, hand.name, {}, now_ms=self.clock.now_ms, lease_ms=LEASE_MS)
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
            FailAttempt(job_id=job_id, attempt=number, error='"no"'),
            FailAttempt(job_id=job_id, attempt=number, error='"not now"', retry_after_ms=3_000),
            FailAttempt(job_id=job_id, attempt=number, error='"not now"', retry_after_ms=0),
            FailAttempt(job_id=job_id, attempt=number, error='"never"', final=True),
            Return(job_id=job_id, attempt=number, reason="stopped"),
        )
    )


def _last_word(job_id: int, attempt: int) -> OnAttempt:
    if (job_id + attempt) % 2:
        return Complete(job_id=job_id, attempt=attempt)
    return FailAttempt(job_id=job_id, attempt=attempt, error='"no"')


def test_no_job_is_lost_or_done_twice_whatever_workers_do(arena: Arena) -> None:
    run_worker_machine(arena, examples=8)


def run_worker_machine(arena: Arena, *, examples: int) -> None:
    """Run the machine on the databases of *arena*; tests/soak runs it for longer."""
    here = arena

    class OnThisEngine(WorkerMachine):
        arena = here

    profile = settings(max_examples=examples, stateful_step_count=10)
    run_state_machine_as_test(OnThisEngine, settings=profile)

"""Take commands in, answer with outcomes: the one way to write history.

An append is one transaction, and every step of it is one statement for the whole
batch: lock the head, load the jobs that the commands name, decide each command in
order, insert the events, apply the inline projections, move the head, commit.
A refused command refuses only itself.

The jobs are loaded from an inline projection.  The ledger does not know which:
``Jobs``, ``Pauses`` and ``UniqueKeys`` are what it needs of them, and who composes
the system hands them in.
"""

import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from operator import itemgetter
from typing import Final, NamedTuple, Protocol

from msgspec import Struct
from sqlalchemy import Connection

from ledger.database.contract import Database
from ledger.errors import InvalidInput, LedgerError, Refused
from ledger.log import store
from ledger.log.group_commit import Appender, Take
from ledger.log.recorded import LEDGER_STREAM, Change, Recorded
from ledger.log.store import Head
from ledger.rules.commands import Claim, Command, Create, OnJob, OnType, Pause, Start, storable
from ledger.rules.decide import decide
from ledger.rules.events import Created, Erased, Event
from ledger.rules.job import JobState, State, evolve

LONGEST_ACTOR: Final = 255
LONGEST_CAUSE: Final = 1_000


class InlineProjection(Protocol):
    """Be a read model that commits with the events."""

    def apply(self, tx: Connection, changes: Sequence[Change]) -> None:
        """Follow *changes*, which come in order, a batch at a time."""


class JobStates(Protocol):
    """Know the jobs that have not been removed."""

    def load(self, tx: Connection, job_ids: Sequence[int]) -> Mapping[int, JobState]:
        """Return those of the jobs that there are."""


class Claimable(NamedTuple):
    """Be a job that waits for a worker.

    Attributes:
        data: Its data, JSON text; None if it was erased.
    """

    job: JobState
    data: str | None


class WaitingJobs(Protocol):
    """Know which jobs a worker may begin."""

    def claimable(self, tx: Connection, type_: str, *, limit: int) -> Sequence[Claimable]:
        """Return jobs of a type that wait, by priority, then age."""


class Pauses(Protocol):
    """Know which types are paused."""

    def paused(self, tx: Connection) -> Collection[str]:
        """Return the types of which no job may begin."""


class UniqueKeys(Protocol):
    """Know which job was created with which key."""

    def find(self, tx: Connection, keys: Sequence[str]) -> Mapping[str, int]:
        """Return the jobs that were created with *keys*, removed ones too."""


class Jobs(JobStates, WaitingJobs, Protocol):
    """Know the jobs that there are."""


class _Views(NamedTuple):
    jobs: Jobs
    pauses: Pauses
    unique_keys: UniqueKeys


class Outcome(Struct, frozen=True, kw_only=True):
    """Be the answer to a command that was not refused.

    Attributes:
        job_id: The job, new or old.
        position: The ledger's position once the command was carried out.
        events: What it caused; empty if it was already so.
    """

    job_id: int
    position: int
    events: tuple[Event, ...]


class Claimed(Struct, frozen=True, kw_only=True):
    """Be the answer to a ``Claim``.

    Attributes:
        jobs: What the worker now holds, as it is in its new attempt.
        position: The ledger's position once all were begun.
    """

    jobs: tuple[Claimable, ...]
    position: int


Answer = Outcome | Claimed | Refused | InvalidInput


class _Submission(Struct, frozen=True, kw_only=True):
    """Be what one caller hands in."""

    commands: Sequence[Command]
    actor: str
    cause: str | None
    atomic: bool


class Ledger:
    """Be the write side of one database.

    Args:
        database: Where history is kept.
        jobs: What the commands are decided upon, and what waits for a worker.
        pauses: Which types no worker may begin.
        unique_keys: What makes a second creation answer the first one's job.
        projections: Read models that commit with the events, in this order.
        now_ms: The clock, UTC milliseconds.
    """

    def __init__(
        self,
        database: Database,
        *,
        jobs: Jobs,
        pauses: Pauses,
        unique_keys: UniqueKeys,
        projections: Sequence[InlineProjection],
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self.database = database
        self.now_ms = now_ms
        self._views = _Views(jobs, pauses, unique_keys)
        self._projections = tuple(projections)
        self._appender = Appender(self._append)

    def forget(self) -> None:
        """Start anew in a forked child, which has none of its parent's threads."""
        self.database.forget()
        self._appender = Appender(self._append)

    def execute(self, command: Command, *, actor: str, cause: str | None = None) -> Outcome:
        """Carry out *command*; when this returns, it survives a crash.

        Args:
            command: What to do.
            actor: Who asks, at most 255 characters.
            cause: Why, at most 1,000 characters.

        Raises:
            Refused: The rules forbid it; nothing was recorded.
            InvalidInput: It asks for what cannot be.
            Unavailable: The database is away, or overloaded.
        """
        (answer,) = self.submit((command,), actor=actor, cause=cause)
        if isinstance(answer, Outcome):
            return answer
        if isinstance(answer, Claimed):
            raise TypeError("a claim is answered with jobs: call `claim`")
        raise answer

    def claim(self, claim: Claim, *, actor: str, cause: str | None = None) -> Claimed:
        """Begin jobs that wait; as ``execute``."""
        (answer,) = self.submit((claim,), actor=actor, cause=cause)
        if isinstance(answer, Claimed):
            return answer
        raise AssertionError(answer)  # A claim that is well formed is never refused.

    def submit(
        self,
        commands: Sequence[Command],
        *,
        actor: str,
        cause: str | None = None,
        atomic: bool = False,
    ) -> list[Answer]:
        """Carry out *commands* in order, in one transaction.

        Args:
            commands: What to do.
            actor: Who asks, at most 255 characters.
            cause: Why, at most 1,000 characters.
            atomic: All or none: one refusal refuses all.

        Returns:
            For each command its outcome, or why it was refused.  If *atomic* and
            one was refused, the errors are the only true answers: the outcomes
            beside them were not kept.

        Raises:
            Unavailable: The database is away, or overloaded.
            InvalidInput: *actor* or *cause* cannot be stored.
        """
        if not commands:
            return []
        _check_text("actor", actor, LONGEST_ACTOR)
        if cause is not None:
            _check_text("cause", cause, LONGEST_CAUSE)
        return self._appender.submit(
            _Submission(commands=commands, actor=actor, cause=cause, atomic=atomic)
        )

    def _append(self, take: Take["_Submission"]) -> list[list[Answer]]:
        """Commit one batch: all that wait when the head is ours."""
        with self.database.write() as tx:
            head = store.lock_head(tx)
            submissions = take()
            batch = _Batch(tx, self._views, head, at_ms=max(self.now_ms(), head.at_ms))
            batch.load(submissions)
            answers = [batch.decide(submission) for submission in submissions]
            if batch.changes:
                self._record(tx, batch)
        return answers

    def _record(self, tx: Connection, batch: "_Batch") -> None:
        recorded = [change.recorded for change in batch.changes]
        with self.database.unanswered(tx):
            store.append(tx, recorded, after=batch.head, last_job_id=batch.last_job_id)
            for change in recorded:
                if isinstance(change.event, Erased):
                    store.erase(
                        tx, change.job_id, versions=change.event.versions, before=change.version
                    )
            for projection in self._projections:
                projection.apply(tx, batch.changes)
            self.database.announce(tx)


class _Batch:
    """Be the jobs as the batch has left them so far, and what changed them."""

    def __init__(self, tx: Connection, views: _Views, head: Head, *, at_ms: int) -> None:
        self.head = head
        self.at_ms = at_ms
        self.last_job_id = head.last_job_id
        self.changes: list[Change] = []
        self._tx = tx
        self._views = views
        self._jobs: dict[int, JobState] = {}
        self._keys: dict[str, int] = {}
        # How many jobs wait in the view but no longer.
        self._left_waiting = 0
        # Read when first asked for: few batches need it.
        self._paused: set[str] | None = None

    def load(self, submissions: Sequence[_Submission]) -> None:
        """Load what the commands name, in one statement each."""
        job_ids = set()
        keys = set()
        for submission in submissions:
            for command in submission.commands:
                if isinstance(command, OnJob):
                    job_ids.add(command.job_id)
                elif isinstance(command, Create) and command.unique is not None:
                    keys.add(command.unique)
        if keys:
            self._keys.update(self._views.unique_keys.find(self._tx, sorted(keys)))
        existing = sorted(id_ for id_ in job_ids if 0 < id_ <= self.head.last_job_id)
        if existing:
            self._jobs.update(self._views.jobs.load(self._tx, existing))
            # A job that was created and is in no view has been removed.
            gone = [job_id for job_id in existing if job_id not in self._jobs]
            for job_id, version in store.read_versions(self._tx, gone).items():
                self._jobs[job_id] = JobState(job_id, version=version, state=State.REMOVED)

    def decide(self, submission: _Submission) -> list[Answer]:
        """Decide a caller's commands in order, all or each for itself."""
        if not submission.atomic:
            return [self._decide(command, submission) for command in submission.commands]
        paused = None if self._paused is None else set(self._paused)
        before = self.last_job_id, len(self.changes), dict(self._jobs), dict(self._keys)
        answers = [self._decide(command, submission) for command in submission.commands]
        if any(isinstance(answer, LedgerError) for answer in answers):
            self.last_job_id, kept, self._jobs, self._keys = before
            del self.changes[kept:]
            self._paused = paused
        return answers

    def _decide(self, command: Command, submission: _Submission) -> Answer:
        if isinstance(command, Create):
            known = self._keys.get(command.unique) if command.unique is not None else None
            if known is not None:
                return Outcome(job_id=known, position=self._position, events=())
            return self._carry_out(command, JobState(self.last_job_id + 1), submission)
        if isinstance(command, Claim):
            return self._claim(command, submission)
        if isinstance(command, OnType):
            return self._pause(command, submission)
        job = self._jobs.get(command.job_id) or JobState(command.job_id)
        return self._carry_out(command, job, submission)

    def _carry_out(self, command: Command, job: JobState, submission: _Submission) -> Answer:
        try:
            events = decide(command, job, at_ms=self.at_ms)
        except (Refused, InvalidInput) as refusal:
            return refusal
        for event in events:
            job = self._fold(job, event, submission)
        return Outcome(job_id=job.id, position=self._position, events=events)

    def _claim(self, claim: Claim, submission: _Submission) -> Claimed:
        """Begin the most urgent jobs that wait."""
        claimed = []
        for job, data in self._most_urgent(claim):
            start = Start(job_id=job.id, worker=claim.worker)
            (event,) = decide(start, job, at_ms=self.at_ms)
            claimed.append(Claimable(self._fold(job, event, submission), data))
        return Claimed(jobs=tuple(claimed), position=self._position)

    def _most_urgent(self, claim: Claim) -> list[Claimable]:
        """Return the jobs to begin: by priority, then in turns between types, then by age."""
        limit = sum(claim.slots.values()) if claim.limit is None else claim.limit
        ranked = []
        for type_, slots in claim.slots.items():
            if slots and type_ not in self._paused_types():
                waiting = self._waiting(type_, min(slots, limit))
                turns: Counter[int] = Counter()
                for one in waiting:
                    turns[one.job.priority] += 1
                    ranked.append((one.job.priority, turns[one.job.priority], one.job.id, one))
        ranked.sort(key=itemgetter(0, 1, 2))
        return [one for *_, one in ranked[:limit]]

    def _waiting(self, type_: str, limit: int) -> list[Claimable]:
        """Return jobs of a type that wait, as the batch has left them.

        What the batch itself made ready is not in the view yet: the next claim has it.
        """
        found = self._views.jobs.claimable(self._tx, type_, limit=limit + self._left_waiting)
        known = self._jobs
        waiting = [Claimable(known.get(one.job.id, one.job), one.data) for one in found]
        return [one for one in waiting if one.job.state is State.INACTIVE][:limit]

    def _paused_types(self) -> set[str]:
        if self._paused is None:
            self._paused = set(self._views.pauses.paused(self._tx))
        return self._paused

    def _pause(self, command: OnType, submission: _Submission) -> Answer:
        """Record a pause, or its end, in the ledger's own stream; once."""
        paused = self._paused_types()
        if (command.type in paused) == isinstance(command, Pause):
            return Outcome(job_id=LEDGER_STREAM, position=self._position, events=())
        if LEDGER_STREAM not in self._jobs:
            versions = store.read_versions(self._tx, [LEDGER_STREAM])
            self._jobs[LEDGER_STREAM] = JobState(
                LEDGER_STREAM, version=versions.get(LEDGER_STREAM, 0)
            )
        (paused.add if isinstance(command, Pause) else paused.remove)(command.type)
        return self._carry_out(command, self._jobs[LEDGER_STREAM], submission)

    @property
    def _position(self) -> int:
        return self.head.position + len(self.changes)

    def _fold(self, before: JobState, event: Event, submission: _Submission) -> JobState:
        position = self._position + 1
        after = evolve(before, event, position=position, at_ms=self.at_ms)
        recorded = Recorded(
            position,
            before.id,
            after.version,
            self.at_ms,
            submission.actor,
            submission.cause,
            event,
        )
        self.changes.append(Change(recorded, before, after))
        if before.state is State.INACTIVE and after.state is not State.INACTIVE:
            self._left_waiting += 1
        self._jobs[after.id] = after
        if isinstance(event, Created):
            self.last_job_id = after.id
            if event.unique is not None:
                self._keys[event.unique] = after.id
        return after


def _check_text(field: str, value: str, longest: int) -> None:
    if not 0 < len(value) <= longest:
        raise InvalidInput.expected(field, f"1 to {longest} characters", value)
    storable(field, value)

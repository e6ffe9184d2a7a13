"""The write side, which answers commands with outcomes: the only way to write history.

An append is one transaction, and each of its steps is one statement for the whole batch:
lock the head, load the jobs that the commands name, decide each command in order, insert
the events, move the head, apply the inline projections, commit.  A refused command does
not affect the others, unless its submission is atomic.

The jobs are loaded from an inline projection.  The ledger does not know which one: the
protocols ``Jobs``, ``LedgerEntries`` and ``UniqueKeys`` state what it needs, and
``processes.composition`` passes in the implementations.
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
from ledger.log.recorded import (
    LEDGER_STREAM,
    AnyChange,
    Change,
    LedgerChange,
    Recorded,
    of_jobs,
    of_ledger,
)
from ledger.log.store import Head
from ledger.rules import ledger_state
from ledger.rules.commands import Claim, Command, Create, OnJob, OnLedger, Start, storable
from ledger.rules.decide import decide
from ledger.rules.events import Created, Erased, Event, Subject
from ledger.rules.job import JobState, State, evolve
from ledger.rules.ledger_state import Entry, EntryState, Key

LONGEST_ACTOR: Final = 255
LONGEST_CAUSE: Final = 1_000


class InlineProjection(Protocol):
    """A read model that commits with the events."""

    def apply(self, tx: Connection, changes: Sequence[Change]) -> None:
        """Apply *changes* of jobs, in order, one batch per call."""

    def apply_ledger(self, tx: Connection, changes: Sequence[LedgerChange]) -> None:
        """Apply *changes* of the ledger itself, in order, after the batch's other changes."""


class JobStates(Protocol):
    """The states of the jobs that have not been removed."""

    def load(self, tx: Connection, job_ids: Sequence[int]) -> Mapping[int, JobState]:
        """Return the states of those of the jobs that exist."""


class Claimable(NamedTuple):
    """A job that waits for a worker.

    Attributes:
        data: Its data, JSON text; None if it was erased.
    """

    job: JobState
    data: str | None


class WaitingJobs(Protocol):
    """The jobs that a worker may start."""

    def claimable(self, tx: Connection, type_: str, *, limit: int) -> Sequence[Claimable]:
        """Return waiting jobs of a type, by priority, then by age."""


class LedgerEntries(Protocol):
    """The entries of the ledger's own state."""

    def load(self, tx: Connection, keys: Collection[Key]) -> Mapping[Key, Entry]:
        """Return those of the entries that are not in their initial state."""

    def paused(self, tx: Connection) -> Collection[str]:
        """Return the types whose jobs must not be started."""


class UniqueKeys(Protocol):
    """The jobs that were created with unique keys."""

    def find(self, tx: Connection, keys: Sequence[str]) -> Mapping[str, int]:
        """Return the jobs that were created with *keys*, including removed ones."""


class Jobs(JobStates, WaitingJobs, Protocol):
    """All existing jobs, and those among them that wait for a worker."""


class _InlineModels(NamedTuple):
    jobs: Jobs
    entries: LedgerEntries
    unique_keys: UniqueKeys


class Outcome(Struct, frozen=True, kw_only=True):
    """The answer to a command that was not refused.

    Attributes:
        job_id: The job, new or old; 0 for a command on the ledger itself.
        position: The ledger's position after the command.
        events: What it caused; empty if it changed nothing.
    """

    job_id: int
    position: int
    events: tuple[Event, ...]


class Claimed(Struct, frozen=True, kw_only=True):
    """The answer to a ``Claim``.

    Attributes:
        jobs: What the worker now holds, in the state of the new attempts.
        position: The ledger's position after all attempts were started.
    """

    jobs: tuple[Claimable, ...]
    position: int


Answer = Outcome | Claimed | Refused | InvalidInput


class _Submission(Struct, frozen=True, kw_only=True):
    """The commands of one caller."""

    commands: Sequence[Command]
    actor: str
    cause: str | None
    atomic: bool


class Ledger:
    """The write side of one database.

    Args:
        database: Where history is stored.
        jobs: The jobs that commands are decided on, and those that wait for a worker.
        entries: The entries that commands on the ledger itself are decided on, and the types
            whose jobs must not be started.
        unique_keys: The jobs by unique key, so that a second creation returns the first job.
        projections: Read models that commit with the events, applied in this order.
        now_ms: The clock, UTC milliseconds.
    """

    def __init__(
        self,
        database: Database,
        *,
        jobs: Jobs,
        entries: LedgerEntries,
        unique_keys: UniqueKeys,
        projections: Sequence[InlineProjection],
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self.database = database
        self.now_ms = now_ms
        self._models = _InlineModels(jobs, entries, unique_keys)
        self._projections = tuple(projections)
        self._appender = Appender(self._append)

    def forget(self) -> None:
        """Reset the state in a forked child, which has none of its parent's threads."""
        self.database.forget()
        self._appender = Appender(self._append)

    def execute(self, command: Command, *, actor: str, cause: str | None = None) -> Outcome:
        """Carry out *command*; after this returns, its events survive a crash.

        Args:
            command: The command.
            actor: Who asks, at most 255 characters.
            cause: Why, at most 1,000 characters.

        Raises:
            Refused: The rules forbid it; nothing was recorded.
            InvalidInput: It names a version that does not exist, or *actor* or *cause* cannot
                be stored.
            Unavailable: The database is down or overloaded.
        """
        (answer,) = self.submit((command,), actor=actor, cause=cause)
        if isinstance(answer, Outcome):
            return answer
        if isinstance(answer, Claimed):
            raise TypeError("a Claim returns jobs, not an Outcome; call `claim`")
        raise answer

    def execute_all(
        self, commands: Sequence[Command], *, actor: str, cause: str | None = None
    ) -> list[Outcome]:
        """Carry out all *commands* in one transaction, or none of them; as ``execute``."""
        answers = self.submit(commands, actor=actor, cause=cause, atomic=True)
        for answer in answers:
            if isinstance(answer, Exception):
                raise answer
        return [answer for answer in answers if isinstance(answer, Outcome)]

    def claim(self, claim: Claim, *, actor: str, cause: str | None = None) -> Claimed:
        """Start waiting jobs; otherwise as ``execute``."""
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
            commands: The commands.
            actor: Who asks, at most 255 characters.
            cause: Why, at most 1,000 characters.
            atomic: Whether to record all or nothing: one refusal refuses all.

        Returns:
            For each command its outcome, or the error with which it was refused.  If *atomic* and
            one command was refused, nothing was recorded and only the errors are valid; ignore
            the outcomes beside them.

        Raises:
            Unavailable: The database is down or overloaded.
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
        """Commit one batch: all submissions that are queued when we lock the head."""
        with self.database.write() as tx:
            head = store.lock_head(tx)
            submissions = take()
            batch = _Batch(tx, self._models, head, at_ms=max(self.now_ms(), head.at_ms))
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
            changes, of_itself = of_jobs(batch.changes), of_ledger(batch.changes)
            for projection in self._projections:
                if changes:
                    projection.apply(tx, changes)
                if of_itself:
                    projection.apply_ledger(tx, of_itself)
            self.database.announce(tx)


class _Batch:
    """The jobs as the batch has left them so far, and the changes that led there."""

    def __init__(self, tx: Connection, models: _InlineModels, head: Head, *, at_ms: int) -> None:
        self.head = head
        self.at_ms = at_ms
        self.last_job_id = head.last_job_id
        self.changes: list[AnyChange] = []
        self._tx = tx
        self._models = models
        self._jobs: dict[int, JobState] = {}
        self._keys: dict[str, int] = {}
        # Number of jobs that wait in the read model but no longer in this batch.
        self._left_waiting = 0
        # Entries that commands of the batch name, and the version of the ledger's own stream.
        self._entries: dict[Key, Entry] = {}
        self._version = 0
        # Read on first use: few batches need it.
        self._paused: Collection[str] | None = None

    def load(self, submissions: Sequence[_Submission]) -> None:
        """Load what the commands name, in one statement per kind."""
        job_ids = set()
        keys = set()
        named = set()
        for submission in submissions:
            for command in submission.commands:
                if isinstance(command, OnJob):
                    job_ids.add(command.job_id)
                elif isinstance(command, Create) and command.unique is not None:
                    keys.add(command.unique)
                elif isinstance(command, OnLedger):
                    named.add(ledger_state.key_of(command))
        if named:
            self._entries.update(self._models.entries.load(self._tx, named))
            versions = store.read_versions(self._tx, [LEDGER_STREAM])
            self._version = versions.get(LEDGER_STREAM, 0)
        if keys:
            self._keys.update(self._models.unique_keys.find(self._tx, sorted(keys)))
        existing = sorted(id_ for id_ in job_ids if 0 < id_ <= self.head.last_job_id)
        if existing:
            self._jobs.update(self._models.jobs.load(self._tx, existing))
            # A job that was created and is missing from the read model has been removed.
            gone = [job_id for job_id in existing if job_id not in self._jobs]
            for job_id, version in store.read_versions(self._tx, gone).items():
                self._jobs[job_id] = JobState(job_id, version=version, state=State.REMOVED)

    def decide(self, submission: _Submission) -> list[Answer]:
        """Decide a caller's commands in order: all or none if atomic, else each on its own."""
        if not submission.atomic:
            return [self._decide(command, submission) for command in submission.commands]
        before = self.last_job_id, len(self.changes), dict(self._jobs), dict(self._keys)
        of_itself = dict(self._entries), self._version
        answers = [self._decide(command, submission) for command in submission.commands]
        if any(isinstance(answer, LedgerError) for answer in answers):
            self.last_job_id, kept, self._jobs, self._keys = before
            del self.changes[kept:]
            self._entries, self._version = of_itself
        return answers

    def _decide(self, command: Command, submission: _Submission) -> Answer:
        if isinstance(command, Create):
            known = self._keys.get(command.unique) if command.unique is not None else None
            if known is not None:
                return Outcome(job_id=known, position=self._position, events=())
            return self._carry_out(command, JobState(self.last_job_id + 1), submission)
        if isinstance(command, Claim):
            return self._claim(command, submission)
        if isinstance(command, OnLedger):
            return self._carry_out_on_ledger(command, submission)
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
        """Start the most urgent waiting jobs."""
        claimed = []
        for job, data in self._most_urgent(claim):
            start = Start(job_id=job.id, worker=claim.worker)
            (event,) = decide(start, job, at_ms=self.at_ms)
            claimed.append(Claimable(self._fold(job, event, submission), data))
        return Claimed(jobs=tuple(claimed), position=self._position)

    def _most_urgent(self, claim: Claim) -> list[Claimable]:
        """Return the jobs to start: by priority, then in turns between types, then by age."""
        limit = sum(claim.slots.values()) if claim.limit is None else claim.limit
        ranked = []
        for type_, slots in claim.slots.items():
            if slots and not self._is_paused(type_):
                waiting = self._waiting(type_, min(slots, limit))
                turns: Counter[int] = Counter()
                for one in waiting:
                    turns[one.job.priority] += 1
                    ranked.append((one.job.priority, turns[one.job.priority], one.job.id, one))
        ranked.sort(key=itemgetter(0, 1, 2))
        return [one for *_, one in ranked[:limit]]

    def _waiting(self, type_: str, limit: int) -> list[Claimable]:
        """Return waiting jobs of a type, as the batch has left them.

        Jobs that the batch itself made ready are not in the read model yet; the next claim gets
        them.
        """
        found = self._models.jobs.claimable(self._tx, type_, limit=limit + self._left_waiting)
        known = self._jobs
        waiting = [Claimable(known.get(one.job.id, one.job), one.data) for one in found]
        return [one for one in waiting if one.job.state is State.INACTIVE][:limit]

    def _is_paused(self, type_: str) -> bool:
        entry = self._entries.get(Key(Subject.TYPE, type_))
        if entry is not None:
            return entry.state is EntryState.PAUSED
        if self._paused is None:
            self._paused = self._models.entries.paused(self._tx)
        return type_ in self._paused

    def _carry_out_on_ledger(self, command: OnLedger, submission: _Submission) -> Answer:
        key = ledger_state.key_of(command)
        entry = self._entries.get(key) or ledger_state.initial(key)
        events = ledger_state.decide(command, entry, at_ms=self.at_ms)
        for event in events:
            self._version += 1
            recorded = self._recorded(LEDGER_STREAM, self._version, event, submission)
            after = ledger_state.evolve(entry, event, position=recorded.position, at_ms=self.at_ms)
            self.changes.append(LedgerChange(recorded, entry, after))
            entry = self._entries[key] = after
        return Outcome(job_id=LEDGER_STREAM, position=self._position, events=events)

    @property
    def _position(self) -> int:
        return self.head.position + len(self.changes)

    def _fold(self, before: JobState, event: Event, submission: _Submission) -> JobState:
        after = evolve(before, event, position=self._position + 1, at_ms=self.at_ms)
        recorded = self._recorded(before.id, after.version, event, submission)
        self.changes.append(Change(recorded, before, after))
        if before.state is State.INACTIVE and after.state is not State.INACTIVE:
            self._left_waiting += 1
        self._jobs[after.id] = after
        if isinstance(event, Created):
            self.last_job_id = after.id
            if event.unique is not None:
                self._keys[event.unique] = after.id
        return after

    def _recorded(
        self, stream: int, version: int, event: Event, submission: _Submission
    ) -> Recorded:
        return Recorded(
            self._position + 1,
            stream,
            version,
            self.at_ms,
            submission.actor,
            submission.cause,
            event,
        )


def _check_text(field: str, value: str, longest: int) -> None:
    if not 0 < len(value) <= longest:
        raise InvalidInput.expected(field, f"1 to {longest} characters", value)
    storable(field, value)

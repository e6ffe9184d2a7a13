"""Take commands in, answer with outcomes: the one way to write history.

An append is one transaction, and every step of it is one statement for the whole
batch: lock the head, load the jobs that the commands name, decide each command in
order, insert the events, apply the inline projections, move the head, commit.
A refused command refuses only itself.

The jobs are loaded from an inline projection.  The ledger does not know which:
``JobStates`` and ``UniqueKeys`` are what it needs of them, and who composes the
system hands them in.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Protocol

from msgspec import Struct
from sqlalchemy import Connection

from ledger import store
from ledger.appender import Appender, Take
from ledger.commands import Command, Create, OnJob, storable
from ledger.database import Database
from ledger.errors import InvalidInput, Refused
from ledger.events import Created, Erased, Event
from ledger.job import Job, State, decide, evolve
from ledger.record import Change, Recorded
from ledger.store import Head

LONGEST_ACTOR: Final = 255
LONGEST_CAUSE: Final = 1_000


class InlineProjection(Protocol):
    """Be a read model that commits with the events."""

    def apply(self, tx: Connection, changes: Sequence[Change]) -> None:
        """Follow *changes*, which come in order, a batch at a time."""


class JobStates(Protocol):
    """Know the jobs that have not been removed."""

    def load(self, tx: Connection, job_ids: Sequence[int]) -> Mapping[int, Job]:
        """Return those of the jobs that there are."""


class UniqueKeys(Protocol):
    """Know which job was created with which key."""

    def find(self, tx: Connection, keys: Sequence[str]) -> Mapping[str, int]:
        """Return the jobs that were created with *keys*, removed ones too."""


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


Answer = Outcome | Refused | InvalidInput


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
        jobs: What the commands are decided upon.
        unique_keys: What makes a second creation answer the first one's job.
        projections: Read models that commit with the events, in this order.
        now_ms: The clock, UTC milliseconds.
    """

    def __init__(
        self,
        database: Database,
        *,
        jobs: JobStates,
        unique_keys: UniqueKeys,
        projections: Sequence[InlineProjection],
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self.database = database
        self.now_ms = now_ms
        self._jobs = jobs
        self._unique_keys = unique_keys
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
        raise answer

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
            batch = _Batch(head, at_ms=max(self.now_ms(), head.at_ms))
            batch.load(tx, submissions, self._jobs, self._unique_keys)
            answers = [batch.decide(submission) for submission in submissions]
            if batch.changes:
                self._record(tx, batch)
        return answers

    def _record(self, tx: Connection, batch: "_Batch") -> None:
        recorded = [change.recorded for change in batch.changes]
        store.append(tx, recorded, after=batch.head, last_job_id=batch.last_job_id)
        for change in recorded:
            if isinstance(change.event, Erased):
                store.erase(
                    tx, change.job_id, versions=change.event.versions, before=change.version
                )
        for projection in self._projections:
            projection.apply(tx, batch.changes)


class _Batch:
    """Be the jobs as the batch has left them so far, and what changed them."""

    def __init__(self, head: Head, *, at_ms: int) -> None:
        self.head = head
        self.at_ms = at_ms
        self.last_job_id = head.last_job_id
        self.changes: list[Change] = []
        self._jobs: dict[int, Job] = {}
        self._keys: dict[str, int] = {}

    def load(
        self,
        tx: Connection,
        submissions: Sequence[_Submission],
        jobs: JobStates,
        unique_keys: UniqueKeys,
    ) -> None:
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
            self._keys.update(unique_keys.find(tx, sorted(keys)))
        existing = sorted(id_ for id_ in job_ids if 0 < id_ <= self.head.last_job_id)
        if existing:
            self._jobs.update(jobs.load(tx, existing))
            # A job that was created and is in no view has been removed.
            gone = [job_id for job_id in existing if job_id not in self._jobs]
            for job_id, version in store.read_versions(tx, gone).items():
                self._jobs[job_id] = Job(job_id, version=version, state=State.REMOVED)

    def decide(self, submission: _Submission) -> list[Answer]:
        """Decide a caller's commands in order, all or each for itself."""
        if not submission.atomic:
            return [self._decide(command, submission) for command in submission.commands]
        before = self.last_job_id, len(self.changes), dict(self._jobs), dict(self._keys)
        answers = [self._decide(command, submission) for command in submission.commands]
        if not all(isinstance(answer, Outcome) for answer in answers):
            self.last_job_id, kept, self._jobs, self._keys = before
            del self.changes[kept:]
        return answers

    def _decide(self, command: Command, submission: _Submission) -> Answer:
        if isinstance(command, Create):
            known = self._keys.get(command.unique) if command.unique is not None else None
            if known is not None:
                return Outcome(job_id=known, position=self._position, events=())
            job = Job(self.last_job_id + 1)
        else:
            job = self._jobs.get(command.job_id) or Job(command.job_id)
        try:
            events = decide(command, job, at_ms=self.at_ms)
        except (Refused, InvalidInput) as refusal:
            return refusal
        for event in events:
            job = self._fold(job, event, submission)
        return Outcome(job_id=job.id, position=self._position, events=events)

    @property
    def _position(self) -> int:
        return self.head.position + len(self.changes)

    def _fold(self, before: Job, event: Event, submission: _Submission) -> Job:
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

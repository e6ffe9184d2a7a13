"""One batch of commands: what they are decided on, the decisions, and the changes they make.

Nothing is written here.  A batch loads what its commands name with one statement per kind,
decides the commands in order, each on what the ones before it have left, and collects the
changes, which ``Ledger`` then records.
"""

import json
from collections import Counter
from collections.abc import Collection, Sequence
from functools import cached_property
from operator import itemgetter
from typing import Final

from msgspec import Struct
from sqlalchemy import Connection

from ledger.errors import DataErased, InvalidInput, KeyReused, LedgerError, Refused
from ledger.log import store
from ledger.log.answers import Answer, Claimed, Outcome
from ledger.log.known_keys import KnownKeys
from ledger.log.ports import InlineStores, JobWithData
from ledger.log.recorded import LEDGER_STREAM, AnyChange, Change, LedgerChange, Recorded
from ledger.log.repeated import RepeatedReports
from ledger.log.store import Head
from ledger.log.waiting_jobs import WaitingJobs
from ledger.rules import ledger_state
from ledger.rules.commands import Claim, Command, Create, FailAttempt, OnJob, OnLedger, Start
from ledger.rules.decide import decide
from ledger.rules.events import Created, Erased, Event, Subject
from ledger.rules.job import JobState, State, evolve
from ledger.rules.ledger_state import Entry, EntryState, Key

# The version of the event that holds a job's data.
_DATA: Final = 1
# Bounds how long one claim holds the lock, if very many jobs are erased.
_MOST_ROUNDS: Final = 100


class Submission(Struct, frozen=True, kw_only=True):
    """The commands of one caller."""

    commands: Sequence[Command]
    actor: str
    cause: str | None
    atomic: bool
    # The position after which it may have been recorded already; None if it is new.
    since: int | None = None


class Batch:
    """The jobs as the batch has left them so far, and the changes that led there.

    Args:
        tx: The transaction, which holds the head's lock.
        stores: From which the state that commands are decided on is read.
        head: The end of the ledger.
        time_ms: The time, UTC milliseconds.
    """

    def __init__(self, tx: Connection, stores: InlineStores, head: Head, *, time_ms: int) -> None:
        self.head = head
        # Recorded times never decrease, although the clock may be set back.  What falls due is
        # judged by the clock all the same, or delays would stand still until it has caught up.
        self.at_ms = max(time_ms, head.at_ms)
        self.time_ms = time_ms
        self.last_job_id = head.last_job_id
        self.changes: list[AnyChange] = []
        self._tx = tx
        self._stores = stores
        self._jobs: dict[int, JobState] = {}
        self._keys = KnownKeys(tx, stores.unique_keys)
        self._submissions: Sequence[Submission] = ()
        # Jobs whose data this batch erases; until the commit, it can still be read.
        self._erased: set[int] = set()
        # Entries that commands of the batch name, and the version of the ledger's own stream.
        self._entries: dict[Key, Entry] = {}
        self._version = 0
        # Read on first use: few batches need it.
        self._paused: Collection[str] | None = None

    def load(self, submissions: Sequence[Submission]) -> None:
        """Load what the commands name, in one statement per kind."""
        job_ids = set()
        creations = []
        named = set()
        self._submissions = submissions
        for submission in submissions:
            for command in submission.commands:
                if isinstance(command, OnJob):
                    job_ids.add(command.job_id)
                elif isinstance(command, Create):
                    creations.append(command)
                elif isinstance(command, OnLedger):
                    named.add(ledger_state.key_of(command))
        if named:
            self._entries.update(self._stores.entries.load(self._tx, named))
            versions = store.read_versions(self._tx, [LEDGER_STREAM])
            self._version = versions.get(LEDGER_STREAM, 0)
        if creations:
            self._keys.load(creations)
        existing = sorted(id_ for id_ in job_ids if 0 < id_ <= self.head.last_job_id)
        if existing:
            self._jobs.update(self._stores.jobs.load(self._tx, existing))
            # A job that was created and is missing from the read model has been removed.
            gone = [job_id for job_id in existing if job_id not in self._jobs]
            for job_id, version in store.read_versions(self._tx, gone).items():
                self._jobs[job_id] = JobState(job_id, version=version, state=State.REMOVED)

    def decide(self, submission: Submission) -> list[Answer]:
        """Decide a caller's commands in order: all or none if atomic, else each on its own."""
        if submission.since is not None:
            repeated = RepeatedReports(
                self._tx, submission.commands, actor=submission.actor, since=submission.since
            )
            if repeated:
                return self._decide_rest(submission, repeated)
        if not submission.atomic:
            return [self._decide(command, submission) for command in submission.commands]
        before = self.last_job_id, len(self.changes), dict(self._jobs)
        keys = self._keys.saved()
        of_itself = dict(self._entries), self._version
        erased = set(self._erased)
        answers = [self._decide(command, submission) for command in submission.commands]
        if any(isinstance(answer, LedgerError) for answer in answers):
            self.last_job_id, kept, self._jobs = before
            self._keys.restore(keys)
            del self.changes[kept:]
            self._entries, self._version = of_itself
            self._erased = erased
            self._waiting.forget()
        return answers

    def _decide_rest(self, submission: Submission, repeated: RepeatedReports) -> list[Answer]:
        """Answer what was recorded before, and decide what was added since.

        What was refused before is refused again: an attempt that is over remains so.
        """
        return [
            repeated.answer(command) or self._decide(command, submission)
            for command in submission.commands
        ]

    def _decide(self, command: Command, submission: Submission) -> Answer:
        if isinstance(command, Create):
            known = self._keys.find(command, submission)
            if isinstance(known, KeyReused):
                return known
            if known is not None:
                return Outcome(job_id=known, position=self._position, events=())
            return self._carry_out(command, JobState(self.last_job_id + 1), submission)
        if isinstance(command, Claim):
            return self._claim(command, submission)
        if isinstance(command, OnLedger):
            return self._carry_out_on_ledger(command, submission)
        job = self._jobs.get(command.job_id) or JobState(command.job_id)
        return self._carry_out(command, job, submission)

    def _carry_out(self, command: Command, job: JobState, submission: Submission) -> Answer:
        try:
            events = decide(command, job, time_ms=self.time_ms)
        except (Refused, InvalidInput) as refusal:
            return refusal
        for event in events:
            job = self._fold(job, event, submission)
        return Outcome(job_id=job.id, position=self._position, events=events)

    @cached_property
    def _waiting(self) -> WaitingJobs:
        claims = [
            command
            for submission in self._submissions
            for command in submission.commands
            if isinstance(command, Claim)
        ]
        return WaitingJobs(self._tx, self._stores.jobs, claims)

    def _claim(self, claim: Claim, submission: Submission) -> Claimed:
        """Start the most urgent waiting jobs."""
        chosen, is_cut = self._most_urgent(claim)
        for _ in range(_MOST_ROUNDS):
            erased = self._erased_of(chosen)
            if not erased:
                break
            for job in erased:
                self._fail_erased(job, claim, submission)
            chosen, is_cut = self._most_urgent(claim)
        else:
            left_out = self._erased_of(chosen)
            chosen = [one for one in chosen if one.job not in left_out]
        claimed = [JobWithData(self._start(job, claim, submission), data) for job, data in chosen]
        return Claimed(jobs=tuple(claimed), position=self._position, is_cut=is_cut)

    def _start(self, job: JobState, claim: Claim, submission: Submission) -> JobState:
        start = Start(job_id=job.id, worker=claim.worker)
        (event,) = decide(start, job, time_ms=self.time_ms)
        return self._fold(job, event, submission)

    def _fail_erased(self, job: JobState, claim: Claim, submission: Submission) -> None:
        """Fail a job instead of running it: without its data, the handler could do anything."""
        started = self._start(job, claim, submission)
        error = json.dumps(str(DataErased(job.id)))
        fail = FailAttempt(job_id=job.id, attempt=started.attempt, error=error, final=True)
        (event,) = decide(fail, started, time_ms=self.time_ms)
        self._fold(started, event, submission)

    def _erased_of(self, chosen: Sequence[JobWithData]) -> list[JobState]:
        """Return those of the jobs whose data is erased."""
        return [job for job, data in chosen if data is None or job.id in self._erased]

    def _most_urgent(self, claim: Claim) -> tuple[list[JobWithData], bool]:
        """Return the jobs to start: by priority, then in turns between types, then by age.

        And whether these are fewer than the claim asks for, because of their bytes.
        """
        limit = sum(claim.slots.values()) if claim.limit is None else claim.limit
        ranked = []
        for type_, slots in claim.slots.items():
            if slots and not self._is_paused(type_):
                turns: Counter[int] = Counter()
                for job in self._waiting.first(type_, min(slots, limit), self._jobs):
                    turns[job.priority] += 1
                    ranked.append((job.priority, turns[job.priority], job.id, job))
        ranked.sort(key=itemgetter(0, 1, 2))
        ranked = ranked[:limit]
        jobs = [job for *_, job in ranked]
        fitting = self._waiting.fitting(jobs)
        return self._waiting.with_data(jobs[:fitting]), fitting < len(jobs)

    def _is_paused(self, type_: str) -> bool:
        entry = self._entries.get(Key(Subject.TYPE, type_))
        if entry is not None:
            return entry.state is EntryState.PAUSED
        if self._paused is None:
            self._paused = self._stores.entries.paused(self._tx)
        return type_ in self._paused

    def _carry_out_on_ledger(self, command: OnLedger, submission: Submission) -> Answer:
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

    def _fold(self, before: JobState, event: Event, submission: Submission) -> JobState:
        after = evolve(before, event, position=self._position + 1, at_ms=self.at_ms)
        recorded = self._recorded(before.id, after.version, event, submission)
        self.changes.append(Change(recorded, before, after))
        self._jobs[after.id] = after
        if isinstance(event, Erased) and (event.versions is None or _DATA in event.versions):
            self._erased.add(after.id)
        if isinstance(event, Created):
            self.last_job_id = after.id
            if event.unique is not None or event.request is not None:
                self._keys.add(after.id, event, submission)
        return after

    def _recorded(
        self, stream: int, version: int, event: Event, submission: Submission
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

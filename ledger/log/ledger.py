"""The write side, which answers commands with outcomes: the only way to write history.

An append is one transaction, and each of its steps is one statement for the whole batch:
lock the head, load the jobs that the commands name, decide each command in order, insert
the events, move the head, apply the inline projections, commit.  A refused command does
not affect the others, unless its submission is atomic.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Final

from sqlalchemy import Connection

from ledger.database.clock import current_time_ms
from ledger.database.contract import Database
from ledger.errors import InvalidInput, Replaced, Unavailable
from ledger.log import store
from ledger.log.answers import Answer, Claimed, Outcome
from ledger.log.append import append, erase
from ledger.log.batch import Batch, Submission
from ledger.log.group_commit import LARGEST_BATCH, Appender, Take
from ledger.log.inline_versions import InlineVersions
from ledger.log.known_end import KnownEnd
from ledger.log.ports import EntryStore, InlineProjection, InlineStores, JobStore, UniqueKeyStore
from ledger.log.recorded import Change, of_jobs, of_ledger
from ledger.log.store import Head, Locked
from ledger.log.times import iso_text
from ledger.rules.commands import Claim, Command, storable
from ledger.rules.events import Erased
from ledger.rules.job import State

LONGEST_ACTOR: Final = 255
LONGEST_CAUSE: Final = 1_000
# A clock that is set a little, as over the network, is no reason to stop.
MOST_AHEAD_MS: Final = 60_000


class Ledger:
    """The write side of one database.

    Args:
        database: Where history is stored.
        jobs: The jobs that commands are decided on, and those that wait for a worker.
        entries: The entries that commands on the ledger itself are decided on, and the types
            whose jobs must not be started.
        unique_keys: The jobs by unique key, so that a second creation returns the first job.
        projections: Read models that commit with the events, applied in this order.
        refuses_future: Whether to record nothing while the last event is more than a minute ahead
            of the database's clock.
        clock: Returns the time, UTC milliseconds, in place of the database's clock, for tests.
    """

    def __init__(
        self,
        database: Database,
        *,
        jobs: JobStore,
        entries: EntryStore,
        unique_keys: UniqueKeyStore,
        projections: Sequence[InlineProjection],
        refuses_future: bool = False,
        clock: Callable[[], int] | None = None,
    ) -> None:
        self.database = database
        self.clock = clock
        self._refuses_future = refuses_future
        self._stores = InlineStores(jobs, entries, unique_keys)
        self._projections = tuple(projections)
        self._known_end = KnownEnd(database)
        self._versions = InlineVersions(self._projections)
        self._appender = self._new_appender()

    def time_ms(self, connection: Connection) -> int:
        """Return the time by which delays, ttls and leases are judged, UTC milliseconds."""
        return current_time_ms(connection) if self.clock is None else self.clock()

    def forget(self) -> None:
        """Reset the state in a forked child, which has none of its parent's threads."""
        self.database.forget()
        self._appender = self._new_appender()

    def _new_appender(self) -> Appender[Submission, list[Answer]]:
        return Appender(
            self._append,
            size_of=lambda submission: len(submission.commands),
            patience_s=self.database.lock_timeout_ms / 1000,
        )

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
            SchemaMismatch: A newer version has changed the tables, or the rows of a read model.
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
        since: int | None = None,
    ) -> list[Answer]:
        """Carry out *commands* in order, in one transaction.

        Args:
            commands: The commands.
            actor: Who asks, at most 255 characters.
            cause: Why, at most 1,000 characters.
            atomic: Whether to record all or nothing: one refusal refuses all.
            since: None for new reports.  For reports that this actor has submitted before without
                learning the outcome, the ledger's last position that it knew then.  Those that
                were recorded are not recorded again, and are answered as they would have been.

        Returns:
            For each command its outcome, or the error with which it was refused.  If *atomic* and
            one command was refused, nothing was recorded and only the errors are valid; ignore
            the outcomes beside them.

        Raises:
            Unavailable: The database is down or overloaded.
            SchemaMismatch: A newer version has changed the tables, or the rows of a read model.
            InvalidInput: *actor* or *cause* cannot be stored.
        """
        if not commands:
            return []
        _check_text("actor", actor, LONGEST_ACTOR)
        if cause is not None:
            _check_text("cause", cause, LONGEST_CAUSE)
        return self._appender.submit(
            Submission(commands=commands, actor=actor, cause=cause, atomic=atomic, since=since)
        )

    def submit_in_parts(
        self,
        commands: Sequence[Command],
        *,
        actor: str,
        cause: str | None = None,
        part: int = LARGEST_BATCH,
    ) -> Iterator[list[Answer]]:
        """Carry out *commands* in order, in several transactions, so that others write between.

        Args:
            commands: The commands, of which none depends on the success of an earlier one.
            actor: As for ``submit``.
            cause: As for ``submit``.
            part: The largest number of commands in a transaction.

        Yields:
            The answers of each transaction, once it is committed.

        Raises:
            Unavailable: As for ``submit``; what was yielded before is recorded.
            SchemaMismatch: As for ``submit``.
            InvalidInput: As for ``submit``.
        """
        for start in range(0, len(commands), part):
            yield self.submit(commands[start : start + part], actor=actor, cause=cause)

    def _append(self, take: Take[Submission]) -> list[list[Answer]]:
        """Commit one batch: all submissions that are queued when we lock the head."""
        with self.database.write() as tx:
            locked = store.lock_for_append(tx, known=self._known_end.asked)
            self._require_known(tx, locked)
            self._versions.require(tx, locked.inline_rebuilds)
            time_ms = self._time_ms(locked)
            submissions = take()
            batch = Batch(tx, self._stores, locked.head, time_ms=time_ms)
            batch.load(submissions)
            answers = [batch.decide(submission) for submission in submissions]
            head = self._record(tx, batch) if batch.changes else locked.head
        self._known_end.note(head)
        return answers

    def _require_known(self, tx: Connection, locked: Locked) -> None:
        try:
            self._known_end.require(tx, locked)
        except Replaced:
            # What was checked is another ledger's, too.
            self._versions.forget()
            raise

    def _time_ms(self, locked: Locked) -> int:
        """Return the time, or raise if the last event lies too far in its future."""
        if self.clock is not None:
            return self.clock()
        if self._refuses_future and locked.head.at_ms - locked.time_ms > MOST_AHEAD_MS:
            raise Unavailable(
                "nothing was recorded: the last event has the time "
                f"{_second(locked.head.at_ms)}, but this machine's clock shows "
                f"{_second(locked.time_ms)}.  If the clock is wrong, set it.  If it is right, it "
                "was wrong when that event was recorded: wait until that time, or set "
                "LEDGER_ALLOW_FUTURE=on.  With it, delays, ttls and leases follow the clock, and "
                "events have the time of the last one until the clock has passed it"
            )
        return locked.time_ms

    def _record(self, tx: Connection, batch: Batch) -> Head:
        """Record the changes of a batch and return the new head."""
        recorded = [change.recorded for change in batch.changes]
        with self.database.unanswered(tx):
            head = append(tx, recorded, after=batch.head, last_job_id=batch.last_job_id)
            for change in recorded:
                if isinstance(change.event, Erased):
                    erase(tx, change.job_id, versions=change.event.versions, before=change.version)
            changes, of_itself = of_jobs(batch.changes), of_ledger(batch.changes)
            for projection in self._projections:
                if changes:
                    projection.apply(tx, changes)
                if of_itself:
                    projection.apply_ledger(tx, of_itself)
            self.database.announce(tx, None if of_itself else _became_claimable(changes))
        return head


def _became_claimable(changes: Sequence[Change]) -> set[str]:
    """Return the types of the jobs that *changes* make claimable."""
    return {
        change.after.type
        for change in changes
        if change.after.state is State.INACTIVE and change.before.state is not State.INACTIVE
    }


def _second(time_ms: int) -> str:
    return iso_text(time_ms, timespec="seconds")


def _check_text(field: str, value: str, longest: int) -> None:
    if not 0 < len(value) <= longest:
        raise InvalidInput.expected(field, f"1 to {longest} characters", value)
    storable(field, value)

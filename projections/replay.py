"""Replay of history: the ledger's events folded into jobs, in bounded memory.

A ``Replay`` yields what each event changed.  It serves the rebuild of a projection,
``ledger verify``, and the state of everything at a past position.

It caches a limited number of jobs.  A job that was dropped from the cache, or that began
before the replay did, is folded from its own stream when its next event comes, together with
all other such jobs of the batch.  So memory does not grow with the ledger.
"""

import gc
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Final

from sqlalchemy import Connection

from ledger.errors import Corrupt
from ledger.log import codec, store
from ledger.log.history import read_histories, read_recorded
from ledger.log.recorded import LEDGER_STREAM, AnyChange, Change, LedgerChange, Recorded
from ledger.rules import ledger_state
from ledger.rules.events import LedgerEvent
from ledger.rules.job import JobState, evolve
from ledger.rules.ledger_state import Entry, Key

# Called after each batch with the number of events done and the total.
Advance = Callable[[int, int], None]

# About 50 MB of jobs; events of one job are mostly closer together than this.
REMEMBERED: Final = 50_000
BATCH: Final = 40_000


class Memory:
    """A cache of jobs that folds events into changes.

    Args:
        remembered: Number of jobs to keep.
    """

    def __init__(self, *, remembered: int = REMEMBERED) -> None:
        self._remembered = remembered
        self._jobs: dict[int, JobState] = {}
        self._ledger = _LedgerStream()

    def fold(self, connection: Connection, recorded: Sequence[Recorded]) -> list[AnyChange]:
        """Return what each event changed.

        Args:
            connection: Where to read the earlier events of jobs that are not in the cache.
            recorded: Events in order, directly after the last ones that were folded.

        Raises:
            Corrupt: History contradicts itself.
        """
        changes: list[AnyChange] = []
        new = tuple.__new__
        jobs = self._jobs
        for event in recorded:
            position, job_id, version, at_ms, _, _, body, _ = event
            before = jobs.get(job_id)
            if before is None:
                if job_id == LEDGER_STREAM:
                    changes.append(self._ledger.fold(connection, event, recorded[0].position))
                    continue
                if version > 1:
                    self._recall(connection, recorded[len(changes) :], behind=recorded[0].position)
                before = jobs.get(job_id) or JobState(job_id)
            if version != before.version + 1:
                raise Corrupt(
                    f"event {position}: job {job_id} has version {version} after {before.version}",
                    position=position,
                )
            after = jobs[job_id] = evolve(before, body, position=position, at_ms=at_ms)
            # The same as calling Change(…), without its check of the arguments.
            changes.append(new(Change, (event, before, after)))
        return changes

    def forget(self) -> None:
        """Drop the jobs that were cached first, down to the number to keep."""
        surplus = len(self._jobs) - self._remembered
        for job_id in list(islice(self._jobs, max(0, surplus))):
            del self._jobs[job_id]

    def _recall(self, connection: Connection, recorded: Sequence[Recorded], *, behind: int) -> None:
        """Fold together the earlier events of all jobs of *recorded* that are not in the cache."""
        jobs = self._jobs
        unknown = {
            event.job_id for event in recorded if event.version > 1 and event.job_id not in jobs
        }
        # A job that is created in this batch has no earlier events.
        unknown -= {event.job_id for event in recorded if event.version == 1}
        unknown.discard(LEDGER_STREAM)
        for position, job_id, _, at_ms, _, _, body, _ in read_histories(
            connection, unknown, through=behind - 1
        ):
            before = jobs.get(job_id) or JobState(job_id)
            jobs[job_id] = evolve(before, body, position=position, at_ms=at_ms)


class _LedgerStream:
    """The folded state of the ledger's own stream: its entries and its version."""

    def __init__(self) -> None:
        self._entries: dict[Key, Entry] = {}
        self._version = 0

    def fold(self, connection: Connection, recorded: Recorded, begin: int) -> LedgerChange:
        """Return what *recorded* changed.

        Args:
            connection: Where to read the stream's earlier events, if the replay began after them.
            recorded: The stream's next event.
            begin: Position of the first event of the batch.
        """
        if not self._version and recorded.version > 1:
            for past in read_histories(connection, {LEDGER_STREAM}, through=begin - 1):
                self._step(past)
        return self._step(recorded)

    def _step(self, recorded: Recorded) -> LedgerChange:
        position, event = recorded.position, recorded.event
        if recorded.version != self._version + 1:
            raise Corrupt(
                f"event {position}: the ledger's own stream has version {recorded.version} "
                f"after {self._version}",
                position=position,
            )
        if not isinstance(event, LedgerEvent):
            raise Corrupt(
                f"event {position}: {event.kind!r} is not an event of the ledger's own stream",
                position=position,
            )
        key = ledger_state.key_of(event)
        before = self._entries.get(key) or ledger_state.initial(key)
        after = ledger_state.evolve(before, event, position=position, at_ms=recorded.at_ms)
        self._entries[key] = after
        self._version = recorded.version
        return LedgerChange(recorded, before, after)


class Replay:
    """The changes that a history makes, in order.

    Args:
        connection: On a snapshot, or with the head locked.
        history: Events in order, in lists; the first need not be the ledger's first.
        remembered: Number of jobs to cache.
    """

    def __init__(
        self,
        connection: Connection,
        history: Iterable[Sequence[Recorded]],
        *,
        remembered: int = REMEMBERED,
    ) -> None:
        self._connection = connection
        self._history = history
        self._memory = Memory(remembered=remembered)

    def __iter__(self) -> Iterator[list[AnyChange]]:
        """Yield the changes in order, in lists.

        Raises:
            Corrupt: History contradicts itself.
        """
        with uncollected():
            for recorded in self._history:
                yield self._memory.fold(self._connection, recorded)
                self._memory.forget()


@contextmanager
def uncollected() -> Iterator[None]:
    """Disable the cyclic garbage collector.

    Each of its passes would walk all cached jobs and find nothing, because they hold no
    cycles.  The passes take half the time of a replay.
    """
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


def replay(
    connection: Connection,
    *,
    after: int = 0,
    through: int,
    content: bool = False,
    envelope: bool = False,
) -> Replay:
    """Return a replay of the stored history after *after*, up to *through*.

    Args:
        connection: On a snapshot, or with the head locked.
        after: Position after which to begin.
        through: Position at which to end.
        content: Whether to fill ``event.content``.
        envelope: Whether to fill ``stored``.
    """
    history = read_recorded(
        connection,
        after=after,
        through=through,
        batch=BATCH,
        content=content,
        envelope=envelope,
    )
    return Replay(connection, history)


def fold(
    connection: Connection,
    job_id: int,
    *,
    until_version: int | None = None,
    until_position: int | None = None,
) -> JobState:
    """Return the job that its own events make, up to a version or a position.

    Raises:
        Corrupt: Its history contradicts itself.
    """
    job = JobState(job_id)
    while True:
        envelopes = store.read_stream(connection, job_id, after=job.version)
        for envelope in envelopes:
            if until_version is not None and envelope.version > until_version:
                return job
            if until_position is not None and envelope.position > until_position:
                return job
            try:
                event = codec.decode(envelope.kind, envelope.schema, envelope.body)
            except Corrupt as error:
                at = envelope.position
                raise Corrupt(f"event {at}: {error}", position=at) from error
            job = evolve(job, event, position=envelope.position, at_ms=envelope.at_ms)
        if not envelopes:
            return job

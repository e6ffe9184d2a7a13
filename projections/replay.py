"""Replay history: fold the ledger's events into jobs, with bounded memory.

Whoever needs to know what each event changed asks a ``Replay``: the rebuild of a
projection, ``ledger verify``, the state of everything at a past moment.

It keeps the jobs that it met last.  A job that was dropped and comes up again is
folded anew from its own stream, which is right however rarely it happens, so
memory does not grow with the ledger.
"""

import gc
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final

from sqlalchemy import Connection

from ledger import codec, store
from ledger.errors import Corrupt
from ledger.job import Job, evolve
from ledger.record import Change, Recorded

# Told after each batch: events done, events in all.
Advance = Callable[[int, int], None]

# About 50 MB of jobs; events of one job mostly lie closer together than this.
REMEMBERED: Final = 50_000
BATCH: Final = 40_000


class Replay:
    """Fold history in order.

    Args:
        connection: On a snapshot, or with the head locked.
        history: All events from the first on, in order, in lists.
        remembered: How many jobs to keep at hand.
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
        self._remembered = remembered
        self._jobs: dict[int, Job] = {}

    def __iter__(self) -> Iterator[list[Change]]:
        """Yield the changes in order, in lists.

        Raises:
            Corrupt: History contradicts itself.
        """
        # Every pass of the cyclic collector walks all remembered jobs and finds
        # nothing: they hold no cycles.  It is half the time of a replay.
        collecting = gc.isenabled()
        gc.disable()
        try:
            yield from self._changes()
        finally:
            if collecting:
                gc.enable()

    def _changes(self) -> Iterator[list[Change]]:
        for recorded in self._history:
            changes = []
            jobs = self._jobs
            for event in recorded:
                position, job_id, version, at_ms, _, _, body = event
                before = jobs.get(job_id)
                if before is None:
                    before = self._recall(job_id, version)
                if version != before.version + 1:
                    raise Corrupt(
                        f"event {position}: job {job_id} has version {version} after "
                        f"{before.version}",
                        position=position,
                    )
                after = jobs[job_id] = evolve(before, body, position=position, at_ms=at_ms)
                changes.append(Change(event, before, after))
            yield changes
            self._forget()

    def _recall(self, job_id: int, version: int) -> Job:
        """Return the job as it was before *version*."""
        if version == 1:
            return Job(job_id)
        return fold(self._connection, job_id, until_version=version - 1)

    def _forget(self) -> None:
        """Drop the jobs that were met first, down to what may be remembered."""
        surplus = len(self._jobs) - self._remembered
        for job_id in list(self._jobs)[: max(0, surplus)]:
            del self._jobs[job_id]


def replay(connection: Connection, *, through: int) -> Replay:
    """Return the replay of the stored history up to position *through*."""
    return Replay(connection, store.replay(connection, through=through, batch=BATCH))


def fold(
    connection: Connection,
    job_id: int,
    *,
    until_version: int | None = None,
    until_position: int | None = None,
) -> Job:
    """Return the job as its own events made it, up to a version or a position.

    Raises:
        Corrupt: Its history contradicts itself.
    """
    job = Job(job_id)
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

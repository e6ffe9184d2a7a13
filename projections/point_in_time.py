"""The state at any position: the counts, or one job.

It is computed by folding history up to that position; no read model is used.
"""

from collections import Counter
from dataclasses import dataclass, field

from sqlalchemy import Connection

from ledger.log import store
from ledger.log.recorded import LEDGER_STREAM, of_jobs
from ledger.projections.models.job_json import Content, JobJson, filled, frame_of
from ledger.projections.replay import Advance, fold, replay
from ledger.rules.events import Completed


@dataclass(slots=True, kw_only=True)
class PastCounts:
    """The counts at a past position.

    Attributes:
        jobs: Number of jobs by type and state.
        work_ms: Time that completed jobs took, by type.
    """

    jobs: Counter[tuple[str, str]] = field(default_factory=Counter)
    work_ms: Counter[str] = field(default_factory=Counter)


def counts_at(connection: Connection, position: int, advance: Advance) -> PastCounts:
    """Return the counts right after event *position*.

    Args:
        connection: A connection on a snapshot.
        position: Position up to which to replay.
        advance: Called after each batch with the number of events done and the total.
    """
    past = PastCounts()
    for changes in replay(connection, through=position):
        for recorded, before, after in of_jobs(changes):
            if before.exists:
                past.jobs[before.type, before.state.value] -= 1
            if after.exists:
                past.jobs[after.type, after.state.value] += 1
            event = recorded.event
            if isinstance(event, Completed) and event.duration_ms:
                past.work_ms[after.type] += event.duration_ms
        advance(changes[-1].recorded.position, position)
    past.jobs = +past.jobs
    return past


def job_at(connection: Connection, job_id: int, position: int) -> JobJson | None:
    """Return the job's JSON right after event *position*, or None if there was no such job.

    Content that has been erased since then is missing here too.
    """
    if job_id == LEDGER_STREAM:
        return None
    job = fold(connection, job_id, until_position=position)
    if not job.exists:
        return None

    def content(at: int | None) -> str | None:
        return None if at is None else store.read_content(connection, at)

    contents = Content(
        content(job.data_position),
        content(job.result_position),
        content(job.progress_position),
        content(job.error_position),
    )
    return JobJson(position, filled(frame_of(job), contents))

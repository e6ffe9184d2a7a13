"""The JSON of answers: arrays of jobs, histories, logs and counts.

JSON that is stored, such as a job or the content of an event, is sent as it is.
"""

from collections.abc import Iterable, Sequence

import msgspec
from msgspec import Raw

from ledger.api import schemas
from ledger.api.schemas import Event, Worker
from ledger.log.store import Envelope
from ledger.log.times import iso_text
from ledger.projections.models import activity as activity_model
from ledger.projections.models import state_counts
from ledger.queue.presence import ListedWorker
from ledger.rules.job import LIVE_STATES
from ledger.rules.json_text import log_line

_encode = msgspec.json.encode


def history(envelopes: Iterable[Envelope]) -> bytes:
    """Return the JSON array of events, with the fields that a check of the hash chain needs."""
    return _encode([_event(envelope) for envelope in envelopes])


def _event(envelope: Envelope) -> Event:
    return Event(
        position=envelope.position,
        job_id=str(envelope.job_id),
        version=envelope.version,
        kind=envelope.kind,
        schema=envelope.schema,
        at=iso_text(envelope.at_ms),
        at_ms=envelope.at_ms,
        actor=envelope.actor,
        cause=envelope.cause,
        # Both are stored as JSON, and are sent as they are.
        body=Raw(envelope.body),
        content=Raw("null" if envelope.content is None else envelope.content),
        salt=_hex(envelope.salt),
        digest=_hex(envelope.digest),
        chain=_hex(envelope.chain),
    )


def activity(minutes: Iterable[activity_model.MinuteCounts]) -> bytes:
    """Return the JSON array of minutes."""
    return _encode(
        [
            schemas.Minute(
                at=iso_text(minute.minute_ms),
                at_ms=minute.minute_ms,
                created=minute.created,
                started=minute.started,
                completed=minute.completed,
                failed=minute.failed,
                work_ms=minute.work_ms,
            )
            for minute in minutes
        ]
    )


def _hex(value: bytes | None) -> str | None:
    return None if value is None else value.hex()


def log_lines(lines: Iterable[tuple[str, int, str | None]]) -> bytes:
    """Return the JSON array of a job's log: its lines, and one line per failure.

    A failure's line is the first line of its error, as in Kue.  Erased lines are left out.
    """
    return _encode([log_line(kind, text) for kind, _, text in lines if text is not None])


def claimed(json: str, attempt: int) -> str:
    """Return a job's JSON object with the attempt that its worker must name in its reports."""
    return f'{json[:-1]},"attempt":{attempt}}}'


def workers(listed: Iterable[ListedWorker]) -> bytes:
    """Return the JSON array of workers, with the number of jobs that each holds."""
    return _encode(
        [
            Worker(
                name=seen.name,
                types=seen.types,
                started_at=str(seen.started_at_ms),
                seen_at=str(seen.seen_at_ms),
                lease_ms=seen.lease_ms,
                jobs=held,
            )
            for seen, _, held in listed
        ]
    )


def stats(totals: state_counts.Totals) -> bytes:
    """Return the JSON object of the counts, in Kue's key order."""
    counts = {f"{state}_count": totals.counts[state] for state in LIVE_STATES}
    return _encode(schemas.Stats(**counts, work_time=totals.work_ms))


def ids(job_ids: Sequence[int]) -> bytes:
    """Return the JSON array of ids, which are strings in all answers to reads."""
    # An answer may have a thousand ids; converting each one took as long as the search itself.
    numbers = _encode(job_ids)[1:-1]
    return b'["%b"]' % numbers.replace(b",", b'","') if numbers else b"[]"


def encode(value: object) -> bytes:
    """Return *value* as JSON."""
    return _encode(value)

"""The JSON of jobs: Kue's JSON object, with its key order and its types.

A key that is not set is absent.  Ids, times and durations are strings, as in Kue's manual.
Content is sent byte for byte as it was received, and is stored only once.  So the text that
is stored ready to send is the text around it: a *frame* of four parts, with the content
between them.  A frame is written when its job changes, which happens a few times, and is
read with every request for the job.
"""

from functools import reduce
from operator import add
from typing import Final, NamedTuple

import msgspec
from sqlalchemy import (
    ColumnElement,
    Label,
    ScalarSelect,
    Table,
    case,
    func,
    literal,
    select,
)

from ledger.database.answer_bytes import ByteLength
from ledger.log import schema
from ledger.rules.job import JobState

_encode = msgspec.json.encode


class Frame(NamedTuple):
    """The text around a job's content, in columns of ``ledger_jobs``."""

    json_start: str
    json_priority: str
    json_state: str
    json_end: str


class Content(NamedTuple):
    """A job's content as JSON text; None where there is none or it was erased."""

    data: str | None
    result: str | None
    progress_data: str | None
    error: str | None


class JobJson(NamedTuple):
    """The JSON of a job at one ledger position.

    Attributes:
        position: The ledger's position at that moment.
        json: The job's JSON object.
        chain: The chain value of that position; empty for a past one.
    """

    position: int
    json: str
    chain: bytes = b""


class JobPage(NamedTuple):
    """A page of a list of jobs at one ledger position.

    Attributes:
        position: The ledger's position at that moment.
        json: The array of the jobs' JSON objects.
        chain: The chain value of that position.
        jobs: How many jobs it has.
        left: How many more were asked for that do not fit into an answer; they follow these.
    """

    position: int
    json: str
    chain: bytes
    jobs: int
    left: int


def filled(frame: Frame, content: Content) -> str:
    """Return a job's JSON object, as ``json_of`` does in the database."""
    data, result, progress_data, error = content
    return "".join(
        (
            frame.json_start,
            "{}" if data is None else data,
            "" if result is None else f',"result":{result}',
            frame.json_priority,
            "" if progress_data is None else f',"progress_data":{progress_data}',
            frame.json_state,
            "" if error is None else f',"error":{error}',
            frame.json_end,
        )
    )


def json_of(jobs: Table) -> Label[str]:
    """Return the column with a job's JSON object, which the database concatenates.

    Content is read by subselects, not joins: jobs that are skipped need none.
    """

    def content(name: str) -> ColumnElement[str]:
        return func.coalesce(literal(_key(name)) + _content(jobs, name), "")

    json: ColumnElement[str] = (
        jobs.c.json_start
        + func.coalesce(_content(jobs, "data"), "{}")
        + content("result")
        + jobs.c.json_priority
        + content("progress")
        + jobs.c.json_state
        + content("error")
        + jobs.c.json_end
    )
    return json.label("json")


def bytes_of(jobs: Table, data: ColumnElement[str] | None = None) -> ColumnElement[int]:
    """Return the number of bytes of a job's JSON object, and a comma or a few more, as SQL.

    Args:
        jobs: The table.
        data: The job's data, if the statement reads it anyway.
    """
    parts: list[ColumnElement[int]] = [ByteLength(jobs.c[name]) for name in Frame._fields]
    if data is None:
        data = _content(jobs, "data")
    parts.append(ByteLength(func.coalesce(data, "{}")) + 1)
    parts += [
        # Most jobs have none of them.
        case(
            (
                jobs.c[f"{name}_position"].is_not(None),
                ByteLength(_content(jobs, name)) + len(_key(name)),
            ),
            else_=0,
        )
        for name in ("result", "progress", "error")
    ]
    return reduce(add, parts)


def _key(name: str) -> str:
    """Return the text before a content that is not always there."""
    return f',"{_KEYS.get(name, name)}":'


def _content(jobs: Table, name: str) -> ScalarSelect[str]:
    """Return the content that a job's row points to, as SQL."""
    events = schema.events
    found = select(events.c.content).where(events.c.position == jobs.c[f"{name}_position"])
    return found.scalar_subquery()


_KEYS: Final = {"progress": "progress_data"}


def frame_of(job: JobState) -> Frame:
    """Return the frame of a job's JSON object."""
    progress = "0" if job.progress is None else f'"{job.progress}"'
    failed = "" if job.failed_at_ms is None else f',"failed_at":"{job.failed_at_ms}"'
    started = "" if job.started_at_ms is None else f',"started_at":"{job.started_at_ms}"'
    duration = "" if job.duration_ms is None else f',"duration":"{job.duration_ms}"'
    delay = "" if job.delay_ms is None else f',"delay":"{job.delay_ms}"'
    worker = "" if job.worker is None else f',"workerId":{_encode(job.worker).decode()}'
    ttl = "" if job.ttl_ms is None else f',"ttl":"{job.ttl_ms}"'
    made, most = job.made, job.max_attempts
    return Frame(
        f'{{"id":"{job.id}","type":{_encode(job.type).decode()},"data":',
        f',"priority":{job.priority},"progress":{progress}',
        f',"state":"{job.state}"',
        f',"created_at":"{job.created_at_ms}","promote_at":"{job.promote_at_ms}"'
        f',"updated_at":"{job.updated_at_ms}"{failed}{started}{duration}{delay}{worker}{ttl}'
        f',"attempts":{{"made":{made},"remaining":{most - made},"max":{most}}}}}',
    )

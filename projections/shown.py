"""Write jobs as they are shown: Kue's JSON object, its key order, its types.

A key that is not set is absent.  Ids, times and durations are strings, as in Kue's
manual.  Content goes out byte for byte as it came in, and is kept in one place only,
so what is ready to send is the text around it: a *frame*, four lines between which
content belongs.  (A line feed within a JSON string is escaped, so it can part them.)

A frame is written when the job changes, which happens a few times, and read whenever
somebody looks: a list of twenty jobs takes less than half the time so.
"""

from typing import NamedTuple

import msgspec

from ledger.job import Job

_encode = msgspec.json.encode


class ShownJob(NamedTuple):
    """Be a job's frame with its content.

    Content is JSON text, None where there is none or it was erased.

    Attributes:
        ledger_position: The ledger's position at the moment that is shown.
    """

    frame: str
    data: str | None
    result: str | None
    progress_data: str | None
    error: str | None
    ledger_position: int

    @property
    def json(self) -> str:
        """Return the job's JSON object."""
        frame, data, result, progress_data, error, _ = self
        before, after_result, after_progress, after_error = frame.split("\n")
        return "".join(
            (
                before,
                "{}" if data is None else data,
                "" if result is None else f',"result":{result}',
                after_result,
                "" if progress_data is None else f',"progress_data":{progress_data}',
                after_progress,
                "" if error is None else f',"error":{error}',
                after_error,
            )
        )


def frame(job: Job) -> str:
    """Return the frame of a job's JSON object."""
    progress = "0" if job.progress is None else f'"{job.progress}"'
    times = "".join(
        f',"{name}":"{value}"'
        for name, value in (
            ("failed_at", job.failed_at_ms),
            ("started_at", job.started_at_ms),
            ("duration", job.duration_ms),
            ("delay", job.delay_ms),
        )
        if value is not None
    )
    worker = "" if job.worker is None else f',"workerId":{_encode(job.worker).decode()}'
    ttl = "" if job.ttl_ms is None else f',"ttl":"{job.ttl_ms}"'
    made, most = job.made, job.max_attempts
    return (
        f'{{"id":"{job.id}","type":{_encode(job.type).decode()},"data":\n'
        f',"priority":{job.priority},"progress":{progress}\n'
        f',"state":"{job.state}"\n'
        f',"created_at":"{job.created_at_ms}","promote_at":"{job.promote_at_ms}"'
        f',"updated_at":"{job.updated_at_ms}"{times}{worker}{ttl}'
        f',"attempts":{{"made":{made},"remaining":{most - made},"max":{most}}}}}'
    )

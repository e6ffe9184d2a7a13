"""Name what the ledger hands around: a recorded event, and the change it made."""

from typing import Final, NamedTuple

from ledger.rules.events import Event
from ledger.rules.job import JobState

# The stream of what concerns no single job.
LEDGER_STREAM: Final = 0


class Recorded(NamedTuple):
    """Be an event with its place in history: the envelope, decoded.

    Attributes:
        position: Place in the ledger: 1, 2, 3 … without gaps, in commit order.
        job_id: The stream; 0 is the ledger's own.
        version: Place in the stream: 1, 2, 3 …
        at_ms: UTC milliseconds, never less than its predecessor's.
        actor: Who: ``token:NAME``, ``worker:HOST:PID:N``, ``cli:USER``,
            ``sweeper``, ``anonymous``.
        cause: Why: a request id, a lease, the command line; None if unknown.
    """

    position: int
    job_id: int
    version: int
    at_ms: int
    actor: str
    cause: str | None
    event: Event


class Change(NamedTuple):
    """Be what a projection is told: an event, and the job on both sides of it."""

    recorded: Recorded
    before: JobState
    after: JobState

"""What the log hands around: a recorded event, and the change that it made."""

from collections.abc import Sequence
from typing import Final, NamedTuple

from ledger.rules.events import Event
from ledger.rules.job import JobState
from ledger.rules.ledger_state import Entry

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
    """What a projection is told of a job: an event, and the job on both sides of it."""

    recorded: Recorded
    before: JobState
    after: JobState


class LedgerChange(NamedTuple):
    """What a projection is told of the ledger itself: an event, and the entry that it names."""

    recorded: Recorded
    before: Entry
    after: Entry


AnyChange = Change | LedgerChange


def of_jobs(changes: Sequence[AnyChange]) -> list[Change]:
    """Return those of *changes* that happened to jobs, in order."""
    return [change for change in changes if isinstance(change, Change)]


def of_ledger(changes: Sequence[AnyChange]) -> list[LedgerChange]:
    """Return those of *changes* that happened to the ledger itself, in order."""
    return [change for change in changes if isinstance(change, LedgerChange)]

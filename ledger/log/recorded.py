"""A recorded event, and the change that it made."""

from collections.abc import Sequence
from typing import Final, NamedTuple

from ledger.rules.events import Event
from ledger.rules.job import JobState
from ledger.rules.ledger_state import Entry

# The stream of events that concern no single job.
LEDGER_STREAM: Final = 0


class Recorded(NamedTuple):
    """An event with its place in history: the decoded envelope.

    Attributes:
        position: Place in the ledger: 1, 2, 3 … without gaps, in commit order.
        job_id: The stream; 0 is the ledger's own.
        version: Place in the stream: 1, 2, 3 …
        at_ms: UTC milliseconds, never less than those of the event before.
        actor: Who caused it: ``token:NAME``, ``worker:HOST:PID:N``, ``cli:USER``,
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
    """A change of a job, as projections receive it: an event, and the job before and after."""

    recorded: Recorded
    before: JobState
    after: JobState


class LedgerChange(NamedTuple):
    """A change of the ledger itself: an event, and the entry that it names before and after."""

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

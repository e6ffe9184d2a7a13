"""A recorded event, and the change that it made."""

from collections.abc import Sequence
from typing import Final, NamedTuple, cast

from ledger.log import hash_chain
from ledger.rules.events import Event
from ledger.rules.job import JobState
from ledger.rules.ledger_state import Entry

# The stream of events that concern no single job.
LEDGER_STREAM: Final = 0


class Stored(NamedTuple):
    """What is stored of an event besides what ``Recorded`` has decoded.

    Attributes:
        body: JSON text, byte for byte as the chain covers it.
        digest: Salted digest of the content, 32 bytes; None if there never was any.
    """

    schema: int
    body: str
    digest: bytes | None


class Recorded(NamedTuple):
    """An event with its place in history: the decoded envelope.

    Attributes:
        position: Place in the ledger: 1, 2, 3 … without gaps, in commit order.
        job_id: The stream; 0 is the ledger's own.
        version: Place in the stream: 1, 2, 3 …
        at_ms: UTC milliseconds, never less than those of the event before.
        actor: Who caused it: ``token:NAME``, ``worker:HOST:PID:RANDOM``, ``cli:USER``,
            ``sweeper``, ``anonymous``.
        cause: Why: a request id, a lease, the command line; None if unknown.
        stored: The rest of the envelope, for those that set ``wants_envelope``.
    """

    position: int
    job_id: int
    version: int
    at_ms: int
    actor: str
    cause: str | None
    event: Event
    stored: Stored | None = None

    @property
    def leaf(self) -> bytes:
        """Return the event's leaf, 32 bytes: the hash that the chain is made of.

        It is the leaf hash of RFC 6962, section 2.1, over the event's permanent columns.

        Raises:
            ValueError: The envelope was not asked for, with ``wants_envelope``.
        """
        if self.stored is None:
            raise ValueError("the leaf needs the envelope: set wants_envelope = True")
        return hash_chain.leaf(
            position=self.position,
            job_id=self.job_id,
            version=self.version,
            kind=self.event.kind,
            schema=self.stored.schema,
            at_ms=self.at_ms,
            actor=self.actor,
            cause=self.cause,
            body=self.stored.body,
            digest=self.stored.digest,
        )


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
    """Return those of *changes* that happened to jobs, in order; the list is the caller's."""
    # Each read model asks, and few batches have a change of the ledger: copying is much faster.
    if LedgerChange not in map(type, changes):
        return cast("list[Change]", [*changes])
    return [change for change in changes if isinstance(change, Change)]


def of_ledger(changes: Sequence[AnyChange]) -> list[LedgerChange]:
    """Return those of *changes* that happened to the ledger itself, in order."""
    return [change for change in changes if isinstance(change, LedgerChange)]

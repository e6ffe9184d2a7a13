"""List what can happen to a job: one frozen class an event, in the past tense.

What concerns no single job, such as the pause of a type, happens to the ledger itself: a
``LedgerEvent``, in stream 0.

An event's fields are its *body*: what the rules need to replay, kept for ever.
``content`` is what users put in (the job's data, a result, an error, a log
line, progress data) as JSON text, exactly as it was posted; it is stored beside
the body, may be absent, and can be erased without breaking anything.

``kind`` and ``schema`` are what is stored.  They are literals: renaming a class
never touches history.  A new shape is a new ``schema`` and an upcaster in
``codec.py``; an event that was written is never edited.
"""

from enum import StrEnum
from typing import ClassVar, Literal

from msgspec import Struct, json, structs

MovedTo = Literal["inactive", "delayed", "active", "complete", "failed"]
BackoffType = Literal["repeat", "fixed", "exponential"]


class Event(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Be what all events share.

    Attributes:
        content: JSON text that users put in; None where there is none.
    """

    kind: ClassVar[str]
    schema: ClassVar[int] = 1

    content: str | None = None


class Subject(StrEnum):
    """What an event of the ledger itself is about."""

    TYPE = "type"


class LedgerEvent(Event, frozen=True, kw_only=True, omit_defaults=True):
    """What all events of the ledger itself share: each names one entry of its state.

    Attributes:
        subject: What the entry is about.
        named_by: The field that holds the entry's name.
    """

    subject: ClassVar[Subject]
    named_by: ClassVar[str]

    @property
    def name(self) -> str:
        """Return the name of the entry."""
        name: str = getattr(self, self.named_by)
        return name

    @property
    def facts(self) -> str:
        """Return what the event says besides the name, a JSON object."""
        said = structs.asdict(self)
        del said[self.named_by], said["content"]
        return json.encode(said, order="deterministic").decode()


class Backoff(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Say how long a job waits between a failure and the next try.

    Attributes:
        type: ``repeat`` waits the job's own delay again, ``fixed`` always
            ``delay_ms``, ``exponential`` longer after every failure.
        delay_ms: The wait, or its first step times two.
        max_delay_ms: Upper bound of the exponential's growth.
    """

    type: BackoffType
    delay_ms: int = 0
    max_delay_ms: int | None = None


class Created(Event, frozen=True, kw_only=True, omit_defaults=True):
    """A job came to be; its content is the job's data.

    Attributes:
        promote_at_ms: When its delay is over; None if it may run at once.
        search_keys: Paths into the data to index; None means all of it.
        unique: The key that makes a second creation answer this job.
    """

    kind = "created"

    type: str
    priority: int = 0
    attempts: int = 1
    delay_ms: int | None = None
    promote_at_ms: int | None = None
    ttl_ms: int | None = None
    backoff: Backoff | None = None
    remove_on_complete: bool = False
    search_keys: tuple[str, ...] | None = None
    unique: str | None = None


class Started(Event, frozen=True, kw_only=True, omit_defaults=True):
    """A worker took the job: attempt number ``attempt`` runs.

    Attributes:
        expires_at_ms: When the attempt fails for want of a sign of life.
    """

    kind = "started"

    attempt: int
    worker: str | None = None
    expires_at_ms: int | None = None


class Progressed(Event, frozen=True, kw_only=True, omit_defaults=True):
    """The attempt came to ``progress`` per cent; its content is progress data.

    Attributes:
        has_data: Whether there was content, which replay does not see.
    """

    kind = "progressed"

    attempt: int
    progress: int
    has_data: bool = False
    expires_at_ms: int | None = None


class Logged(Event, frozen=True, kw_only=True, omit_defaults=True):
    """The attempt wrote a line; its content is the line, a JSON string."""

    kind = "logged"

    attempt: int


class Completed(Event, frozen=True, kw_only=True, omit_defaults=True):
    """The attempt succeeded; its content is the result.

    Attributes:
        duration_ms: From the attempt's start; None if no start is known.
    """

    kind = "completed"

    attempt: int
    duration_ms: int | None = None


class Failed(Event, frozen=True, kw_only=True, omit_defaults=True):
    """The attempt failed; its content is the error, a JSON string.

    What follows from it is recorded with it, so that replay decides nothing.

    Attributes:
        next: The state that follows: ``inactive``, ``delayed`` or ``failed``.
        reason: ``error`` was reported, the attempt's ``ttl`` ran out, or its worker
            was ``lost``: silent for longer than the lease.
        delay_ms: The wait before the next try, where the job waits.
        promote_at_ms: When that wait is over.
    """

    kind = "failed"

    attempt: int
    next: Literal["inactive", "delayed", "failed"]
    reason: Literal["error", "ttl", "lost"] = "error"
    delay_ms: int | None = None
    promote_at_ms: int | None = None


class Returned(Event, frozen=True, kw_only=True, omit_defaults=True):
    """The worker gave the job back unfinished; it waits again, no try is used up.

    Attributes:
        reason: Why, in the worker's words.
    """

    kind = "returned"

    attempt: int
    reason: str


class Promoted(Event, frozen=True, kw_only=True, omit_defaults=True):
    """The job's delay is over."""

    kind = "promoted"


class Moved(Event, frozen=True, kw_only=True, omit_defaults=True):
    """An operator set the state by hand.

    Attributes:
        attempt: The attempt that begins, if the job was moved to ``active``.
        expires_at_ms: When that attempt expires.
    """

    kind = "moved"

    to: MovedTo
    attempt: int | None = None
    expires_at_ms: int | None = None


class Reprioritized(Event, frozen=True, kw_only=True, omit_defaults=True):
    """The job's priority changed; the lower the number, the sooner it runs."""

    kind = "reprioritized"

    priority: int


class Removed(Event, frozen=True, kw_only=True, omit_defaults=True):
    """The job left every view; its history stays.

    Attributes:
        reason: ``asked`` by someone, or ``complete``: it was created with
            ``removeOnComplete``.
    """

    kind = "removed"

    reason: Literal["asked", "complete"] = "asked"


class Erased(Event, frozen=True, kw_only=True, omit_defaults=True):
    """The content of earlier events of the job is gone for good.

    Attributes:
        versions: Which of the job's events; None means all before this one.
        reason: Why, in the words of who asked; must not repeat what is erased.
    """

    kind = "erased"

    versions: tuple[int, ...] | None = None
    reason: str | None = None


class Paused(LedgerEvent, frozen=True, kw_only=True, omit_defaults=True):
    """No worker begins a job of that type until it is resumed."""

    kind = "paused"
    subject = Subject.TYPE
    named_by = "type"

    type: str


class Resumed(LedgerEvent, frozen=True, kw_only=True, omit_defaults=True):
    """Workers may begin jobs of that type again."""

    kind = "resumed"
    subject = Subject.TYPE
    named_by = "type"

    type: str


# The only list of what can happen.  Its order is the order of the manual.
EVENTS: tuple[type[Event], ...] = (
    Created,
    Started,
    Progressed,
    Logged,
    Completed,
    Failed,
    Removed,
    Promoted,
    Moved,
    Reprioritized,
    Erased,
    Returned,
    Paused,
    Resumed,
)

"""The events that can happen to a job: one frozen class each, named in the past tense.

An event that concerns no single job, such as the pause of a type, happens to the ledger
itself.  It is a ``LedgerEvent``, in stream 0.

An event's fields are its *body*: what the rules need for a replay, kept forever.
``content`` is what users put in (the job's data, a result, an error, a log line, progress
data) as JSON text, exactly as it was posted.  It is stored beside the body, may be absent,
and can be erased without effect on replay or hash chain.

``kind`` and ``schema`` are what is stored.  They are literals, so renaming a class does
not affect history.  A new shape needs a new ``schema`` and an upcaster in ``log.codec``;
an event is never edited after it was written.
"""

from enum import StrEnum
from typing import ClassVar, Final, Literal

from msgspec import Struct, json, structs

MovedTo = Literal["inactive", "delayed", "active", "complete", "failed"]
BackoffType = Literal["repeat", "fixed", "exponential"]


# What this version can read.  It is raised with each release that adds a kind or a schema of
# events, and these events then have it as their ``reader_version``.
READER_VERSION: Final = 1


class Event(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The base class of all events.

    Attributes:
        content: JSON text that users put in; None if there is none.
    """

    kind: ClassVar[str]
    schema: ClassVar[int] = 1
    # The lowest READER_VERSION that knows this kind and schema.
    reader_version: ClassVar[int] = 1

    content: str | None = None


class Subject(StrEnum):
    """The kind of thing that an event of the ledger itself describes."""

    TYPE = "type"


class LedgerEvent(Event, frozen=True, kw_only=True, omit_defaults=True):
    """The base class of events of the ledger itself; each names one entry of its state.

    Attributes:
        subject: The kind of thing that the entry describes.
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
        """Return the event's fields without the name and the content, as a JSON object."""
        said = structs.asdict(self)
        del said[self.named_by], said["content"]
        return json.encode(said, order="deterministic").decode()


class Backoff(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The wait between a failure and the next attempt.

    Attributes:
        type: ``repeat`` waits the job's own delay again, ``fixed`` always waits
            ``delay_ms``, ``exponential`` waits longer after every failure.
        delay_ms: The wait if ``fixed``; twice the first wait if ``exponential``.
        max_delay_ms: Limits the growth if ``exponential``; None for no limit.
    """

    type: BackoffType
    delay_ms: int = 0
    max_delay_ms: int | None = None


class RequestKey(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The place of a job in a request that its sender may repeat.

    Attributes:
        key: The ``Idempotency-Key`` of the request.
        place: The job's index in the array of jobs; 0 if the request is no array.
        jobs: The length of the array; None if the request is no array.
    """

    key: str
    place: int = 0
    jobs: int | None = None


class Created(Event, frozen=True, kw_only=True, omit_defaults=True):
    """A job was created; the content is the job's data.

    Attributes:
        promote_at_ms: When its delay is over; None if it may run at once.
        search_keys: Paths into the data to index; None means all of it.
        unique: A key; a second creation with the same key returns this job.
        request: The request that created the job, if it has a key; a repetition of it returns
            this job, and another request with that key is refused.
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
    request: RequestKey | None = None


class Started(Event, frozen=True, kw_only=True, omit_defaults=True):
    """A worker started the job: attempt number ``attempt`` runs.

    Attributes:
        expires_at_ms: When the attempt fails unless it reports progress; None for never.
    """

    kind = "started"

    attempt: int
    worker: str | None = None
    expires_at_ms: int | None = None


class Progressed(Event, frozen=True, kw_only=True, omit_defaults=True):
    """The attempt reached ``progress`` per cent; the content is progress data.

    Attributes:
        has_data: Whether there was content, which a replay does not read.
    """

    kind = "progressed"

    attempt: int
    progress: int
    has_data: bool = False
    expires_at_ms: int | None = None


class Logged(Event, frozen=True, kw_only=True, omit_defaults=True):
    """The attempt wrote a line to its log; the content is the line, a JSON string."""

    kind = "logged"

    attempt: int


class Completed(Event, frozen=True, kw_only=True, omit_defaults=True):
    """The attempt succeeded; the content is the result.

    Attributes:
        duration_ms: Time since the attempt's start; None if no start is known.
    """

    kind = "completed"

    attempt: int
    duration_ms: int | None = None


class Failed(Event, frozen=True, kw_only=True, omit_defaults=True):
    """The attempt failed; the content is the error, a JSON string.

    The state that follows is recorded with it, so that a replay decides nothing.

    Attributes:
        next: The state that follows: ``inactive``, ``delayed`` or ``failed``.
        reason: ``error`` if an error was reported, ``ttl`` if the attempt's ttl ran out,
            ``lost`` if its worker was silent for longer than the lease.
        delay_ms: The wait before the next attempt; None if the job does not wait.
        promote_at_ms: When that wait is over.
    """

    kind = "failed"

    attempt: int
    next: Literal["inactive", "delayed", "failed"]
    reason: Literal["error", "ttl", "lost"] = "error"
    delay_ms: int | None = None
    promote_at_ms: int | None = None


class Returned(Event, frozen=True, kw_only=True, omit_defaults=True):
    """The worker returned the job unfinished; it waits again and no attempt is used up.

    Attributes:
        reason: Why, as the worker put it.
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
        attempt: The attempt that starts, if the job was moved to ``active``.
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
    """The job was removed from every view; its history stays.

    Attributes:
        reason: ``asked`` if someone requested it, ``complete`` if the job completed and
            was created with ``removeOnComplete``.
    """

    kind = "removed"

    reason: Literal["asked", "complete"] = "asked"


class Erased(Event, frozen=True, kw_only=True, omit_defaults=True):
    """The content of earlier events of the job was erased permanently.

    Attributes:
        versions: Versions of the erased events; None means all before this one.
        reason: Why, as the person who asked put it; must not repeat the erased content.
    """

    kind = "erased"

    versions: tuple[int, ...] | None = None
    reason: str | None = None


class Paused(LedgerEvent, frozen=True, kw_only=True, omit_defaults=True):
    """Workers stopped starting jobs of the type, until it is resumed."""

    kind = "paused"
    subject = Subject.TYPE
    named_by = "type"

    type: str


class Resumed(LedgerEvent, frozen=True, kw_only=True, omit_defaults=True):
    """Workers may start jobs of the type again."""

    kind = "resumed"
    subject = Subject.TYPE
    named_by = "type"

    type: str


# The only list of events.  The documentation lists them in the same order.
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

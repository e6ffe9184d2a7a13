"""List what can be asked of the ledger: one frozen class a command, imperative.

A command that exists is well formed: bad values raise ``InvalidInput`` here,
before anything is locked.  Whether the job's state allows it is decided later,
in ``job.decide``.
"""

from dataclasses import dataclass
from typing import Literal

from ledger.errors import InvalidInput
from ledger.events import Backoff

# Every number on the wire is exact in every JSON reader up to here (RFC 8259, 6).
LARGEST_INTEGER = 2**53 - 1
LONGEST_TYPE = 255
LONGEST_KEY = 255
COMPLETE_PERCENT = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Create:
    """Create a job.

    Attributes:
        type: 1 to 255 characters.
        data: JSON text, checked by ``content.text``.
        priority: The lower, the sooner.
        attempts: How often it may run, at least 1.
        delay_ms: Wait before it may run, greater than 0.
        ttl_ms: How long an attempt may go without progress, greater than 0.
        search_keys: Paths into the data to index; None means all of it.
        unique: At most one job is ever created with this key.
    """

    type: str
    data: str = "{}"
    priority: int = 0
    attempts: int = 1
    delay_ms: int | None = None
    ttl_ms: int | None = None
    backoff: Backoff | None = None
    remove_on_complete: bool = False
    search_keys: tuple[str, ...] | None = None
    unique: str | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.type, str) or not 0 < len(self.type) <= LONGEST_TYPE:
            raise InvalidInput.expected("type", f"1 to {LONGEST_TYPE} characters", self.type)
        storable("type", self.type)
        integer("priority", self.priority, least=-LARGEST_INTEGER)
        integer("attempts", self.attempts, least=1)
        if self.delay_ms is not None:
            integer("delay", self.delay_ms, least=1)
        if self.ttl_ms is not None:
            integer("ttl", self.ttl_ms, least=1)
        for key in self.search_keys or ():
            storable("searchKeys", key)
        if self.unique is not None:
            if not 0 < len(self.unique) <= LONGEST_KEY:
                raise InvalidInput.expected("unique", f"1 to {LONGEST_KEY} characters", self.unique)
            storable("unique", self.unique)


@dataclass(frozen=True, slots=True, kw_only=True)
class OnJob:
    """Be what all commands on an existing job share."""

    job_id: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Start(OnJob):
    """Begin the next attempt, by the worker of that name."""

    worker: str | None = None

    def __post_init__(self) -> None:
        if self.worker is not None:
            storable("worker", self.worker)


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress(OnJob):
    """Report how far the attempt is, in whole per cent; ``data`` is JSON text."""

    attempt: int
    progress: int
    data: str | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.progress <= COMPLETE_PERCENT:
            raise InvalidInput.expected("progress", "a whole number 0 to 100", self.progress)


@dataclass(frozen=True, slots=True, kw_only=True)
class Log(OnJob):
    """Write a line of the attempt's log; ``line`` is a JSON string."""

    attempt: int
    line: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Complete(OnJob):
    """Report success; ``result`` is JSON text, None where there is none."""

    attempt: int
    result: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Fail(OnJob):
    """Report a failed attempt; ``error`` is a JSON string."""

    attempt: int
    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Elapse(OnJob):
    """Let time take effect: a delay that is over, a ttl that has run out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Move(OnJob):
    """Set the state by hand."""

    to: Literal["inactive", "delayed", "active", "complete", "failed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reprioritize(OnJob):
    """Set the priority; the lower, the sooner."""

    priority: int

    def __post_init__(self) -> None:
        integer("priority", self.priority, least=-LARGEST_INTEGER)


@dataclass(frozen=True, slots=True, kw_only=True)
class Remove(OnJob):
    """Take the job out of every view; its history stays."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Erase(OnJob):
    """Erase the content of the job's events, all of them or those *versions*."""

    versions: tuple[int, ...] | None = None
    reason: str | None = None

    def __post_init__(self) -> None:
        if self.reason is not None:
            storable("reason", self.reason)


Command = Create | OnJob


def integer(field: str, value: object, *, least: int) -> int:
    """Return *value* if it is an integer from *least* to 2**53 - 1.

    Raises:
        InvalidInput: It is not.
    """
    if type(value) is not int or not least <= value <= LARGEST_INTEGER:
        bounds = f"an integer from {least} to {LARGEST_INTEGER}"
        raise InvalidInput.expected(field, bounds, value)
    return value


def storable(field: str, text: str) -> None:
    """Refuse text that no database holds exactly: NUL and lone surrogates.

    Raises:
        InvalidInput: *text* holds one.
    """
    if "\0" in text or not text.isascii() and any("\ud800" <= c <= "\udfff" for c in text):
        raise InvalidInput.expected(field, "text without NUL and lone surrogates", text)

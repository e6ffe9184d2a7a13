"""The commands that the ledger accepts: one frozen class each, named in the imperative.

A command that exists is well formed: its constructor raises ``InvalidInput`` for invalid
values, before anything is locked.  Whether the job's state allows the command is decided
later, in ``rules.decide``.
"""

import math
from collections.abc import Mapping
from typing import ClassVar, get_args

from msgspec import Struct

from ledger.errors import InvalidInput
from ledger.rules.events import Backoff, BackoffType, MovedTo, RequestKey, Subject

# The largest integer that every JSON parser reads exactly (RFC 8259, section 6).
LARGEST_INTEGER = 2**53 - 1
LONGEST_TYPE = 255
LONGEST_KEY = 255
# An actor has at most 255 characters, and a worker's actor is "worker:" and its name.
LONGEST_WORKER = 240
COMPLETE_PERCENT = 100
# In characters, of up to four bytes.  PostgreSQL gets a row as one text, of at most 1 GB.
LARGEST_CONTENT = 64 * 1024 * 1024
# In characters of JSON text: a result, a log line, progress data, an error.  Less than what can be
# stored, because a worker encodes and sends it while its other jobs need the interpreter.
LARGEST_REPORT = 16 * 1024 * 1024
# In characters: Ledger cuts a Python handler's error, and its first line, to these lengths.
LONGEST_ERROR = 64 * 1024
LONGEST_ERROR_LINE = 1_000


class Create(Struct, frozen=True, kw_only=True):
    """Create a job.

    Attributes:
        type: 1 to 255 characters.
        data: JSON text, checked by ``json_text.text``.
        priority: The lower the number, the sooner the job runs.
        attempts: How often the job may run, at least 1.
        delay_ms: Wait before the job may run, greater than 0; None for no wait.
        run_at_ms: When the job may run, UTC milliseconds, in place of ``delay_ms``; a time in
            the past is no wait.
        ttl_ms: How long an attempt may go without progress, greater than 0; None for no limit.
        search_keys: Paths into the data to index; None means all of it.
        unique: A key of 1 to 255 characters; at most one job is ever created with it.
        request: The request that asks for the job, if it has a key, of 1 to 255 characters
            without line breaks.
    """

    type: str
    data: str = "{}"
    priority: int = 0
    attempts: int = 1
    delay_ms: int | None = None
    run_at_ms: int | None = None
    ttl_ms: int | None = None
    backoff: Backoff | None = None
    remove_on_complete: bool = False
    search_keys: tuple[str, ...] | None = None
    unique: str | None = None
    request: RequestKey | None = None

    def __post_init__(self) -> None:
        storable("type", self.type)
        if not 0 < len(self.type) <= LONGEST_TYPE:
            raise InvalidInput.expected("type", f"1 to {LONGEST_TYPE} characters", self.type)
        storable("data", self.data)
        integer("priority", self.priority, least=-LARGEST_INTEGER)
        integer("attempts", self.attempts, least=1)
        if self.delay_ms is not None:
            integer("delay", self.delay_ms, least=1)
        if self.run_at_ms is not None:
            integer("delay", self.run_at_ms, least=0)
            if self.delay_ms is not None:
                raise InvalidInput("delay", "delay: expected a wait or a time, got both")
        if self.ttl_ms is not None:
            integer("ttl", self.ttl_ms, least=1)
        if self.backoff is not None:
            _check_backoff(self.backoff)
        for key in self.search_keys or ():
            storable("searchKeys", key)
        if self.unique is not None or self.request is not None:
            _check_keys(self.unique, self.request)


def _check_keys(unique: str | None, request: RequestKey | None) -> None:
    if unique is not None:
        storable("unique", unique)
        if not 0 < len(unique) <= LONGEST_KEY:
            raise InvalidInput.expected("unique", f"1 to {LONGEST_KEY} characters", unique)
    if request is not None:
        storable("request", request.key)
        # Names of a request's jobs consist of its key, a line break and a number.
        if not 0 < len(request.key) <= LONGEST_KEY or "\n" in request.key:
            expected = f"a key of 1 to {LONGEST_KEY} characters without line breaks"
            raise InvalidInput.expected("request", expected, request.key)


class OnJob(Struct, frozen=True, kw_only=True):
    """The base class of all commands on an existing job."""

    job_id: int

    def __post_init__(self) -> None:
        # Without bounds: an id that no job can have is reported as a job that does not exist.
        if type(self.job_id) is not int:
            raise InvalidInput.expected("job_id", "an integer", self.job_id)


class OnAttempt(OnJob, frozen=True, kw_only=True):
    """The base class of all reports on a running attempt."""

    attempt: int

    def __post_init__(self) -> None:
        OnJob.__post_init__(self)
        integer("attempt", self.attempt, least=0)


class Start(OnJob, frozen=True, kw_only=True):
    """Start the next attempt; ``worker`` is the name of the worker that runs it."""

    worker: str | None = None

    def __post_init__(self) -> None:
        OnJob.__post_init__(self)
        if self.worker is not None:
            storable("worker", self.worker)


class Progress(OnAttempt, frozen=True, kw_only=True):
    """Report the progress of the attempt in whole per cent; ``data`` is JSON text."""

    progress: int
    data: str | None = None

    def __post_init__(self) -> None:
        OnAttempt.__post_init__(self)
        if type(self.progress) is not int or not 0 <= self.progress <= COMPLETE_PERCENT:
            raise InvalidInput.expected("progress", "an integer from 0 to 100", self.progress)
        if self.data is not None:
            storable("progress data", self.data, most=LARGEST_REPORT)


class Log(OnAttempt, frozen=True, kw_only=True):
    """Write a line to the attempt's log; ``line`` is a JSON string."""

    line: str

    def __post_init__(self) -> None:
        OnAttempt.__post_init__(self)
        storable("line", self.line, most=LARGEST_REPORT)


class Complete(OnAttempt, frozen=True, kw_only=True):
    """Report success; ``result`` is JSON text, None if there is no result."""

    result: str | None = None

    def __post_init__(self) -> None:
        OnAttempt.__post_init__(self)
        if self.result is not None:
            storable("result", self.result, most=LARGEST_REPORT)


class FailAttempt(OnAttempt, frozen=True, kw_only=True):
    """Report a failed attempt.

    Attributes:
        error: A JSON string.
        retry_after_ms: Wait before the next attempt, if one is left, instead of the job's
            backoff; 0 tries again at once.
        final: Do not try again, even if attempts remain.
    """

    error: str
    retry_after_ms: int | None = None
    final: bool = False

    def __post_init__(self) -> None:
        OnAttempt.__post_init__(self)
        storable("error", self.error, most=LARGEST_REPORT)
        if self.retry_after_ms is not None:
            integer("retry_after", self.retry_after_ms, least=0)


class Return(OnAttempt, frozen=True, kw_only=True):
    """Return the job unfinished: it waits again, and no attempt is used up."""

    reason: str

    def __post_init__(self) -> None:
        OnAttempt.__post_init__(self)
        storable("reason", self.reason)


class Lose(OnAttempt, frozen=True, kw_only=True):
    """Fail the attempt of a worker that has been silent for ``silent_ms``."""

    worker: str
    silent_ms: int


class Elapse(OnJob, frozen=True, kw_only=True):
    """Apply the passage of time: promote a job whose delay is over, fail an expired attempt."""


class Move(OnJob, frozen=True, kw_only=True):
    """Set the state by hand, to one of ``MovedTo``."""

    to: str

    def __post_init__(self) -> None:
        OnJob.__post_init__(self)
        if self.to not in get_args(MovedTo):
            raise InvalidInput.expected("state", f"one of {', '.join(get_args(MovedTo))}", self.to)


class Reprioritize(OnJob, frozen=True, kw_only=True):
    """Set the priority; the lower the number, the sooner the job runs."""

    priority: int

    def __post_init__(self) -> None:
        OnJob.__post_init__(self)
        integer("priority", self.priority, least=-LARGEST_INTEGER)


class Remove(OnJob, frozen=True, kw_only=True):
    """Remove the job from every view; its history stays."""


class Erase(OnJob, frozen=True, kw_only=True):
    """Erase the content of the job's events: of those *versions*, or of all."""

    versions: tuple[int, ...] | None = None
    reason: str | None = None

    def __post_init__(self) -> None:
        OnJob.__post_init__(self)
        if self.versions is not None:
            if not self.versions:
                raise InvalidInput.expected("versions", "at least one version, or None for all", ())
            for version in self.versions:
                integer("versions", version, least=1)
        if self.reason is not None:
            storable("reason", self.reason)


class Claim(Struct, frozen=True, kw_only=True):
    """Start attempts of waiting jobs, the most urgent first.

    Attributes:
        worker: The worker that runs them, at most 240 characters.
        slots: For each type, how many jobs may be started.
        limit: How many jobs in all; None for as many as there are slots.
    """

    worker: str
    slots: Mapping[str, int]
    limit: int | None = None

    def __post_init__(self) -> None:
        worker_name(self.worker)
        for type_, slots in self.slots.items():
            storable("types", type_)
            integer("slots", slots, least=0)
        if self.limit is not None:
            integer("limit", self.limit, least=1)


class OnLedger(Struct, frozen=True, kw_only=True):
    """The base class of commands on the ledger itself; each names one entry of its state.

    Attributes:
        subject: The kind of thing that the entry describes.
    """

    subject: ClassVar[Subject]

    @property
    def name(self) -> str:
        """Return the name of the entry."""
        raise NotImplementedError


class OnType(OnLedger, frozen=True, kw_only=True):
    """The base class of commands on all jobs of a type."""

    subject = Subject.TYPE

    type: str

    @property
    def name(self) -> str:
        return self.type

    def __post_init__(self) -> None:
        storable("type", self.type)
        if not 0 < len(self.type) <= LONGEST_TYPE:
            raise InvalidInput.expected("type", f"1 to {LONGEST_TYPE} characters", self.type)


class Pause(OnType, frozen=True, kw_only=True):
    """Stop workers from starting jobs of the type; running jobs continue."""


class Resume(OnType, frozen=True, kw_only=True):
    """Let workers start jobs of the type again."""


Command = Create | OnJob | OnLedger | Claim


def integer(field: str, value: object, *, least: int) -> int:
    """Return *value* if it is an integer from *least* to 2**53 - 1.

    Raises:
        InvalidInput: It is not.
    """
    if type(value) is not int or not least <= value <= LARGEST_INTEGER:
        bounds = f"an integer from {least} to {LARGEST_INTEGER}"
        raise InvalidInput.expected(field, bounds, value)
    return value


def worker_name(name: str) -> str:
    """Return *name* if it is a valid name of a worker.

    Raises:
        InvalidInput: It does not have 1 to 240 characters, or contains one that cannot be
            stored.
    """
    storable("worker", name)
    if not 0 < len(name) <= LONGEST_WORKER:
        raise InvalidInput.expected("worker", f"1 to {LONGEST_WORKER} characters", name)
    return name


def percent(done: float, total: float) -> int:
    """Return *done* of *total* in whole per cent, rounded down and limited to 0 to 100.

    Raises:
        InvalidInput: *total* is not greater than 0, or one of them is NaN, infinite or too
            large for a float.  0 of 0 is allowed.
    """
    expected = "finite numbers, and a total greater than 0"
    if done == total == 0:
        # A loop without iterations; Kue returns 0 too.
        return 0
    try:
        if not total > 0 or not math.isfinite(total) or not math.isfinite(done):
            raise InvalidInput.expected("progress", expected, (done, total))
        # Limit the quotient before ``int``: a tiny total makes it infinite.
        return int(min(max(done * COMPLETE_PERCENT / total, 0), COMPLETE_PERCENT))
    except OverflowError as error:
        raise InvalidInput(
            "progress", f"progress: expected {expected}, got numbers that are too large"
        ) from error


def _check_backoff(backoff: Backoff) -> None:
    if backoff.type not in get_args(BackoffType):
        expected = f"one of {', '.join(get_args(BackoffType))}"
        raise InvalidInput.expected("backoff.type", expected, backoff.type)
    integer("backoff.delay", backoff.delay_ms, least=0)
    if backoff.max_delay_ms is not None:
        integer("backoff.maxDelay", backoff.max_delay_ms, least=1)


def storable(field: str, text: str, *, most: int | None = None) -> None:
    """Raise if *text* cannot be stored exactly.

    Raises:
        InvalidInput: *text* is not a string, contains NUL or a lone surrogate, or has more
            than *most* characters, by default 64 Mi.
    """
    try:
        if isinstance(text, str) and "\0" not in text and (text.isascii() or text.encode()):
            if len(text) > (longest := LARGEST_CONTENT if most is None else most):
                check_length(field, text, most=longest)
            return
    except UnicodeEncodeError:
        pass
    raise InvalidInput.expected(field, "text without NUL or lone surrogates", text)


def check_length(field: str, text: str, *, most: int) -> None:
    """Raise if *text* is too long.

    Raises:
        InvalidInput: It has more than *most* characters.
    """
    if len(text) > most:
        raise InvalidInput(field, f"{field}: expected at most {most} characters, got {len(text)}")

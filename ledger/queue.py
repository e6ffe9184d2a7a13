"""Be what applications import: a queue of jobs, and the jobs in it.

    >>> queue = ledger.connect("sqlite:///jobs.db")
    >>> job = queue.create("email", {"to": "tj@learnboost.com"}, attempts=5)
    >>> job
    <Job 1: email, inactive>

A ``Queue`` may be shared by all threads of a process.  Nothing in it knows how jobs
are shown or counted: ``Views`` is what it needs of the read models.
"""

import inspect
import os
import socket
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NamedTuple, Protocol, TypeVar, overload

import msgspec
from sqlalchemy import Connection

from ledger import content, options, store, workers
from ledger.bell import Bell
from ledger.commands import (
    LARGEST_INTEGER,
    Command,
    Create,
    Move,
    Pause,
    Remove,
    Reprioritize,
    Resume,
)
from ledger.database import Database
from ledger.errors import InvalidInput, JobFailed, JobNotFound
from ledger.job import LIVE_STATES, State
from ledger.service import Ledger, Outcome
from ledger.sweeper import DueJobs

# JSON, as it goes in and comes out.
Json = Any
Milliseconds = int | timedelta

_ENDED: Final = frozenset({State.COMPLETE, State.FAILED, State.REMOVED})
# A waiter looks by itself this often, should nobody wake it.
_LONGEST_WAIT_S: Final = 1.0


class Views(DueJobs, Protocol):
    """Answer what a queue asks of the read models."""

    def job(self, connection: Connection, job_id: int) -> str | None:
        """Return a job's JSON object, None if there is no such job."""

    def jobs(
        self,
        connection: Connection,
        *,
        state: State | None,
        type_: str | None,
        first: int,
        last: int,
        descending: bool,
    ) -> str:
        """Return a page of a list of jobs, a JSON array."""

    def stats(self, connection: Connection, type_: str | None) -> Mapping[str, int]:
        """Return the number of jobs in each state, of all types or one, and ``work_ms``."""

    def types(self, connection: Connection) -> Sequence[str]:
        """Return the types that have jobs."""

    def paused(self, connection: Connection) -> Mapping[str, int]:
        """Return the paused types, and since when: UTC milliseconds."""

    def search(self, query: str, *, limit: int, offset: int) -> Sequence[int]:
        """Return the jobs whose data have all the words of *query*, the newest first."""

    def forget(self) -> None:
        """Start anew in a forked child."""

    def close(self) -> None:
        """Let go of what is open, but for the database."""

    def any_claimable(self, connection: Connection, types: Collection[str]) -> bool:
        """Return whether a job of one of the types waits for a worker."""

    def held_by(self, connection: Connection, worker: str) -> Sequence[tuple[int, int]]:
        """Return the jobs and attempts that a worker holds."""


class Handler(NamedTuple):
    """Be a function that does the jobs of a type.

    Attributes:
        concurrency: How many at once, in one process.
    """

    function: Callable[..., Json]
    concurrency: int


HandlerFunction = TypeVar("HandlerFunction", bound=Callable[..., Json])


class Queue:
    """Create jobs, look at them, and say who does them.

    Made by ``ledger.connect``.

    Args:
        ledger: Takes the commands.
        views: Answers the questions.
        bell: Rings when something happened.
        actor: Who the ledger says asked.
        lease_ms: How long a worker may be silent before its jobs are failed.
    """

    def __init__(
        self,
        ledger: Ledger,
        views: Views,
        bell: Bell,
        *,
        actor: str,
        lease_ms: int,
    ) -> None:
        self.ledger = ledger
        self.views = views
        self.bell = bell
        self.actor = actor
        self.lease_ms = lease_ms
        self.handlers: dict[str, Handler] = {}

    def __repr__(self) -> str:
        return f"<Queue {self.database.shown_url}>"

    @property
    def database(self) -> Database:
        """Return the database behind the queue."""
        return self.ledger.database

    def forget(self) -> None:
        """Start anew in a forked child, which must not share its parent's connections."""
        self.ledger.forget()
        self.bell.forget()
        self.views.forget()

    def close(self) -> None:
        """Close all connections; the queue is of no use afterwards."""
        self.bell.close()
        self.views.close()
        self.database.close()

    # --- creating

    def create(
        self,
        type: str,  # noqa: A002 - Kue's word
        data: Json = None,
        *,
        priority: int | str | None = None,
        attempts: int | None = None,
        delay: Milliseconds | datetime | None = None,
        ttl: Milliseconds | None = None,
        backoff: bool | Mapping[str, Any] | None = None,
        search_keys: str | Sequence[str] | None = None,
        remove_on_complete: bool | None = None,
        unique: str | None = None,
    ) -> "Job":
        """Create a job; when this returns, it survives a crash.

        Args:
            type: What kind of job, 1 to 255 characters; a handler takes one type.
            data: What the handler gets: anything that JSON can say; None is {}.
            priority: The lower, the sooner; or ``low`` (10), ``normal`` (0),
                ``medium`` (-5), ``high`` (-10), ``critical`` (-15).
            attempts: How often it may run until it has failed for good.
            delay: Do not run before: milliseconds from now, a timedelta, or a
                datetime with a time zone; one that is past is no delay.
            ttl: How long an attempt may go without progress before it fails:
                milliseconds, or a timedelta.
            backoff: How long to wait after a failure.  True repeats the delay;
                ``{"type": "fixed", "delay": 2000}`` waits always as long,
                ``{"type": "exponential", "delay": 2000, "maxDelay": 60000}``
                1, 3, 7 … times half the delay.  Delays may be timedeltas.
            search_keys: Paths into the data to index; None means all of it.
            remove_on_complete: Take it out of every view once it is complete; its
                history stays.
            unique: At most one job is ever created with this key; a second call
                returns the first one's job.

        Raises:
            InvalidInput: A value is not what it must be; nothing was recorded.
            Unavailable: The database is away, or overloaded.
        """
        command = create_command(
            type,
            data,
            {
                "priority": priority,
                "attempts": attempts,
                "delay": delay,
                "ttl": ttl,
                "backoff": backoff,
                "search_keys": search_keys,
                "remove_on_complete": remove_on_complete,
                "unique": unique,
            },
            now_ms=self.ledger.now_ms(),
        )
        return self._created(command, self.execute(command))

    def create_many(self, jobs: Iterable[Mapping[str, Any]]) -> list["Job"]:
        """Create all *jobs* in one transaction, or none of them.

        Args:
            jobs: For each the arguments of ``create``, by name:
                ``{"type": "email", "data": {…}, "attempts": 3}``.

        Raises:
            InvalidInput: One of them is not what it must be; none was created.
            Unavailable: The database is away, or overloaded.
        """
        now_ms = self.ledger.now_ms()
        commands = [_create_of(place, job, now_ms) for place, job in enumerate(jobs)]
        answers = self.ledger.submit(commands, actor=self.actor, atomic=True)
        for answer in answers:
            if isinstance(answer, Exception):
                raise answer
        return [
            self._created(command, answer)
            for command, answer in zip(commands, answers, strict=True)
            if isinstance(answer, Outcome)
        ]

    def _created(self, command: Create, outcome: Outcome) -> "Job":
        # One that was there already, by its key, may be of another type.
        return Job(self, outcome.job_id, type_=command.type if outcome.events else None)

    # --- looking

    def get(self, job_id: int) -> "Job":
        """Return the job of that id.

        Raises:
            JobNotFound: There is none, or no longer.
        """
        job = Job(self, job_id)
        job.refresh()
        return job

    def jobs(
        self,
        *,
        state: str | None = None,
        type: str | None = None,  # noqa: A002 - Kue's word
        limit: int = 100,
        offset: int = 0,
        newest_first: bool = False,
    ) -> list["Job"]:
        """Return jobs in the order of their creation.

        Args:
            state: Only those in that state: inactive, delayed, active, complete or
                failed.
            type: Only those of that type.
            limit: How many at most, 1 to 10,000.
            offset: How many to skip.
            newest_first: Begin with the newest.

        Raises:
            InvalidInput: There is no such state, or *limit* or *offset* is out of
                range.
        """
        if state is not None and state not in LIVE_STATES:
            raise InvalidInput.expected("state", f"one of {', '.join(LIVE_STATES)}", state)
        _check_page(limit, offset)
        with self.database.snapshot() as connection:
            page = self.views.jobs(
                connection,
                state=None if state is None else State(state),
                type_=type,
                first=offset,
                last=offset + limit - 1,
                descending=newest_first,
            )
        return [Job(self, int(shown["id"]), shown=shown) for shown in msgspec.json.decode(page)]

    def search(self, query: str, *, limit: int = 100, offset: int = 0) -> list["Job"]:
        """Return the jobs whose data have all the words of *query*, the newest first.

        A job is found by the first search after its creation, and no more after its
        removal.  If no process indexes, this one does it before it answers.

        Args:
            query: Plain words; case, accents and English endings do not matter, and no
                character is an operator.
            limit: How many at most, 1 to 10,000.
            offset: How many of the newest to skip.

        Raises:
            InvalidInput: *query* is too long, or *limit* or *offset* out of range.
            Unavailable: The index has not come as far as the ledger in time.
        """
        _check_page(limit, offset)
        return [
            Job(self, job_id) for job_id in self.views.search(query, limit=limit, offset=offset)
        ]

    def stats(self, type: str | None = None) -> dict[str, int]:  # noqa: A002 - Kue's word
        """Return the number of jobs in each state, and the time worked: ``work_ms``.

        Args:
            type: Count only jobs of that type.
        """
        with self.database.read() as connection:
            return dict(self.views.stats(connection, type))

    def types(self) -> list[str]:
        """Return the types that have jobs, sorted."""
        with self.database.read() as connection:
            return list(self.views.types(connection))

    def workers(self) -> list[workers.WorkerSeen]:
        """Return the workers that have told of themselves, by name."""
        with self.database.read() as connection:
            return workers.seen(connection)

    # --- working

    def process(
        self,
        type: str,  # noqa: A002 - Kue's word
        *,
        concurrency: int = 1,
    ) -> Callable[[HandlerFunction], HandlerFunction]:
        """Make the decorated function do the jobs of a type.

        It is called with the job.  What it returns is the result, and must be what
        JSON can say; an exception is a failed attempt.  ``raise Retry(after=…)``
        and ``raise Fail(…)`` say more.  ``ledger work`` runs it, or a ``Worker``.

        Args:
            type: Of which jobs.
            concurrency: How many of them at once, in one process.

        Raises:
            InvalidInput: The type has a function already, *concurrency* is less than 1,
                or the function is a coroutine function.
        """
        if type in self.handlers:
            function = self.handlers[type].function
            raise InvalidInput("type", f"jobs of type {type!r} are done by {function!r} already")
        if not isinstance(concurrency, int) or concurrency < 1:
            raise InvalidInput.expected("concurrency", "a positive integer", concurrency)

        def register(function: HandlerFunction) -> HandlerFunction:
            if inspect.iscoroutinefunction(function):
                raise InvalidInput(
                    "handler",
                    f"{function!r} is a coroutine function, and handlers are called in threads; "
                    "call asyncio.run in a plain one",
                )
            self.handlers[type] = Handler(function, concurrency)
            return function

        return register

    def pause(self, type: str) -> None:  # noqa: A002 - Kue's word
        """Let no worker begin a job of the type; what runs goes on."""
        self.execute(Pause(type=type))

    def resume(self, type: str) -> None:  # noqa: A002 - Kue's word
        """Let workers begin jobs of the type again."""
        self.execute(Resume(type=type))

    def paused(self) -> dict[str, datetime]:
        """Return the paused types, and since when."""
        with self.database.read() as connection:
            paused = self.views.paused(connection)
        return {type_: _time(since_ms) for type_, since_ms in paused.items()}

    def execute(self, command: Command) -> Outcome:
        """Carry out any command; as ``Ledger.execute``."""
        return self.ledger.execute(command, actor=self.actor)


# A longer page is better asked for in parts.
_LARGEST_PAGE: Final = 10_000


def _check_page(limit: int, offset: int) -> None:
    if not isinstance(limit, int) or not 1 <= limit <= _LARGEST_PAGE:
        raise InvalidInput.expected("limit", f"1 to {_LARGEST_PAGE}", limit)
    if not isinstance(offset, int) or not 0 <= offset <= LARGEST_INTEGER:
        raise InvalidInput.expected("offset", "a whole number from 0 on", offset)


class Job:
    """Be a job in the queue.

    What never changes (``id``, ``type``, ``data``) is read once; everything else is
    read when it is asked for, and so is as it is now.

    Attributes:
        id: Its number, from 1.
    """

    def __init__(
        self,
        queue: Queue,
        job_id: int,
        *,
        type_: str | None = None,
        shown: Mapping[str, Any] | None = None,
    ) -> None:
        self.id = job_id
        self._queue = queue
        self._type = type_ if shown is None else shown["type"]
        self._shown = shown

    def __repr__(self) -> str:
        try:
            return f"<Job {self.id}: {self.type}, {self.state}>"
        except Exception:  # noqa: BLE001 - a repr must not fail
            return f"<Job {self.id}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Job) and (self.id, self._queue) == (other.id, other._queue)

    def __hash__(self) -> int:
        return hash(self.id)

    def refresh(self) -> Mapping[str, Any]:
        """Read the job as it is now: Kue's JSON object.

        Raises:
            JobNotFound: It has been removed.
        """
        with self._queue.database.read() as connection:
            json = self._queue.views.job(connection, self.id)
        if json is None:
            raise JobNotFound(self.id)
        shown: Mapping[str, Any] = msgspec.json.decode(json)
        self._shown, self._type = shown, shown["type"]
        return shown

    @property
    def type(self) -> str:
        """Return what kind of job it is."""
        if self._type is None:
            self.refresh()
        return self._type or ""

    @property
    def data(self) -> Json:
        """Return what the job was created with."""
        return (self._shown or self.refresh())["data"]

    @property
    def state(self) -> str:
        """Return inactive, delayed, active, complete, failed or removed."""
        try:
            state: str = self.refresh()["state"]
        except JobNotFound:
            return State.REMOVED.value
        return state

    @property
    def priority(self) -> int:
        """Return its priority; the lower, the sooner."""
        priority: int = self.refresh()["priority"]
        return priority

    @property
    def percent(self) -> int:
        """Return how far it is, in whole per cent."""
        return int(self.refresh()["progress"])

    @property
    def progress_data(self) -> Json:
        """Return what was last reported with the progress, None if nothing was."""
        return self.refresh().get("progress_data")

    @property
    def result(self) -> Json:
        """Return what the handler returned, None if it has not."""
        return self.refresh().get("result")

    @property
    def error(self) -> str | None:
        """Return the last failure: its message, then the traceback."""
        return self.refresh().get("error")

    @property
    def attempts(self) -> Mapping[str, int]:
        """Return how many attempts were ``made``, how many ``remain``, of how many."""
        attempts: Mapping[str, int] = self.refresh()["attempts"]
        return attempts

    @property
    def created_at(self) -> datetime:
        """Return when it was created."""
        return _time(int((self._shown or self.refresh())["created_at"]))

    def log(self) -> list[str]:
        """Return the lines that its attempts have logged, and one a failure."""
        with self._queue.database.read() as connection:
            if self._queue.views.job(connection, self.id) is None:
                raise JobNotFound(self.id)
            lines = store.read_log(connection, self.id, newest=_LARGEST_PAGE)
        return [content.log_line(kind, text) for kind, _, text in lines if text is not None]

    def events(self) -> list[store.Envelope]:
        """Return all that ever happened to it, also after its removal."""
        found: list[store.Envelope] = []
        with self._queue.database.read() as connection:
            while some := store.read_stream(connection, self.id, after=len(found)):
                found += some
        return found

    def remove(self) -> None:
        """Take the job out of every view; its history stays.

        Raises:
            JobNotFound: There is no such job, or no longer.
        """
        self._queue.execute(Remove(job_id=self.id))

    def restart(self) -> None:
        """Let the job wait for a worker again, whatever became of it.

        Raises:
            JobNotFound: It has been removed.
        """
        self._queue.execute(Move(job_id=self.id, to=State.INACTIVE.value))

    def reprioritize(self, priority: int | str) -> None:
        """Change the priority: a number, the lower the sooner, or one of Kue's names."""
        number = options.priority("priority", priority)
        self._queue.execute(Reprioritize(job_id=self.id, priority=number))

    def wait(self, timeout: float | None = None) -> Json:
        """Wait until the job is done, and return its result.

        Args:
            timeout: Seconds; None waits as long as it takes.

        Raises:
            TimeoutError: It is not done in time; it goes on.
            JobFailed: It failed for good.
            JobNotFound: It was removed before it was done.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        rung = threading.Event()
        with self._queue.bell.subscribed(rung.set):
            while (state := self.state) not in _ENDED:
                left_s = _LONGEST_WAIT_S if deadline is None else deadline - time.monotonic()
                if left_s <= 0:
                    raise TimeoutError(f"job {self.id} is {state} after {timeout} seconds")
                rung.wait(min(left_s, _LONGEST_WAIT_S))
                rung.clear()
        return self._result(state)

    def _result(self, state: str) -> Json:
        if state == State.REMOVED:
            completed = [event for event in self.events() if event.kind == "completed"]
            if not completed:
                raise JobNotFound(self.id)
            text = completed[-1].content
            return None if text is None else msgspec.json.decode(text)
        if state == State.FAILED:
            raise JobFailed(self.id, self.error or "")
        return self.result


def _time(at_ms: int) -> datetime:
    return datetime.fromtimestamp(at_ms / 1000, tz=UTC)


# --- from Python's values to Kue's

_KUES_NAMES: Final = {"search_keys": "searchKeys", "remove_on_complete": "removeOnComplete"}
_OPTIONS: Final = (
    "priority",
    "attempts",
    "delay",
    "ttl",
    "backoff",
    "search_keys",
    "remove_on_complete",
    "unique",
)


def create_command(type_: object, data: Json, given: Mapping[str, Any], *, now_ms: int) -> Create:
    """Return the command that creates a job.

    Args:
        type_: The job's type.
        data: Anything that JSON can say.
        given: The arguments of ``Queue.create``; None counts as not given.
        now_ms: Now, from which a datetime is away.

    Raises:
        InvalidInput: A value is not what it must be.
    """
    text = "{}" if data is None else content.of("data", data)
    kues: dict[str, Any] = {}
    for name, value in given.items():
        if value is not None:
            kues[_KUES_NAMES.get(name, name)] = _kues(name, value, now_ms)
    return options.create_command(type_, text, kues)


def _create_of(place: int, job: Mapping[str, Any], now_ms: int) -> Create:
    if not isinstance(job, Mapping):
        expected = f"jobs[{place}]: expected a mapping of create's arguments, got {job!r}"
        raise InvalidInput("jobs", expected)
    known = {"type", "data", *_OPTIONS}
    if not job.keys() <= known:
        unknown = ", ".join(sorted(map(repr, job.keys() - known)))
        raise InvalidInput("jobs", f"jobs[{place}]: unknown {unknown}; known are {sorted(known)}")
    given = {name: job[name] for name in _OPTIONS if name in job}
    try:
        return create_command(job.get("type"), job.get("data"), given, now_ms=now_ms)
    except InvalidInput as error:
        raise InvalidInput(error.field, f"jobs[{place}]: {error}") from error


def _kues(name: str, value: Any, now_ms: int) -> Any:  # noqa: ANN401 - any option's
    if isinstance(value, datetime) and name == "delay":
        return _until(value, now_ms)
    if isinstance(value, timedelta):
        return milliseconds(name, value)
    if isinstance(value, tuple):
        return list(value)
    if isinstance(value, Mapping):
        return {key: _kues(f"{name}.{key}", item, now_ms) for key, item in value.items()}
    return value


def _until(at: datetime, now_ms: int) -> int | None:
    """Return the delay until a moment, None if it is past."""
    if at.tzinfo is None:
        raise InvalidInput.expected(
            "delay", "a datetime with a time zone, as datetime.now(UTC) has", at
        )
    return max(0, round(at.timestamp() * 1000) - now_ms) or None


@overload
def milliseconds(name: str, value: Milliseconds) -> int: ...
@overload
def milliseconds(name: str, value: None) -> None: ...
def milliseconds(name: str, value: Milliseconds | None) -> int | None:
    """Return *value* in milliseconds, the smallest number that is not shorter.

    Raises:
        InvalidInput: It is neither an integer nor a timedelta.
    """
    if isinstance(value, timedelta):
        return -(-value // timedelta(milliseconds=1))
    if value is None or (isinstance(value, int) and not isinstance(value, bool)):
        return value
    raise InvalidInput.expected(name, "milliseconds, or a timedelta", value)


def own_name() -> str:
    """Return what tells this process from all others: ``HOST:PID``."""
    return f"{socket.gethostname()}:{os.getpid()}"

"""Be what applications import: a queue of jobs.

    >>> queue = ledger.connect("sqlite:///jobs.db")
    >>> job = queue.create("email", {"to": "tj@learnboost.com"}, attempts=5)
    >>> job
    <Job 1: email, inactive>

A ``Queue`` may be shared by all threads of a process.

It opens its database at its first use.  A module that makes one can be imported where the
database is away, and in a quarter of a second less: what SQLAlchemy and we need to talk to
a database is imported then, by whoever makes the queue's ``Parts``.  So this module, and all
that it imports, must do without them.
"""

import inspect
import os
import socket
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

import msgspec

from ledger.errors import InvalidInput
from ledger.queue.arguments import Json, Milliseconds, check_page, create_command, create_commands
from ledger.queue.job import Job
from ledger.queue.read_models import Views
from ledger.rules.commands import Command, Create, Pause, Resume
from ledger.rules.job import LIVE_STATES, State

if TYPE_CHECKING:
    from ledger.database.contract import Database
    from ledger.log.commit_notifier import Bell
    from ledger.log.ledger import Ledger, Outcome
    from ledger.queue.heartbeats import WorkerSeen

# How long a thread that forks waits for one that is opening the database.
_LONGEST_OPENING_S: Final = 10.0


class Handler(NamedTuple):
    """Be a function that does the jobs of a type.

    Attributes:
        concurrency: How many at once, in one process.
    """

    function: Callable[..., Json]
    concurrency: int


HandlerFunction = TypeVar("HandlerFunction", bound=Callable[..., Json])


class Parts(NamedTuple):
    """What a queue works with once its database is open.

    Attributes:
        ledger: Takes the commands.
        views: Answers the questions.
        bell: Rings when something happened.
        forget: Starts all of it anew in a forked child.
        close: Closes all connections.
    """

    ledger: "Ledger"
    views: Views
    bell: "Bell"
    forget: Callable[[], None]
    close: Callable[[], None]


class Queue:
    """Create jobs, look at them, and say who does them.

    Made by ``ledger.connect``.

    Args:
        make_parts: Opens the database, or raises why it cannot; called at the first use,
            and again at the next one if it failed.
        shown_url: The database's URL, its password hidden.
        actor: Who the ledger says asked.
        lease_ms: How long a worker may be silent before its jobs are failed.

    Attributes:
        parts: None until the database is open.
    """

    def __init__(
        self,
        make_parts: Callable[[], Parts],
        *,
        shown_url: str,
        actor: str,
        lease_ms: int,
    ) -> None:
        self.parts: Parts | None = None
        self.actor = actor
        self.lease_ms = lease_ms
        self.handlers: dict[str, Handler] = {}
        self._make_parts = make_parts
        self._shown_url = shown_url
        self._fresh_locks()

    def _fresh_locks(self) -> None:
        # Taken again by a thread that forks, or uses the queue, while it opens.
        self._opening = threading.RLock()
        self._forks = False

    def __repr__(self) -> str:
        shown = self._shown_url if self.parts is None else self.database.shown_url
        return f"<Queue {shown}>"

    # --- opening

    def open(self) -> None:
        """Open the database now, to learn at once if that fails; the first use does otherwise.

        Raises:
            SchemaMismatch: The tables are not those of this version; ``ledger migrate``
                brings them there.
            Unavailable: The database is away.
        """
        self._opened()

    def _opened(self) -> Parts:
        if self.parts is None:
            with self._opening:
                if self.parts is None:
                    self.parts = self._make_parts()
                return self.parts
        return self.parts

    @property
    def ledger(self) -> "Ledger":
        """Return what takes the commands."""
        return self._opened().ledger

    @property
    def views(self) -> Views:
        """Return what answers the questions."""
        return self._opened().views

    @property
    def bell(self) -> "Bell":
        """Return what rings when something happened."""
        return self._opened().bell

    @property
    def database(self) -> "Database":
        """Return the database behind the queue."""
        return self.ledger.database

    def before_fork(self) -> None:
        """Let no other thread be where a forked child could not go on; until ``after_fork``."""
        self._forks = self._opening.acquire(timeout=_LONGEST_OPENING_S)
        if self.parts is not None:
            self.database.before_fork()

    def after_fork(self) -> None:
        """Go on in the process that has forked."""
        if self.parts is not None:
            self.database.after_fork()
        if self._forks:
            self._forks = False
            self._opening.release()

    def forget(self) -> None:
        """Start anew in a forked child, which must not share its parent's connections."""
        self._fresh_locks()
        if self.parts is not None:
            self.parts.forget()

    def close(self) -> None:
        """Close all connections; the queue is of no use afterwards."""
        if self.parts is not None:
            self.parts.close()

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
    ) -> Job:
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

    def create_many(self, jobs: Iterable[Mapping[str, Any]]) -> list[Job]:
        """Create all *jobs* in one transaction, or none of them.

        Args:
            jobs: For each the arguments of ``create``, by name:
                ``{"type": "email", "data": {…}, "attempts": 3}``.

        Raises:
            InvalidInput: One of them is not what it must be; none was created.
            Unavailable: The database is away, or overloaded.
        """
        commands = create_commands(jobs, now_ms=self.ledger.now_ms())
        outcomes = self.ledger.execute_all(commands, actor=self.actor)
        return [
            self._created(command, outcome)
            for command, outcome in zip(commands, outcomes, strict=True)
        ]

    def _created(self, command: Create, outcome: "Outcome") -> Job:
        # One that was there already, by its key, may be of another type.
        return Job(self, outcome.job_id, type_=command.type if outcome.events else None)

    # --- looking

    def get(self, job_id: int) -> Job:
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
    ) -> list[Job]:
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
        check_page(limit, offset)
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

    def search(self, query: str, *, limit: int = 100, offset: int = 0) -> list[Job]:
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
        check_page(limit, offset)
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

    def workers(self) -> "list[WorkerSeen]":
        """Return the workers that have told of themselves, by name."""
        with self.database.read() as connection:
            return list(self.views.workers(connection))

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
            raise InvalidInput("type", f"type {type!r} already has the handler {function!r}")
        if not isinstance(concurrency, int) or concurrency < 1:
            raise InvalidInput.expected("concurrency", "a positive integer", concurrency)

        def register(function: HandlerFunction) -> HandlerFunction:
            if inspect.iscoroutinefunction(function):
                raise InvalidInput(
                    "handler",
                    f"{function!r} is a coroutine function, but handlers are called in threads; "
                    "register a plain function that calls asyncio.run",
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
        return {
            type_: datetime.fromtimestamp(since_ms / 1000, tz=UTC)
            for type_, since_ms in paused.items()
        }

    def execute(self, command: Command) -> "Outcome":
        """Carry out any command; as ``Ledger.execute``."""
        return self.ledger.execute(command, actor=self.actor)


def own_name() -> str:
    """Return what tells this process from all others: ``HOST:PID``."""
    return f"{socket.gethostname()}:{os.getpid()}"

"""The queue of jobs that applications use.

    >>> queue = ledger.connect("sqlite:///jobs.db")
    >>> job = queue.create("email", {"to": "tj@learnboost.com"}, attempts=5)
    >>> job
    <Job 1: email, inactive>

A ``Queue`` may be shared by all threads of a process.

A queue opens its database when it is first used.  So a module that creates a queue can be
imported while the database is unavailable, and a quarter of a second faster: SQLAlchemy, and
our modules that need it, are imported only when the queue's parts are made.  This module
and the modules that it imports must therefore not import them.
"""

import inspect
import os
import socket
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import msgspec

from ledger.errors import InvalidInput
from ledger.log.times import as_datetime
from ledger.queue.arguments import Json, Milliseconds, check_page, create_command, create_commands
from ledger.queue.job import Job
from ledger.queue.opening import Opening, Parts
from ledger.queue.read_models import ReadModels
from ledger.rules.commands import Command, Create, Pause, Resume
from ledger.rules.job import LIVE_STATES, State

if TYPE_CHECKING:
    from ledger.database.contract import Database
    from ledger.log.answers import Outcome
    from ledger.log.commit_notifier import CommitNotifier
    from ledger.log.ledger import Ledger
    from ledger.queue.presence import WorkerSeen


class Handler(NamedTuple):
    """A function that runs the jobs of a type.

    Attributes:
        concurrency: How many jobs it runs at once in a process.
    """

    function: Callable[..., Json]
    concurrency: int


class _Listed(msgspec.Struct):
    """The fields of a job that are kept of a long list."""

    id: str
    type: str


_decode_listed = msgspec.json.Decoder(list[_Listed]).decode
HandlerFunction = TypeVar("HandlerFunction", bound=Callable[..., Json])


class Queue:
    """A queue of jobs, and the handlers that run them.

    Applications get one from ``ledger.connect``.

    Args:
        make_parts: Opens the database, or raises an error; called at the first use, and at
            the next use if it failed.
        shown_url: The database's URL with the password masked.
        actor: The actor that events are recorded with.
        lease_ms: How long a worker may be silent before its attempts fail.

    Attributes:
        opening: Opens the database at the first use.
    """

    def __init__(
        self,
        make_parts: Callable[[], Parts],
        *,
        shown_url: str,
        actor: str,
        lease_ms: int,
    ) -> None:
        self.opening = Opening(make_parts)
        self.actor = actor
        self.lease_ms = lease_ms
        self.handlers: dict[str, Handler] = {}
        self._shown_url = shown_url

    def __repr__(self) -> str:
        shown = self._shown_url if self.parts is None else self.database.shown_url
        return f"<Queue {shown}>"

    # --- opening

    def open(self) -> None:
        """Open the database now instead of at the first use, so that errors occur now.

        Raises:
            SchemaMismatch: The tables are not those of this version; ``ledger migrate``
                upgrades older ones.
            Unavailable: The database is unavailable.
        """
        self.opening.opened()

    @property
    def parts(self) -> Parts | None:
        """Return the objects behind the queue; None until the database is open."""
        return self.opening.parts

    @property
    def ledger(self) -> "Ledger":
        """Return the ledger, which carries out commands."""
        return self.opening.opened().ledger

    @property
    def read_models(self) -> ReadModels:
        """Return the queries of the read models."""
        return self.opening.opened().read_models

    @property
    def commit_notifier(self) -> "CommitNotifier":
        """Return the commit notifier."""
        return self.opening.opened().commit_notifier

    @property
    def database(self) -> "Database":
        """Return the queue's database."""
        return self.ledger.database

    def before_fork(self) -> None:
        """Keep other threads, until ``after_fork``, from states that would block a forked child."""
        self.opening.before_fork()

    def after_fork(self) -> None:
        """Undo ``before_fork`` in the process that has forked."""
        self.opening.after_fork()

    def forget(self) -> None:
        """Reset the queue in a forked child, which must not share its parent's connections."""
        self.opening.forget()

    def close(self) -> None:
        """Close all connections; the queue cannot be used afterwards."""
        self.opening.close()

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
        """Create a job; the job survives a crash once this has returned.

        Args:
            type: The job's type, 1 to 255 characters; a handler runs jobs of one type.
            data: Data for the handler: any value that JSON can represent; None is {}.
            priority: A number, of which lower ones run sooner, or ``low`` (10),
                ``normal`` (0), ``medium`` (-5), ``high`` (-10), ``critical`` (-15).
            attempts: Maximum number of attempts; if all of them fail, the job has failed.
            delay: Earliest start: milliseconds from now, a timedelta, or a datetime with
                a time zone; a datetime in the past is no delay.
            ttl: How long an attempt may go without progress before it fails:
                milliseconds or a timedelta.
            backoff: How long to wait after a failure.  True repeats the delay;
                ``{"type": "fixed", "delay": 2000}`` always waits for its delay;
                ``{"type": "exponential", "delay": 2000, "maxDelay": 60000}`` waits
                1, 3, 7 … times half the delay.  Delays may be timedeltas.
            search_keys: Paths in the data to index; None indexes all of it.
            remove_on_complete: Whether to remove the job from every view once it is
                complete; its history stays.
            unique: A key with which at most one job is ever created; a second call with
                the key returns the first call's job.

        Raises:
            InvalidInput: A value is invalid; nothing was recorded.
            Unavailable: The database is unavailable or overloaded.
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
        )
        return self._created(command, self.execute(command))

    def create_many(self, jobs: Iterable[Mapping[str, Any]]) -> list[Job]:
        """Create all *jobs* in one transaction, or none of them.

        Args:
            jobs: The arguments of ``create`` for each job, by name:
                ``{"type": "email", "data": {…}, "attempts": 3}``.  At most 5,000 jobs.

        Raises:
            InvalidInput: One of the jobs is invalid, or there are too many; none was created.
            Unavailable: The database is unavailable or overloaded.
        """
        commands = create_commands(jobs)
        outcomes = self.ledger.execute_all(commands, actor=self.actor)
        return [
            self._created(command, outcome)
            for command, outcome in zip(commands, outcomes, strict=True)
        ]

    def _created(self, command: Create, outcome: "Outcome") -> Job:
        # A job that already existed with the same key may be of another type.
        return Job(self, outcome.job_id, type_=command.type if outcome.events else None)

    # --- looking

    def get(self, job_id: int) -> Job:
        """Return the job with the id *job_id*.

        Raises:
            JobNotFound: There is no such job, or it has been removed.
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

        The data and the other fields of the first jobs are read with the list, up to 8 MiB of
        JSON; those of the others are read when they are used.

        Args:
            state: Return only jobs in this state: inactive, delayed, active, complete or
                failed.
            type: Return only jobs of this type.
            limit: Maximum number of jobs, 1 to 10,000.
            offset: Number of jobs to skip.
            newest_first: Reverse the order.

        Raises:
            InvalidInput: There is no such state, or *limit* or *offset* is out of range.
        """
        if state is not None and state not in LIVE_STATES:
            raise InvalidInput.expected("state", f"one of {', '.join(LIVE_STATES)}", state)
        check_page(limit, offset)
        with self.database.snapshot() as connection:
            pages = self.read_models.jobs(
                connection,
                state=None if state is None else State(state),
                type_=type,
                first=offset,
                last=offset + limit - 1,
                descending=newest_first,
            )
            read = msgspec.json.decode(next(pages, "[]"))
            others = [each for page in pages for each in _decode_listed(page)]
        found = [Job(self, int(fields["id"]), fields=fields) for fields in read]
        found += [Job(self, int(each.id), type_=each.type) for each in others]
        return found

    def search(self, query: str, *, limit: int = 100, offset: int = 0) -> list[Job]:
        """Return the jobs whose data contains all words of *query*, newest first.

        A search finds every job created before it, and no job removed before it.  If no
        process keeps the index up to date, the search updates it first.

        Args:
            query: Plain words; case, accents and English endings do not matter, and no
                character is an operator.
            limit: Maximum number of jobs, 1 to 10,000.
            offset: Number of jobs to skip, from the newest.

        Raises:
            InvalidInput: *query* is too long, or *limit* or *offset* is out of range.
            Unavailable: The index did not reach the ledger's position in time.
        """
        check_page(limit, offset)
        return [
            Job(self, job_id)
            for job_id in self.read_models.search(query, limit=limit, offset=offset)
        ]

    def stats(self, type: str | None = None) -> dict[str, int]:  # noqa: A002 - Kue's word
        """Return the number of jobs in each state, and ``work_ms``, the time worked.

        Args:
            type: Count only jobs of this type.
        """
        with self.database.read() as connection:
            return dict(self.read_models.stats(connection, type))

    def types(self) -> list[str]:
        """Return the types that have jobs, sorted."""
        with self.database.read() as connection:
            return list(self.read_models.types(connection))

    def workers(self) -> "list[WorkerSeen]":
        """Return the workers that have sent heartbeats, sorted by name."""
        with self.database.read() as connection:
            now_ms = self.ledger.time_ms(connection)
            listed = self.read_models.workers(connection, now_ms=now_ms)
        return [worker.seen for worker in listed]

    # --- working

    def process(
        self,
        type: str,  # noqa: A002 - Kue's word
        *,
        concurrency: int = 1,
    ) -> Callable[[HandlerFunction], HandlerFunction]:
        """Register the decorated function as the handler of a type of jobs.

        It is called with the job.  Its return value is the job's result, and must be a
        value that JSON can represent, in at most 16 Mi characters; otherwise the attempt
        fails.  An exception fails the attempt; of its message and traceback, at most 64 Ki
        characters are kept.  The function can also ``raise Retry(after=…)`` or
        ``raise Fail(…)``.  ``ledger work`` or a ``Worker`` runs it.

        Args:
            type: The type of jobs.
            concurrency: How many jobs to run at once in a process.

        Raises:
            InvalidInput: The type already has a handler, *concurrency* is less than 1, or
                the function is a coroutine function.
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
        """Pause a type: no worker starts its jobs; running jobs continue."""
        self.execute(Pause(type=type))

    def resume(self, type: str) -> None:  # noqa: A002 - Kue's word
        """Resume a paused type."""
        self.execute(Resume(type=type))

    def paused(self) -> dict[str, datetime]:
        """Return the paused types and the time since which each is paused."""
        with self.database.read() as connection:
            paused = self.read_models.paused(connection)
        return {type_: as_datetime(since_ms) for type_, since_ms in paused.items()}

    def execute(self, command: Command) -> "Outcome":
        """Carry out a command; see ``Ledger.execute``."""
        return self.ledger.execute(command, actor=self.actor)


def own_name() -> str:
    """Return the name of this process: ``HOST:PID``."""
    return f"{socket.gethostname()}:{os.getpid()}"

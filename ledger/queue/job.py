"""A job as applications hold it: its current fields, its changes, its result.

The rules of a job are in ``rules/job.py``; the job that a handler is called with, which has
more methods, is in ``worker/running_job.py``.
"""

import math
import threading
import time
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, Protocol

import msgspec

from ledger.errors import JobFailed, JobNotFound
from ledger.log.times import as_datetime
from ledger.queue import kue_options
from ledger.queue.arguments import LARGEST_PAGE, Json
from ledger.queue.read_models import ReadModels
from ledger.rules.commands import Command, Move, Remove, Reprioritize
from ledger.rules.job import State

if TYPE_CHECKING:
    from ledger.database.contract import Database
    from ledger.log.answers import Outcome
    from ledger.log.commit_notifier import CommitNotifier
    from ledger.log.ledger import Ledger
    from ledger.log.store import Envelope

_ENDED: Final = frozenset({State.COMPLETE, State.FAILED, State.REMOVED})


class OwningQueue(Protocol):
    """The part of a queue that its jobs use."""

    @property
    def database(self) -> "Database": ...
    @property
    def ledger(self) -> "Ledger": ...
    @property
    def read_models(self) -> ReadModels: ...
    @property
    def commit_notifier(self) -> "CommitNotifier": ...
    def execute(self, command: Command, /) -> "Outcome": ...


class Job:
    """A job in the queue.

    The fields that never change (``id``, ``type``, ``data``, ``created_at``) are read once;
    all others are read from the database at each access.

    Attributes:
        id: Its number, from 1.
    """

    def __init__(
        self,
        queue: OwningQueue,
        job_id: int,
        *,
        type_: str | None = None,
        fields: Mapping[str, Any] | None = None,
    ) -> None:
        self.id = job_id
        self._queue = queue
        self._type = type_ if fields is None else fields["type"]
        self._fields = fields

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
        """Read the current state of the job; return it as Kue's JSON object.

        Raises:
            JobNotFound: The job has been removed.
        """
        with self._queue.database.read() as connection:
            json = self._queue.read_models.job(connection, self.id)
        if json is None:
            raise JobNotFound(self.id)
        fields: Mapping[str, Any] = msgspec.json.decode(json)
        self._fields, self._type = fields, fields["type"]
        return fields

    @property
    def type(self) -> str:
        """Return the job's type."""
        if self._type is None:
            self.refresh()
        return self._type or ""

    @property
    def data(self) -> Json:
        """Return the data that the job was created with."""
        return (self._fields or self.refresh())["data"]

    @property
    def state(self) -> str:
        """Return the state: inactive, delayed, active, complete, failed or removed."""
        try:
            state: str = self.refresh()["state"]
        except JobNotFound:
            return State.REMOVED.value
        return state

    @property
    def priority(self) -> int:
        """Return the priority; a lower number runs sooner."""
        priority: int = self.refresh()["priority"]
        return priority

    @property
    def percent(self) -> int:
        """Return the progress in per cent, an integer."""
        return int(self.refresh()["progress"])

    @property
    def progress_data(self) -> Json:
        """Return the data last reported with the progress, or None."""
        return self.refresh().get("progress_data")

    @property
    def result(self) -> Json:
        """Return the value that the handler returned, or None if it has not returned."""
        return self.refresh().get("result")

    @property
    def error(self) -> str | None:
        """Return the last failure, its message followed by the traceback, or None."""
        return self.refresh().get("error")

    @property
    def attempts(self) -> Mapping[str, int]:
        """Return the numbers of attempts ``made`` and ``remaining``, and their ``max``."""
        attempts: Mapping[str, int] = self.refresh()["attempts"]
        return attempts

    @property
    def created_at(self) -> datetime:
        """Return the time of the job's creation, in UTC; the last one if it is after 9999."""
        created_at_ms = int((self._fields or self.refresh())["created_at"])
        return as_datetime(created_at_ms)

    def log(self) -> list[str]:
        """Return the lines that the job's attempts have logged, and one line per failure.

        Of a log with more than 10,000 lines or 8 MiB, the newest are returned.
        """
        with self._queue.database.read() as connection:
            if self._queue.read_models.job(connection, self.id) is None:
                raise JobNotFound(self.id)
            return list(self._queue.read_models.log(connection, self.id, newest=LARGEST_PAGE))

    def events(self) -> "list[Envelope]":
        """Return all events of the job, even after its removal."""
        return list(self._history())

    def _history(self) -> "Iterator[Envelope]":
        version = 0
        with self._queue.database.read() as connection:
            while some := self._queue.read_models.events(connection, self.id, after=version):
                yield from some
                version = some[-1].version

    def remove(self) -> None:
        """Remove the job from every view; its history stays.

        Raises:
            JobNotFound: There is no such job, or it has been removed.
        """
        self._queue.execute(Remove(job_id=self.id))

    def restart(self) -> None:
        """Queue the job again, regardless of its state.

        Raises:
            JobNotFound: The job has been removed.
        """
        self._queue.execute(Move(job_id=self.id, to=State.INACTIVE.value))

    def reprioritize(self, priority: int | str) -> None:
        """Change the priority to a number (lower runs sooner) or one of Kue's names."""
        number = kue_options.priority("priority", priority)
        self._queue.execute(Reprioritize(job_id=self.id, priority=number))

    def wait(self, timeout: float | None = None) -> Json:
        """Wait until the job is complete, and return its result.

        Args:
            timeout: Seconds; None waits without limit.

        Raises:
            TimeoutError: The job has not ended in time; it is not affected.
            JobFailed: The job has failed and is not tried again.
            JobNotFound: The job was removed before it was complete.
        """
        deadline = math.inf if timeout is None else time.monotonic() + timeout
        notified = threading.Event()
        commit_notifier = self._queue.commit_notifier
        with commit_notifier.subscribed(notified.set):
            while (state := self.state) not in _ENDED:
                left_s = deadline - time.monotonic()
                if left_s <= 0:
                    raise TimeoutError(f"job {self.id} is still {state} after {timeout} seconds")
                notified.wait(min(left_s, commit_notifier.longest_wait_s))
                notified.clear()
        return self._result(state)

    def _result(self, state: str) -> Json:
        if state == State.REMOVED:
            completed = None
            for event in self._history():
                if event.kind == "completed":
                    completed = event
            if completed is None:
                raise JobNotFound(self.id)
            text = completed.content
            return None if text is None else msgspec.json.decode(text)
        if state == State.FAILED:
            raise JobFailed(self.id, self.error or "")
        return self.result

"""An attempt at a job as its handler sees it, in the handler's thread.

What a handler logs, reports or returns becomes a *report* on the attempt.  Reports are kept,
in order, until the worker's loop takes them (``outbox.py``): a handler does not wait for the
database, unless it reports more than the database can take.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Final, overload

import msgspec

from ledger.errors import DataErased
from ledger.queue.arguments import Json, Milliseconds, milliseconds
from ledger.queue.job import Job
from ledger.queue.queue import Queue
from ledger.rules import commands, json_text
from ledger.worker.outbox import Reports

if TYPE_CHECKING:
    from ledger.log.ports import JobWithData

# Progress reports per ttl, for a handler whose percentage stays the same.
_RENEWALS_A_TTL: Final = 3


class Retry(Exception):  # noqa: N818 - an instruction, not an error
    """An exception that a handler raises to fail the attempt and say when to try again.

    It uses up an attempt, like every failure; if none is left, the job has failed.

    Args:
        message: Why, for the job's log.
        after: Milliseconds or a timedelta; None waits as the job's backoff says.

    Attributes:
        after_ms: *after* in milliseconds.
    """

    # For subclasses that do not call this class's constructor.
    after_ms: int | None = None

    def __init__(self, message: str = "", *, after: Milliseconds | None = None) -> None:
        super().__init__(message or "the handler asked to try again")
        self.after_ms = milliseconds("after", after)
        if self.after_ms is not None:
            commands.integer("after", self.after_ms, least=0)


class Fail(Exception):  # noqa: N818 - as Retry
    """An exception that a handler raises when it is useless to try again.

    Args:
        message: Why, for the job's log.
    """

    def __init__(self, message: str = "") -> None:
        super().__init__(message or "the handler asked not to try again")


# The module from which applications import them, also in the log of their jobs.
Retry.__module__ = Fail.__module__ = "ledger"


class RunningJob(Job):
    """The job that a handler is called with.

    Args:
        queue: Its queue.
        claimed: The job as the claim started it, with its data.
        notify: Called with this job when it has reports to take.

    Attributes:
        attempt: The number of this attempt, from 1.
    """

    attempt: int
    # The handler could set the attributes above.
    _key: tuple[int, int]
    _is_over = False
    _has_ended = False
    _expires_at_ms: int | None
    _ttl_ms: int | None
    _text: str | None
    _is_decoded = False
    _data: Json = None
    _notify: Callable[["RunningJob"], None]
    _reports: Reports

    def __init__(
        self, queue: Queue, claimed: "JobWithData", notify: Callable[["RunningJob"], None]
    ) -> None:
        job, data = claimed
        super().__init__(queue, job.id, type_=job.type)
        ttl_ms = job.ttl_ms
        # Not by assignments, each of which is checked, because many attempts start at once.
        vars(self).update(
            attempt=job.attempt,
            _key=(job.id, job.attempt),
            _expires_at_ms=job.due_at_ms,
            _ttl_ms=ttl_ms,
            _text=data,
            _notify=notify,
            _reports=Reports(None if ttl_ms is None else ttl_ms / _RENEWALS_A_TTL / 1000),
        )

    @property
    def key(self) -> tuple[int, int]:
        """Return the job's id and the number of the attempt, whatever the handler has set."""
        return self._key

    def __setattr__(self, name: str, value: object) -> None:
        # The worker calls them too: with another object in their place, the attempt could not end.
        if name in _METHODS:
            raise AttributeError(f"{name} is a method of the job: keep your value elsewhere")
        super().__setattr__(name, value)

    @property
    def expired(self) -> bool:
        """Return whether the attempt is over, although the handler has not ended.

        Its ttl ran out, this worker was considered lost, or the job was taken away.  Further
        reports are ignored, so the handler should end.
        """
        return self._is_over

    @property
    def ended(self) -> bool:
        """Return whether the handler has ended."""
        return self._has_ended

    @property
    def ttl_ms(self) -> int | None:
        """Return how long the attempt may go without progress; None if there is no limit."""
        return self._ttl_ms

    @property
    def expires_at_ms(self) -> int | None:
        """Return when the attempt expires unless the handler reports progress; None for never.

        It is a time of the ledger's clock, in UTC milliseconds.
        """
        return self._expires_at_ms

    def expire_at(self, at_ms: int | None) -> None:
        """Set when the attempt expires; None for never."""
        self._expires_at_ms = at_ms

    @property
    def data(self) -> Json:
        # Decoded here, in the handler's thread, so that data that cannot be decoded because it is
        # nested too deeply fails its own attempt, not the worker.
        if not self._is_decoded:
            if self._text is None:
                # No claim gives such a job to a worker.
                raise DataErased(self.id)
            self._data, self._text = msgspec.json.decode(self._text), None
            self._is_decoded = True
        return self._data

    @overload
    def log(self) -> list[str]: ...
    @overload
    def log(self, format: str, *args: object) -> None: ...
    def log(self, format: str | None = None, *args: object) -> list[str] | None:  # noqa: A002
        """Write *format* % *args* to the job's log; without arguments, return the log.

        The line is recorded soon, at the latest when the attempt ends.

        Raises:
            InvalidInput: The line has more than 16 Mi characters as JSON.
        """
        if format is None:
            return super().log()
        line = str(format) % args if args else str(format)
        # Before it is encoded, which takes as long as the line is.
        commands.check_length("line", line, most=commands.LARGEST_REPORT)
        job_id, attempt = self._key
        self._report(commands.Log(job_id=job_id, attempt=attempt, line=json_text.string(line)))
        return None

    def progress(self, done: float, total: float, data: Json = None) -> None:
        """Report that *done* of *total* is done; cheap enough for each iteration of a loop.

        A report of progress restarts the job's ttl.

        Args:
            done: How much is done.
            total: How much there is to do, more than 0.
            data: Anything that JSON can represent, to show with it.

        Raises:
            InvalidInput: *total* is not greater than 0, or *data* is not JSON or has more than
                16 Mi characters as JSON.
        """
        percent = commands.percent(done, total)
        most = commands.LARGEST_REPORT
        text = None if data is None else json_text.of("progress data", data, most=most)
        job_id, attempt = self._key
        self._report(commands.Progress(job_id=job_id, attempt=attempt, progress=percent, data=text))

    def finish(self, report: commands.OnAttempt) -> None:
        """Add the attempt's last report; even if it no longer counts, the handler has ended."""
        self._reports.put(report)
        self._has_ended = True
        self._notify(self)

    def take(self) -> list[commands.OnAttempt]:
        """Return the reports since the last call."""
        return self._reports.take()

    def end(self) -> None:
        """Discard the reports that were not taken: the attempt is over."""
        self._is_over = True
        self._reports.close()

    def _report(self, report: commands.OnAttempt) -> None:
        if self._reports.put(report):
            self._notify(self)


# Looked up once, because it is asked for each attribute that is set.
_METHODS: Final = frozenset(name for name in dir(RunningJob) if callable(getattr(RunningJob, name)))

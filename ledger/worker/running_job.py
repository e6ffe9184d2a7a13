"""Be an attempt at a job, as its handler sees it, in the handler's thread.

What a handler logs, reports or returns becomes a *word* about the attempt.  Words are
left here, in order, until the worker's loop takes them: a handler never waits for the
database, unless it says more than the database can take.
"""

import math
import threading
import time
import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, overload

import msgspec

from ledger.queue.arguments import Json, Milliseconds, milliseconds
from ledger.queue.job import Job
from ledger.queue.queue import Handler, Queue
from ledger.rules import commands, json_text

if TYPE_CHECKING:
    from ledger.log.ledger import Claimable

# A handler that logs faster than the database takes it waits here.
_MOST_LINES_HELD: Final = 1_000
# Of what is kept in memory, and of what a commit takes at once.
MOST_CHARACTERS: Final = 16 * 1024 * 1024
# Signs of life in a ttl, of a handler whose percentage stays the same.
_RENEWALS_A_TTL: Final = 3
# Where a word keeps what the handler said.
_CONTENT: Final[dict[type[commands.OnAttempt], str]] = {
    commands.Log: "line",
    commands.Progress: "data",
    commands.Complete: "result",
    commands.FailAttempt: "error",
}


class Retry(Exception):  # noqa: N818 - it is no error but what to do
    """Raise in a handler to fail the attempt and say when to try again.

    It uses up an attempt, as every failure; without any left the job has failed.

    Args:
        message: Why, for the job's log.
        after: Milliseconds or a timedelta; None as the job's backoff says.
    """

    def __init__(self, message: str = "", *, after: Milliseconds | None = None) -> None:
        super().__init__(message or "the handler asked to try again")
        self.after_ms = milliseconds("after", after)
        if self.after_ms is not None:
            commands.integer("after", self.after_ms, least=0)


class Fail(Exception):  # noqa: N818 - as Retry
    """Raise in a handler when there is no use in trying again.

    Args:
        message: Why, for the job's log.
    """

    def __init__(self, message: str = "") -> None:
        super().__init__(message or "the handler asked not to try again")


# As applications know them, in the log of their jobs too.
Retry.__module__ = Fail.__module__ = "ledger"


class RunningJob(Job):
    """Be the job that a handler is called with.

    Attributes:
        attempt: The number of this attempt, from 1.
        expired: Whether the attempt is over, by its ttl or because this worker was
            taken for lost: what the handler says no longer counts, so it had better
            end.
        ended: Whether the handler has.
        expires_at_ms: When the attempt expires without a sign of life.
    """

    def __init__(
        self, queue: Queue, claimed: "Claimable", tell: Callable[["RunningJob"], None]
    ) -> None:
        job, data = claimed
        super().__init__(queue, job.id, type_=job.type)
        self.attempt = job.attempt
        self.expired = False
        self.ended = False
        self.expires_at_ms = job.due_at_ms
        self._text = data
        self._data: Json = None
        self._tell = tell
        self._outbox = _Outbox(None if job.ttl_ms is None else job.ttl_ms / _RENEWALS_A_TTL / 1000)

    @property
    def data(self) -> Json:
        # In the handler's thread: what cannot be read, as it is nested too deeply, must fail
        # its own attempt and not the worker.
        if self._text is not None:
            self._data, self._text = msgspec.json.decode(self._text), None
        elif self._data is None:
            self._data = {}
        return self._data

    @overload
    def log(self) -> list[str]: ...
    @overload
    def log(self, format: str, *args: object) -> None: ...
    def log(self, format: str | None = None, *args: object) -> list[str] | None:  # noqa: A002
        """Write a line of the job's log: *format* % *args*; without any, return the log.

        The line is in the ledger soon, at the latest with the attempt's end.
        """
        if format is None:
            return super().log()
        line = str(format) % args if args else str(format)
        self._say(commands.Log(job_id=self.id, attempt=self.attempt, line=json_text.string(line)))
        return None

    def progress(self, done: float, total: float, data: Json = None) -> None:
        """Report that *done* of *total* is done; cheap enough for every round of a loop.

        It is a sign of life: the job's ttl begins anew.

        Args:
            done: How much is done.
            total: How much there is to do, more than 0.
            data: Anything to show with it that JSON can say.

        Raises:
            InvalidInput: *total* is not greater than 0, or *data* is not JSON.
        """
        percent = commands.percent(done, total)
        text = None if data is None else json_text.of("progress data", data)
        self._say(
            commands.Progress(job_id=self.id, attempt=self.attempt, progress=percent, data=text)
        )

    def finish(self, word: commands.OnAttempt) -> None:
        """Say the attempt's last word; whether it counts or not, the handler has ended."""
        self._outbox.put(word)
        self.ended = True
        self._tell(self)

    def take(self) -> list[commands.OnAttempt]:
        """Return what has been said since the last call."""
        return self._outbox.take()

    def end(self) -> None:
        """Drop what was said and not taken: the attempt is over."""
        self.expired = True
        self._outbox.close()

    def _say(self, word: commands.OnAttempt) -> None:
        if self._outbox.put(word):
            self._tell(self)


def size(word: commands.OnAttempt) -> int:
    """Return how many characters the handler said with *word*."""
    return len(getattr(word, _CONTENT[type(word)]) or "")


class _Outbox:
    """Keep a job's words until the loop takes them; of progress only the newest.

    Args:
        renewal_s: After how long the same percentage is news again: the ttl begins
            anew; None if there is none.
    """

    def __init__(self, renewal_s: float | None) -> None:
        self._renewal_s = math.inf if renewal_s is None else renewal_s
        self._renew_at_s = 0.0
        self._mutex = threading.Lock()
        # Made for who waits, which is seldom.
        self._room: threading.Condition | None = None
        self._words: list[commands.OnAttempt] = []
        self._characters = 0
        self._progress: commands.Progress | None = None
        self._told: int | None = None
        self._closed = False

    def put(self, word: commands.OnAttempt) -> bool:
        """Keep *word*; return whether the loop must be told that there is something."""
        with self._mutex:
            if isinstance(word, commands.Progress):
                if self._closed or not self._is_news(word):
                    return False
                first = not self._words and self._progress is None
                self._progress = word
                return first
            while self._is_full() and not self._closed:
                self._room = self._room or threading.Condition(self._mutex)
                self._room.wait()
            if self._closed:
                return False
            first = not self._words and self._progress is None
            self._words.append(word)
            self._characters += size(word)
            return first

    def _is_full(self) -> bool:
        return len(self._words) >= _MOST_LINES_HELD or self._characters >= MOST_CHARACTERS

    def take(self) -> list[commands.OnAttempt]:
        with self._mutex:
            words, self._words, self._characters = self._words, [], 0
            if self._progress is not None:
                # Before the last word: after it, it would be too late.
                words.insert(0, self._progress)
                self._told, self._progress = self._progress.progress, None
                self._renew_at_s = time.monotonic() + self._renewal_s
            self._wake()
            return words

    def _is_news(self, word: commands.Progress) -> bool:
        return (
            word.progress != self._told
            or word.data is not None
            or time.monotonic() >= self._renew_at_s
        )

    def close(self) -> None:
        with self._mutex:
            self._closed = True
            self._words, self._progress = [], None
            self._wake()

    def _wake(self) -> None:
        if self._room is not None:
            self._room.notify_all()


def perform(handler: Handler, job: RunningJob) -> commands.OnAttempt:
    """Call the handler, and return the attempt's last word."""
    try:
        result = handler.function(job)
        text = None if result is None else json_text.of("result", result)
    except Retry as error:
        return _failure(job, error, retry_after_ms=error.after_ms)
    except Fail as error:
        return _failure(job, error, final=True)
    except BaseException as error:  # noqa: BLE001 - the edge of the user's code
        return _failure(job, error)
    return commands.Complete(job_id=job.id, attempt=job.attempt, result=text)


def _failure(
    job: RunningJob,
    error: BaseException,
    *,
    retry_after_ms: int | None = None,
    final: bool = False,
) -> commands.FailAttempt:
    return commands.FailAttempt(
        job_id=job.id,
        attempt=job.attempt,
        error=described(error),
        retry_after_ms=retry_after_ms,
        final=final,
    )


def described(error: BaseException) -> str:
    """Return an error as the ledger keeps it: its message first, then the traceback."""
    if isinstance(error, SyntaxError):
        # Python shows where it is before it says what it is.
        shown = f"{type(error).__name__}: {error.msg}"
    else:
        shown = "".join(traceback.format_exception_only(error)).strip()
    first = next(iter(shown.splitlines()), "an error without a name")
    return json_text.string(f"{first}\n{''.join(traceback.format_exception(error))}")

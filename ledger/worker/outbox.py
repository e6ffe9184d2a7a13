"""Reports on attempts, on their way from handlers to the ledger.

What a handler logs, reports or returns is a *report*: a command of class ``OnAttempt``.  Each
attempt has its ``Reports``, from which the worker's loop takes them; the worker has one
``Outbox``, in which they stay until the ledger has answered.

Both are bounded.  If the database takes less than the handlers report, or nothing, the outbox
fills up and the loop takes no more; then the handlers that report most wait.
"""

import math
import threading
import time
from collections import deque
from collections.abc import Iterable
from itertools import islice
from typing import Final, Generic, TypeVar

from ledger.rules import commands

Sender = TypeVar("Sender")

# A handler that reports faster than the database can take waits at this number.
_MOST_HELD: Final = 1_000
# Bounds, with the number of characters, how long a commit holds the lock.
_MOST_IN_BATCH: Final = 1_000
# Limit on what is kept of an attempt in memory, and on what one commit takes.
_MOST_CHARACTERS: Final = 16 * 1024 * 1024
# The field of a report that holds what the handler passed in.
_CONTENT: Final[dict[type[commands.OnAttempt], str]] = {
    commands.Log: "line",
    commands.Progress: "data",
    commands.Complete: "result",
    commands.FailAttempt: "error",
}


def _size(report: commands.OnAttempt) -> int:
    """Return how many characters the handler passed in with a report."""
    return len(getattr(report, _CONTENT[type(report)]) or "")


class Reports:
    """The reports on an attempt that the loop has not taken; only the newest of progress.

    Args:
        renewal_s: Seconds after which an unchanged percentage is reported again, to restart
            the ttl; None if there is no ttl.
        most: The handler waits while there are so many reports.
        most_characters: The handler waits while they contain so many characters.
    """

    def __init__(
        self,
        renewal_s: float | None,
        *,
        most: int = _MOST_HELD,
        most_characters: int = _MOST_CHARACTERS,
    ) -> None:
        self._renewal_s = math.inf if renewal_s is None else renewal_s
        self._most = most
        self._most_characters = most_characters
        self._renew_at_s = 0.0
        self._mutex = threading.Lock()
        # Created only when a handler waits, which is seldom.
        self._room: threading.Condition | None = None
        self._reports: list[commands.OnAttempt] = []
        self._characters = 0
        self._progress: commands.Progress | None = None
        self._last_percent: int | None = None
        self._closed = False

    def put(self, report: commands.OnAttempt) -> bool:
        """Keep *report*, once there is room; return whether the loop must be notified."""
        with self._mutex:
            if isinstance(report, commands.Progress):
                if self._closed or not self._is_news(report):
                    return False
                first = not self._reports and self._progress is None
                self._progress = report
                return first
            while self._is_full() and not self._closed:
                self._room = self._room or threading.Condition(self._mutex)
                self._room.wait()
            if self._closed:
                return False
            first = not self._reports and self._progress is None
            self._reports.append(report)
            self._characters += _size(report)
            return first

    def take(self) -> list[commands.OnAttempt]:
        """Return the reports since the last call."""
        with self._mutex:
            reports, self._reports, self._characters = self._reports, [], 0
            if self._progress is not None:
                # Before the last report: after it, progress would be refused.
                reports.insert(0, self._progress)
                self._last_percent, self._progress = self._progress.progress, None
                self._renew_at_s = time.monotonic() + self._renewal_s
            self._wake()
            return reports

    def close(self) -> None:
        """Discard the reports, and those that will still come."""
        with self._mutex:
            self._closed = True
            self._reports, self._progress = [], None
            self._wake()

    def _is_full(self) -> bool:
        return len(self._reports) >= self._most or self._characters >= self._most_characters

    def _is_news(self, report: commands.Progress) -> bool:
        return (
            report.progress != self._last_percent
            or report.data is not None
            or time.monotonic() >= self._renew_at_s
        )

    def _wake(self) -> None:
        if self._room is not None:
            self._room.notify_all()


class Outbox(Generic[Sender]):
    """The reports of a worker that the ledger has not answered, in order.

    It is used by the worker's loop only.

    Args:
        most: Maximum number of reports in a batch.
        most_characters: Maximum number of characters in a batch of more than one report.

    Attributes:
        added: How many reports have been added so far.
        answered: How many of them the ledger has answered.
    """

    def __init__(
        self, *, most: int = _MOST_IN_BATCH, most_characters: int = _MOST_CHARACTERS
    ) -> None:
        self.added = 0
        self.answered = 0
        self._most = most
        self._most_characters = most_characters
        self._unanswered: deque[tuple[Sender, commands.OnAttempt]] = deque()
        self._characters = 0

    def __bool__(self) -> bool:
        return bool(self._unanswered)

    @property
    def is_full(self) -> bool:
        """Return whether it holds a whole batch, so that no more should be added now."""
        return len(self._unanswered) >= self._most or self._characters >= self._most_characters

    def add(self, sender: Sender, reports: Iterable[commands.OnAttempt]) -> None:
        """Add reports of *sender*."""
        for report in reports:
            self._unanswered.append((sender, report))
            self._characters += _size(report)
            self.added += 1

    def batch(self) -> list[tuple[Sender, commands.OnAttempt]]:
        """Return the reports for the next commit, limited in number and in characters."""
        batch: list[tuple[Sender, commands.OnAttempt]] = []
        characters = 0
        for sender, report in islice(self._unanswered, self._most):
            characters += _size(report)
            if batch and characters > self._most_characters:
                break
            batch.append((sender, report))
        return batch

    def remove(self, number: int) -> None:
        """Remove the oldest reports, because they have been answered."""
        self.answered += number
        for _ in range(number):
            _, report = self._unanswered.popleft()
            self._characters -= _size(report)

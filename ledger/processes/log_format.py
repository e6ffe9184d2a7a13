"""The log format of ``ledger work``: one line per event, for programs and for ``grep``.

An event is logged as a message that has a name and facts.  Elsewhere, such as in ``ledger
serve``, the application's or Python's formatter writes the same ``key=value`` pairs.
"""

import json
import logging
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from ledger.rules.printable import plain_json, plain_lines
from ledger.worker.worker import WorkerReport

# Values that need no quotes, if they are printable.
_BARE: Final = re.compile(r"[^\s\"=\\]+")
# The logger of all our modules, configured independently of the application's loggers.
_ROOT: Final = logging.getLogger("ledger")

log: Final = logging.getLogger("ledger.work")


class _Event:
    """A log message: the name of an event, and its facts."""

    def __init__(self, name: str, facts: Mapping[str, object]) -> None:
        self.name = name
        self.facts = facts

    def __str__(self) -> str:
        return " ".join([self.name, *_pairs(self.facts)])


class Lines(logging.Formatter):
    """A formatter that writes a record on one line: ``key=value`` pairs, or a JSON object.

    Args:
        as_json: Whether to write JSON.
    """

    def __init__(self, *, as_json: bool) -> None:
        super().__init__()
        self._as_json = as_json

    def format(self, record: logging.LogRecord) -> str:
        at = datetime.fromtimestamp(record.created, tz=UTC)
        facts: dict[str, Any] = {
            "at": at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
        }
        if isinstance(record.msg, _Event):
            facts |= {"event": record.msg.name, **record.msg.facts}
        else:
            facts["event"] = record.getMessage()
        if record.exc_info:
            facts["trace"] = self.formatException(record.exc_info)
        if self._as_json:
            return plain_json(json.dumps(facts, ensure_ascii=False))
        return " ".join(_pairs(facts))


def _pairs(facts: Mapping[str, object]) -> list[str]:
    return [f"{name}={_quoted(value)}" for name, value in facts.items()]


def _quoted(value: object) -> str:
    text = str(value).lower() if isinstance(value, bool) else str(value)
    if text.isprintable() and _BARE.fullmatch(text):
        return text
    return plain_json(json.dumps(text, ensure_ascii=False))


class PlainFormatter(logging.Formatter):
    """Python's own format, with escapes for what must not reach a terminal raw."""

    def format(self, record: logging.LogRecord) -> str:
        return plain_lines(super().format(record))


def say(event: str, *, level: int = logging.INFO, **facts: object) -> None:
    """Log *event* with its facts."""
    log.log(level, _Event(event, facts))


def send_lines(to: logging.Handler, *, as_json: bool) -> None:
    """Send the log of our modules to a handler, one line per event.

    The application's loggers are not changed.
    """
    to.setFormatter(Lines(as_json=as_json))
    _ROOT.handlers[:] = [to]
    _ROOT.propagate = False
    _ROOT.setLevel(logging.INFO)


def log_end(report: WorkerReport) -> None:
    """Log an attempt that failed, expired or was returned."""
    if report.kind in {"started", "completed"}:
        return
    then = {"next": report.next} if report.next else {}
    say(
        _EVENTS[report.kind],
        level=logging.INFO if report.kind == "returned" else logging.WARNING,
        job=report.job.key[0],
        type=report.job.type,
        attempt=report.job.key[1],
        **then,
        reason=report.error,
    )


_EVENTS: Final = {
    "failed": "attempt failed",
    "expired": "attempt expired",
    "returned": "job returned",
}

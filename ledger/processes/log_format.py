"""The log format of ``ledger work``: one line per event, for programs and for ``grep``."""

import json
import logging
import re
import sys
from datetime import UTC, datetime
from typing import Any, Final

from ledger.worker.worker import WorkerReport

# Values that need no quotes.
_BARE: Final = re.compile(r"[^\s\"=\\\x00-\x1f\x7f]+")
# The logger of our modules, configured independently of the application's loggers.
_OURS: Final = logging.getLogger("ledger")

log: Final = logging.getLogger("ledger.work")


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
            "event": record.getMessage(),
            **getattr(record, "facts", {}),
        }
        if record.exc_info:
            facts["trace"] = self.formatException(record.exc_info)
        if self._as_json:
            return json.dumps(facts, ensure_ascii=False)
        return " ".join(f"{name}={_quoted(value)}" for name, value in facts.items())


def _quoted(value: object) -> str:
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return text if _BARE.fullmatch(text) else json.dumps(text, ensure_ascii=False)


def say(event: str, *, level: int = logging.INFO, **facts: object) -> None:
    """Log *event* with its facts."""
    log.log(level, event, extra={"facts": facts})


def send_lines(*, as_json: bool) -> None:
    """Send the log of our modules to standard output.

    The application's loggers are not changed.
    """
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(Lines(as_json=as_json))
    _OURS.handlers[:] = [handler]
    _OURS.propagate = False
    _OURS.setLevel(logging.INFO)


def log_ends(told: WorkerReport) -> None:
    """Log an attempt that failed, expired or was returned."""
    if told.kind in {"started", "completed"}:
        return
    then = {"next": told.next} if told.next else {}
    say(
        _EVENTS[told.kind],
        level=logging.INFO if told.kind == "returned" else logging.WARNING,
        job=told.job.id,
        type=told.job.type,
        attempt=told.job.attempt,
        **then,
        reason=told.error,
    )


_EVENTS: Final = {
    "failed": "attempt failed",
    "expired": "attempt expired",
    "returned": "job returned",
}

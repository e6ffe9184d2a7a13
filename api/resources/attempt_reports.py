"""Reports of workers on the attempts that they run: progress, log lines, the end.

Each report contains the number of its attempt.  A report on an attempt that is over is refused
with 409; the worker should then drop the work.
"""

from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

import falcon

from ledger.api.http import json_out, requests
from ledger.api.http.body_fields import Fields
from ledger.api.http.etag import answer
from ledger.api.http.requests import ACTOR
from ledger.api.limits import LONGEST_REASON, MOST_LINES
from ledger.errors import InvalidInput, LedgerError
from ledger.log.ledger import Ledger
from ledger.rules.commands import (
    LARGEST_INTEGER,
    Complete,
    FailAttempt,
    Log,
    OnAttempt,
    Progress,
    Return,
    percent,
    worker_name,
)


class Word(NamedTuple):
    """A kind of report.

    Attributes:
        fields: Its fields, besides ``attempt`` and ``worker``.
        read: Returns the commands of a report, given its job, its attempt and its fields.
        done: What to answer, after the job's number.
    """

    fields: tuple[str, ...]
    read: Callable[[int, Any, Fields], Sequence[OnAttempt]]
    done: str


def _progress(job_id: int, attempt: int, fields: Fields) -> Sequence[OnAttempt]:
    if "progress" in fields and ("done" in fields or "total" in fields):
        raise InvalidInput("progress", "progress: expected progress, or done and total, got both")
    if "done" in fields or "total" in fields:
        done = fields.number("done", least=0, most=LARGEST_INTEGER)
        progress = percent(done, fields.number("total", least=0, most=LARGEST_INTEGER))
    else:
        progress = fields.integer("progress")
    data = fields.content("data")
    return [Progress(job_id=job_id, attempt=attempt, progress=progress, data=data)]


def _log(job_id: int, attempt: int, fields: Fields) -> Sequence[OnAttempt]:
    if "line" in fields and "lines" in fields:
        raise InvalidInput("lines", "lines: expected line or lines, got both")
    lines = fields.strings("lines", MOST_LINES) if "lines" in fields else [fields.string("line")]
    return [Log(job_id=job_id, attempt=attempt, line=line) for line in lines]


def _complete(job_id: int, attempt: int, fields: Fields) -> Sequence[OnAttempt]:
    return [Complete(job_id=job_id, attempt=attempt, result=fields.content("result"))]


def _fail(job_id: int, attempt: int, fields: Fields) -> Sequence[OnAttempt]:
    return [
        FailAttempt(
            job_id=job_id,
            attempt=attempt,
            error=fields.string("error"),
            retry_after_ms=fields.integer("retry_after"),
            final=fields.flag("final"),
        )
    ]


def _return(job_id: int, attempt: int, fields: Fields) -> Sequence[OnAttempt]:
    reason = fields.value("reason")
    if not isinstance(reason, str) or not 0 < len(reason) <= LONGEST_REASON:
        raise InvalidInput.expected("reason", f"1 to {LONGEST_REASON} characters", reason)
    return [Return(job_id=job_id, attempt=attempt, reason=reason)]


PROGRESS: Final = Word(("progress", "done", "total", "data"), _progress, "progressed")
LOG: Final = Word(("line", "lines"), _log, "logged")
COMPLETE: Final = Word(("result",), _complete, "completed")
FAIL: Final = Word(("error", "retry_after", "final"), _fail, "failed")
RETURN: Final = Word(("reason",), _return, "returned")


class Hearing:
    """The resource of a kind of report: ``POST /job/:id/progress``, ``…/complete`` and the like."""

    def __init__(self, ledger: Ledger, word: Word, *, largest_body_bytes: int) -> None:
        self._ledger = ledger
        self._word = word
        self._largest_body_bytes = largest_body_bytes

    def on_post(self, req: falcon.Request, resp: falcon.Response, job_id: str) -> None:
        number = requests.job_id(job_id)
        known = ("attempt", "worker", *self._word.fields)
        fields = Fields(req, self._largest_body_bytes, known)
        said = self._word.read(number, fields.integer("attempt"), fields)
        answers = self._ledger.submit(
            said, actor=_actor(fields), cause=requests.cause(req), atomic=True
        )
        for one in answers:
            if isinstance(one, LedgerError):
                raise one
        answer(resp, json_out.encode({"message": f"job {number} {self._word.done}"}))


def _actor(fields: Fields) -> str:
    """Return the actor of a report, as the report names it: there is no authentication yet."""
    worker = fields.value("worker")
    return ACTOR if worker is None else actor_of(worker_name(worker))


def actor_of(worker: str) -> str:
    """Return the actor that stands for a worker."""
    return f"worker:{worker}"

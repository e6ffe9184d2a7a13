"""Reports of workers on the attempts that they run: progress, log lines, the end.

Each report contains the number of its attempt.  A report on an attempt that is over is refused
with 409; the worker should then stop working on it.
"""

from collections.abc import Sequence

import falcon

from ledger.api.http import json_out, requests
from ledger.api.http.bodies import (
    AttemptReport,
    CompleteReport,
    FailReport,
    LogReport,
    ProgressReport,
    ReturnReport,
    json_of,
)
from ledger.api.http.etag import answer
from ledger.api.http.requests import ACTOR
from ledger.api.schemas import Message
from ledger.errors import LedgerError
from ledger.log.ledger import Ledger
from ledger.rules.commands import Complete, FailAttempt, Log, OnAttempt, Progress, Return


class AttemptReports:
    """The resources of reports: ``POST /job/:id/progress``, ``…/complete`` and the like."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def progress(
        self, req: falcon.Request, resp: falcon.Response, *, job_id: int, body: ProgressReport
    ) -> None:
        """Record the progress of an attempt."""
        command = Progress(
            job_id=job_id,
            attempt=body.attempt,
            progress=body.percent,
            data=json_of(body.data),
        )
        self._submit(req, body, [command])
        _answer(resp, job_id, "progressed")

    def log(
        self, req: falcon.Request, resp: falcon.Response, *, job_id: int, body: LogReport
    ) -> None:
        """Add lines to the log of a job, all or none."""
        lines = [body.line] if body.lines is None else body.lines
        self._submit(
            req,
            body,
            [Log(job_id=job_id, attempt=body.attempt, line=bytes(line).decode()) for line in lines],
        )
        _answer(resp, job_id, "logged")

    def complete(
        self, req: falcon.Request, resp: falcon.Response, *, job_id: int, body: CompleteReport
    ) -> None:
        """Record that an attempt succeeded."""
        command = Complete(job_id=job_id, attempt=body.attempt, result=json_of(body.result))
        self._submit(req, body, [command])
        _answer(resp, job_id, "completed")

    def fail(
        self, req: falcon.Request, resp: falcon.Response, *, job_id: int, body: FailReport
    ) -> None:
        """Record that an attempt failed."""
        command = FailAttempt(
            job_id=job_id,
            attempt=body.attempt,
            error=bytes(body.error).decode(),
            retry_after_ms=body.retry_after,
            final=bool(body.final),
        )
        self._submit(req, body, [command])
        _answer(resp, job_id, "failed")

    def return_job(
        self, req: falcon.Request, resp: falcon.Response, *, job_id: int, body: ReturnReport
    ) -> None:
        """Return an unfinished job to the queue."""
        command = Return(job_id=job_id, attempt=body.attempt, reason=body.reason)
        self._submit(req, body, [command])
        _answer(resp, job_id, "returned")

    def _submit(
        self, req: falcon.Request, body: AttemptReport, commands: Sequence[OnAttempt]
    ) -> None:
        # The worker's name is not checked, because there is no authentication yet.
        actor = ACTOR if body.worker is None else actor_of(body.worker)
        outcomes = self._ledger.submit(
            commands, actor=actor, cause=requests.cause(req), atomic=True
        )
        for outcome in outcomes:
            if isinstance(outcome, LedgerError):
                raise outcome


def _answer(resp: falcon.Response, job_id: int, done: str) -> None:
    answer(resp, json_out.encode(Message(message=f"job {job_id} {done}")))


def actor_of(worker: str) -> str:
    """Return the actor that events of a worker are recorded with."""
    return f"worker:{worker}"

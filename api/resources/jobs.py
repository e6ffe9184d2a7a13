"""The resources of single jobs: creation, state, priority, removal, log and history."""

from collections.abc import Sequence

import falcon

from ledger.api.http import json_out, requests
from ledger.api.http.etag import answer, is_current
from ledger.api.http.requests import ACTOR
from ledger.api.resources.attempt_reports import Hearing
from ledger.database.contract import Database
from ledger.errors import InvalidInput, JobNotFound, LedgerError
from ledger.log import store
from ledger.log.ledger import Answer, Ledger, Outcome
from ledger.projections.models.jobs import Jobs
from ledger.queue import kue_options
from ledger.rules.commands import Create, Move, OnJob, Remove, Reprioritize
from ledger.rules.job import LIVE_STATES, State


class Creation:
    """The resource ``POST /job``, which creates jobs."""

    def __init__(self, ledger: Ledger, *, largest_body_bytes: int) -> None:
        self._ledger = ledger
        self._largest_body_bytes = largest_body_bytes

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        atomic = requests.flag(req, "atomic")
        key = requests.idempotency_key(req)
        asked = requests.posted(requests.body(req, self._largest_body_bytes), key)
        cause = requests.cause(req)
        if asked is None:
            resp.status = falcon.HTTP_204
        elif isinstance(asked, Create):
            outcome = self._ledger.execute(asked, actor=ACTOR, cause=cause)
            created = f'{{"message":"job {outcome.job_id} created","id":{outcome.job_id}}}'
            answer(resp, created.encode())
        else:
            self._create_many(resp, asked, cause, atomic=atomic)

    def _create_many(
        self,
        resp: falcon.Response,
        asked: Sequence[Create | InvalidInput],
        cause: str | None,
        *,
        atomic: bool,
    ) -> None:
        """Answer each item in its place; refused ones stop the others only if *atomic*."""
        commands = [item for item in asked if isinstance(item, Create)]
        refused = len(commands) < len(asked)
        outcomes: Sequence[Answer] = ()
        if not (atomic and refused):
            outcomes = self._ledger.submit(commands, actor=ACTOR, cause=cause, atomic=atomic)
        done = iter(outcomes)
        answers: list[Answer | None] = [
            item if isinstance(item, InvalidInput) else next(done, None) for item in asked
        ]
        if refused or any(isinstance(outcome, LedgerError) for outcome in outcomes):
            resp.status = falcon.HTTP_400
        answer(resp, f"[{','.join(map(_item, answers))}]".encode())


def _item(outcome: Answer | None) -> str:
    if isinstance(outcome, Outcome):
        return f'{{"message":"job created","id":{outcome.job_id}}}'
    error = "not created, since another job of this atomic request was refused"
    return json_out.encode({"error": error if outcome is None else str(outcome)}).decode()


class Job:
    """The resource ``/job/:id``, which returns and removes a job."""

    def __init__(self, ledger: Ledger, jobs: Jobs) -> None:
        self._ledger = ledger
        self._jobs = jobs

    def on_get(self, req: falcon.Request, resp: falcon.Response, job_id: str) -> None:
        number = requests.job_id(job_id)
        with self._ledger.database.read() as connection:
            if is_current(req, resp, connection):
                return
            shown = self._jobs.get(connection, number)
        if shown is None:
            raise JobNotFound(number)
        answer(resp, shown.json.encode(), shown.position)

    on_head = on_get

    def on_delete(self, req: falcon.Request, resp: falcon.Response, job_id: str) -> None:
        number = requests.job_id(job_id)
        _execute(self._ledger, req, Remove(job_id=number))
        answer(resp, json_out.encode({"message": f"job {number} removed"}))


class JobLog:
    """The resource ``/job/:id/log``, which returns a job's log and appends to it."""

    def __init__(
        self, database: Database, jobs: Jobs, hearing: Hearing, *, largest_page: int
    ) -> None:
        self._database = database
        self._jobs = jobs
        self._hearing = hearing
        self._largest_page = largest_page

    def on_get(self, req: falcon.Request, resp: falcon.Response, job_id: str) -> None:
        number = requests.job_id(job_id)
        with self._database.read() as connection:
            if is_current(req, resp, connection):
                return
            shown = self._jobs.get(connection, number)
            if shown is None:
                raise JobNotFound(number)
            lines = store.read_log(connection, number, newest=self._largest_page)
        answer(resp, json_out.log_lines(lines), shown.position)

    on_head = on_get

    def on_post(self, req: falcon.Request, resp: falcon.Response, job_id: str) -> None:
        self._hearing.on_post(req, resp, job_id)


class JobHistory:
    """The resource ``GET /job/:id/events``: all events of a job."""

    def __init__(self, database: Database, *, largest_page: int) -> None:
        self._database = database
        self._largest_page = largest_page

    def on_get(self, req: falcon.Request, resp: falcon.Response, job_id: str) -> None:
        number = requests.job_id(job_id)
        after = requests.natural(req, "after", default=0)
        limit = requests.natural(req, "limit", default=self._largest_page)
        with self._database.read() as connection:
            if is_current(req, resp, connection):
                return
            position = store.read_position(connection)
            envelopes = store.read_stream(
                connection, number, after=after, limit=min(limit, self._largest_page)
            )
            if not envelopes and not store.read_versions(connection, [number]):
                raise JobNotFound(number)
        answer(resp, json_out.history(envelopes), position)

    on_head = on_get


class JobState:
    """The resource ``PUT /job/:id/state/:state``, which moves a job by hand."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def on_put(self, req: falcon.Request, resp: falcon.Response, job_id: str, state: str) -> None:
        to = known_state(state)
        _execute(self._ledger, req, Move(job_id=requests.job_id(job_id), to=to.value))
        answer(resp, b'{"message":"updated state"}')


class JobPriority:
    """The resource ``PUT /job/:id/priority/:priority``, which changes a job's priority."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def on_put(
        self, req: falcon.Request, resp: falcon.Response, job_id: str, priority: str
    ) -> None:
        # As in Kue, the priority is checked before the job is looked for.
        number = kue_options.priority("priority", priority)
        _execute(self._ledger, req, Reprioritize(job_id=requests.job_id(job_id), priority=number))
        answer(resp, b'{"message":"updated priority"}')


class Restart:
    """The resource ``/inactive/:id``, which queues a job again by GET or POST.

    Kue's own UI uses GET.  It is the only GET that changes something, so HEAD must not run it.
    """

    def __init__(self, ledger: Ledger, jobs: Jobs) -> None:
        self._ledger = ledger
        self._jobs = jobs

    def on_get(self, req: falcon.Request, resp: falcon.Response, job_id: str) -> None:
        number = requests.job_id(job_id)
        _execute(self._ledger, req, Move(job_id=number, to=State.INACTIVE.value))
        answer(resp, json_out.encode({"message": f"job {number} inactive"}))

    on_post = on_get

    def on_head(self, req: falcon.Request, resp: falcon.Response, job_id: str) -> None:
        number = requests.job_id(job_id)
        with self._ledger.database.read() as connection:
            if self._jobs.get(connection, number) is None:
                raise JobNotFound(number)
        answer(resp, b"")


def known_state(name: str) -> State:
    """Return the state of that name.

    Raises:
        InvalidInput: It is not one of the five.
    """
    if name not in LIVE_STATES:
        raise InvalidInput.expected("state", f"one of {', '.join(LIVE_STATES)}", name)
    return State(name)


def _execute(ledger: Ledger, req: falcon.Request, command: OnJob) -> None:
    ledger.execute(command, actor=ACTOR, cause=requests.cause(req))

"""The resources of single jobs: creation, state, priority, removal, log and history."""

from collections.abc import Sequence
from typing import Final

import falcon
from msgspec.structs import replace

from ledger.api.http import json_out, requests
from ledger.api.http.etag import answer, is_current
from ledger.api.http.links import link_to_rest
from ledger.api.http.posted_jobs import Asked
from ledger.api.http.requests import ACTOR
from ledger.api.schemas import Message
from ledger.errors import InvalidInput, JobNotFound, KeyReused, LedgerError
from ledger.log import store
from ledger.log.answers import Answer, Outcome
from ledger.log.ledger import Ledger
from ledger.projections.models.jobs import Jobs
from ledger.rules.commands import LARGEST_INTEGER, Create, Move, OnJob, Remove, Reprioritize
from ledger.rules.events import RequestKey
from ledger.rules.job import State


class JobCreation:
    """The resource ``POST /job``, which creates jobs.

    Args:
        ledger: The ledger.
        kue_lenient: Whether to answer in Kue's words, and with its statuses.
    """

    def __init__(self, ledger: Ledger, *, kue_lenient: bool) -> None:
        self._ledger = ledger
        self._kue_lenient = kue_lenient

    def create(
        self,
        req: falcon.Request,
        resp: falcon.Response,
        *,
        body: Asked,
        key: str | None,
        atomic: bool,
    ) -> None:
        """Create the jobs of the body; a body without jobs is answered with 204."""
        cause = requests.cause(req)
        if body is None:
            resp.status = falcon.HTTP_204
        elif isinstance(body, Create):
            if key is not None:
                body = replace(body, request=RequestKey(key=key))
            outcome = self._ledger.execute(body, actor=ACTOR, cause=cause)
            named = "job" if self._kue_lenient else f"job {outcome.job_id}"
            answer(resp, _said(named, outcome).encode())
        else:
            if key is not None:
                body = _keyed(body, key)
            self._create_many(resp, body, cause, atomic=atomic)

    def _create_many(
        self,
        resp: falcon.Response,
        requested: Sequence[Create | InvalidInput],
        cause: str | None,
        *,
        atomic: bool,
    ) -> None:
        """Create the jobs of an array, and answer each in its place.

        Refused jobs prevent the others only if *atomic*.

        Raises:
            KeyReused: The array came with the key of another request; nothing was created.
        """
        commands = [item for item in requested if isinstance(item, Create)]
        refused = len(commands) < len(requested)
        outcomes: Sequence[Answer] = ()
        if not (atomic and refused):
            outcomes = self._ledger.submit(commands, actor=ACTOR, cause=cause, atomic=atomic)
        for outcome in outcomes:
            if isinstance(outcome, KeyReused):
                raise outcome
        done = iter(outcomes)
        answers: list[Answer | None] = [
            item if isinstance(item, InvalidInput) else next(done, None) for item in requested
        ]
        refused = refused or any(isinstance(outcome, LedgerError) for outcome in outcomes)
        if refused and not self._kue_lenient:
            resp.status = falcon.HTTP_400
        answer(resp, f"[{','.join(map(_item, answers))}]".encode())


def _keyed(body: Sequence[Create | InvalidInput], key: str) -> list[Create | InvalidInput]:
    """Return the jobs of an array with their places in the request that has the key."""
    return [
        replace(item, request=RequestKey(key=key, place=place, jobs=len(body)))
        if isinstance(item, Create)
        else item
        for place, item in enumerate(body)
    ]


def _said(named: str, outcome: Outcome) -> str:
    """Return the answer for a job that was created, now or by an earlier request."""
    if outcome.events:
        return f'{{"message":"{named} created","id":{outcome.job_id}}}'
    return f'{{"message":"{named} existed","id":{outcome.job_id},"existed":true}}'


def _item(outcome: Answer | None) -> str:
    if isinstance(outcome, Outcome):
        return _said("job", outcome)
    error = "not created, because another job of this atomic request was refused"
    return json_out.encode({"error": error if outcome is None else str(outcome)}).decode()


class JobReads:
    """The resources that show a job: ``GET /job/:id``, its log and its events.

    Args:
        ledger: The ledger.
        jobs: The read model of jobs.
        largest_page: Maximum number of events or lines in one answer.
        answer_bytes: Bytes of their contents; a single event or line may have more.
    """

    def __init__(self, ledger: Ledger, jobs: Jobs, *, largest_page: int, answer_bytes: int) -> None:
        self._database = ledger.database
        self._jobs = jobs
        self._largest_page = largest_page
        self._answer_bytes = answer_bytes

    def show(self, req: falcon.Request, resp: falcon.Response, *, job_id: int) -> None:
        """Answer a job."""
        with self._database.read() as connection:
            if is_current(req, resp, connection):
                return
            job = self._jobs.get(connection, job_id)
        if job is None:
            raise JobNotFound(job_id)
        answer(resp, job.json.encode(), (job.position, job.chain))

    def exists(self, req: falcon.Request, resp: falcon.Response, *, job_id: int) -> None:
        """Answer without a body if the job exists."""
        with self._database.read() as connection:
            if self._jobs.get(connection, job_id) is None:
                raise JobNotFound(job_id)
        answer(resp, b"")

    def log(
        self, req: falcon.Request, resp: falcon.Response, *, job_id: int, before: int | None
    ) -> None:
        """Answer the newest lines of a job's log, or the newest before a version."""
        with self._database.read() as connection:
            if is_current(req, resp, connection):
                return
            job = self._jobs.get(connection, job_id)
            if job is None:
                raise JobNotFound(job_id)
            lines = store.read_log(
                connection,
                job_id,
                newest=self._largest_page,
                before=LARGEST_INTEGER if before is None else before,
                most_bytes=self._answer_bytes,
            )
            oldest = lines[0][1] if lines else 0
            is_cut = store.has_log(connection, job_id, before=oldest)
        if is_cut:
            link_to_rest(req, resp, rel="prev", before=oldest)
        answer(resp, json_out.log_lines(lines), (job.position, job.chain))

    def events(
        self,
        req: falcon.Request,
        resp: falcon.Response,
        *,
        job_id: int,
        after: int,
        limit: int | None,
    ) -> None:
        """Answer the events of a job, also after its removal."""
        most = self._largest_page if limit is None else min(limit, self._largest_page)
        with self._database.read() as connection:
            if is_current(req, resp, connection):
                return
            head = store.read_head(connection)
            envelopes = store.read_stream(
                connection, job_id, after=after, limit=most, most_bytes=self._answer_bytes
            )
            newest = store.read_versions(connection, [job_id]).get(job_id)
            if newest is None:
                raise JobNotFound(job_id)
        if envelopes and envelopes[-1].version < newest:
            link_to_rest(req, resp, after=envelopes[-1].version, limit=limit)
        answer(resp, json_out.history(envelopes), (head.position, head.chain))


class JobChanges:
    """The resources with which an operator changes a job."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def move(
        self, req: falcon.Request, resp: falcon.Response, *, job_id: int, state: State
    ) -> None:
        """Move a job to a state: ``PUT /job/:id/state/:state``."""
        self._execute(req, Move(job_id=job_id, to=state.value))
        answer(resp, _UPDATED_STATE)

    def reprioritize(
        self, req: falcon.Request, resp: falcon.Response, *, job_id: int, priority: int
    ) -> None:
        """Change the priority of a job: ``PUT /job/:id/priority/:priority``."""
        self._execute(req, Reprioritize(job_id=job_id, priority=priority))
        answer(resp, _UPDATED_PRIORITY)

    def requeue(self, req: falcon.Request, resp: falcon.Response, *, job_id: int) -> None:
        """Queue a job again: ``/inactive/:id``, for which Kue's own pages send a GET."""
        self._execute(req, Move(job_id=job_id, to=State.INACTIVE.value))
        answer(resp, json_out.encode(Message(message=f"job {job_id} inactive")))

    def remove(self, req: falcon.Request, resp: falcon.Response, *, job_id: int) -> None:
        """Remove a job from every view: ``DELETE /job/:id``."""
        self._execute(req, Remove(job_id=job_id))
        answer(resp, json_out.encode(Message(message=f"job {job_id} removed")))

    def _execute(self, req: falcon.Request, command: OnJob) -> None:
        self._ledger.execute(command, actor=ACTOR, cause=requests.cause(req))


_UPDATED_STATE: Final = json_out.encode(Message(message="updated state"))
_UPDATED_PRIORITY: Final = json_out.encode(Message(message="updated priority"))

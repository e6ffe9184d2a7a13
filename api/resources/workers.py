"""The resources of workers: claims, heartbeats, and the list of workers.

The answer to a claim can be lost.  Its job is then held by a worker that does not know of it.
If the worker is dead, it sends no heartbeats, and the attempt fails when the worker's lease or
the job's ttl ends, like that of any lost worker.  If the worker is alive, its heartbeats would
keep the job for ever.  Therefore, the answer to a heartbeat lists the jobs that the worker
holds, and the worker returns those that it does not know (``POST /job/:id/return``).  Nothing
is claimed for a client that has closed its connection while its request waited: see
``long_poll``.
"""

import falcon

from ledger.api.http import json_out, requests
from ledger.api.http.bodies import ClaimRequest
from ledger.api.http.etag import answer
from ledger.api.http.links import link_to_rest
from ledger.api.http.long_poll import LongPolls
from ledger.api.resources.attempt_reports import actor_of
from ledger.api.schemas import Heartbeat, HeldAttempt, Message
from ledger.log.ledger import Ledger
from ledger.projections.models.jobs import Jobs
from ledger.queue import presence
from ledger.queue.read_models import ReadModels
from ledger.rules.commands import Claim, Return


class Claims:
    """The resource ``POST /jobs/claim``, which gives jobs to workers.

    Args:
        ledger: The ledger.
        jobs: The read model of jobs.
        read_models: Answers whether a job waits.
        polls: Lets requests wait.
        lease_ms: How long a worker may be silent.
    """

    def __init__(
        self,
        ledger: Ledger,
        jobs: Jobs,
        read_models: ReadModels,
        polls: LongPolls,
        *,
        lease_ms: int,
    ) -> None:
        self._ledger = ledger
        self._jobs = jobs
        self._read_models = read_models
        self._polls = polls
        self._lease_ms = lease_ms

    def claim(self, req: falcon.Request, resp: falcon.Response, *, body: ClaimRequest) -> None:
        """Give waiting jobs to a worker; wait for jobs if requested."""
        limit = body.limit or 1
        claim = Claim(worker=body.worker, slots=dict.fromkeys(body.types, limit), limit=limit)
        cause = requests.cause(req)
        claimed = self._polls.wait(
            req, lambda: self._take(claim, cause), body.wait or 0, types=body.types
        )
        answer(resp, f"[{','.join(claimed)}]".encode())

    def _take(self, claim: Claim, cause: str | None) -> list[str]:
        """Start waiting jobs, and return their JSON."""
        # The heartbeat comes first, so that the sweeper knows the worker of each claimed job.
        database = self._ledger.database
        presence.beat_if_due(self._ledger, claim.worker, dict(claim.slots), lease_ms=self._lease_ms)
        with database.read() as connection:
            if not self._read_models.any_claimable(connection, claim.slots):
                return []
        begun = self._ledger.claim(claim, actor=actor_of(claim.worker), cause=cause)
        attempts = {one.job.id: one.job.attempt for one in begun.jobs}
        with database.read() as connection:
            # A job that was removed or moved in the meantime must not be run.
            running = self._jobs.running(connection, attempts)
        return [json_out.claimed(json, attempt) for json, attempt in running]


class Workers:
    """The resources below ``/workers``: heartbeats, the end of a worker, the list of workers.

    Heartbeats are not history, so the answers have no position for an ETag.

    Args:
        ledger: The ledger, whose clock is used.
        read_models: Answers what workers there are, and what each holds.
        lease_ms: How long a worker may be silent.
        largest_page: Maximum number of workers in one answer.
    """

    def __init__(
        self, ledger: Ledger, read_models: ReadModels, *, lease_ms: int, largest_page: int
    ) -> None:
        self._ledger = ledger
        self._read_models = read_models
        self._lease_ms = lease_ms
        self._largest_page = largest_page

    def heartbeat(self, req: falcon.Request, resp: falcon.Response, *, name: str) -> None:
        """Record a heartbeat, and answer with the attempts that the worker holds."""
        database = self._ledger.database
        presence.beat_if_due(self._ledger, name, None, lease_ms=self._lease_ms)
        with database.read() as connection:
            held = self._read_models.held_by(connection, name)
        jobs = [HeldAttempt(id=str(job_id), attempt=attempt) for job_id, attempt in held]
        beat = Heartbeat(name=name, lease_ms=self._lease_ms, jobs=jobs)
        answer(resp, json_out.encode(beat))

    def leave(self, req: falcon.Request, resp: falcon.Response, *, name: str) -> None:
        """Return a worker's jobs to the queue, and remove the worker from the list."""
        database = self._ledger.database
        with database.read() as connection:
            held = self._read_models.held_by(connection, name)
        back = [
            Return(job_id=job_id, attempt=attempt, reason=f"worker {name} left")
            for job_id, attempt in held
        ]
        # The return of an attempt that has ended in the meantime is refused; that is harmless.
        for _ in self._ledger.submit_in_parts(
            back, actor=actor_of(name), cause=requests.cause(req)
        ):
            pass
        with database.write() as tx:
            presence.leave(tx, name)
        answer(resp, json_out.encode(Message(message=f"worker {name} left")))

    def show(self, req: falcon.Request, resp: falcon.Response, *, after: str) -> None:
        """Answer the workers, or those after a name, with the number of jobs that each holds."""
        with self._ledger.database.read() as connection:
            now_ms = self._ledger.time_ms(connection)
            listed = self._read_models.workers(
                connection, now_ms=now_ms, after=after, limit=self._largest_page
            )
            is_cut = bool(listed) and presence.any_after(connection, listed[-1].seen.name)
        if is_cut:
            link_to_rest(req, resp, after=listed[-1].seen.name)
        answer(resp, json_out.workers(listed))

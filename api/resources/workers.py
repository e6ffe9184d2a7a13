"""The resources of workers: claims, heartbeats, and the list of workers.

The answer to a claim can be lost.  Its job is then held by a worker that does not know of it.
If the worker is dead, it sends no heartbeats, and the attempt fails when the worker's lease or
the job's ttl ends, like that of any lost worker.  If the worker is alive, its heartbeats would
keep the job for ever.  Therefore, the answer to a heartbeat lists the jobs that the worker
holds, and the worker returns those that it does not know (``POST /job/:id/return``).  Nothing
is claimed for a client that has closed its connection while its request waited: see
``long_poll``.
"""

from collections import Counter
from collections.abc import Collection
from typing import Final

import falcon
from sqlalchemy import Connection

from ledger.api.http import json_out, requests
from ledger.api.http.bodies import ClaimRequest
from ledger.api.http.etag import answer
from ledger.api.http.long_poll import LongPolls
from ledger.api.resources.attempt_reports import actor_of
from ledger.api.schemas import Heartbeat, HeldAttempt, Message
from ledger.log.ledger import Ledger
from ledger.projections.models.jobs import Jobs
from ledger.projections.models.ledger_state import LedgerState
from ledger.queue import heartbeats
from ledger.rules.commands import Claim, Return

# Heartbeats that are recorded per lease; more frequent ones are skipped.
_BEATS_A_LEASE: Final = 6


class Presence:
    """The heartbeats of workers that use HTTP.

    Args:
        ledger: The ledger, whose database and clock are used.
        lease_ms: Time in milliseconds after which a silent worker is considered lost.
    """

    def __init__(self, ledger: Ledger, *, lease_ms: int) -> None:
        self._ledger = ledger
        self.lease_ms = lease_ms

    def beat(self, name: str, types: dict[str, int] | None = None) -> None:
        """Record that a worker is alive, unless this was recorded a moment ago.

        Args:
            name: The worker's name.
            types: The types that it claims, with the number of each; None if unknown.
        """
        database = self._ledger.database
        now_ms = self._ledger.now_ms()
        with database.read() as connection:
            known = heartbeats.find(connection, name)
        if known is not None:
            types = known.types if types is None else types
            # Compare the types only: the numbers change with every claim.
            same = known.lease_ms == self.lease_ms and known.types.keys() == types.keys()
            if same and 0 <= now_ms - known.seen_at_ms < self.lease_ms // _BEATS_A_LEASE:
                # Claims of many threads share a commit, but each heartbeat needs its own.
                return
        with database.write() as tx:
            heartbeats.beat(tx, name, types or {}, now_ms=now_ms, lease_ms=self.lease_ms)


class Claims:
    """The resource ``POST /jobs/claim``, which gives jobs to workers."""

    def __init__(
        self,
        ledger: Ledger,
        jobs: Jobs,
        ledger_state: LedgerState,
        polls: LongPolls,
        presence: Presence,
    ) -> None:
        self._ledger = ledger
        self._jobs = jobs
        self._ledger_state = ledger_state
        self._polls = polls
        self._presence = presence

    def claim(self, req: falcon.Request, resp: falcon.Response, *, body: ClaimRequest) -> None:
        """Give waiting jobs to a worker; wait for jobs if requested."""
        limit = body.limit or 1
        claim = Claim(worker=body.worker, slots=dict.fromkeys(body.types, limit), limit=limit)
        cause = requests.cause(req)
        claimed = self._polls.wait(req, lambda: self._take(claim, cause), body.wait or 0)
        answer(resp, f"[{','.join(claimed)}]".encode())

    def _take(self, claim: Claim, cause: str | None) -> list[str]:
        """Start waiting jobs, and return their JSON."""
        # The heartbeat comes first, so that the sweeper knows the worker of each claimed job.
        self._presence.beat(claim.worker, dict(claim.slots))
        database = self._ledger.database
        with database.read() as connection:
            if not self._any_waits(connection, claim.slots):
                return []
        begun = self._ledger.claim(claim, actor=actor_of(claim.worker), cause=cause)
        attempts = {one.job.id: one.job.attempt for one in begun.jobs}
        with database.read() as connection:
            # A job that was removed or moved in the meantime must not be run.
            running = self._jobs.running(connection, attempts)
        return [json_out.claimed(json, attempt) for json, attempt in running]

    def _any_waits(self, connection: Connection, types: Collection[str]) -> bool:
        paused = self._ledger_state.paused(connection)
        return any(
            self._jobs.any_claimable(connection, type_) for type_ in types if type_ not in paused
        )


class Workers:
    """The resources below ``/workers``: heartbeats, the end of a worker, the list of workers.

    Heartbeats are not history, so the answers have no position for an ETag.
    """

    def __init__(self, ledger: Ledger, jobs: Jobs, presence: Presence) -> None:
        self._ledger = ledger
        self._jobs = jobs
        self._presence = presence

    def heartbeat(self, req: falcon.Request, resp: falcon.Response, *, name: str) -> None:
        """Record a heartbeat, and answer with the attempts that the worker holds."""
        self._presence.beat(name)
        with self._ledger.database.read() as connection:
            held = _held_by(connection, self._jobs, name)
        jobs = [HeldAttempt(id=str(job_id), attempt=attempt) for job_id, attempt in held]
        beat = Heartbeat(name=name, lease_ms=self._presence.lease_ms, jobs=jobs)
        answer(resp, json_out.encode(beat))

    def leave(self, req: falcon.Request, resp: falcon.Response, *, name: str) -> None:
        """Return a worker's jobs to the queue, and remove the worker from the list."""
        database = self._ledger.database
        with database.read() as connection:
            held = _held_by(connection, self._jobs, name)
        back = [
            Return(job_id=job_id, attempt=attempt, reason=f"worker {name} left")
            for job_id, attempt in held
        ]
        # The return of an attempt that has ended in the meantime is refused; that is harmless.
        self._ledger.submit(back, actor=actor_of(name), cause=requests.cause(req))
        with database.write() as tx:
            heartbeats.leave(tx, name)
        answer(resp, json_out.encode(Message(message=f"worker {name} left")))

    def show(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Answer all workers, with the number of jobs that each holds."""
        with self._ledger.database.read() as connection:
            held = Counter(one.worker for one in self._jobs.held(connection))
            seen = heartbeats.seen(connection)
        answer(resp, json_out.workers(seen, held))


def _held_by(connection: Connection, jobs: Jobs, name: str) -> list[tuple[int, int]]:
    return [(one.job_id, one.attempt) for one in jobs.held(connection) if one.worker == name]

"""Say what a queue needs of the read models; nothing else in it knows how jobs are shown."""

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

from ledger.rules.job import State

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from ledger.log.store import Envelope
    from ledger.queue.heartbeats import WorkerSeen


class HeldAttempt(Protocol):
    """Be an attempt, and the worker that holds it."""

    @property
    def job_id(self) -> int: ...
    @property
    def attempt(self) -> int: ...
    @property
    def worker(self) -> str: ...


class DueJobs(Protocol):
    """Know which jobs time is about to change."""

    def due(self, connection: "Connection", *, now_ms: int, limit: int) -> Sequence[int]:
        """Return ids of jobs that time changes by *now_ms*, the longest due first."""

    def held(self, connection: "Connection") -> Sequence[HeldAttempt]:
        """Return the attempts that workers hold."""


class Views(DueJobs, Protocol):
    """Answer what a queue asks of the read models."""

    def job(self, connection: "Connection", job_id: int) -> str | None:
        """Return a job's JSON object, None if there is no such job."""

    def jobs(
        self,
        connection: "Connection",
        *,
        state: State | None,
        type_: str | None,
        first: int,
        last: int,
        descending: bool,
    ) -> str:
        """Return a page of a list of jobs, a JSON array."""

    def log(self, connection: "Connection", job_id: int, *, newest: int) -> Sequence[str]:
        """Return the newest lines of a job's log, the oldest first; none that was erased."""

    def events(self, connection: "Connection", job_id: int, *, after: int) -> Sequence["Envelope"]:
        """Return some of what happened to a job after that version, none if that is all."""

    def workers(self, connection: "Connection") -> Sequence["WorkerSeen"]:
        """Return the workers that have told of themselves, by name."""

    def stats(self, connection: "Connection", type_: str | None) -> Mapping[str, int]:
        """Return the number of jobs in each state, of all types or one, and ``work_ms``."""

    def types(self, connection: "Connection") -> Sequence[str]:
        """Return the types that have jobs."""

    def paused(self, connection: "Connection") -> Mapping[str, int]:
        """Return the paused types, and since when: UTC milliseconds."""

    def search(self, query: str, *, limit: int, offset: int) -> Sequence[int]:
        """Return the jobs whose data have all the words of *query*, the newest first."""

    def any_claimable(self, connection: "Connection", types: Collection[str]) -> bool:
        """Return whether a job of one of the types waits for a worker."""

    def held_by(self, connection: "Connection", worker: str) -> Sequence[tuple[int, int]]:
        """Return the jobs and attempts that a worker holds."""

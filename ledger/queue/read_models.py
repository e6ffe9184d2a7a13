"""The queries of the read models that a queue uses; the queue depends on nothing else of them."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

from ledger.rules.job import State

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from ledger.log.store import Envelope
    from ledger.queue.presence import ListedWorker


class Overdue(NamedTuple):
    """Something that the sweeper has to do.

    Attributes:
        since_ms: The time from which it could do that, UTC milliseconds.
        what: What it is, as a clause.
    """

    since_ms: int
    what: str


class DueJobs(Protocol):
    """The queries of the sweeper."""

    def due(self, connection: "Connection", *, now_ms: int, limit: int) -> Sequence[int]:
        """Return ids of jobs whose delay or ttl is over at *now_ms*, the longest due first."""

    def holders(self, connection: "Connection") -> Sequence[str]:
        """Return the names of the workers that hold attempts."""

    def held_by(self, connection: "Connection", worker: str) -> Sequence[tuple[int, int]]:
        """Return the job id and attempt number of each attempt that a worker holds."""


class ReadModels(DueJobs, Protocol):
    """The queries of a queue, its workers, and those who show both."""

    def job(self, connection: "Connection", job_id: int) -> str | None:
        """Return a job's JSON object, or None if there is no such job."""

    def jobs(
        self,
        connection: "Connection",
        *,
        state: State | None,
        type_: str | None,
        first: int,
        last: int,
        descending: bool,
        by_priority: bool = False,
    ) -> Iterator[str]:
        """Yield the jobs of a range as JSON arrays, each of which has a bounded number of bytes.

        The connection is on a snapshot.
        """

    def log(self, connection: "Connection", job_id: int, *, newest: int) -> Sequence[str]:
        """Return the newest lines of a job's log, oldest first, without erased ones."""

    def events(self, connection: "Connection", job_id: int, *, after: int) -> Sequence["Envelope"]:
        """Return the next events of a job after version *after*; an empty list at the end."""

    def workers(
        self, connection: "Connection", *, now_ms: int, after: str = "", limit: int | None = None
    ) -> "Sequence[ListedWorker]":
        """Return the workers that have sent heartbeats, with their states, sorted by name.

        If there is a *limit*, it is the first workers after the name *after*, as many as fit
        into an answer.
        """

    def overdue(self, connection: "Connection", *, now_ms: int) -> Overdue | None:
        """Return what the sweeper has had to do for longest; None if nothing is due."""

    def stats(self, connection: "Connection", type_: str | None) -> Mapping[str, int]:
        """Return the number of jobs in each state, of one type or all, and ``work_ms``."""

    def types(self, connection: "Connection") -> Sequence[str]:
        """Return the types that have jobs."""

    def paused(self, connection: "Connection") -> Mapping[str, int]:
        """Return the paused types and the time since which each is paused, UTC milliseconds."""

    def search(self, query: str, *, limit: int, offset: int) -> Sequence[int]:
        """Return the jobs whose data contains all words of *query*, newest first."""

    def any_claimable(self, connection: "Connection", types: Collection[str]) -> bool:
        """Return whether a job of one of the types waits for a worker."""

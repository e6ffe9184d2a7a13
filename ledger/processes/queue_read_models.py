"""The queries that need several read models, each composed once."""

from collections.abc import Callable, Collection, Iterator, Sequence
from typing import TYPE_CHECKING

from sqlalchemy import Connection

from ledger.log import store
from ledger.projections.models.job_runs import JobList
from ledger.projections.models.jobs import Jobs
from ledger.projections.models.ledger_state import LedgerState
from ledger.projections.models.state_counts import StateCounts
from ledger.queue import presence
from ledger.queue.read_models import Overdue, ReadModels
from ledger.rules import json_text
from ledger.rules.job import State

if TYPE_CHECKING:
    from ledger.projections.search.search import Search


class QueueReadModels(ReadModels):
    """The queries of queues, workers, the API and the commands, answered from the projections.

    Args:
        jobs: The read model of jobs and lists.
        state_counts: The read model of counts and types.
        ledger_state: The read model of the ledger's own state: paused types.
        search: Returns the search, which is slow to import and seldom used.
    """

    def __init__(
        self,
        jobs: Jobs,
        state_counts: StateCounts,
        ledger_state: LedgerState,
        search: "Callable[[], Search]",
    ) -> None:
        self._jobs = jobs
        self._state_counts = state_counts
        self._ledger_state = ledger_state
        self._search = search

    # --- jobs

    def job(self, connection: Connection, job_id: int) -> str | None:
        job = self._jobs.get(connection, job_id)
        return None if job is None else job.json

    def jobs(
        self,
        connection: Connection,
        *,
        state: State | None,
        type_: str | None,
        first: int,
        last: int,
        descending: bool,
        by_priority: bool = False,
    ) -> Iterator[str]:
        while True:
            page = self._jobs.lists.page(
                connection,
                JobList(state, type_),
                first,
                last,
                descending=descending,
                by_priority=by_priority,
            )
            yield page.json
            if not page.left:
                return
            first += page.jobs

    def log(self, connection: Connection, job_id: int, *, newest: int) -> list[str]:
        lines = store.read_log(connection, job_id, newest=newest)
        return [json_text.log_line(kind, text) for kind, _, text in lines if text is not None]

    def events(self, connection: Connection, job_id: int, *, after: int) -> list[store.Envelope]:
        return store.read_stream(connection, job_id, after=after)

    def search(self, query: str, *, limit: int, offset: int) -> Sequence[int]:
        return self._search().find(query, limit=limit, offset=offset).job_ids

    # --- types

    def stats(self, connection: Connection, type_: str | None) -> dict[str, int]:
        stats = self._state_counts.stats(connection, type_)
        return {str(state): jobs for state, jobs in stats.counts.items()} | {
            "work_ms": stats.work_ms
        }

    def types(self, connection: Connection) -> list[str]:
        return self._state_counts.types(connection)

    def paused(self, connection: Connection) -> dict[str, int]:
        return self._ledger_state.paused(connection)

    # --- workers

    def any_claimable(self, connection: Connection, types: Collection[str]) -> bool:
        paused = self._ledger_state.paused(connection)
        return any(
            self._jobs.any_claimable(connection, type_) for type_ in types if type_ not in paused
        )

    def due(self, connection: Connection, *, now_ms: int, limit: int) -> list[int]:
        return self._jobs.due(connection, now_ms=now_ms, limit=limit)

    def holders(self, connection: Connection) -> list[str]:
        return self._jobs.holders(connection)

    def held_by(self, connection: Connection, worker: str) -> list[tuple[int, int]]:
        return self._jobs.held_by(connection, worker)

    def workers(
        self, connection: Connection, *, now_ms: int, after: str = "", limit: int | None = None
    ) -> list[presence.ListedWorker]:
        # The attempts first, as for lost workers: a worker is listed before it holds one.
        held = self._jobs.held_counts(connection)
        return presence.listed(connection, held, now_ms=now_ms, after=after, limit=limit)

    def overdue(self, connection: Connection, *, now_ms: int) -> Overdue | None:
        found = []
        due = self._jobs.longest_due(connection, now_ms=now_ms)
        if due is not None:
            job_id, state, due_at_ms = due
            what = "is due and not promoted" if state is State.DELAYED else "has an expired attempt"
            found.append(Overdue(due_at_ms, f"job {job_id} {what}"))
        silent = presence.long_silent(connection, now_ms=now_ms)
        holders = self._jobs.holders(connection) if silent else ()
        found += [
            Overdue(since_ms, f"worker {name} is lost and its attempts have not failed")
            for name, since_ms in silent.items()
            if name in holders
        ]
        return min(found, default=None)

"""The adapter of Procrastinate on PostgreSQL."""
# mypy: disable-error-code="import-not-found"

import psycopg
from procrastinate import App, PsycopgConnector, SyncPsycopgConnector

from benchmarks.queue_peers.contest import (
    CONCURRENCY,
    DATA,
    THREADS,
    TYPE,
    Contestant,
    main,
    nothing_async,
)

_LEFT = "SELECT count(*) FROM procrastinate_jobs WHERE status <> 'succeeded'"


class Procrastinate(Contestant):
    """Procrastinate, with jobs created by threads and run by coroutines."""

    def __init__(self, store: str) -> None:
        self._store = store
        connector = SyncPsycopgConnector(conninfo=store, min_size=THREADS, max_size=THREADS)
        self._app = App(connector=connector)
        self._task = self._app.task(name=TYPE)(nothing_async)
        self._app.open()
        if not self._app.check_connection():
            self._app.schema_manager.apply_schema()

    def enqueue(self) -> None:
        self._task.defer(**DATA)

    def enqueue_batch(self, jobs: int) -> None:
        self._task.batch_defer(*[DATA] * jobs)

    def work(self) -> None:
        app = self._app.with_connector(PsycopgConnector(conninfo=self._store))
        app.run_worker(concurrency=CONCURRENCY)

    def left(self) -> int:
        with psycopg.connect(self._store) as connection:
            ((waiting,),) = connection.execute(_LEFT).fetchall()
        return int(waiting)


if __name__ == "__main__":
    main(Procrastinate)

"""The adapter of PgQueuer on PostgreSQL."""
# mypy: disable-error-code="import-not-found"

import asyncio
import json
from collections.abc import Coroutine
from typing import Any

import asyncpg
import psycopg
from pgqueuer import PgQueuer as App
from pgqueuer.db import AsyncpgPoolDriver
from pgqueuer.queries import Queries

from benchmarks.queue_peers.contest import (
    CONCURRENCY,
    DATA,
    THREADS,
    TYPE,
    Contestant,
    main,
    nothing_async,
)

_LEFT = "SELECT count(*) FROM pgqueuer"
_PAYLOAD = json.dumps(DATA).encode()


class PgQueuer(Contestant):
    """PgQueuer on asyncpg, with tasks in the place of threads."""

    def __init__(self, store: str) -> None:
        self._store = store
        self._loop = asyncio.new_event_loop()
        self._queries = self._run(self._open())

    def _run(self, coroutine: Any) -> Any:  # noqa: ANN401 - whatever it returns
        return self._loop.run_until_complete(coroutine)

    async def _open(self) -> Any:  # noqa: ANN401 - its package is elsewhere
        pool = await asyncpg.create_pool(self._store, min_size=THREADS, max_size=THREADS)
        queries = Queries(AsyncpgPoolDriver(pool))
        if not await queries.schema_is_installed():
            await queries.install()
        return queries

    def enqueue(self) -> None:
        self._run(self._one(1))

    def enqueue_batch(self, jobs: int) -> None:
        self._run(self._queries.enqueue([TYPE] * jobs, [_PAYLOAD] * jobs, [0] * jobs))

    def one(self, jobs: int) -> None:
        self._run(self._one(jobs))

    def threads(self, jobs: int) -> None:
        self._run(self._together([self._one(jobs // THREADS) for _ in range(THREADS)]))

    async def _one(self, jobs: int) -> None:
        for _ in range(jobs):
            await self._queries.enqueue(TYPE, _PAYLOAD)

    async def _together(self, tasks: list[Coroutine[Any, Any, None]]) -> None:
        await asyncio.gather(*tasks)

    def work(self) -> None:
        self._run(self._work())

    async def _work(self) -> None:
        app = App.from_asyncpg_connection(await asyncpg.connect(self._store))
        app.entrypoint(TYPE)(nothing_async)
        # The process holds as many waiting jobs as running ones.
        await app.run(batch_size=CONCURRENCY, max_concurrent_tasks=2 * CONCURRENCY)

    def left(self) -> int:
        with psycopg.connect(self._store) as connection:
            ((waiting,),) = connection.execute(_LEFT).fetchall()
        return int(waiting)


if __name__ == "__main__":
    main(PgQueuer)

"""The adapter of this project's queue."""

import ledger
from benchmarks.queue_peers.contest import CONCURRENCY, DATA, TYPE, Contestant, main, nothing
from ledger.database.migration import migrate
from ledger.processes.composition import compose
from ledger.processes.settings import Settings


class Ours(Contestant):
    """This project's queue with its defaults, on SQLite or PostgreSQL."""

    def __init__(self, store: str) -> None:
        system = compose(Settings(database_url=store))
        migrate(system.database)
        system.close()
        self._queue = ledger.connect(store)

    def enqueue(self) -> None:
        self._queue.create(TYPE, DATA)

    def enqueue_batch(self, jobs: int) -> None:
        self._queue.create_many([{"type": TYPE, "data": DATA}] * jobs)

    def work(self) -> None:
        self._queue.process(TYPE, concurrency=CONCURRENCY)(nothing)
        ledger.Worker(self._queue).run()

    def left(self) -> int:
        stats = self._queue.stats()
        return sum(stats[state] for state in ("inactive", "delayed", "active", "failed"))


if __name__ == "__main__":
    main(Ours)

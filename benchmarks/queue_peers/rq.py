"""The adapter of RQ on Redis."""
# mypy: disable-error-code="import-not-found"

from redis import Redis
from rq import Queue, SimpleWorker

from benchmarks.queue_peers.contest import DATA, TYPE, Contestant, main, nothing


class Rq(Contestant):
    """RQ with its fastest worker, which runs one job at a time, without a fork for each."""

    def __init__(self, store: str) -> None:
        self._redis = Redis.from_url(store)
        self._queue = Queue(TYPE, connection=self._redis)

    def enqueue(self) -> None:
        self._queue.enqueue(nothing, DATA)

    def enqueue_batch(self, jobs: int) -> None:
        self._queue.enqueue_many([Queue.prepare_data(nothing, (DATA,)) for _ in range(jobs)])

    def work(self) -> None:
        SimpleWorker([self._queue], connection=self._redis).work(burst=True, logging_level="ERROR")

    def left(self) -> int:
        waiting: int = self._queue.count + self._queue.started_job_registry.count
        return waiting


if __name__ == "__main__":
    main(Rq)

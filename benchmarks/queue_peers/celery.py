"""The adapter of Celery on Redis."""
# mypy: disable-error-code="import-not-found"

from celery import Celery as App
from redis import Redis

from benchmarks.queue_peers.contest import CONCURRENCY, DATA, TYPE, Contestant, main, nothing


class Celery(Contestant):
    """Celery with threads, early acknowledgement (its default) and without results."""

    def __init__(self, store: str) -> None:
        self._app = App(broker=store)
        self._app.conf.task_ignore_result = True
        # Otherwise Celery would log the figure that we print as a warning.
        self._app.conf.worker_redirect_stdouts = False
        self._task = self._app.task(name=TYPE)(nothing)
        self._redis = Redis.from_url(store)

    def enqueue(self) -> None:
        self._task.apply_async((DATA,))

    def enqueue_batch(self, jobs: int) -> None:
        self.one(jobs)

    def work(self) -> None:
        options = ["--pool=threads", f"--concurrency={CONCURRENCY}", "--loglevel=ERROR"]
        alone = ["--without-gossip", "--without-mingle", "--without-heartbeat"]
        self._app.worker_main(["worker", *options, *alone])

    def left(self) -> int:
        waiting: int = self._redis.llen("celery") + self._redis.hlen("unacked")
        return waiting


if __name__ == "__main__":
    main(Celery)

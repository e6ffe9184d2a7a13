"""The adapter of Huey on SQLite."""
# mypy: disable-error-code="import-not-found"

from huey import SqliteHuey

from benchmarks.queue_peers.contest import CONCURRENCY, DATA, TYPE, Contestant, main, nothing


class Huey(Contestant):
    """Huey on SQLite with durable commits: WAL, synchronous=FULL."""

    def __init__(self, store: str) -> None:
        self._path = store.removeprefix("sqlite:///")
        self._open(fsync=True)

    def _open(self, *, fsync: bool) -> None:
        self._huey = SqliteHuey(filename=self._path, fsync=fsync)
        self._task = self._huey.task(name=TYPE)(nothing)

    def fill(self, jobs: int) -> None:
        # Without fsync, because filling the store is not measured.
        self._open(fsync=False)
        self.one(jobs)

    def enqueue(self) -> None:
        self._task(DATA)

    def enqueue_batch(self, jobs: int) -> None:
        self.one(jobs)

    def work(self) -> None:
        self._huey.create_consumer(
            workers=CONCURRENCY, worker_type="thread", periodic=False, check_worker_health=False
        ).run()

    def left(self) -> int:
        waiting: int = self._huey.pending_count()
        return waiting


if __name__ == "__main__":
    main(Huey)

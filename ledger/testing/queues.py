"""Open queues of a test's own.

Why not ``sqlite://``
---------------------
A queue reads and writes on several connections.  SQLite's database in memory belongs
to one connection; its shared cache, which lifts that, locks whole tables and refuses
readers while another writes.  So a test's queue is a file: in ``/dev/shm``, which is
memory, where there is one, else in the directory for temporary files, and then never
flushed to the disk.  It runs what a queue in production runs, WAL and all, and is gone
at the end.

Migrations take longer than most tests.  They run once a process, and each queue begins
with a copy of the file that they leave.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from ledger.database.migration import migrate
from ledger.processes.composition import compose, queue_of
from ledger.processes.settings import Settings
from ledger.queue.lease import LEASE_MS
from ledger.queue.queue import Queue
from ledger.testing.clock import Clock

_MEMORY: Final = Path("/dev/shm")  # noqa: S108 - a directory of one's own is made in it


@contextmanager
def open_queue(
    *,
    clock: Callable[[], int] | None = None,
    in_place_of: Queue | None = None,
    lease_ms: int = LEASE_MS,
) -> Iterator[Queue]:
    """Give an empty queue; at the end of the block it is gone with all its jobs.

    Args:
        clock: What the queue takes for the time; None is a ``Clock`` of its own, which
            stands.  ``ledger.testing.Clock`` can be set.
        in_place_of: A queue of the application's.  It is given back, with its handlers,
            and until the end of the block whoever uses it uses the test's jobs.
        lease_ms: How long a worker may be silent before its jobs are failed.
    """
    with TemporaryDirectory(prefix="ledger-", dir=_folder()) as folder:
        path = Path(folder) / "ledger.db"
        path.write_bytes(_migrated())
        system = compose(_settings(path))
        system.ledger.now_ms = clock or Clock()
        queue = queue_of(system, actor="app:test", lease_ms=lease_ms)
        try:
            if in_place_of is None:
                yield queue
            else:
                with _standing_in(queue, in_place_of):
                    yield in_place_of
        finally:
            queue.close()


@contextmanager
def _standing_in(queue: Queue, replaced: Queue) -> Iterator[None]:
    """Let *replaced* be *queue* for all who hold it; its own database is not opened."""
    names = ("parts", "actor", "lease_ms")
    own = {name: getattr(replaced, name) for name in names}
    for name in names:
        setattr(replaced, name, getattr(queue, name))
    try:
        yield
    finally:
        for name, value in own.items():
            setattr(replaced, name, value)


@cache
def _migrated() -> bytes:
    """Return an empty ledger's file."""
    with TemporaryDirectory(prefix="ledger-", dir=_folder()) as folder:
        path = Path(folder) / "ledger.db"
        database = compose(_settings(path)).database
        try:
            migrate(database)
        finally:
            # The last connection to go takes the WAL along.
            database.close()
        return path.read_bytes()


def _settings(path: Path) -> Settings:
    return Settings(database_url=f"sqlite:///{path}", sqlite_synchronous="OFF")


def _folder() -> Path | None:
    """Return where to keep files: in memory if that can be, None for the usual place."""
    return _MEMORY if os.access(_MEMORY, os.W_OK | os.X_OK) else None

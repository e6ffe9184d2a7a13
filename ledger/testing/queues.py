"""Queues for tests, each in a file of its own.

Why not ``sqlite://``
---------------------
A queue reads and writes on several connections.  SQLite's database in memory belongs to
one connection; its shared cache, which removes that limit, locks whole tables and refuses
readers while another connection writes.  So a test's queue is a file: in ``/dev/shm``,
which is memory, if it exists, else in the directory for temporary files, and then never
flushed to the disk.  It runs the same code as a queue in production, including the WAL, and
is deleted at the end.

Migrations take longer than most tests.  They run once per process, and each queue begins
with a copy of the file that they produce.
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

_MEMORY: Final = Path("/dev/shm")  # noqa: S108 - only a private directory is created in it


@contextmanager
def open_queue(
    *,
    clock: Callable[[], int] | None = None,
    in_place_of: Queue | None = None,
    lease_ms: int = LEASE_MS,
) -> Iterator[Queue]:
    """Yield an empty queue; it is deleted with all its jobs at the end of the block.

    Args:
        clock: Returns the queue's time; None for a ``Clock`` of its own, which stands still.
            A ``ledger.testing.Clock`` can be set.
        in_place_of: A queue of the application.  It is yielded, with its handlers, and until
            the end of the block all code that uses it works on the test's jobs.
        lease_ms: How long a worker may be silent before its jobs are failed.
    """
    with TemporaryDirectory(prefix="ledger-", dir=_folder()) as folder:
        path = Path(folder) / "ledger.db"
        path.write_bytes(_migrated())
        system = compose(_settings(path))
        system.ledger.clock = clock or Clock()
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
    """Let *replaced* act as *queue* for all code that holds it; its database is not opened."""
    names = ("opening", "actor", "lease_ms")
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
    """Return the contents of the file of an empty ledger."""
    with TemporaryDirectory(prefix="ledger-", dir=_folder()) as folder:
        path = Path(folder) / "ledger.db"
        database = compose(_settings(path)).database
        try:
            migrate(database)
        finally:
            # Closing the last connection removes the WAL.
            database.close()
        return path.read_bytes()


def _settings(path: Path) -> Settings:
    return Settings(database_url=f"sqlite:///{path}", sqlite_synchronous="OFF")


def _folder() -> Path | None:
    """Return the directory for files: in memory if possible, None for the default one."""
    return _MEMORY if os.access(_MEMORY, os.W_OK | os.X_OK) else None

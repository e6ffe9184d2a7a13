"""Keep a ledger in one SQLite file, for all processes of one machine.

Why ``write`` locks as it does
------------------------------
SQLite has one writer.  A deferred ``BEGIN`` that reads first and then writes
fails at once with "database is locked" when another wrote in between, so a write
begins with ``BEGIN IMMEDIATE``.  Waiting for that lock through ``busy_timeout``
means sleeping and trying again, which is slow and unfair: two server processes
posted 2,050 jobs a second with a 99th percentile of 460 ms.  So all processes
queue for an ``flock`` on a file beside the database first, where the kernel wakes
the next in line: 2,860 a second and 18 ms.  An ``flock`` belongs to an open file,
not to a thread, hence the ``threading.Lock`` around it.
"""

import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, Literal

from sqlalchemy import Connection, create_engine, event, exc
from sqlalchemy.engine import URL

from ledger.database import LOCK_TIMEOUT_MS, POOL_OVERFLOW, POOL_SIZE, Database, Leadership, Watch
from ledger.inotify import WrittenFile
from ledger.locks import FileLeadership, LockFile
from ledger.rows import driver_of
from ledger.wakeable import WakeableSleep

# OFF is for tests: a power cut damages the file.
SqliteSynchronous = Literal["FULL", "NORMAL", "OFF"]

# A reader that never leaves keeps the WAL from being reset by SQLite itself; past
# this size the writer resets it.  Without, users met files of 1.7 to 115 GB.
WAL_LIMIT_BYTES: Final = 64 * 1024 * 1024
# 32 MB: a page that changes in every commit is copied home once in that many.
CHECKPOINT_PAGES: Final = 8_000
# Read through the system's page cache, which all processes share, without a call and a
# copy a page.
MAPPED_BYTES: Final = 1024 * 1024 * 1024
# Between two looks for news; where there is no inotify, a job waits for an idle worker
# half the longest.
SHORTEST_LOOK_S: Final = 0.002
LONGEST_LOOK_S: Final = 0.04
LOOK_GROWTH: Final = 1.5
# A batch has up to ROWS_A_STATEMENT forms of each of its inserts.
PREPARED_STATEMENTS: Final = 512


class SqliteDatabase(Database):
    """Be a ledger in one file, for all processes of one machine."""

    is_embedded = True
    _begin_snapshot = "BEGIN"

    def __init__(self, url: URL, *, synchronous: SqliteSynchronous) -> None:
        self.path = Path(url.database or "").absolute()
        engine = create_engine(
            url.set(database=str(self.path)),
            isolation_level="AUTOCOMMIT",
            # Threads take turns with a connection, never share it at one time.
            connect_args={"check_same_thread": False, "cached_statements": PREPARED_STATEMENTS},
            pool_size=POOL_SIZE,
            max_overflow=POOL_OVERFLOW,
        )

        @event.listens_for(engine, "connect")
        def configure(connection: sqlite3.Connection, _: object) -> None:
            for pragma in (
                f"busy_timeout={LOCK_TIMEOUT_MS}",
                "journal_mode=WAL",
                f"synchronous={synchronous}",
                "cache_size=-16000",
                f"wal_autocheckpoint={CHECKPOINT_PAGES}",
                f"mmap_size={MAPPED_BYTES}",
            ):
                connection.execute(f"PRAGMA {pragma}")

        super().__init__(engine)
        self._fresh_locks()

    def _fresh_locks(self) -> None:
        self._turn = threading.Lock()
        self._queue = LockFile(self.path.with_name(self.path.name + "-writer"))
        self._writer: Connection | None = None

    def forget(self) -> None:
        super().forget()
        self._fresh_locks()

    def close(self) -> None:
        with self._turn:
            if self._writer is not None:
                self._writer.close()
                self._writer = None
            self._queue.close()
        super().close()

    def lock_schema(self, tx: Connection) -> None:
        """Do nothing: a transaction is alone from its start."""

    def announce(self, tx: Connection) -> None:
        """Do nothing: SQLite counts its commits."""

    def watch(self) -> Watch:
        with self.translated():
            return _CommitCounter(self)

    def leadership(self, role: str) -> Leadership:
        return FileLeadership(self.path.with_name(f"{self.path.name}-{role}"))

    @contextmanager
    def write(self) -> Iterator[Connection]:
        with self.translated(), self._turn, self._queued():
            try:
                if self._writer is None:
                    self._writer = self.engine.connect()
                with _immediately(driver_of(self._writer)):
                    yield self._writer
                self._bound_wal(self._writer)
            except (exc.DBAPIError, sqlite3.Error):
                # Whatever is wrong with it, the next write gets a new one.
                if self._writer is not None:
                    self._writer.invalidate()
                    self._writer.close()
                    self._writer = None
                raise

    @contextmanager
    def _queued(self) -> Iterator[None]:
        self._queue.acquire()
        try:
            yield
        finally:
            self._queue.release()

    def _bound_wal(self, connection: Connection) -> None:
        try:
            size = os.stat(f"{self.path}-wal").st_size  # noqa: PTH116 - a tenth of Path.stat's time
        except FileNotFoundError:
            return
        if size <= WAL_LIMIT_BYTES:
            return
        # A long reader is not worth waiting for: the next commit tries again.
        connection.exec_driver_sql("PRAGMA busy_timeout=50")
        connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
        connection.exec_driver_sql(f"PRAGMA busy_timeout={LOCK_TIMEOUT_MS}")


class _CommitCounter(Watch):
    """Look at SQLite's count of commits, often at first, then when there is a reason.

    A look costs some hundred microseconds with all that wakes up for it: fifty idle
    workers that looked every 40 ms took an eighth of a core.  So who has seen nothing
    for a while sleeps until the WAL is written to.  That is a little before the commit
    counts, hence the looks after it.
    """

    def __init__(self, database: "SqliteDatabase") -> None:
        self._database = database
        self._connection = database.engine.connect()
        self._seen = self._count()
        self._pause_s = SHORTEST_LOOK_S
        try:
            self._written: WrittenFile | None = WrittenFile(Path(f"{database.path}-wal"))
        except OSError:
            self._written = None
        self._sleep = WakeableSleep(self._written)

    def wait(self, timeout_s: float) -> bool:
        deadline = time.monotonic() + timeout_s
        with self._database.translated():
            while True:
                count = self._count()
                if count != self._seen:
                    self._seen = count
                    self._pause_s = SHORTEST_LOOK_S
                    return True
                left_s = deadline - time.monotonic()
                if left_s <= 0 or self._sleep.is_over:
                    return False
                self._pause(left_s)

    def wake(self) -> None:
        self._sleep.wake()

    def close(self) -> None:
        self._sleep.close()
        if self._written is not None:
            self._written.close()
        # Not back to the pool, which may have been disposed of meanwhile.
        self._connection.invalidate()
        self._connection.close()

    def _pause(self, most_s: float) -> None:
        if self._pause_s < LONGEST_LOOK_S or self._written is None:
            time.sleep(min(self._pause_s, most_s))
            self._pause_s = min(self._pause_s * LOOK_GROWTH, LONGEST_LOOK_S)
        elif self._sleep.sleep(most_s):
            self._written.heed()
            self._pause_s = SHORTEST_LOOK_S

    def _count(self) -> int:
        row = driver_of(self._connection).execute("PRAGMA data_version").fetchone()
        count: int = row[0]
        return count


@contextmanager
def _immediately(driver: sqlite3.Connection) -> Iterator[None]:
    driver.execute("BEGIN IMMEDIATE")
    try:
        yield
        driver.execute("COMMIT")
    except BaseException:
        with suppress(sqlite3.Error):
            driver.execute("ROLLBACK")
        raise

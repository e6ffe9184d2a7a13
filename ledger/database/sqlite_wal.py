"""The limit on the size of SQLite's write-ahead log.

SQLite copies the log into the database when a commit makes it longer than a threshold, and
restarts it once it has no reader.  While a long reader, such as a backup, is open, the log
only grows: users have seen 1.7 to 115 GB.  So we copy a log that is too long, and cut it.

Nobody waits for that.  A thread copies the pages while writers go on writing, and only what
they have added meanwhile is left to copy when one of them cuts the log.  A reader that is in
the way is not waited for: the next try is a second later.  Waiting for it cost each commit
50 ms.
"""

import logging
import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Final

from sqlalchemy import Connection, exc

from ledger.database.fast_sql import driver_of
from ledger.errors import LedgerError

WAL_LIMIT_BYTES: Final = 64 * 1024 * 1024
_RETRY_S: Final = 1.0
# The fraction of the limit that may be left to copy in the writers' turn.
_LITTLE: Final = 1 / 16
_PAGE_BYTES: Final = 4096

_log = logging.getLogger(__name__)


class WalLimit:
    """The limit on the log of one database file.

    Nothing here raises an error: it happens after a commit, which is reported as committed.

    Args:
        database: The path of the database file.
        limit_bytes: The size beyond which the log is cut.
        connect: Returns a context manager that yields a new connection.
        lock_timeout_ms: How long connections wait for locks otherwise.
    """

    def __init__(
        self,
        database: Path,
        *,
        limit_bytes: int,
        connect: Callable[[], AbstractContextManager[Connection]],
        lock_timeout_ms: int,
    ) -> None:
        self._path = f"{database}-wal"
        self._limit_bytes = limit_bytes
        self._connect = connect
        self._lock_timeout_ms = lock_timeout_ms
        self._copying = threading.Lock()
        self._is_forking = False
        self._is_copied = False
        self._retry_at_s = 0.0
        self._complaint = ""

    def cut(self, writer: Connection, size_bytes: int) -> None:
        """Cut the log if it is too long and has been copied; called in the writers' turn.

        If it has not been copied, a thread does that now.

        Args:
            writer: The writer's connection.
            size_bytes: The size of the log.
        """
        if size_bytes <= self._limit_bytes or time.monotonic() < self._retry_at_s:
            return
        if not self._is_copied:
            self._start_copying()
            return
        self._is_copied = False
        try:
            is_busy = self._truncate(driver_of(writer))
        except sqlite3.Error as error:
            self._complain(error)
        else:
            self._retry_at_s = time.monotonic() + _RETRY_S if is_busy else 0.0

    def _truncate(self, driver: sqlite3.Connection) -> bool:
        """Cut the log; return whether a reader was in the way."""
        driver.execute("PRAGMA busy_timeout=0")
        try:
            is_busy, *_ = driver.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        finally:
            # The next transaction waits for the locks of writers that do not queue.
            driver.execute(f"PRAGMA busy_timeout={self._lock_timeout_ms}")
        return bool(is_busy)

    def _start_copying(self) -> None:
        if not self._copying.acquire(blocking=False):
            return
        try:
            threading.Thread(target=self._copy, name="ledger-wal", daemon=True).start()
        except RuntimeError as error:
            # The system has no thread left, or Python is ending.
            self._copying.release()
            self._complain(error)

    def _copy(self) -> None:
        try:
            with self._connect() as connection:
                driver = driver_of(connection)
                is_busy, pages, copied = driver.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
            left_bytes = (pages - copied) * _PAGE_BYTES
            # It is busy while another process copies, and then the numbers are -1.
            self._is_copied = not is_busy and left_bytes <= self._limit_bytes * _LITTLE
            if not self._is_copied:
                self._retry_at_s = time.monotonic() + _RETRY_S
            self._complaint = ""
        except (exc.SQLAlchemyError, sqlite3.Error, LedgerError) as error:
            self._complain(error)
        finally:
            self._copying.release()

    def close(self) -> None:
        """Wait until the thread has ended."""
        self.before_fork()
        self.after_fork()

    def before_fork(self) -> None:
        """Wait until no thread copies: SQLite's locks are in the memory of the process."""
        self._is_forking = self._copying.acquire(timeout=self._lock_timeout_ms / 1000)

    def after_fork(self) -> None:
        """Undo ``before_fork`` in the process that has forked."""
        # If the thread takes longer than we wait, the lock still belongs to it.
        if self._is_forking:
            self._is_forking = False
            self._copying.release()

    def _complain(self, error: Exception) -> None:
        self._retry_at_s = time.monotonic() + _RETRY_S
        if str(error) != self._complaint:
            self._complaint = str(error)
            _log.warning("%s cannot be copied into the database: %s", self._path, error)

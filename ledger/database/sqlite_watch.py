"""Watches for commits to a SQLite file by any process.

What they buy
-------------
SQLite does not report commits.  Polling for them (``PRAGMA data_version``) every 40 ms
costs fifty idle workers an eighth of a core.  Sleeping until the WAL is written to, and
polling then, costs less, but the WAL is written before the commit: several polls for each
commit, and for each heartbeat as well, took four per cent.  So a process that has committed
an event writes a byte to the file on which writers queue, before the next one may begin,
and waiting threads sleep until that file is written to.  A process that is killed between
its commit and that byte wakes none of them; they check by themselves at least every two
seconds (``CommitNotifier``).

What would replace them
-----------------------
A SQLite that reports the commits of other processes.  On systems without inotify, the poll of
``data_version`` already does: the system's own file notification would replace it there.
"""

import os
import time
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Final, Protocol

from sqlalchemy import Engine

from ledger.database.contract import Watch, discard
from ledger.database.fast_sql import driver_of
from ledger.database.file_lock import is_file
from ledger.database.inotify import WrittenFile
from ledger.database.interruptible_wait import WakeableSleep
from ledger.errors import Unavailable

# Interval of polling where there is no inotify.
LOOK_S: Final = 0.04


class WatchedDatabase(Protocol):
    """What a watch needs of the database."""

    engine: Engine

    @property
    def opened(self) -> os.stat_result | None:
        """Return the file that connections have open."""

    def require_open(self, file: os.stat_result | None) -> None:
        """Raise if *file* is no longer the file that connections have open."""

    def translated(self) -> AbstractContextManager[None]:
        """Translate the driver's errors about an unavailable database into ours."""


def watch(database: WatchedDatabase, path: Path) -> Watch:
    """Return a watch for commits; *path* is the file that writers write to after each."""
    try:
        return _Listener(database, path)
    except OSError:
        return _CommitCounter(database)


class _Listener(Watch):
    """A watch that sleeps until a writer writes to the file on which writers queue."""

    def __init__(self, database: WatchedDatabase, path: Path) -> None:
        self._database = database
        self._path = path
        self.connection = database.engine.connect()
        self._opened = database.opened
        try:
            self._watched = path.stat()
            self._touched = WrittenFile(path)
        except OSError:
            self.connection.close()
            raise
        self._sleep = WakeableSleep(self._touched)

    def wait(self, timeout_s: float) -> bool:
        is_touched = self._sleep.sleep(timeout_s)
        self._database.require_open(self._opened)
        if not is_file(self._path, self._watched):
            raise Unavailable(f"{self._path} was removed")
        if is_touched:
            self._touched.heed()
        return is_touched

    def wake(self) -> None:
        self._sleep.wake()

    def close(self) -> None:
        self._sleep.close()
        self._touched.close()
        discard(self.connection)


class _CommitCounter(Watch):
    """A watch that polls SQLite's count of commits, for systems without inotify."""

    def __init__(self, database: WatchedDatabase) -> None:
        self._database = database
        self.connection = database.engine.connect()
        self._opened = database.opened
        self._seen = self._count()
        self._sleep = WakeableSleep()

    def wait(self, timeout_s: float) -> bool:
        deadline = time.monotonic() + timeout_s
        with self._database.translated():
            while (count := self._count()) == self._seen:
                left_s = deadline - time.monotonic()
                if left_s <= 0 or self._sleep.is_over:
                    return False
                self._sleep.sleep(min(left_s, LOOK_S))
        self._database.require_open(self._opened)
        self._seen = count
        return True

    def wake(self) -> None:
        self._sleep.wake()

    def close(self) -> None:
        self._sleep.close()
        discard(self.connection)

    def _count(self) -> int:
        row = driver_of(self.connection).execute("PRAGMA data_version").fetchone()
        count: int = row[0]
        return count

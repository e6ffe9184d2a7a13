"""A SQLite file on a disk of its own, on a machine whose clock is set."""

import sqlite3
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from random import Random
from typing import Final

from tests.chaos.clocks import MachineClock
from tests.chaos.disks import Disk
from tests.chaos.engine import Incident

# Two of them are less than the minute that the last event may be ahead of the clock.
_FARTHEST_S: Final = 25
_LONGEST_LOCK_S: Final = 4.0
_PATIENCE_S: Final = 10.0


class SqliteEngine:
    """A SQLite file, and strangers that use it through SQLite alone.

    Args:
        folder: A directory with a disk, ``disk``.
    """

    def __init__(self, folder: Path) -> None:
        self._disk = Disk(folder / "disk")
        self._path = self._disk.folder / "ledger.db"
        self._clock = MachineClock(folder / "clock")
        self.search_directory = self._disk.folder
        self.url = f"sqlite:///{self._path}"
        self.disks: Mapping[str, Disk] = {"of the database": self._disk}
        self.clocks: Mapping[str, tuple[MachineClock, int]] = {
            "of the machine": (self._clock, _FARTHEST_S)
        }
        self.incidents: Mapping[str, Incident] = {
            "locked by another program": self._lock,
            "log written back by another program": self._checkpoint,
        }

    def start(self) -> None:
        """Do nothing: a file has no server."""

    def clock_of(self, program: str) -> MachineClock:
        return self._clock

    def keep(self) -> None:
        """Do nothing: a file needs no administrator."""

    @contextmanager
    def reading(self) -> Iterator[bool]:
        with closing(self._connection()) as stranger:
            reads = False
            # The disk may be full, also for the index of the log.
            with suppress(sqlite3.OperationalError):
                stranger.execute("BEGIN")
                stranger.execute("SELECT count(*) FROM ledger_events").fetchall()
                reads = True
            yield reads

    def close(self) -> None:
        """Do nothing: a file has no server."""

    def _connection(self) -> sqlite3.Connection:
        return sqlite3.connect(self._path, timeout=_PATIENCE_S, isolation_level=None)

    def _lock(self, chance: Random) -> bool:
        # Others may hold the lock for longer than it waits.
        with closing(self._connection()) as stranger, suppress(sqlite3.OperationalError):
            stranger.execute("BEGIN IMMEDIATE")
            time.sleep(chance.uniform(0, _LONGEST_LOCK_S))
            stranger.execute("ROLLBACK")
            return True
        return False

    def _checkpoint(self, chance: Random) -> bool:
        mode = chance.choice(("PASSIVE", "FULL", "RESTART", "TRUNCATE"))
        with closing(self._connection()) as stranger, suppress(sqlite3.OperationalError):
            stranger.execute(f"PRAGMA wal_checkpoint({mode})")
            return True
        return False

"""What happens when SQLite's log is removed while it is in use.

A ``-wal`` that is removed stays open without a name.  The processes that have it open go on
writing to it, the next process begins another one, and neither sees what the other commits.
When the last process that has the removed file open dies, what was not yet copied into the
database is lost.  The same happens if only the ``-shm`` is removed: two processes then write to one
``-wal`` without knowing of each other.

SQLite removes both files itself, but only when the last connection is closed.  So as long as a
connection is open, the files at the paths must be those that it has open.  A writer checks that
before its transaction and after the commit, readers once a second.

If they are not, this process cannot continue: all connections of a process share their ``-shm``,
and an application's are not ours to close.  It copies what was committed into the database,
unless another process has begun a log, and then refuses to read and write until it is restarted.
Nor does it close its last connection, which would copy and delete the log that another process
may have begun by then.
"""

import ctypes
import logging
import os
import sqlite3
from pathlib import Path

from sqlalchemy import Connection

from ledger.database.fast_sql import driver_of
from ledger.errors import Unavailable

_log = logging.getLogger(__name__)

# Which file it is, whatever its path: inode and device.
_Identity = tuple[int, int]
# Of the ``-wal`` and the ``-shm``.
_Files = tuple[_Identity, _Identity]


class OpenLog:
    """The ``-wal`` and ``-shm`` that this process's connections to a database file have open.

    Args:
        database: The path of the database file.

    Attributes:
        lost: Why this process cannot continue; empty if it can.
    """

    def __init__(self, database: Path) -> None:
        self.lost = ""
        self._database = database
        self._wal = f"{database}-wal"
        self._shm = f"{database}-shm"
        # By connection.
        self._opened: dict[int, _Files] = {}

    def opened(self, connection: sqlite3.Connection) -> None:
        """Note that a connection, which has read, has the files at the paths open, if any."""
        # Where it has read no log, it has none open, although another process may have begun one
        # since, and may remove it.
        (mode,) = connection.execute("PRAGMA journal_mode").fetchone()
        files = self._there() if mode == "wal" else None
        if files is not None:
            self._opened[id(connection)] = files

    def closing(self, connection: object) -> None:
        """Note that a connection is about to be closed, after which SQLite may remove the files."""
        self._opened.pop(id(connection), None)

    def is_in_place(self) -> bool:
        """Return whether the files that connections have open are those at the paths."""
        for connection, files in self._one_of_all():
            there = self._there()
            if there != files:
                # If the last connection was closed meanwhile, SQLite has removed them.
                return self._opened.get(connection) is not files
        return True

    def size(self) -> int | None:
        """Return the size of the ``-wal``, or None if connections have another one open.

        Called by a writer, whose connection is open, after its commit.
        """
        try:
            there = _stat(self._wal)
        except OSError:
            # It cannot be seen.  What was committed must not be reported as failed for that.
            return 0
        if there is None:
            return None if self._opened else 0
        for _, (wal, _) in self._one_of_all():
            if wal != _identity(there):
                return None
        return there.st_size

    def _one_of_all(self) -> list[tuple[int, _Files]]:
        # All have the same, because each was checked before the next was opened.
        return [*self._opened.items()][:1]

    def require_in_place(self) -> None:
        """Raise unless the files that connections have open are those at the paths.

        Raises:
            Unavailable: They were removed or replaced.
        """
        if self.lost or not self.is_in_place():
            raise Unavailable(self.lost or self._said("the next write saves what was committed"))

    def require_none_of(self, replaced: os.stat_result) -> None:
        """Raise if the log at the path is that of a database file that was replaced.

        SQLite would take it for the log of the file that is there now.

        Raises:
            Unavailable: It is.
        """
        there = _stat(self._wal)
        if there is None or not there.st_size:
            return
        if any(wal == _identity(there) for wal, _ in [*self._opened.values()]):
            raise Unavailable(
                f"{self._database} was replaced, but {self._wal} still belongs to the file that "
                f"was there before (inode {replaced.st_ino}); remove {self._wal} and {self._shm}"
            )

    def give_up(self, writer: Connection) -> bool:
        """Save what was committed, and let this process use the database no more.

        Args:
            writer: A connection that has the log open, in no transaction, in the writers' turn;
                it is never closed.

        Returns:
            Whether all that was committed is in the database.
        """
        problem = self._save(driver_of(writer))
        self.lost = self._said(
            f"{problem}, so what was committed since the last checkpoint may be lost: compare "
            "`ledger events` with what you know"
            if problem
            else "nothing that was committed is lost"
        )
        _log.error("%s", self.lost)
        _never_close(writer)
        return not problem

    def _save(self, writer: sqlite3.Connection) -> str:
        """Save what was committed; return why that was not possible, or an empty text."""
        opened = next(iter(self._opened.values()))
        wal, shm = (
            None if there is None else mine == _identity(there)
            for mine, there in zip(opened, map(_stat, (self._wal, self._shm)), strict=True)
        )
        if False in {wal, shm}:
            return "another process has begun a new log"
        # A log that is in its place is read by the next process that opens the database.
        if wal is not None or _copy_all(writer):
            return ""
        return "the removed log could not be copied into the database"

    def _there(self) -> _Files | None:
        wal, shm = _stat(self._wal), _stat(self._shm)
        return None if wal is None or shm is None else (_identity(wal), _identity(shm))

    def _said(self, state: str) -> str:
        return (
            f"{self._wal} or {self._shm} was removed while {self._database} was in use; {state}; "
            "restart all processes that use it, and do not remove these files while any runs"
        )


def _stat(path: str) -> os.stat_result | None:
    try:
        return os.stat(path)  # noqa: PTH116 - a tenth of Path.stat's time
    except FileNotFoundError:
        return None


def _identity(there: os.stat_result) -> _Identity:
    return there.st_ino, there.st_dev


def _copy_all(driver: sqlite3.Connection) -> bool:
    """Copy the log into the database; return whether all of it was copied."""
    try:
        is_busy, pages, copied = driver.execute("PRAGMA wal_checkpoint(FULL)").fetchone()
    except sqlite3.Error:
        _log.exception("the removed log cannot be copied into the database")
        return False
    return not is_busy and pages == copied


def _never_close(connection: Connection) -> None:
    """Keep a connection open until the process has ended."""
    connection.detach()
    # At its end, the interpreter would close it.
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(connection))

"""Lock files among the processes of one machine; the kernel frees them when one dies.

An ``flock`` belongs to an open file, not to a thread, so threads of one process that share
a ``LockFile`` must take turns.  A process opens the file only once: with two descriptors,
it could take the lock on one and release it on the other, and the lock would never be free
again.  The file is not removed when the lock is free, because removing it would let two
processes hold the lock.  If someone removes it all the same, with its directory, the
holder of a role on it notices, and takes the lock on the file that is there now.

A lock file is empty, or holds the one byte that ``touch`` writes.  Any other file of its
name belongs to someone else, and is neither locked nor written to.

Whoever can open a lock file can lock it, and keep all others waiting.  So it is created for
those users who may write to the database file, and belongs to that file's owner even if root
creates it: otherwise a single command of root would lock the owner's processes out.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from ledger.database import shortages
from ledger.database.contract import Leadership
from ledger.database.own_files import NotOurs, Strange, open_regular, require_one_name
from ledger.errors import Unavailable

_TOUCH: Final = b"\n"


class LockFile:
    """An ``flock`` on a file, which is created when it is first needed.

    Args:
        path: The file.
        database: The database file whose writers, and whose owner, may use it; by default, only
            this user may.
    """

    def __init__(self, path: Path, *, database: Path | None = None) -> None:
        self._path = path
        self._database = database
        # One descriptor at most.  It is a list because two threads may open the file for the
        # first time at once: the first to append wins, without a mutex that a fork could leave
        # locked.
        self._fds: list[int] = []

    @property
    def path(self) -> Path:
        """Return the path of the file, which exists from now on."""
        self._open()
        return self._path

    def touch(self) -> None:
        """Write to the file, always the same byte; do nothing if the disk is full."""
        with suppress(OSError):
            os.pwrite(self._open(), _TOUCH, 0)

    def acquire(self) -> None:
        """Wait for the lock; the kernel wakes the waiting processes in order."""
        fcntl.flock(self._open(), fcntl.LOCK_EX)

    def try_acquire(self) -> bool:
        """Take the lock if it is free; return whether we hold it."""
        if not self.is_in_place():
            self.close()
        try:
            fcntl.flock(self._open(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def is_locked(self) -> bool:
        """Return whether anyone holds the lock; the file is neither created nor kept open.

        A shared lock is tried, on a descriptor of its own, so that two who ask at once do not
        take each other for a holder.
        """
        fd = _existing(self._path)
        if fd is None:
            return False
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        else:
            # Not only closed: a child that was forked in between has it open too.
            fcntl.flock(fd, fcntl.LOCK_UN)
            return False
        finally:
            os.close(fd)

    def is_in_place(self) -> bool:
        """Return whether the open file is the one at the path."""
        return bool(self._fds) and is_file(self._path, os.fstat(self._fds[0]))

    def release(self) -> None:
        """Release the lock."""
        for fd in self._fds[:1]:
            fcntl.flock(fd, fcntl.LOCK_UN)

    def close(self) -> None:
        """Release the lock and close the file."""
        while self._fds:
            os.close(self._fds.pop())

    def _open(self) -> int:
        if not self._fds:
            fd = _opened(self._path, self._database)
            self._fds.append(fd)
            if self._fds[0] != fd:
                # Another thread was first, and none has used our descriptor.
                self._fds.remove(fd)
                os.close(fd)
        return self._fds[0]


def _opened(path: Path, database: Path | None) -> int:
    with _refusals(path):
        return _checked(_open_or_create(path, database))


def _existing(path: Path) -> int | None:
    """Open a lock file to look at it; return None if there is none."""
    with _refusals(path):
        try:
            return _checked(open_regular(path, os.O_RDONLY))
        except FileNotFoundError:
            return None


def _checked(fd: int) -> int:
    """Return *fd* if it is open on a lock file; close it otherwise."""
    try:
        _require_lock(fd)
    except BaseException:
        os.close(fd)
        raise
    return fd


@contextmanager
def _refusals(path: Path) -> Iterator[None]:
    """Translate why a lock file cannot be used into what to do."""
    try:
        yield
    except Strange as error:
        raise NotOurs(
            path, str(error), "move it away: Ledger needs this name for a lock file"
        ) from error
    except PermissionError as error:
        raise Unavailable(
            f"cannot open {path}: {error.strerror}; this user needs read and write access to it, "
            "as to the database, and write access to its directory"
        ) from error
    except OSError as error:
        raise Unavailable(
            f"cannot open {path}: "
            + shortages.in_words(error, "its directory must exist and be writable")
        ) from error


def _open_or_create(path: Path, database: Path | None) -> int:
    while True:
        with suppress(FileNotFoundError):
            return open_regular(path, os.O_RDWR)
        # If another process creates it meanwhile, that one sets its mode.
        with suppress(FileExistsError):
            fd = open_regular(path, os.O_CREAT | os.O_EXCL | os.O_RDWR)
            try:
                if database is not None:
                    _share(fd, database)
            except BaseException:
                os.close(fd)
                raise
            return fd


def _share(fd: int, database: Path) -> None:
    """Give a lock file that we have just created to those who may write to the database."""
    try:
        file = os.stat(database)  # noqa: PTH116 - as os.fstat
    except FileNotFoundError:
        # It will be created for this user alone.
        return
    writers = file.st_mode & 0o222
    # The owner first: a change of owner may change the mode.
    if os.geteuid() == 0:
        os.fchown(fd, file.st_uid, file.st_gid)
    os.fchmod(fd, writers | writers << 1)


def _require_lock(fd: int) -> None:
    there = os.fstat(fd)
    require_one_name(there)
    # Do not read more: the file may be long.
    if os.pread(fd, len(_TOUCH) + 1, 0) not in {b"", _TOUCH}:
        raise Strange(f"it is a file of {there.st_size} bytes, not a lock file")


def is_file(path: Path, file: os.stat_result) -> bool:
    """Return whether the file at *path* is still *file*."""
    try:
        there = os.stat(path)  # noqa: PTH116 - a tenth of Path.stat's time
    except OSError:
        return False
    return os.path.samestat(file, there)


class FileLeadership(Leadership):
    """A claim to a role among the processes of one machine; the arguments are a lock file's."""

    def __init__(self, path: Path, *, database: Path | None = None) -> None:
        self._file = LockFile(path, database=database)
        self._held = False

    def held(self) -> bool:
        if not self._held or not self._file.is_in_place():
            self._held = self._file.try_acquire()
        return self._held

    def taken(self) -> bool:
        return self._held or self._file.is_locked()

    def release(self) -> None:
        self._held = False
        # Unlocked explicitly: a forked child may have the file open and would keep it locked.
        self._file.release()
        self._file.close()

    def forget(self) -> None:
        """Leave the role to the parent that forked us."""
        # Closing an inherited descriptor releases no lock; unlocking it would.
        self._held = False
        self._file.close()

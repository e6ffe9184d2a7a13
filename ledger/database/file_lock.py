"""Lock files among the processes of one machine; the kernel frees them when one dies.

An ``flock`` belongs to an open file, not to a thread: threads of one process that share
a ``LockFile`` must take turns.  So it must never have its file open twice, or the lock
is taken on the one and given back on the other, and nobody gets it any more.  The file
stays when it is free: removing it would let two in.  Should somebody remove it all the
same, with the directory in which it lies, whoever holds a role on it sees that, and takes
the one that is there now.

A lock file is empty, or holds the one byte that ``touch`` writes.  Whatever else has its
name is somebody else's, and is neither locked nor written to.
"""

import fcntl
import os
from contextlib import suppress
from pathlib import Path
from typing import Final

from ledger.database.contract import Leadership
from ledger.database.own_files import NotOurs, Strange, open_regular, require_one_name
from ledger.errors import Unavailable

_TOUCH: Final = b"\n"


class LockFile:
    """Be an ``flock`` on a file, which is created when it is first needed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        # No more than one.  A list, as two threads may need it for the first time at once: one
        # of them is the first to append, without a mutex that a fork could leave locked.
        self._fds: list[int] = []

    @property
    def path(self) -> Path:
        """Return the file, which is there from now on."""
        self._open()
        return self._path

    def touch(self) -> None:
        """Write to the file, always the same byte, if there is room on the disk for it."""
        with suppress(OSError):
            os.pwrite(self._open(), _TOUCH, 0)

    def acquire(self) -> None:
        """Wait for the lock; the kernel wakes those who wait in turn."""
        fcntl.flock(self._open(), fcntl.LOCK_EX)

    def try_acquire(self) -> bool:
        """Take the lock if it is free; tell whether it is ours now."""
        if not self.is_in_place():
            self.close()
        try:
            fcntl.flock(self._open(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def is_in_place(self) -> bool:
        """Tell whether the file that is open is the one at the path."""
        return bool(self._fds) and is_file(self._path, os.fstat(self._fds[0]))

    def release(self) -> None:
        """Free the lock."""
        for fd in self._fds[:1]:
            fcntl.flock(fd, fcntl.LOCK_UN)

    def close(self) -> None:
        """Free the lock and close the file."""
        while self._fds:
            os.close(self._fds.pop())

    def _open(self) -> int:
        if not self._fds:
            fd = _opened(self._path)
            self._fds.append(fd)
            if self._fds[0] != fd:
                # Another thread was first: nobody has used ours.
                self._fds.remove(fd)
                os.close(fd)
        return self._fds[0]


def _opened(path: Path) -> int:
    try:
        fd = open_regular(path, os.O_CREAT | os.O_RDWR, 0o644)
        try:
            _require_lock(fd)
        except BaseException:
            os.close(fd)
            raise
    except Strange as error:
        raise NotOurs(path, str(error), "move it away: processes queue on this file") from error
    except OSError as error:
        raise Unavailable(
            f"cannot open {path}: {error.strerror}; its directory must exist and be writable"
        ) from error
    return fd


def _require_lock(fd: int) -> None:
    there = os.fstat(fd)
    require_one_name(there)
    # No more is read of what may be long.
    if os.pread(fd, len(_TOUCH) + 1, 0) not in {b"", _TOUCH}:
        raise Strange(f"it is a file of {there.st_size} bytes, and no lock")


def is_file(path: Path, file: os.stat_result) -> bool:
    """Tell whether what is at *path* is still *file*."""
    try:
        there = os.stat(path)  # noqa: PTH116 - a tenth of Path.stat's time
    except OSError:
        return False
    return os.path.samestat(file, there)


class FileLeadership(Leadership):
    """Be the claim to a role among the processes of one machine."""

    def __init__(self, path: Path) -> None:
        self._file = LockFile(path)
        self._held = False

    def held(self) -> bool:
        if not self._held or not self._file.is_in_place():
            self._held = self._file.try_acquire()
        return self._held

    def release(self) -> None:
        self._held = False
        # A forked child has the file open too, which would keep it locked.
        self._file.release()
        self._file.close()

    def forget(self) -> None:
        """Leave the role to the parent that forked us."""
        # Closing a copy of the file's number gives up no lock; to unlock it would.
        self._held = False
        self._file.close()

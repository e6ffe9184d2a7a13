"""Opening of files whose names may already be taken by something else.

Ledger writes to few files, all with fixed names, in directories that it shares with
others: a file of the user's may have such a name, or a link to one.  Opening a link would
write to its target, and opening a FIFO would block until its other end is opened.
"""

import os
import stat
from pathlib import Path
from typing import Final

from ledger.errors import Unavailable

_KINDS: Final = {
    stat.S_IFLNK: "a symbolic link",
    stat.S_IFDIR: "a directory",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFREG: "a file",
}
# Without O_NONBLOCK, opening a FIFO blocks until its other end is opened.
_WITHOUT_WAITING: Final = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class NotOurs(Unavailable):
    """A file of someone else, where Ledger would keep its own.

    Attributes:
        path: Where.
        found: What is there, as in "it is a directory".
    """

    def __init__(self, path: Path | str, found: str, advice: str) -> None:
        super().__init__(f"cannot use {path}: {found}; {advice}")
        self.path = Path(path)
        self.found = found


class Strange(Exception):  # noqa: N818 - it names what it is
    """A defect of a file or a directory that should be ours.

    The message is what was found, as in "it is a directory".
    """


def kind(mode: int) -> str:
    """Return the type of a file of that mode, such as ``a FIFO``."""
    return _KINDS.get(stat.S_IFMT(mode), "a device")


def open_regular(
    path: Path | str, flags: int, mode: int = 0o600, *, directory: int | None = None
) -> int:
    """Open a regular file, without following a link and without blocking.

    Args:
        path: The file, or its name in *directory*.
        flags: As for ``os.open``.
        mode: The permissions of a file that is created.
        directory: A descriptor.

    Raises:
        Strange: Something else is there.
        OSError: The file cannot be opened.
    """
    try:
        descriptor = os.open(path, flags | _WITHOUT_WAITING, mode, dir_fd=directory)
    except FileNotFoundError:
        raise
    except OSError:
        there = os.stat(path, dir_fd=directory, follow_symlinks=False)
        require_regular(there)
        raise
    try:
        require_regular(os.fstat(descriptor))
    except Strange:
        os.close(descriptor)
        raise
    return descriptor


def require_own(there: os.stat_result) -> None:
    """Raise unless a file or directory belongs to this user.

    Raises:
        Strange: It belongs to another user.
    """
    user = os.geteuid()
    if there.st_uid != user:
        raise Strange(f"it belongs to user {there.st_uid}, not to {user}")


def require_one_name(there: os.stat_result) -> None:
    """Raise if a file has another name, because a write to it would change that one too.

    Raises:
        Strange: It is a hard link.
    """
    # The count is 0 if the file was removed meanwhile.
    if there.st_nlink > 1:
        raise Strange(f"it is a hard link to a file with {there.st_nlink} names")


def require_regular(there: os.stat_result) -> None:
    """Raise unless a file is a regular one.

    Raises:
        Strange: It is something else.
    """
    if not stat.S_ISREG(there.st_mode):
        raise Strange(f"it is {kind(there.st_mode)}")

"""Know the directories that Ledger made, and touch nothing in them that it did not.

A directory is ours if it belongs to this user, nobody else may write to it, and it has our
*marker*.  The marker is a cache directory tag, so that backup programs leave out what can be
built anew at any time, and only our own text makes it one.  A name says nothing: the user
may have chosen it.

All is done with a directory's descriptor, and no link is followed, so that nothing that is
put in a name's place meanwhile is read, written to or removed.

Source: https://bford.info/cachedir/
"""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Final

from ledger.database.own_files import Strange, kind, open_regular, require_one_name, require_own

MARKER: Final = "CACHEDIR.TAG"
_MARK: Final = b"""\
Signature: 8a477f597d28d172789f06886806bc55
# Ledger (ledger-queue) made this directory for a search index, and removes its files.
# It can be deleted at any time: the index is built anew from the ledger.
# What such a file is for: https://bford.info/cachedir/
"""
_OTHERS_MAY_WRITE: Final = 0o022
_LONGEST_SHOWN: Final = 80


def open_directory(path: Path | str, *, within: int | None = None) -> int:
    """Open a directory that belongs to this user, and to which nobody else may write.

    Args:
        path: The directory, or its name in *within*.
        within: A descriptor.

    Raises:
        FileNotFoundError: There is none.
        Strange: It is another user's, or others may write to it, or it is no directory.
        OSError: It cannot be opened.
    """
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        directory = os.open(path, flags, dir_fd=within)
    except FileNotFoundError:
        raise
    except OSError:
        _require_safe(os.stat(path, dir_fd=within, follow_symlinks=False))
        raise
    try:
        _require_safe(os.fstat(directory))
    except Strange:
        os.close(directory)
        raise
    return directory


def _require_safe(there: os.stat_result) -> None:
    if not stat.S_ISDIR(there.st_mode):
        raise Strange(f"it is {kind(there.st_mode)}, not a directory")
    require_own(there)
    if there.st_mode & _OTHERS_MAY_WRITE:
        raise Strange(f"others may write to it (mode {stat.S_IMODE(there.st_mode):04o})")


# --- the marker


def is_marked(directory: int) -> bool:
    """Tell whether a directory has our marker."""
    try:
        return _marker(directory) == _MARK
    except Strange:
        return False


def mark(directory: int) -> None:
    """Put our marker into a directory, or finish one that is unfinished.

    Raises:
        Strange: Something else has its name.
        OSError: It cannot be written.
    """
    marker = open_regular(MARKER, os.O_CREAT | os.O_WRONLY, directory=directory)
    try:
        require_one_name(os.fstat(marker))
        # Should another process do so at the same time, it writes the same.
        if os.pwrite(marker, _MARK, 0) < len(_MARK):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.fsync(marker)
    finally:
        os.close(marker)


def require_new(directory: int) -> None:
    """Require that an unmarked directory is empty, but for a marker that was begun.

    Raises:
        Strange: Something lies in it.
    """
    others = sorted(set(names(directory)) - {MARKER})
    try:
        marker = _marker(directory) or b""
    except Strange:
        others, marker = [MARKER], b""
    if marker == _MARK:
        # Another process has made all this meanwhile.
        return
    if not _MARK.startswith(marker):
        others = [MARKER]
    if others:
        shown = others[0] if others[0].isprintable() else ascii(others[0])
        raise Strange(f"it holds files that are not Ledger's, such as {shown[:_LONGEST_SHOWN]}")


def _marker(directory: int) -> bytes | None:
    """Return the marker, or what is there of it; None if there is none."""
    try:
        return read(directory, MARKER, most=len(_MARK) + 1)
    except FileNotFoundError:
        return None


# --- the files in it


def names(directory: int) -> list[str]:
    """Return the names of what lies in a directory."""
    return os.listdir(directory)


def read(directory: int, name: str, *, most: int) -> bytes:
    """Return what a file of ours holds, *most* bytes of it.

    Raises:
        FileNotFoundError: There is none.
        Strange: It is another user's, or no file.
        OSError: It cannot be read.
    """
    descriptor = open_own(name, directory=directory)
    try:
        # Of a regular file, the system gives all at once, up to two gigabytes.
        return os.read(descriptor, min(most, os.fstat(descriptor).st_size))
    finally:
        os.close(descriptor)


def open_own(path: Path | str, *, directory: int | None = None) -> int:
    """Open a file of this user's to be read; as ``read``."""
    descriptor = open_regular(path, os.O_RDONLY, directory=directory)
    try:
        require_own(os.fstat(descriptor))
    except Strange:
        os.close(descriptor)
        raise
    return descriptor


@contextmanager
def created(directory: int, name: str) -> Iterator[BinaryIO]:
    """Give a new file to write to, which is removed again if the block fails.

    Raises:
        FileExistsError: Something has its name.
    """
    flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC
    file = os.fdopen(os.open(name, flags, 0o600, dir_fd=directory), "wb")
    try:
        with file:
            yield file
    except BaseException:
        # Such as a full disk: it is tried again and again.
        remove(directory, name)
        raise


def is_own(directory: int, name: str) -> os.stat_result | None:
    """Return what is known of a file of this user's that has no other name, None if it is none."""
    try:
        there = os.stat(name, dir_fd=directory, follow_symlinks=False)
    except OSError:
        return None
    is_ours = stat.S_ISREG(there.st_mode) and there.st_uid == os.geteuid() and there.st_nlink == 1
    return there if is_ours else None


def remove(directory: int, name: str) -> None:
    """Remove a file, if it is this user's and has no other name."""
    if is_own(directory, name) is not None:
        with suppress(OSError):
            os.unlink(name, dir_fd=directory)

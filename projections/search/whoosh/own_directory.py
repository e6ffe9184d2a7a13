"""The directories that Ledger made, and the files in them that are its own.

A directory is ours if it belongs to this user, no other user may write to it, and it has our
*marker*.  The marker is a cache directory tag, so that backup programs leave out what can be
rebuilt at any time.  Only our own text makes it a marker.  A directory's name proves nothing:
the user may have chosen it.

All operations use a directory's descriptor, and none follows a link.  So if something else
takes a name meanwhile, it is not read, written or removed.

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
# Never change this text: a directory whose marker differs is not recognized as Ledger's.
_MARK: Final = b"""\
Signature: 8a477f597d28d172789f06886806bc55
# Ledger (ledger-queue) made this directory for a search index, and removes its files.
# It can be deleted at any time: the index is built anew from the ledger.
# What such a file is for: https://bford.info/cachedir/
"""
_OTHERS_MAY_WRITE: Final = 0o022
_LONGEST_SHOWN: Final = 80


def open_directory(path: Path | str, *, within: int | None = None) -> int:
    """Open a directory that belongs to this user, and to which no other user may write.

    Args:
        path: The directory, or its name in *within*.
        within: The descriptor of a directory.

    Raises:
        FileNotFoundError: It does not exist.
        Strange: It is another user's, or others may write to it, or it is not a directory.
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
        raise Strange(f"other users can write to it (mode {stat.S_IMODE(there.st_mode):04o})")


# --- the marker


def is_marked(directory: int) -> bool:
    """Return whether a directory has our marker."""
    try:
        return _marker(directory) == _MARK
    except Strange:
        return False


def mark(directory: int) -> None:
    """Write our marker into a directory, or complete an unfinished one.

    Raises:
        Strange: Something else has its name.
        OSError: It cannot be written.
    """
    marker = open_regular(MARKER, os.O_CREAT | os.O_WRONLY, directory=directory)
    try:
        require_one_name(os.fstat(marker))
        # If another process does so at the same time, it writes the same.
        if os.pwrite(marker, _MARK, 0) < len(_MARK):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.fsync(marker)
    finally:
        os.close(marker)


def require_new(directory: int) -> None:
    """Require that an unmarked directory is empty, except for an unfinished marker.

    Raises:
        Strange: It contains something else.
    """
    others = sorted(set(names(directory)) - {MARKER})
    try:
        marker = _marker(directory) or b""
    except Strange:
        others, marker = [MARKER], b""
    if marker == _MARK:
        # Another process has marked the directory meanwhile.
        return
    if not _MARK.startswith(marker):
        others = [MARKER]
    if others:
        name = others[0] if others[0].isprintable() else ascii(others[0])
        raise Strange(f"it contains files that are not Ledger's, such as {name[:_LONGEST_SHOWN]}")


def _marker(directory: int) -> bytes | None:
    """Return the marker, or the part of it that is written; None if there is none."""
    try:
        return read(directory, MARKER, most=len(_MARK) + 1)
    except FileNotFoundError:
        return None


# --- the files in it


def names(directory: int) -> list[str]:
    """Return the names of a directory's entries."""
    return os.listdir(directory)


def read(directory: int, name: str, *, most: int) -> bytes:
    """Return the first *most* bytes of a file of ours.

    Raises:
        FileNotFoundError: It does not exist.
        Strange: It is another user's, or not a regular file.
        OSError: It cannot be read.
    """
    descriptor = open_own(name, directory=directory)
    try:
        # One read returns all of a regular file, up to two gigabytes.
        return os.read(descriptor, min(most, os.fstat(descriptor).st_size))
    finally:
        os.close(descriptor)


def open_own(path: Path | str, *, directory: int | None = None) -> int:
    """Open a file of this user for reading; it raises what ``read`` raises."""
    descriptor = open_regular(path, os.O_RDONLY, directory=directory)
    try:
        require_own(os.fstat(descriptor))
    except Strange:
        os.close(descriptor)
        raise
    return descriptor


@contextmanager
def created(directory: int, name: str) -> Iterator[BinaryIO]:
    """Create a file and yield it for writing; remove it if the block fails.

    Raises:
        FileExistsError: Something has its name.
    """
    flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC
    file = os.fdopen(os.open(name, flags, 0o600, dir_fd=directory), "wb")
    try:
        with file:
            yield file
    except BaseException:
        # For example, the disk is full.  Leave nothing behind: callers try again and again.
        remove(directory, name)
        raise


def is_own(directory: int, name: str) -> os.stat_result | None:
    """Return the status of a file that is this user's and has no other name, or else None."""
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

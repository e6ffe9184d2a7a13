"""Disks of a limited size, which can be filled and freed."""

import errno
import os
from pathlib import Path
from typing import Final

_BLOCK_BYTES: Final = 64 * 1024


class Disk:
    """A file system of its own, of a limited size.

    Args:
        folder: Where it is mounted.

    Attributes:
        can_be_full: Whether something is mounted there; otherwise it is the disk of all others.
    """

    def __init__(self, folder: Path) -> None:
        self.can_be_full = folder.is_mount()
        self.folder = folder
        self._filler = folder / ".filler"

    def fill(self) -> None:
        """Take all of its free space."""
        descriptor = os.open(self._filler, os.O_WRONLY | os.O_CREAT, 0o600)
        try:
            size, step = os.fstat(descriptor).st_size, self._free_bytes() or _BLOCK_BYTES
            # Others take and free space meanwhile.
            while step >= 1:
                try:
                    os.posix_fallocate(descriptor, size, step)
                except OSError as error:
                    if error.errno != errno.ENOSPC:
                        raise
                    step //= 2
                else:
                    size += step
        finally:
            os.close(descriptor)

    def free(self) -> None:
        """Give the space back."""
        self._filler.unlink(missing_ok=True)

    def used_bytes(self) -> int:
        """Return how much of it is taken, without what `fill` took."""
        status = os.statvfs(self.folder)
        filler = self._filler.stat().st_blocks * 512 if self._filler.exists() else 0
        return (status.f_blocks - status.f_bfree) * status.f_frsize - filler

    def _free_bytes(self) -> int:
        status = os.statvfs(self.folder)
        return status.f_bavail * status.f_frsize

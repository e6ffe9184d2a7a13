"""Detection of writes to a file, on Linux; on other systems it raises ``OSError``.

Source: inotify(7).  Python has no module for it, and three calls need no dependency.
"""

import ctypes
import os
from contextlib import suppress
from pathlib import Path
from typing import Final

_IN_MODIFY: Final = 0x2
_EVENTS_BYTES: Final = 64 * 1024


class WrittenFile:
    """A file that is watched for writes by any process.

    Args:
        path: The file, which must exist.

    Raises:
        OSError: The system cannot watch it.
    """

    def __init__(self, path: Path) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        if not hasattr(libc, "inotify_init1"):
            raise OSError("this system has no inotify")
        self._fd: int = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if self._fd < 0:
            raise OSError(ctypes.get_errno(), "inotify_init1")
        if libc.inotify_add_watch(self._fd, os.fsencode(path), _IN_MODIFY) < 0:
            error = OSError(ctypes.get_errno(), "inotify_add_watch", str(path))
            self.close()
            raise error

    def fileno(self) -> int:
        """Return the descriptor that becomes readable when the file is written to."""
        return self._fd

    def heed(self) -> None:
        """Discard the events so far, so that only later writes are reported."""
        with suppress(BlockingIOError):
            # The number and kind of the events do not matter.
            os.read(self._fd, _EVENTS_BYTES)

    def close(self) -> None:
        """Stop watching."""
        os.close(self._fd)

"""Sleep until a file is written to, on Linux; elsewhere say that it cannot be done.

Source: inotify(7).  Python has no module for it, and three calls need no dependency.
"""

import ctypes
import os
import select
from pathlib import Path
from typing import Final

_IN_MODIFY: Final = 0x2
_EVENTS_BYTES: Final = 64 * 1024


class WrittenFile:
    """Tell when a file has been written to, by whichever process.

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
        self._poll = select.poll()
        self._poll.register(self._fd, select.POLLIN)

    def wait(self, timeout_s: float) -> bool:
        """Return whether it was written to since the last call, as soon as it is."""
        if not self._poll.poll(timeout_s * 1000):
            return False
        # How often and where is of no interest.
        os.read(self._fd, _EVENTS_BYTES)
        return True

    def close(self) -> None:
        """Stop watching."""
        os.close(self._fd)

"""What the system can run short of, in words: space, files, memory.

``strerror`` alone leaves the reader with "Too many open files": whose, and how many are allowed?
"""

import errno
import os
import resource
from collections.abc import Mapping
from typing import Final

_ADVICE: Final[Mapping[int, str]] = {
    errno.ENOSPC: "free space on its disk",
    errno.EDQUOT: "free space in this user's quota of its disk",
    errno.EFBIG: "raise the process's limit (ulimit -f), or use another file system",
    errno.EROFS: "its file system is mounted read-only; mount it writable",
    errno.EIO: "its disk is failing, or was removed; look at the system's log",
    errno.ENFILE: "the whole system has too many; raise fs.file-max",
    errno.ENOMEM: "free memory, or allow the process more",
    errno.ENOBUFS: "free memory, or allow the process more",
}
# Errors that come from the state of the system, and end with it; the process itself works.
PASSING: Final = frozenset({errno.EMFILE, *_ADVICE})


def in_words(error: OSError, otherwise: str) -> str:
    """Return what an error says and what to do; *otherwise* is the advice if nothing is short."""
    advice = _ADVICE.get(error.errno or 0, otherwise)
    if error.errno == errno.EMFILE:
        most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        advice = f"this process may open {most}; raise the limit (ulimit -n)"
    return f"{error.strerror or error}; {advice}"


def of_files() -> OSError | None:
    """Return why no further file can be opened, in this process at this moment; None if one can."""
    try:
        os.close(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
    except OSError as error:
        return error
    return None


def of_space(path: str) -> OSError | None:
    """Return why nothing more can be written to the disk of *path*; None if something can."""
    try:
        disk = os.statvfs(path)
    except OSError as error:
        return error
    if disk.f_flag & os.ST_RDONLY:
        return OSError(errno.EROFS, os.strerror(errno.EROFS))
    return None if disk.f_bavail else OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

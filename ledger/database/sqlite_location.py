"""Checks of where a database file lies, before SQLite opens it.

SQLite names ``PATH-wal`` and ``PATH-shm`` after the path by which it opened the file.  With a
second name, a hard link or a mount of the file alone, there are two logs for one file, and each
loses or destroys what was committed through the other.  A symbolic link is no second name: it is
resolved first.

The processes that use a file share the ``-shm`` through the memory of their machine, so processes
of two machines must not use it, although a network file system shows it to both.  A directory that
a virtual machine shares with its host (9p, virtiofs) is not told from a local one: mostly, only
one side uses it.

Source: https://www.sqlite.org/howtocorrupt.html (section 2) and
https://www.sqlite.org/wal.html (section 1); man 5 proc
"""

import os
import re
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

from ledger.database.own_files import NotOurs, Strange, require_one_name
from ledger.errors import Unavailable

# The mounts that this process sees; other systems than Linux have no such file.
MOUNTS: Final = Path("/proc/self/mountinfo")

_NETWORK: Final = frozenset(
    (
        *("nfs", "nfs4", "cifs", "smb3", "smbfs", "ncpfs", "afs", "coda", "ceph", "lustre"),
        *("gfs2", "ocfs2", "orangefs", "pvfs2", "beegfs", "gpfs", "glusterfs", "davfs"),
        *("fuse.sshfs", "fuse.glusterfs", "fuse.ceph", "fuse.ceph-fuse", "fuse.s3fs"),
        *("fuse.rclone", "fuse.davfs", "fuse.davfs2", "fuse.juicefs", "fuse.moosefs", "fuse.mfs"),
        *("fuse.smbnetfs", "fuse.curlftpfs", "fuse.gcsfuse", "fuse.beegfs", "fuse.lizardfs"),
    )
)
# The field of a line with the mount point, counted from 0.
_POINT: Final = 4
_ESCAPED: Final = re.compile(r"\\([0-7]{3})")


class Mount(NamedTuple):
    """A mounted file system.

    Attributes:
        point: Where it is mounted: a directory, or a single file.
        file_system: Its type, such as ``ext4``.
    """

    point: str
    file_system: str


def require_leads_to(given: Path, path: Path) -> None:
    """Raise unless a path, perhaps of a symbolic link, still leads to the path that it led to.

    Raises:
        Unavailable: It leads to another file, beside which other processes queue.
    """
    leads_to = os.path.realpath(given)
    if leads_to != str(path):
        raise Unavailable(
            f"{given} led to {path} and now leads to {leads_to}; restart to use that file"
        )


def require_usable(path: Path, *, allow_network_file: bool) -> None:
    """Raise unless all processes that may open a database file share it, by one name.

    Args:
        path: The file, without symbolic links; it may be missing.
        allow_network_file: Whether it may be on a network file system.

    Raises:
        NotOurs: It has another name, or is mounted alone, or is on a network file system.
    """
    with suppress(OSError):
        there = path.stat()
        try:
            if stat.S_ISREG(there.st_mode):
                require_one_name(there)
        except Strange as error:
            raise NotOurs(
                path,
                str(error),
                "SQLite would keep a log of commits for each name, and lose what is in one of "
                f"them: stop what uses the other name and remove it (find DIRECTORY -samefile "
                f"{path}), or restore a copy",
            ) from error
    mount = _mount_of(path)
    if mount is None:
        return
    if mount.point == str(path) and not path.is_dir():
        raise NotOurs(
            path,
            "the file itself is a mount point",
            "SQLite would keep its log of commits outside the mount, and lose it: mount the "
            "directory that contains the file, never the file",
        )
    if mount.file_system in _NETWORK and not allow_network_file:
        raise NotOurs(
            path,
            f"it is on a network file system ({mount.file_system})",
            "if two machines use it, they destroy it: move it to a local disk, or use PostgreSQL; "
            "if one machine alone will ever use it, set LEDGER_ALLOW_NETWORK_FILE=on",
        )


def _mount_of(path: Path) -> Mount | None:
    """Return the mount that a path is in, or None if that is unknown."""
    try:
        text = os.fsdecode(MOUNTS.read_bytes())
    except OSError:
        return None
    above = {str(path), *map(str, path.parents)}
    # The longest path is the innermost mount; of two on one path, the later one covers the other.
    return max(
        (mount for mount in parse_mounts(text) if mount.point in above),
        key=lambda mount: len(mount.point),
        default=None,
    )


def parse_mounts(text: str) -> Iterator[Mount]:
    """Yield the mounts that the text of ``mountinfo`` lists, the last one first."""
    # Not splitlines: a path may contain other characters that end a line for Python.
    for line in reversed(text.split("\n")):
        before, _, after = line.partition(" - ")
        fields = before.split(" ")
        if len(fields) > _POINT:
            yield Mount(_ESCAPED.sub(_character, fields[_POINT]), after.partition(" ")[0])


def _character(escape: re.Match[str]) -> str:
    return chr(int(escape[1], 8))


def create_private(path: Path) -> None:
    """Create an empty database file that only this user may use, unless something is there.

    SQLite would let all users read it.  If it cannot be created, SQLite says why.
    """
    with suppress(OSError):
        try:
            # Without opening it: closing a descriptor would release the locks that SQLite may
            # have taken meanwhile in another thread.
            os.mknod(path, stat.S_IFREG | 0o600)
        except PermissionError:
            # On some systems only root may do that.
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))

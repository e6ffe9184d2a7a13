"""Checks of the files beside a database file, before SQLite takes them for its own.

SQLite reads, overwrites and deletes ``PATH-wal``, ``PATH-shm`` and ``PATH-journal``,
whatever they contain.  A file of the user's with such a name would be lost, and so would
commits that are only in the ``-wal`` when the database file itself is missing: SQLite
deletes a log beside an empty database.

Source: https://www.sqlite.org/fileformat2.html and https://www.sqlite.org/walformat.html
"""

import os
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

from ledger.database.own_files import NotOurs, Strange, kind, open_regular, require_one_name
from ledger.errors import Unavailable

_WAL_HEADER_BYTES: Final = 32
_WAL_MAGIC: Final = (b"\x37\x7f\x06\x82", b"\x37\x7f\x06\x83")
_SHM_VERSION: Final = (3_007_000).to_bytes(4, sys.byteorder)
_JOURNAL_MAGIC: Final = bytes.fromhex("d9d505f920a163d7")
# The field of a journal's header with the number of pages before the transaction.
_JOURNAL_PAGES: Final = slice(16, 20)

_MOVE: Final = "move it away: SQLite would overwrite or delete it"


def require_ours(database: Path) -> None:
    """Raise unless the files beside a database file are SQLite's.

    Raises:
        NotOurs: A file is not, and would be lost.
        Unavailable: A file cannot be read, or belongs to a database that is missing.
    """
    # SQLite follows a link to the database, but no link to the other files.
    path = os.path.realpath(database)
    is_empty = _is_empty(path)
    for suffix, is_sqlites in _LOOKS.items():
        beside = f"{path}-{suffix}"
        try:
            head = _head(beside)
        except FileNotFoundError:
            continue
        except Strange as error:
            raise NotOurs(beside, str(error), _MOVE) from error
        except OSError as error:
            raise Unavailable(f"{beside} cannot be read: {error.strerror}") from error
        if not is_sqlites(head):
            raise NotOurs(beside, f"it is not a -{suffix} file of SQLite", _MOVE)
        # Checked again: a process that creates the database writes to it before there is a log.
        if is_empty and _has_commits(suffix, head) and _is_empty(path):
            raise Unavailable(
                f"{beside} exists, but its database {database} is missing or empty; restore the "
                f"database, or move {beside} away: SQLite would delete it"
            )


def _is_empty(path: str) -> bool:
    """Return whether a database has no page yet."""
    try:
        there = os.stat(path)  # noqa: PTH116 - a str, as SQLite uses it
    except OSError:
        return True
    if stat.S_ISDIR(there.st_mode):
        # SQLite itself refuses a directory.
        return False
    if not stat.S_ISREG(there.st_mode):
        raise NotOurs(
            path, f"it is {kind(there.st_mode)}", "a SQLite database must be a regular file"
        )
    return not there.st_size


def _head(path: str) -> bytes:
    descriptor = open_regular(path, os.O_RDONLY)
    try:
        require_one_name(os.fstat(descriptor))
        return os.pread(descriptor, _WAL_HEADER_BYTES, 0)
    finally:
        os.close(descriptor)


def _is_wal(head: bytes) -> bool:
    # A power failure leaves zeros in a log that had just grown.
    return not any(head) or head.startswith(_WAL_MAGIC)


def _is_shm(head: bytes) -> bool:
    # The process that first opens the file leaves three bytes of it.
    return not any(head) or _SHM_VERSION.startswith(head[: len(_SHM_VERSION)])


def _is_journal(head: bytes) -> bool:
    # The magic is written last: until then there are zeros, also after a power failure.
    return not any(head[: len(_JOURNAL_MAGIC)]) or head.startswith(_JOURNAL_MAGIC)


def _has_commits(suffix: str, head: bytes) -> bool:
    """Return whether a log contains changes that its database lacks.

    A journal contains the pages from before a transaction.  There are none if the database
    was empty, as it is while another process creates its first tables.
    """
    return any(head) and (suffix == "wal" or (suffix == "journal" and any(head[_JOURNAL_PAGES])))


_LOOKS: Final[dict[str, Callable[[bytes], bool]]] = {
    "wal": _is_wal,
    "journal": _is_journal,
    "shm": _is_shm,
}

"""Checks of the files beside a database file, before SQLite takes them for its own.

SQLite reads, overwrites and deletes ``PATH-wal``, ``PATH-shm`` and ``PATH-journal``,
whatever they contain.  A file of the user's with such a name would be lost, and so would
commits that are only in the ``-wal`` when the database file itself is missing: SQLite
deletes a log beside an empty database.

The ``-shm`` is judged by its size, and never opened.  SQLite's locks on it belong to the
process, not to a descriptor: a process that closes any descriptor of the file loses them
all.  If another connection of this process has the file mapped, the next process to open it
takes itself for the first one and truncates it, and this process dies of SIGBUS.

Source: https://www.sqlite.org/fileformat2.html, https://www.sqlite.org/walformat.html and
https://www.sqlite.org/howtocorrupt.html (section 2.2)
"""

import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Final

from ledger.database import shortages
from ledger.database.own_files import (
    NotOurs,
    Strange,
    kind,
    open_regular,
    require_one_name,
    require_regular,
)
from ledger.errors import Unavailable

_WAL_HEADER_BYTES: Final = 32
_WAL_MAGIC: Final = (b"\x37\x7f\x06\x82", b"\x37\x7f\x06\x83")
# The process that first opens the file leaves this many bytes; after that it grows by pages.
_SHM_FIRST_BYTES: Final = 3
_SHM_PAGE_BYTES: Final = 4096
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
    for suffix, has_commits in _CHECKS.items():
        beside = f"{path}-{suffix}"
        try:
            must_have_database = has_commits(beside)
        except FileNotFoundError:
            continue
        except Strange as error:
            raise NotOurs(beside, str(error), _MOVE) from error
        except OSError as error:
            why = shortages.in_words(error, "this user needs read and write access to it")
            raise Unavailable(f"{beside} cannot be read: {why}") from error
        # Checked again: a process that creates the database writes to it before there is a log.
        if is_empty and must_have_database and _is_empty(path):
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


# --- each raises Strange if the file is not SQLite's, and returns whether it holds changes that
# its database lacks


def _check_wal(path: str) -> bool:
    head = _head(path)
    # A power failure leaves zeros in a log that had just grown.
    if any(head) and not head.startswith(_WAL_MAGIC):
        raise Strange("it is not a -wal file of SQLite")
    return any(head)


def _check_journal(path: str) -> bool:
    head = _head(path)
    # The magic is written last: until then there are zeros, also after a power failure.
    if any(head[: len(_JOURNAL_MAGIC)]) and not head.startswith(_JOURNAL_MAGIC):
        raise Strange("it is not a -journal file of SQLite")
    # It holds the pages from before a transaction: none if another process creates the tables.
    return any(head[_JOURNAL_PAGES])


def _check_shm(path: str) -> bool:
    there = os.lstat(path)
    require_regular(there)
    require_one_name(there)
    if there.st_size != _SHM_FIRST_BYTES and there.st_size % _SHM_PAGE_BYTES:
        raise Strange("it is not a -shm file of SQLite")
    return False


_CHECKS: Final[dict[str, Callable[[str], bool]]] = {
    "wal": _check_wal,
    "journal": _check_journal,
    "shm": _check_shm,
}

"""SQLite's errors in words: which file, what is wrong with it, and what to do.

SQLite says "disk I/O error" or "unable to open database file", whatever the system's reason was.
The reason is looked for where it can be found without opening the file: that would drop the locks
that this process has on it.

Source: https://www.sqlite.org/rescode.html
"""

import os
import sqlite3
from pathlib import Path
from typing import Final, NamedTuple

from ledger.database import shortages

_PRIMARY: Final = 0xFF
_ACCESS: Final = "this user needs read and write access to the file and its directory"


class Said(NamedTuple):
    """What is wrong with a database file.

    Attributes:
        text: It, with the path of the file.
        public: The same for whoever may not know more than the file's name.
    """

    text: str
    public: str


def in_words(error: BaseException | None, path: Path) -> Said | None:
    """Return what is wrong with the file at *path*; None if the error is not about a file."""
    problem = _problem(error, path) if isinstance(error, sqlite3.Error) else None
    return None if problem is None else Said(f"{path}: {problem}", f"{path.name}: {problem}")


def _problem(error: sqlite3.Error, path: Path) -> str | None:
    # Errors of the driver's own have no code.
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_OK) & _PRIMARY
    if code == sqlite3.SQLITE_FULL:
        return "its disk is full; nothing was recorded; free space on it"
    if code == sqlite3.SQLITE_IOERR:
        short = shortages.of_space(f"{path.parent}") or shortages.of_files()
        advice = "its disk is failing, or full, or was removed; look at the system's log"
        why = advice if short is None else shortages.in_words(short, advice)
        name = getattr(error, "sqlite_errorname", "SQLITE_IOERR")
        return f"{error} ({name}); {why}"
    if code == sqlite3.SQLITE_CANTOPEN:
        short = shortages.of_files()
        return f"{error}; " + (
            _why_closed(path) if short is None else shortages.in_words(short, _ACCESS)
        )
    if code == sqlite3.SQLITE_READONLY:
        short = shortages.of_space(f"{path.parent}")
        why = f"{_ACCESS}, even to read the ledger"
        return f"{error}; " + (why if short is None else shortages.in_words(short, why))
    return None


def _why_closed(path: Path) -> str:
    if not path.parent.is_dir():
        return "its directory does not exist; create it"
    if path.is_dir():
        return "it is a directory; a database must be a file"
    if path.exists() and not os.access(path, os.R_OK | os.W_OK):
        return f"{_ACCESS} (effective user {os.geteuid()})"
    return "its directory must exist, and this user needs read and write access to the file"

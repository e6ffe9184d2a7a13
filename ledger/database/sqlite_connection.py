"""A connection of SQLite's driver: its settings, its transactions, and its cache of pages."""

import sqlite3
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from ledger.database import sqlite_errors
from ledger.errors import OutcomeUnknown

_SETTINGS: Final[Mapping[str, int | str]] = {
    "cache_size": -16_000,
    # 32 MB: a page that changes in every commit is copied to the database once per checkpoint.
    "wal_autocheckpoint": 8_000,
    # Overwrite what is deleted, such as erased content.  Some builds of SQLite do so by default.
    "secure_delete": 1,
}
# Pages are read through the system's page cache, which all processes share, without a system call
# and a copy per page.
MAPPED_BYTES: Final = 1024 * 1024 * 1024

_HAS_LEDGER: Final = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'ledger_head'"
_CHANGED_NS: Final = "ledger_file_changed_ns"


def configure(driver: sqlite3.Connection, settings: Mapping[str, int | str]) -> None:
    """Set what holds for a connection, and the journal's mode of a file with a ledger.

    Args:
        driver: The connection.
        settings: Values by the names of SQLite's pragmas; some are the same for all connections.
    """
    for name, value in {**_SETTINGS, **settings}.items():
        driver.execute(f"PRAGMA {name}={value}")
    # The mode stays with the file, so an application's is its own until there is a ledger.
    if driver.execute(_HAS_LEDGER).fetchone():
        driver.execute("PRAGMA journal_mode=WAL")


def drop_stale_pages(
    driver: sqlite3.Connection, info: MutableMapping[Any, Any], *, changed_ns: int
) -> None:
    """Drop the pages that a connection has cached from the file, if the file has changed.

    SQLite drops them itself when a commit changes them, but not when somebody has copied other
    contents over the file.  We cannot tell that from a checkpoint, which is rare enough.

    Args:
        driver: A connection, in no transaction.
        info: What SQLAlchemy keeps for this connection.
        changed_ns: The time at which the file changed last, whatever the clock was.
    """
    if info.get(_CHANGED_NS) != changed_ns:
        info[_CHANGED_NS] = changed_ns
        driver.execute("PRAGMA shrink_memory")


@contextmanager
def immediately(driver: sqlite3.Connection, path: Path) -> Iterator[None]:
    """Begin a transaction that may write; commit it at the end of the block, or roll it back.

    Args:
        driver: A connection, in no transaction.
        path: The database file, for messages.

    Raises:
        OutcomeUnknown: It is unknown whether the commit will be found after a restart.
    """
    driver.execute("BEGIN IMMEDIATE")
    try:
        yield
        _commit(driver, path)
    except BaseException:
        with suppress(sqlite3.Error):
            driver.execute("ROLLBACK")
        raise


def _commit(driver: sqlite3.Connection, path: Path) -> None:
    try:
        driver.execute("COMMIT")
    except sqlite3.OperationalError as error:
        primary_code = error.sqlite_errorcode & 0xFF
        if primary_code == sqlite3.SQLITE_IOERR:
            # For example from fsync: the log may hold the commit, and a restart would then find it.
            said = sqlite_errors.in_words(error, path)
            reason, public = (f"{error}", None) if said is None else said
            raise OutcomeUnknown(reason, public=public) from error
        raise

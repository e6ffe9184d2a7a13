"""A transaction on a connection of SQLite's driver, which excludes all other writers."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from ledger.errors import OutcomeUnknown


@contextmanager
def immediately(driver: sqlite3.Connection) -> Iterator[None]:
    """Begin a transaction that may write; commit it at the end of the block, or roll it back.

    Raises:
        OutcomeUnknown: It is unknown whether the commit will be found after a restart.
    """
    driver.execute("BEGIN IMMEDIATE")
    try:
        yield
        _commit(driver)
    except BaseException:
        with suppress(sqlite3.Error):
            driver.execute("ROLLBACK")
        raise


def _commit(driver: sqlite3.Connection) -> None:
    try:
        driver.execute("COMMIT")
    except sqlite3.OperationalError as error:
        primary_code = error.sqlite_errorcode & 0xFF
        if primary_code == sqlite3.SQLITE_IOERR:
            # For example from fsync: the log may hold the commit, and a restart would then find it.
            raise OutcomeUnknown(f"{error}") from error
        raise

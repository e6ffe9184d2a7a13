"""Leadership on PostgreSQL: advisory locks, which end with the session of a holder that dies."""

from collections.abc import Callable
from contextlib import suppress
from typing import Final, Protocol

from sqlalchemy import Connection, Engine, exc, text

from ledger.database.contract import discard
from ledger.database.fast_sql import driver_of

_TRY: Final = text("SELECT pg_try_advisory_lock(:key)")
_RELEASE: Final = text("SELECT pg_advisory_unlock(:key)")
_LIVES: Final = text("SELECT 1")
# The server shows the two halves of a lock's number as two object ids.
_IS_LOCKED: Final = text(
    "SELECT EXISTS (SELECT 1 FROM pg_locks JOIN pg_database ON pg_database.oid = database "
    "WHERE locktype = 'advisory' AND granted AND datname = current_database() AND objsubid = 1 "
    "AND CAST(classid AS bigint) = :high AND CAST(objid AS bigint) = :low)"
)
_HALF_BITS: Final = 32


class Sessions(Protocol):
    """Where the connections of leaders come from."""

    engine: Engine

    def kept(self) -> Connection:
        """Return the connection that this thread keeps."""


def is_locked(connection: Connection, key: int) -> bool:
    """Return whether a session or transaction holds the advisory lock with this number."""
    high, low = divmod(key, 1 << _HALF_BITS)
    return bool(connection.scalar(_IS_LOCKED, {"high": high, "low": low}))


class SessionLeadership:
    """A lock of a session, on the connection of the thread that asks for it.

    The role is held only while the connection is the same.

    Args:
        sessions: Their connections must not be pooled.
        key: The number of the lock.
    """

    def __init__(self, sessions: Sessions, key: int) -> None:
        self._sessions = sessions
        self._key = {"key": key}
        self._connection: Connection | None = None

    def held(self) -> bool:
        """Take the lock if it is free; return whether we hold it."""
        connection = self._sessions.kept()
        if connection is self._connection:
            # Ours while the session lives; the statement fails if it does not.
            connection.execute(_LIVES)
            return True
        self._connection = None
        if connection.scalar(_TRY, self._key):
            self._connection = connection
        return self._connection is not None

    def release(self) -> None:
        """Release the lock."""
        if self._connection is not None:
            connection, self._connection = self._connection, None
            # The end of the session would release it too, but not immediately.
            with suppress(exc.SQLAlchemyError):
                connection.execute(_RELEASE, self._key)


class TransactionLeadership:
    """A lock of a transaction that is open for as long as the role is held.

    A pooler gives a lock of a session to whoever is served by that session next: two processes
    would hold the role.  It does not share a transaction between clients.

    Between two statements the transaction has no snapshot, so VACUUM and ``CREATE INDEX
    CONCURRENTLY`` need not wait for it.  This is so because its statements have no parameters:
    what psycopg sends with parameters, the server keeps, with its snapshot, until the next
    statement.

    Args:
        connect: Returns a new connection.
        begin: Returns the statements that begin a transaction.
        key: The number of the lock.
    """

    def __init__(
        self, connect: Callable[[], Connection], begin: Callable[[], str], key: int
    ) -> None:
        self._connect = connect
        self._begin = begin
        self._key = key
        self._connection: Connection | None = None

    def held(self) -> bool:
        """Take the lock if it is free; return whether we hold it."""
        if self._connection is None:
            return self._take()
        try:
            driver_of(self._connection).execute("SELECT 1")
        except BaseException:
            # Of a transaction that has failed too, the lock is gone.
            self._drop()
            raise
        return True

    def _take(self) -> bool:
        connection = self._connection = self._connect()
        try:
            connection.exec_driver_sql(self._begin())
            statement = f"SELECT pg_try_advisory_xact_lock({self._key})"
            if driver_of(connection).execute(statement).fetchone()[0]:
                return True
        except BaseException:
            self._drop()
            raise
        self.release()
        return False

    def release(self) -> None:
        """Release the lock."""
        if self._connection is None:
            return
        try:
            self._connection.exec_driver_sql("ROLLBACK")
        except exc.SQLAlchemyError:
            self._drop()
        else:
            self._connection.close()
            self._connection = None

    def _drop(self) -> None:
        if self._connection is not None:
            connection, self._connection = self._connection, None
            with suppress(exc.SQLAlchemyError):
                discard(connection)

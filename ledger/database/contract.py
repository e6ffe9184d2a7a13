"""The contract of a database: reading it, locking it for writing, reporting its absence.

The rest of the code asks for one of three things and does not depend on the engine:

``read()``      a connection on which each statement sees the last committed state
``snapshot()``  a connection on which all statements see the same state
``write()``     a transaction that excludes all other writers of the ledger

``sqlite.py`` and ``postgres.py`` implement the contract; ``url.py`` chooses between them
by the URL.
"""

import sqlite3
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import ClassVar, Final, NamedTuple
from weakref import WeakSet

from sqlalchemy import Connection, Engine, exc

from ledger.database.translation import translation
from ledger.database.url_syntax import hide_password
from ledger.errors import Unavailable

# How long a statement waits for a lock by default.
LOCK_TIMEOUT_MS: Final = 10_000
# The size of a process's connection pool, and how many connections it may open beyond that.
POOL_SIZE: Final = 16
POOL_OVERFLOW: Final = 64
# The number of threads that keep a connection to read on.  If all threads did, they would exhaust
# the pool, and a worker with as many handlers could neither send heartbeats nor report that its
# jobs are done.
MOST_KEPT: Final = 32


class _Seat:
    """A thread's right to keep a connection."""


class _Translated:
    """The translation of the errors of a block into ours, as in ``Database.translate``."""

    # Not a generator, which takes a microsecond more in each statement.
    __slots__ = ("_database",)

    def __init__(self, database: "Database") -> None:
        self._database = database

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is not None:
            said = self._database.translate(error)
            if said is not error:
                raise said from error


class Database(ABC):
    """One database, on either engine.

    Args:
        engine: In autocommit mode: a read is one statement, and a transaction has an explicit
            BEGIN.
        lock_timeout_ms: How long a statement waits for a lock before ``Unavailable`` is raised;
            10 s by default.
    """

    # Whether the database is a local file, and not on a server.
    is_embedded: ClassVar[bool]
    # The PostgreSQL schema that was asked for; None for where the server puts tables by itself.
    schema: str | None = None
    # The database's file; None on a server.
    _file: Path | None = None

    def __init__(self, engine: Engine, *, lock_timeout_ms: int = LOCK_TIMEOUT_MS) -> None:
        self.engine = engine
        self.lock_timeout_ms = lock_timeout_ms
        self._fresh_threads()
        # Incremented when a connection fails, so that all threads open new ones.
        self._generation = 0
        self._translated = _Translated(self)

    @property
    @abstractmethod
    def _begin_snapshot(self) -> str:
        """Return the statements that begin a snapshot."""

    def _fresh_threads(self) -> None:
        self._threads = threading.local()
        self._connections: WeakSet[Connection] = WeakSet()
        # The threads that may keep a connection; a thread that ends leaves its seat.
        self._mutex = threading.Lock()
        self._seats: WeakSet[_Seat] = WeakSet()

    def kept(self) -> Connection:
        """Return the connection that this thread keeps; open one if it has none."""
        connection = self._kept()
        if connection is None:
            self._threads.generation = self._generation
            connection = self._threads.connection = self.engine.connect()
            self._connections.add(connection)
        return connection

    def _kept(self) -> Connection | None:
        connection: Connection | None = getattr(self._threads, "connection", None)
        if connection is not None and self._threads.generation != self._generation:
            self.release()
            return None
        return connection

    def _has_seat(self) -> bool:
        """Return whether this thread may keep a connection; if so, it always may."""
        if getattr(self._threads, "seat", None) is None:
            with self._mutex:
                if len(self._seats) >= MOST_KEPT:
                    return False
                self._threads.seat = seat = _Seat()
                self._seats.add(seat)
        return True

    def release(self) -> None:
        """Close this thread's connection."""
        connection: Connection | None = getattr(self._threads, "connection", None)
        if connection is not None:
            self._threads.connection = None
            with suppress(exc.SQLAlchemyError, sqlite3.Error):
                # It may have failed, or the database may be closed, whose pool would leave it open.
                discard(connection)

    def translated(self) -> AbstractContextManager[None]:
        """Translate the drivers' errors about an unavailable database into ours."""
        return self._translated

    def translate(self, error: BaseException) -> BaseException:
        """Return our error for a driver's about an outage, and any other error as it is.

        After an error of the driver, all threads open new connections.
        """
        if isinstance(error, exc.TimeoutError):
            return Unavailable("all connections to the database are in use; try again")
        if isinstance(error, sqlite3.Error):
            # From statements that go directly to the driver.
            self._generation += 1
            return translation(error, error, self.shown_url, self._file)
        if isinstance(error, exc.DBAPIError):
            self._generation += 1
            return translation(error, error.orig, self.shown_url, self._file)
        return error

    @property
    def shown_url(self) -> str:
        """Return the database's URL with its secrets hidden."""
        url = self.engine.url
        shown = url.set(drivername=url.get_backend_name()).render_as_string(hide_password=True)
        return hide_password(shown)

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """Yield a connection on which each statement sees what is committed.

        The thread keeps the connection, unless MOST_KEPT threads have one already: checking a
        connection out of a pool and in again costs as much as a read.

        Raises:
            Unavailable: The database is down or overloaded.
        """
        with self.translated():
            if self._has_seat():
                yield self.kept()
                return
            with self._checked_out() as connection:
                yield connection

    def _checked_out(self) -> AbstractContextManager[Connection]:
        """Return a connection to read on that the thread does not keep."""
        return self.engine.connect()

    @contextmanager
    def snapshot(self) -> Iterator[Connection]:
        """Yield a connection on which all statements see the same state.

        Raises:
            Unavailable: The database is down or overloaded.
        """
        with self.translated(), self.engine.connect() as connection:
            connection.exec_driver_sql(self._begin_snapshot)
            try:
                yield connection
            finally:
                # The pool discards a connection that cannot even roll back.
                with suppress(exc.SQLAlchemyError):
                    connection.exec_driver_sql("ROLLBACK")

    @contextmanager
    def read_once(self) -> Iterator[None]:
        """Do not keep in this process's memory what the block reads: it reads all, and once."""
        yield

    @abstractmethod
    def write(self) -> AbstractContextManager[Connection]:
        """Yield a transaction; it commits at the end of the block, or not at all.

        On SQLite it excludes other writers from its start; on PostgreSQL from the moment it
        locks the row of ``ledger_head``, which must be its first statement.

        Raises:
            Unavailable: The database is down, or other writers lock it for too long.
        """

    @abstractmethod
    def settled(self, write: Callable[[Connection], None]) -> AbstractContextManager[Connection]:
        """Yield a snapshot that includes the changes of *write*, on a connection for reading.

        Commits of others after that are not visible in it, and they need not wait for its end.

        Args:
            write: Called once with a transaction, which must not lock the head.

        Raises:
            Unavailable: The database is down, or other writers lock it for too long.
        """

    @abstractmethod
    def migrating(self) -> "AbstractContextManager[MigrationSession]":
        """Prevent other processes from creating or migrating tables until the block ends.

        Raises:
            Unavailable: The database is down, or another process migrates it for too long.
        """

    def require_suitable(self, tx: Connection) -> None:  # noqa: B027 - a file always is
        """Refuse a database in which a ledger cannot be created.

        Raises:
            SchemaMismatch: It cannot store what a ledger has to store.
        """

    @abstractmethod
    def create_schema(self, tx: Connection) -> None:
        """Create the schema that the tables go into, if one was named and is missing."""

    @abstractmethod
    def has_tables(self) -> bool:
        """Return whether anything is there, be it Ledger's or an application's.

        Raises:
            Unavailable: The database is away.
        """

    @abstractmethod
    def tables_were_created(self) -> None:
        """Do what waits until the ledger's tables are committed."""

    def unanswered(self, tx: Connection) -> AbstractContextManager[object]:
        """Send the statements of the block without waiting for each one's result.

        At the end of the block all have been executed, or the first error is raised.
        """
        return nullcontext()

    @abstractmethod
    def announce(self, tx: Connection, types: Collection[str] | None) -> None:
        """Notify every ``watch`` that *tx* changes something, once it commits.

        Args:
            tx: A transaction.
            types: The types of which jobs become claimable; None if any may.
        """

    @abstractmethod
    def watch(self) -> "Watch":
        """Return a watch that reports the commits of all processes, from now on.

        Raises:
            Unavailable: The database is down or overloaded.
        """

    @abstractmethod
    def leadership(self, role: str) -> "Leadership":
        """Return the claim to *role*, which one process at a time can hold."""

    @abstractmethod
    def before_fork(self) -> None:
        """Keep other threads, until ``after_fork``, from states that would block a forked child."""

    @abstractmethod
    def after_fork(self) -> None:
        """Undo ``before_fork`` in the process that has forked."""

    def forget(self) -> None:
        """Drop what a forked child must not share with its parent."""
        self.engine.dispose(close=False)
        self._fresh_threads()

    def close(self) -> None:
        """Close all connections; no thread may be using one."""
        self._generation += 1
        for connection in list(self._connections):
            connection.close()
        self.engine.dispose()


class MigrationSession(NamedTuple):
    """The two ways in which tables are created or migrated, on a connection of its own.

    Attributes:
        transaction: Yields a transaction; it commits at the end of the block, or not at all.
        autocommit: Yields a connection in no transaction: each statement commits by itself.
    """

    transaction: Callable[[], AbstractContextManager[Connection]]
    autocommit: Callable[[], AbstractContextManager[Connection]]


class Watch(ABC):
    """A watch for commits by any process; for use by one thread.

    Attributes:
        connection: The connection that it listens on, if it does.
        types: The types announced by the commits that the last ``wait`` reported; None if any type
            may be meant, or the database does not tell.
    """

    connection: Connection
    types: Collection[str] | None = None

    def reading(self) -> AbstractContextManager[Connection]:
        """Return a connection that the thread may read on between two waits."""
        return nullcontext(self.connection)

    @abstractmethod
    def wait(self, timeout_s: float) -> bool:
        """Return True as soon as anything was committed since the last call.

        Return False after *timeout_s* seconds, or if ``wake`` was called.

        Raises:
            Unavailable: The database is down or overloaded.
        """

    @abstractmethod
    def wake(self) -> None:
        """Make ``wait`` return at once, now and from now on; for any thread."""

    @abstractmethod
    def close(self) -> None:
        """Close the connection; ``wake`` must not be called from now on."""


class Leadership(ABC):
    """A claim to a role that one process of all holds at a time.

    The role becomes free when its holder dies, however it dies.  The thread that takes the
    role must also be the one that releases it.
    """

    @abstractmethod
    def held(self) -> bool:
        """Take the role if it is free; return whether we hold it."""

    @abstractmethod
    def taken(self) -> bool:
        """Return whether any process holds the role, without taking it.

        Raises:
            Unavailable: It cannot be determined; this process could not take the role either.
        """

    @abstractmethod
    def release(self) -> None:
        """Release the role."""


def discard(connection: Connection) -> None:
    """Close a connection without returning it to the pool, which may be disposed of already."""
    connection.invalidate()
    connection.close()

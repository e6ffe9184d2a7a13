"""Open SQLite or PostgreSQL, lock it for writing, and say when it is away.

The rest of the code asks for one of three things and does not know the engine:

``read()``      a connection on which each statement sees what was last committed
``snapshot()``  a connection on which all statements see one moment
``write()``     one transaction that is alone among all writers of the ledger

``sqlite.py`` and ``postgres.py`` are the engines, ``engines.py`` tells which one a URL
names.
"""

import sqlite3
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from typing import ClassVar, Final
from weakref import WeakSet

from sqlalchemy import Connection, Engine, exc

from ledger.errors import SchemaMismatch, Unavailable

# PostgreSQL's code for a statement that a standby cannot carry out.
_READ_ONLY: Final = "25006"
# How long a statement waits for a lock before its caller is told to come back.
LOCK_TIMEOUT_MS: Final = 10_000
# Connections that a process keeps, beside those of threads, and how many more it may open.
POOL_SIZE: Final = 16
POOL_OVERFLOW: Final = 64
# So many threads keep one to read on.  Were it all of them, they would use up the pool, and
# a worker with as many handlers could neither beat nor say that its jobs are done.
MOST_KEPT: Final = 32


class _Seat:
    """Be a thread's right to keep a connection."""


class Database(ABC):
    """Be one database, whichever engine it is."""

    # Whether the database is a file of ours, and not a server of someone's.
    is_embedded: ClassVar[bool]
    # The PostgreSQL schema that was asked for; None for where the server puts tables by itself.
    schema: str | None = None
    _begin_snapshot: ClassVar[str]

    def __init__(self, engine: Engine) -> None:
        # In autocommit: a read is one statement, and a transaction is begun in words.
        self.engine = engine
        self._fresh_threads()
        # Raised when a connection fails: all threads then open new ones.
        self._generation = 0

    def _fresh_threads(self) -> None:
        self._threads = threading.local()
        self._connections: WeakSet[Connection] = WeakSet()
        # Who may keep one of its own; a thread that ends leaves its seat.
        self._mutex = threading.Lock()
        self._seats: WeakSet[_Seat] = WeakSet()

    def kept(self) -> Connection:
        """Return the connection that this thread keeps, from now on if it had none."""
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
        """Return whether this thread may keep a connection, which it then always may."""
        if getattr(self._threads, "seat", None) is None:
            with self._mutex:
                if len(self._seats) >= MOST_KEPT:
                    return False
                self._threads.seat = seat = _Seat()
                self._seats.add(seat)
        return True

    def release(self) -> None:
        """End this thread's connection."""
        connection: Connection | None = getattr(self._threads, "connection", None)
        if connection is not None:
            self._threads.connection = None
            with suppress(exc.SQLAlchemyError, sqlite3.Error):
                # Not back to the pool: it may have failed, or the database been closed,
                # whose pool would leave it open.
                connection.invalidate()
                connection.close()

    @contextmanager
    def translated(self) -> Iterator[None]:
        """Turn the drivers' errors about the database's absence into ours."""
        try:
            yield
        except exc.TimeoutError as error:
            raise Unavailable("all connections to the database are in use; try again") from error
        except sqlite3.Error as error:
            # Of statements that go to the driver directly.
            self._generation += 1
            raise translation(error, error, self.shown_url) from error
        except exc.DBAPIError as error:
            self._generation += 1
            raise translation(error, error.orig, self.shown_url) from error

    @property
    def shown_url(self) -> str:
        """Return the database's URL, its password hidden."""
        url = self.engine.url
        return url.set(drivername=url.get_backend_name()).render_as_string(hide_password=True)

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """Give a connection on which each statement sees what is committed.

        It is the thread's own, and kept, as long as few threads have theirs: taking one
        from a pool and giving it back costs as much as a read.

        Raises:
            Unavailable: The database is away.
        """
        with self.translated():
            if self._has_seat():
                yield self.kept()
                return
            with self.engine.connect() as connection:
                yield connection

    @contextmanager
    def snapshot(self) -> Iterator[Connection]:
        """Give a connection on which all statements see one moment.

        Raises:
            Unavailable: The database is away.
        """
        with self.translated(), self.engine.connect() as connection:
            connection.exec_driver_sql(self._begin_snapshot)
            try:
                yield connection
            finally:
                # A connection that cannot even do this is dropped by the pool.
                with suppress(exc.SQLAlchemyError):
                    connection.exec_driver_sql("ROLLBACK")

    @contextmanager
    def read_once(self) -> Iterator[None]:
        """Keep what the block reads out of this process's memory: it reads all, and once."""
        yield

    @abstractmethod
    def write(self) -> AbstractContextManager[Connection]:
        """Give a transaction; it commits at the end of the block, or not at all.

        On SQLite it is alone from its start; on PostgreSQL from the moment it
        locks the row of ``ledger_head``, which must be its first statement.

        Raises:
            Unavailable: The database is away, or others hold it too long.
        """

    @abstractmethod
    def settled(self, write: Callable[[Connection], None]) -> AbstractContextManager[Connection]:
        """Give a snapshot of what *write* leaves, on a connection that only reads.

        Whatever others commit meanwhile is not in it, and they need not wait for its end.

        Args:
            write: Called once with a transaction, which must not lock the head.

        Raises:
            Unavailable: The database is away, or others hold it too long.
        """

    @abstractmethod
    def lock_schema(self, tx: Connection) -> None:
        """Keep others from changing the tables until *tx* ends."""

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
        """Send the statements of the block without waiting for each one's answer.

        At its end all have been carried out, or the first error is raised.
        """
        return nullcontext()

    @abstractmethod
    def announce(self, tx: Connection) -> None:
        """Tell those who ``watch`` that *tx* changes something, once it commits."""

    @abstractmethod
    def watch(self) -> "Watch":
        """Return what tells of the commits of all processes, from now on.

        Raises:
            Unavailable: The database is away.
        """

    @abstractmethod
    def leadership(self, role: str) -> "Leadership":
        """Return the claim to *role*, which one process at a time can hold."""

    @abstractmethod
    def before_fork(self) -> None:
        """Let no other thread be where a forked child could not go on; until ``after_fork``."""

    @abstractmethod
    def after_fork(self) -> None:
        """Go on in the process that has forked."""

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


class Watch(ABC):
    """Tell when something was committed, by whichever process; for one thread.

    Attributes:
        connection: What it listens on; between two waits, that thread may read on it.
    """

    connection: Connection

    @abstractmethod
    def wait(self, timeout_s: float) -> bool:
        """Return whether something was committed since the last call, as soon as it is.

        Raises:
            Unavailable: The database is away.
        """

    @abstractmethod
    def wake(self) -> None:
        """Make ``wait`` return at once, now and from now on; for any thread."""

    @abstractmethod
    def close(self) -> None:
        """Give the connection back; nobody may call ``wake`` from now on."""


class Leadership(ABC):
    """Be a claim to a role that one process of all holds at a time.

    The role falls free when its holder dies, however it dies.  One thread asks, and the
    same one gives it back.
    """

    @abstractmethod
    def held(self) -> bool:
        """Take the role if it is free; tell whether it is ours now."""

    @abstractmethod
    def release(self) -> None:
        """Give the role back."""


def translation(
    error: Exception, orig: BaseException | None, shown_url: str = "the database"
) -> Exception:
    """Return our error for a driver's, or *error* itself if it is none of the weather."""
    text = (str(orig).splitlines() or [type(orig).__name__])[0]
    if _lacks_table(orig):
        return SchemaMismatch(
            "the database has not the tables of this version; run `ledger migrate`"
        )
    if sqlite3.DatabaseError in {type(orig), type(error)}:
        return SchemaMismatch(f"{shown_url} is no SQLite database, or a damaged one: {text}")
    if isinstance(error, exc.ProgrammingError) and getattr(orig, "sqlstate", "") is None:
        # Not from the server: psycopg does not understand the URL.
        return Unavailable(f"cannot connect: {text}")
    if getattr(orig, "sqlstate", None) == _READ_ONLY:
        # A standby, until it or we find the server that may write.
        return Unavailable(f"the database does not write: {text}")
    if getattr(error, "connection_invalidated", False) or isinstance(
        error, exc.OperationalError | exc.InterfaceError | sqlite3.OperationalError
    ):
        refused = _SQLITE_REFUSALS.get(text)
        said = f"{shown_url}: {text}; {refused}" if refused else None
        return Unavailable(said or f"the database does not answer: {text}")
    return error


# What to do where SQLite says no more than what it was not allowed to.
_SQLITE_REFUSALS: Final = {
    "unable to open database file": "its directory must exist, and this user be allowed to read "
    "and write the file",
    "attempt to write a readonly database": "this user must be allowed to write the file and its "
    "directory, also to read the ledger",
}


def _lacks_table(orig: BaseException | None) -> bool:
    code = getattr(orig, "sqlstate", None)
    undefined_table, undefined_column = "42P01", "42703"
    return code in {undefined_table, undefined_column} or str(orig).startswith(
        ("no such table", "no such column")
    )

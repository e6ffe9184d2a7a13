"""Open SQLite or PostgreSQL, lock it for writing, and say when it is away.

The rest of the code asks for one of three things and does not know the engine:

``read()``      a connection on which each statement sees what was last committed
``snapshot()``  a connection on which all statements see one moment
``write()``     one transaction that is alone among all writers of the ledger

Why ``write`` locks as it does
------------------------------
SQLite has one writer.  A deferred ``BEGIN`` that reads first and then writes
fails at once with "database is locked" when another wrote in between, so a write
begins with ``BEGIN IMMEDIATE``.  Waiting for that lock through ``busy_timeout``
means sleeping and trying again, which is slow and unfair: two server processes
posted 2,050 jobs a second with a 99th percentile of 460 ms.  So all processes
queue for an ``flock`` on a file beside the database first, where the kernel wakes
the next in line: 2,860 a second and 18 ms.  An ``flock`` belongs to an open file,
not to a thread, hence the ``threading.Lock`` around it.

PostgreSQL queues by itself: the first statement of an append locks the one row of
``ledger_head``, and whoever waits for it waits in order.
"""

import fcntl
import hashlib
import os
import re
import sqlite3
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any, ClassVar, Final, Literal
from weakref import WeakSet

from sqlalchemy import Connection, Engine, create_engine, event, exc, text
from sqlalchemy.engine import URL, make_url

from ledger.errors import InvalidInput, SchemaMismatch, Unavailable
from ledger.rows import driver_of

SqliteSynchronous = Literal["FULL", "NORMAL"]

# How long a statement waits for a lock before its caller is told to come back.
LOCK_TIMEOUT_MS: Final = 10_000
# A reader that never leaves keeps the WAL from being reset by SQLite itself; past
# this size the writer resets it.  Without, users met files of 1.7 to 115 GB.
WAL_LIMIT_BYTES: Final = 64 * 1024 * 1024
# 32 MB: a page that changes in every commit is copied home once in that many.
CHECKPOINT_PAGES: Final = 8_000
# Read through the system's page cache, which all processes share, without a call and a
# copy a page.
MAPPED_BYTES: Final = 1024 * 1024 * 1024
# A batch has up to ROWS_A_STATEMENT forms of each of its inserts.
PREPARED_STATEMENTS: Final = 512
# Connections for reading a process keeps open, and how many more it may open.
POOL_SIZE: Final = 16
POOL_OVERFLOW: Final = 64


class Database(ABC):
    """Be one database, whichever engine it is."""

    # Whether the database is a file of ours, and not a server of someone's.
    is_embedded: ClassVar[bool]
    _begin_snapshot: ClassVar[str]

    def __init__(self, engine: Engine) -> None:
        # In autocommit: a read is one statement, and a transaction is begun in words.
        self.engine = engine
        self._threads = threading.local()
        self._connections: WeakSet[Connection] = WeakSet()
        # Raised when a connection fails: all threads then open new ones.
        self._generation = 0

    def _of_thread(self) -> Connection:
        """Return the connection that this thread reads on."""
        connection: Connection | None = getattr(self._threads, "connection", None)
        if connection is None or self._threads.generation != self._generation:
            self._release()
            self._threads.generation = self._generation
            connection = self._threads.connection = self.engine.connect()
            self._connections.add(connection)
        return connection

    def _release(self) -> None:
        """Give this thread's connection back."""
        connection: Connection | None = getattr(self._threads, "connection", None)
        if connection is not None:
            self._threads.connection = None
            with suppress(exc.SQLAlchemyError, sqlite3.Error):
                connection.close()

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """Turn the drivers' errors about the database's absence into ours."""
        try:
            yield
        except exc.TimeoutError as error:
            raise Unavailable("all connections to the database are in use; try again") from error
        except sqlite3.Error as error:
            # Of statements that go to the driver directly.
            self._generation += 1
            raise _translation(error, error) from error
        except exc.DBAPIError as error:
            self._generation += 1
            raise _translation(error, error.orig) from error

    @property
    def shown_url(self) -> str:
        """Return the database's URL, its password hidden."""
        url = self.engine.url
        return url.set(drivername=url.get_backend_name()).render_as_string(hide_password=True)

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """Give a connection on which each statement sees what is committed.

        It is the thread's own, and kept: taking one from a pool and giving it back
        costs as much as a read.

        Raises:
            Unavailable: The database is away.
        """
        with self._translated():
            yield self._of_thread()

    @contextmanager
    def snapshot(self) -> Iterator[Connection]:
        """Give a connection on which all statements see one moment.

        Raises:
            Unavailable: The database is away.
        """
        with self._translated(), self.engine.connect() as connection:
            connection.exec_driver_sql(self._begin_snapshot)
            try:
                yield connection
            finally:
                # A connection that cannot even do this is dropped by the pool.
                with suppress(exc.SQLAlchemyError):
                    connection.exec_driver_sql("ROLLBACK")

    @abstractmethod
    def write(self) -> AbstractContextManager[Connection]:
        """Give a transaction; it commits at the end of the block, or not at all.

        On SQLite it is alone from its start; on PostgreSQL from the moment it
        locks the row of ``ledger_head``, which must be its first statement.

        Raises:
            Unavailable: The database is away, or others hold it too long.
        """

    @abstractmethod
    def lock_schema(self, tx: Connection) -> None:
        """Keep others from changing the tables until *tx* ends."""

    @abstractmethod
    def leadership(self, role: str) -> "Leadership":
        """Return the claim to *role*, which one process at a time can hold."""

    def forget(self) -> None:
        """Drop what a forked child must not share with its parent."""
        self.engine.dispose(close=False)
        self._threads = threading.local()
        self._connections = WeakSet()

    def close(self) -> None:
        """Close all connections; no thread may be using one."""
        self._generation += 1
        for connection in list(self._connections):
            connection.close()
        self.engine.dispose()


class Leadership(ABC):
    """Be a claim to a role that one process of all holds at a time.

    The role falls free when its holder dies, however it dies.
    """

    @abstractmethod
    def held(self) -> bool:
        """Take the role if it is free; tell whether it is ours now."""

    @abstractmethod
    def release(self) -> None:
        """Give the role back."""


def open_database(url: str, *, synchronous: SqliteSynchronous = "FULL") -> Database:
    """Return the database at *url*; nothing is connected yet.

    Args:
        url: ``sqlite:///PATH`` or ``postgresql+psycopg://…``; ``postgresql://``
            and ``postgres://`` mean the same.
        synchronous: SQLite's pragma.  FULL survives a power cut; NORMAL may
            lose the last commits in one, but no crash of the process.

    Raises:
        InvalidInput: *url* is no URL, or names another engine.
    """
    parsed = parse_url(url)
    if parsed.get_backend_name() == "sqlite":
        return SqliteDatabase(parsed, synchronous=synchronous)
    return PostgresDatabase(parsed)


def parse_url(url: str) -> URL:
    """Return the URL with the driver that is used for it.

    Raises:
        InvalidInput: *url* is no URL, or names no file or another engine.
    """
    try:
        parsed = make_url(url)
    except (exc.ArgumentError, ValueError) as error:
        shown = hide_password(url)
        raise InvalidInput.expected("database url", _EXPECTED_URL, shown) from error
    if parsed.drivername in {"sqlite", "sqlite+pysqlite"}:
        if parsed.database in {None, "", ":memory:"} or parsed.query:
            raise InvalidInput.expected("database url", "a file: sqlite:///PATH", url)
        return parsed.set(drivername="sqlite+pysqlite")
    if parsed.drivername in {"postgresql", "postgres", "postgresql+psycopg"}:
        return parsed.set(drivername="postgresql+psycopg")
    raise InvalidInput.expected("database url", _EXPECTED_URL, hide_password(url))


def hide_password(url: str) -> str:
    """Return *url*, which may be none, without what may be its password."""
    return re.sub(r"(://[^:/@]*):.*@", r"\1:***@", url)


_EXPECTED_URL: Final = "sqlite:///PATH or postgresql+psycopg://USER@HOST/NAME"


# --- SQLite ----------------------------------------------------------------------


class SqliteDatabase(Database):
    """Be a ledger in one file, for all processes of one machine."""

    is_embedded = True
    _begin_snapshot = "BEGIN"

    def __init__(self, url: URL, *, synchronous: SqliteSynchronous) -> None:
        self.path = Path(url.database or "").absolute()
        engine = create_engine(
            url.set(database=str(self.path)),
            isolation_level="AUTOCOMMIT",
            # Threads take turns with a connection, never share it at one time.
            connect_args={"check_same_thread": False, "cached_statements": PREPARED_STATEMENTS},
            pool_size=POOL_SIZE,
            max_overflow=POOL_OVERFLOW,
        )

        @event.listens_for(engine, "connect")
        def configure(connection: sqlite3.Connection, _: object) -> None:
            for pragma in (
                f"busy_timeout={LOCK_TIMEOUT_MS}",
                "journal_mode=WAL",
                f"synchronous={synchronous}",
                "cache_size=-16000",
                f"wal_autocheckpoint={CHECKPOINT_PAGES}",
                f"mmap_size={MAPPED_BYTES}",
            ):
                connection.execute(f"PRAGMA {pragma}")

        super().__init__(engine)
        self._fresh_locks()

    def _fresh_locks(self) -> None:
        self._turn = threading.Lock()
        self._queue = _LockFile(self.path.with_name(self.path.name + "-writer"))
        self._writer: Connection | None = None

    def forget(self) -> None:
        super().forget()
        self._fresh_locks()

    def close(self) -> None:
        with self._turn:
            if self._writer is not None:
                self._writer.close()
                self._writer = None
            self._queue.close()
        super().close()

    def lock_schema(self, tx: Connection) -> None:
        """Do nothing: a transaction is alone from its start."""

    def leadership(self, role: str) -> Leadership:
        return _FileLeadership(self.path.with_name(f"{self.path.name}-{role}"))

    @contextmanager
    def write(self) -> Iterator[Connection]:
        with self._translated(), self._turn, self._queued():
            try:
                if self._writer is None:
                    self._writer = self.engine.connect()
                with _immediately(driver_of(self._writer)):
                    yield self._writer
                self._bound_wal(self._writer)
            except (exc.DBAPIError, sqlite3.Error):
                # Whatever is wrong with it, the next write gets a new one.
                if self._writer is not None:
                    self._writer.invalidate()
                    self._writer.close()
                    self._writer = None
                raise

    @contextmanager
    def _queued(self) -> Iterator[None]:
        self._queue.acquire()
        try:
            yield
        finally:
            self._queue.release()

    def _bound_wal(self, connection: Connection) -> None:
        try:
            size = os.stat(f"{self.path}-wal").st_size  # noqa: PTH116 - a tenth of Path.stat's time
        except FileNotFoundError:
            return
        if size <= WAL_LIMIT_BYTES:
            return
        # A long reader is not worth waiting for: the next commit tries again.
        connection.exec_driver_sql("PRAGMA busy_timeout=50")
        connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
        connection.exec_driver_sql(f"PRAGMA busy_timeout={LOCK_TIMEOUT_MS}")


@contextmanager
def _immediately(driver: sqlite3.Connection) -> Iterator[None]:
    driver.execute("BEGIN IMMEDIATE")
    try:
        yield
        driver.execute("COMMIT")
    except BaseException:
        with suppress(sqlite3.Error):
            driver.execute("ROLLBACK")
        raise


class _LockFile:
    """Be an ``flock`` on a file that stays: removing it would let two in."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd: int | None = None

    def acquire(self) -> None:
        fcntl.flock(self._open(), fcntl.LOCK_EX)

    def try_acquire(self) -> bool:
        try:
            fcntl.flock(self._open(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def release(self) -> None:
        if self._fd is not None:
            fcntl.flock(self._fd, fcntl.LOCK_UN)

    def close(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def _open(self) -> int:
        if self._fd is None:
            try:
                self._fd = os.open(self._path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o644)
            except OSError as error:
                raise Unavailable(
                    f"cannot open {self._path}: {error.strerror}; the directory of the "
                    "database must exist and be writable"
                ) from error
        return self._fd


class _FileLeadership(Leadership):
    def __init__(self, path: Path) -> None:
        self._file = _LockFile(path)
        self._held = False

    def held(self) -> bool:
        if not self._held:
            self._held = self._file.try_acquire()
        return self._held

    def release(self) -> None:
        self._held = False
        self._file.close()


# --- PostgreSQL ------------------------------------------------------------------


class PostgresDatabase(Database):
    """Be a ledger on a PostgreSQL server, for any number of machines."""

    is_embedded = False
    _begin_snapshot = "BEGIN ISOLATION LEVEL REPEATABLE READ"

    def __init__(self, url: URL) -> None:
        try:
            engine = create_engine(
                url,
                isolation_level="AUTOCOMMIT",
                pool_size=POOL_SIZE,
                max_overflow=POOL_OVERFLOW,
                pool_timeout=LOCK_TIMEOUT_MS // 1000,
                connect_args={"connect_timeout": 5},
            )
        except ModuleNotFoundError as error:
            raise InvalidInput(
                "database url",
                "PostgreSQL needs the extra: pip install 'ledger-queue[postgres]'",
            ) from error

        @event.listens_for(engine, "connect")
        def configure(connection: Any, _: object) -> None:  # noqa: ANN401 - psycopg is optional
            connection.autocommit = True
            connection.execute(f"SET lock_timeout = {LOCK_TIMEOUT_MS}")

        super().__init__(engine)

    def lock_schema(self, tx: Connection) -> None:
        tx.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _lock_key("schema")})

    def leadership(self, role: str) -> Leadership:
        return _AdvisoryLeadership(self.engine, role)

    @contextmanager
    def write(self) -> Iterator[Connection]:
        with self._translated(), self.engine.connect() as connection:
            connection.exec_driver_sql("BEGIN")
            try:
                yield connection
                connection.exec_driver_sql("COMMIT")
            except BaseException:
                with suppress(exc.SQLAlchemyError):
                    connection.exec_driver_sql("ROLLBACK")
                raise


def _lock_key(name: str) -> int:
    """Return the number of an advisory lock of that name: 56 bits, as it is signed."""
    return int.from_bytes(hashlib.sha256(f"ledger:{name}".encode()).digest()[:7])


class _AdvisoryLeadership(Leadership):
    """Hold a session's advisory lock: it ends with the session."""

    def __init__(self, engine: Engine, role: str) -> None:
        self._engine = engine
        self._key = _lock_key(role)
        self._connection: Connection | None = None

    def held(self) -> bool:
        try:
            if self._connection is not None:
                # Ours as long as the session lives; this fails if it does not.
                self._connection.execute(text("SELECT 1"))
                return True
            connection = self._engine.connect()
            taken = connection.scalar(text("SELECT pg_try_advisory_lock(:key)"), {"key": self._key})
        except exc.DBAPIError as error:
            self.release()
            raise _translation(error, error.orig) from error
        if taken:
            self._connection = connection
        else:
            connection.close()
        return bool(taken)

    def release(self) -> None:
        if self._connection is not None:
            connection, self._connection = self._connection, None
            # Ends the session, and the lock with it.
            connection.invalidate()
            connection.close()


# --- errors ----------------------------------------------------------------------


def _translation(error: Exception, orig: BaseException | None) -> Exception:
    """Return our error for a driver's, or *error* itself if it is none of the weather."""
    text = (str(orig).splitlines() or [type(orig).__name__])[0]
    if _lacks_table(orig):
        return SchemaMismatch(
            "the database has not the tables of this version; run `ledger migrate`"
        )
    if sqlite3.DatabaseError in {type(orig), type(error)}:
        return SchemaMismatch(f"the file is no SQLite database, or a damaged one: {text}")
    if isinstance(error, exc.ProgrammingError) and getattr(orig, "sqlstate", "") is None:
        # Not from the server: psycopg does not understand the URL.
        return Unavailable(f"cannot connect: {text}")
    if getattr(error, "connection_invalidated", False) or isinstance(
        error, exc.OperationalError | exc.InterfaceError | sqlite3.OperationalError
    ):
        return Unavailable(f"the database does not answer: {text}")
    return error


def _lacks_table(orig: BaseException | None) -> bool:
    code = getattr(orig, "sqlstate", None)
    undefined_table, undefined_column = "42P01", "42703"
    return code in {undefined_table, undefined_column} or str(orig).startswith(
        ("no such table", "no such column")
    )

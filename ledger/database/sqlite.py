"""A ledger in one SQLite file, for all processes of one machine.

Why ``write`` locks as it does
------------------------------
SQLite allows one writer at a time.  A deferred ``BEGIN`` that reads first and then writes
fails at once with "database is locked" if another process wrote in between, so a write
begins with ``BEGIN IMMEDIATE``.  Writers take turns before that: see ``sqlite_writer_queue``.

What happens when the file is replaced
--------------------------------------
A file that is removed, or replaced by a backup, stays open without a name: processes that
have it open go on reading and writing it, and all of that is lost when the last one closes
it.  So a writer checks first whether the file at the path is the open one, and readers
check once a second.  If it is another file, that one is opened; if there is none, the
database is unavailable.  A file is opened only if the files beside it are SQLite's, and if it
lies where all processes share it: see ``sqlite_location``.  For a log that is removed without
the file, see ``sqlite_open_log``.
"""

import logging
import os
import sqlite3
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, Literal
from weakref import WeakSet

from sqlalchemy import Connection, create_engine, event, exc
from sqlalchemy.engine import URL
from sqlalchemy.pool import ConnectionPoolEntry

from ledger.database.contract import (
    LOCK_TIMEOUT_MS,
    POOL_OVERFLOW,
    POOL_SIZE,
    Database,
    Leadership,
    MigrationSession,
    Watch,
    discard,
)
from ledger.database.fast_sql import driver_of
from ledger.database.file_lock import FileLeadership
from ledger.database.sqlite_connection import (
    MAPPED_BYTES,
    configure,
    drop_stale_pages,
    immediately,
)
from ledger.database.sqlite_location import create_private, require_leads_to, require_usable
from ledger.database.sqlite_open_log import OpenLog
from ledger.database.sqlite_side_files import require_ours
from ledger.database.sqlite_wal import WAL_LIMIT_BYTES, WalLimit
from ledger.database.sqlite_watch import watch
from ledger.database.sqlite_writer_queue import WriterQueue
from ledger.errors import OutcomeUnknown, Unavailable

# OFF is for tests: a power failure can corrupt the file.
SqliteSynchronous = Literal["FULL", "NORMAL", "OFF"]

# Each of a batch's inserts has up to ROWS_A_STATEMENT forms.
PREPARED_STATEMENTS: Final = 512
CHECK_FILE_EVERY_S: Final = 1.0

_HAS_ANYTHING: Final = "SELECT 1 FROM sqlite_master LIMIT 1"

_log = logging.getLogger(__name__)


class SqliteDatabase(Database):
    """A database in one file, for all processes of one machine.

    Args:
        url: The path of the file.
        synchronous: SQLite's pragma; see ``open_database``.
        directory: The directory to which a relative path refers; None is the working directory.
        lock_timeout_ms: How long a writer waits for each lock, its process's and the file's,
            before ``Unavailable`` is raised; 10 s by default.
        wal_limit_bytes: A write-ahead log that is larger is cut; 64 MB by default.
        check_file_every_s: Interval at which readers check that the file at the path is the one
            that is open; 1 s by default.
        allow_network_file: Whether the file may be on a network file system.

    Attributes:
        path: The path of the file, without symbolic links, from which SQLite, too, derives the
            names of the files beside it.
    """

    is_embedded = True
    _begin_snapshot = "BEGIN"

    def __init__(
        self,
        url: URL,
        *,
        synchronous: SqliteSynchronous,
        directory: Path | None = None,
        lock_timeout_ms: int = LOCK_TIMEOUT_MS,
        wal_limit_bytes: int = WAL_LIMIT_BYTES,
        check_file_every_s: float = CHECK_FILE_EVERY_S,
        allow_network_file: bool = False,
    ) -> None:
        self._given_path = ((directory or Path()) / (url.database or "")).absolute()
        self.path = self._file = Path(os.path.realpath(self._given_path))
        self._allow_network_file = allow_network_file
        self._wal_limit_bytes = wal_limit_bytes
        self._check_file_every_s = check_file_every_s
        self._mapped_bytes = MAPPED_BYTES
        # The file that connections have open; None if there are no connections.
        self._opened: os.stat_result | None = None
        self._changed_ns = 0
        self._checked_s = 0.0
        engine = create_engine(
            url.set(database=str(self.path)),
            isolation_level="AUTOCOMMIT",
            # Threads use a connection in turn, never at the same time.
            connect_args={"check_same_thread": False, "cached_statements": PREPARED_STATEMENTS},
            pool_size=POOL_SIZE,
            max_overflow=POOL_OVERFLOW,
        )

        @event.listens_for(engine, "do_connect")
        def check_file(*_: object) -> None:
            self.reopen_if_replaced()
            if self._opened is None:
                self._require_usable()
                create_private(self.path)
            self._open_log.require_in_place()

        @event.listens_for(engine, "connect")
        def opened(connection: sqlite3.Connection, _: object) -> None:
            settings = {"busy_timeout": lock_timeout_ms, "synchronous": synchronous}
            configure(connection, settings | {"mmap_size": self._mapped_bytes})
            if self._opened is None:
                self._opened = self.path.stat()
            self._open_log.opened(connection)

        @event.listens_for(engine, "checkout")
        def taken(connection: sqlite3.Connection, entry: ConnectionPoolEntry, _: object) -> None:
            self._open_log.require_in_place()
            drop_stale_pages(connection, entry.info, changed_ns=self._changed_ns)

        @event.listens_for(engine, "close")
        def closing(connection: sqlite3.Connection, _: object) -> None:
            self._open_log.closing(connection)

        super().__init__(engine, lock_timeout_ms=lock_timeout_ms)
        self._fresh_locks()

    def _fresh_locks(self) -> None:
        # Whether the present write transaction has announced a change.
        self._has_news = False
        self._roles: WeakSet[FileLeadership] = WeakSet()
        self._queue = WriterQueue(
            self.path.with_name(self.path.name + "-writer"),
            database=self.path,
            lock_timeout_ms=self.lock_timeout_ms,
        )
        self._open_log = OpenLog(self.path)
        self._wal = WalLimit(
            self.path,
            limit_bytes=self._wal_limit_bytes,
            connect=self.engine.connect,
            lock_timeout_ms=self.lock_timeout_ms,
        )
        self._writer: Connection | None = None
        # The file that the writer's connection has open.
        self._written: os.stat_result | None = None

    def before_fork(self) -> None:
        self._queue.before_fork()
        self._wal.before_fork()

    def after_fork(self) -> None:
        self._wal.after_fork()
        self._queue.after_fork()

    def forget(self) -> None:
        super().forget()
        self._opened = None
        # Otherwise the parent's locks would stay held after its death while the child lives.
        self._queue.close()
        for role in self._roles:
            role.forget()
        self._fresh_locks()

    def close(self) -> None:
        self._wal.close()
        with self._queue.own_turn():
            self._close_writer()
            self._queue.close()
        super().close()
        self._opened = None
        self._open_log = OpenLog(self.path)

    def kept(self) -> Connection:
        now_s = time.monotonic()
        if now_s - self._checked_s > self._check_file_every_s:
            self.reopen_if_replaced()
            self._open_log.require_in_place()
            self._queue.check_file()
            # Only now: while the file is missing, each call checks; none reads the old file.
            self._checked_s = now_s
        connection = super().kept()
        drop_stale_pages(driver_of(connection), connection.info, changed_ns=self._changed_ns)
        return connection

    @property
    def opened(self) -> os.stat_result | None:
        """Return the file that connections have open; None if there are no connections."""
        return self._opened

    def require_open(self, file: os.stat_result | None) -> None:
        """Raise if *file* is no longer the file that connections have open.

        Raises:
            Unavailable: Another file is at the path, or none.
        """
        self.reopen_if_replaced()
        if file is not self._opened:
            raise Unavailable(f"{self.path.name} was replaced; try again")

    def reopen_if_replaced(self) -> None:
        """Reopen the file in all threads if another one is in its place.

        Raises:
            Unavailable: The file is missing, or cannot be used.
        """
        opened = self._opened
        if opened is None:
            return
        try:
            there = os.stat(self._given_path)  # noqa: PTH116 - a tenth of Path.stat's time
        except FileNotFoundError as error:
            raise Unavailable(
                f"{self.path} was removed; put it back to continue",
                public="the file of the database was removed",
            ) from error
        self._changed_ns = there.st_ctime_ns
        if not os.path.samestat(opened, there):
            self._require_usable()
            self._open_log.require_none_of(opened)
            _log.error("%s was replaced by another file; opening that one", self.path)
            self._opened = there
            self._generation += 1
            self._open_log = OpenLog(self.path)
            self.engine.dispose()

    def _require_usable(self) -> None:
        require_leads_to(self._given_path, self.path)
        require_usable(self.path, allow_network_file=self._allow_network_file)
        require_ours(self.path)

    @contextmanager
    def read_once(self) -> Iterator[None]:
        # All pages of a file that is read from end to end would stay mapped.
        self._map(0)
        try:
            yield
        finally:
            self._map(MAPPED_BYTES)

    def _map(self, bytes_: int) -> None:
        """Set how many bytes of the file new connections map, and close the older ones."""
        self._mapped_bytes = bytes_
        self._generation += 1
        with self._queue.own_turn():
            self._close_writer()
        self.engine.dispose()

    @contextmanager
    def migrating(self) -> Iterator[MigrationSession]:
        self.reopen_if_replaced()
        with self.translated(), self._queue.turn():
            yield MigrationSession(self._transaction, self._autocommit)

    @contextmanager
    def _autocommit(self) -> Iterator[Connection]:
        # A change of the journal's mode needs the file for itself.
        self._close_writer()
        self.release()
        self.engine.dispose()
        with self.engine.connect() as connection:
            try:
                yield connection
            finally:
                # What a PRAGMA has set ends with the connection.
                discard(connection)

    def create_schema(self, tx: Connection) -> None:
        """Do nothing: a file has no schemas."""

    def has_tables(self) -> bool:
        with self.read() as connection:
            return driver_of(connection).execute(_HAS_ANYTHING).fetchone() is not None

    def tables_were_created(self) -> None:
        # Somebody may be reading: then the next connection does it.
        with self.translated(), self._queue.turn(), suppress(exc.OperationalError):
            self._writer = self._writer or self.engine.connect()
            self._writer.exec_driver_sql("PRAGMA journal_mode=WAL")
            driver_of(self._writer).execute(_HAS_ANYTHING).fetchone()  # opens the log
            self._open_log.opened(driver_of(self._writer))

    def announce(self, tx: Connection, types: Collection[str] | None) -> None:
        self._has_news = True

    def watch(self) -> Watch:
        with self.translated():
            return watch(self, self._queue.path)

    def leadership(self, role: str) -> Leadership:
        leadership = FileLeadership(
            self.path.with_name(f"{self.path.name}-{role}"), database=self.path
        )
        self._roles.add(leadership)
        return leadership

    @contextmanager
    def write(self) -> Iterator[Connection]:
        # Before taking the turn, which other threads wait for.
        self.reopen_if_replaced()
        with self.translated(), self._queue.turn(), self._transaction() as tx:
            yield tx

    @contextmanager
    def settled(self, write: Callable[[Connection], None]) -> Iterator[Connection]:
        with self.translated(), self.engine.connect() as connection:
            with self._queue.turn():
                with self._transaction() as tx:
                    write(tx)
                # Begun before anyone else can write; the first read fixes the snapshot.
                driver = driver_of(connection)
                driver.execute("BEGIN")
                driver.execute("SELECT count(*) FROM sqlite_master").fetchone()
            try:
                yield connection
            finally:
                with suppress(exc.SQLAlchemyError):
                    connection.exec_driver_sql("ROLLBACK")

    @contextmanager
    def _transaction(self) -> Iterator[Connection]:
        self._has_news = False
        try:
            if self._writer is not None and self._written is not self._opened:
                discard(self._writer)
                self._writer = None
            if self._writer is None:
                self._writer = self.engine.connect()
                self._written = self._opened
            if not self._open_log.is_in_place():
                self._give_up(has_committed=False)
            writer = driver_of(self._writer)
            drop_stale_pages(writer, self._writer.info, changed_ns=self._changed_ns)
            with immediately(writer, self.path):
                yield self._writer
            log_bytes = self._open_log.size()
            if log_bytes is None:
                self._give_up(has_committed=True)
        except (exc.DBAPIError, sqlite3.Error, OutcomeUnknown):
            # The connection may be broken, so the next write opens a new one.
            if self._writer is not None:
                discard(self._writer)
                self._writer = None
            raise
        # What was committed is reported as committed, whatever happens from here on.
        if self._has_news:
            self._queue.notify()
        if self._writer is not None and log_bytes:
            self._wal.cut(self._writer, log_bytes)

    def _give_up(self, *, has_committed: bool) -> None:
        """Stop using the database, whose log was removed, after saving what is in the log.

        Args:
            has_committed: Whether the writer has just committed; if that is saved, return.

        Raises:
            Unavailable: The writer has not committed.
            OutcomeUnknown: It has, but that could not be saved.
        """
        try:
            self.require_open(self._written)
        except Unavailable as error:
            # Nor is the database file the one that we have open.
            raise (OutcomeUnknown(str(error)) if has_committed else error) from error
        writer, self._writer = self._writer, None
        is_saved = writer is not None and self._open_log.give_up(writer)
        if not has_committed:
            raise Unavailable(self._open_log.lost)
        if not is_saved:
            raise OutcomeUnknown(self._open_log.lost)

    def _close_writer(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None

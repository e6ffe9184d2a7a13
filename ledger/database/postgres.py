"""A ledger on a PostgreSQL server, for any number of machines.

PostgreSQL queues writers by itself: the first statement of an append locks the one row of
``ledger_head``, and other writers wait for that lock in order.

Where the tables are
--------------------
Several ledgers may be in one PostgreSQL database, each in a schema of its own, beside an
application's tables.  The schema is the connection's ``search_path``, and nothing else is on
that path: a table that is missing must not be found in another ledger's schema.  Statements
then need no schema in their text, so each is compiled once, whichever ledger it is for.

Without a schema, the path is the one that the server gives the role.  If a ledger is found on
it, the schema in which it is comes first, so that new tables go where the others are.

Advisory locks and notifications are known by name in the whole PostgreSQL database, so those
names contain the schema.

Why a migration polls for its lock
----------------------------------
A session that waits in ``pg_advisory_lock`` holds a snapshot.  ``CREATE INDEX CONCURRENTLY``
waits for all older snapshots to end, so the second of two ``ledger migrate`` would wait for the
first, and the first for the second, until PostgreSQL ends one of them: perhaps the one that
builds the index.  ``pg_try_advisory_lock`` in a loop holds no snapshot while it waits, as long as
no transaction is open: in one, the snapshot stays between two statements.
"""

import hashlib
import os
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from functools import partial
from typing import Any, Final
from weakref import WeakSet

from sqlalchemy import Connection, create_engine, event, exc, text
from sqlalchemy.engine import URL

from ledger.database import announced_types
from ledger.database.contract import (
    DOES_NOT_ANSWER,
    LOCK_TIMEOUT_MS,
    POOL_OVERFLOW,
    POOL_SIZE,
    Database,
    Leadership,
    MigrationSession,
    Watch,
    discard,
    translation,
)
from ledger.database.fast_sql import driver_of
from ledger.database.interruptible_wait import WakeableSleep
from ledger.errors import InvalidInput, OutcomeUnknown, Unavailable

# A role's other sessions, and functions of ours, do not depend on what this sets.
_SET_UP_IN_SCHEMA: Final = """
    SELECT set_config('lock_timeout', %s, false),
           set_config('search_path', quote_ident(%s), false)
    """
_SET_UP: Final = """
    SELECT set_config('lock_timeout', %s, false),
           current_schema(),
           (SELECT nspname
            FROM pg_class
            JOIN pg_namespace ON pg_namespace.oid = relnamespace
            WHERE pg_class.oid = to_regclass('ledger_head'))
    """
_PUT_FIRST: Final = """
    SELECT set_config(
        'search_path', quote_ident(%s) || ', ' || current_setting('search_path'), false
    )
    """
# By the server: otherwise it would finish the statement of a client that was killed, however long
# that takes, and keep the lock until then.  PostgreSQL 13 cannot do it.
_NOTICE_DEATH: Final = text(
    """
    SELECT set_config(name, '1s', false)
    FROM pg_settings
    WHERE name = 'client_connection_check_interval'
    """
)
_TRY_LOCK: Final = text("SELECT pg_try_advisory_lock(:key)")
# Interval at which a migration tries to get the lock that another one holds.
_RETRY_S: Final = 0.1
_IS_THERE: Final = text("SELECT 1 FROM pg_namespace WHERE nspname = :name")
_HAS_TABLES: Final = text(
    """
    SELECT EXISTS (
        SELECT 1
        FROM pg_class
        JOIN pg_namespace ON pg_namespace.oid = relnamespace
        WHERE nspname = current_schema() AND relkind IN ('r', 'p', 'v', 'm', 'f')
    )
    """
)


class PostgresDatabase(Database):
    """A database on a PostgreSQL server, for any number of machines.

    Args:
        url: The server and the PostgreSQL database.
        schema: The schema that the tables are in; None is where the server puts tables by itself.
        lock_timeout_ms: How long a statement waits for a lock, a thread for a connection and a
            migration for another one before ``Unavailable`` is raised; 10 s by default.
    """

    is_embedded = False
    # The swap of a read model's tables locks `ledger_checkpoints` exclusively.  After the swap a
    # name means the new table at once, but rows are visible as of the snapshot: a snapshot older
    # than the new rows would see only part of them.  So every snapshot locks `ledger_checkpoints`
    # in shared mode, which makes the swap wait.  The lock is taken before the snapshot, which
    # begins at the first SELECT.
    _begin_snapshot = (
        "BEGIN ISOLATION LEVEL REPEATABLE READ; LOCK TABLE ledger_checkpoints IN ACCESS SHARE MODE"
    )

    def __init__(
        self, url: URL, *, schema: str | None = None, lock_timeout_ms: int = LOCK_TIMEOUT_MS
    ) -> None:
        self.schema = schema
        # Where the tables are or will be, once there was a connection.
        self._place = schema or ""
        try:
            engine = create_engine(
                url,
                isolation_level="AUTOCOMMIT",
                pool_size=POOL_SIZE,
                max_overflow=POOL_OVERFLOW,
                pool_timeout=lock_timeout_ms / 1000,
                connect_args={"connect_timeout": 5},
            )
        except ModuleNotFoundError as error:
            raise InvalidInput(
                "database url",
                "PostgreSQL needs the extra: pip install 'ledger-queue[postgres]'",
            ) from error

        self._opened: WeakSet[Any] = WeakSet()

        # Before SQLAlchemy asks for the connection's schema, which it takes for the default one.
        @event.listens_for(engine, "connect", insert=True)
        def configure(connection: Any, _: object) -> None:  # noqa: ANN401 - psycopg is optional
            self._opened.add(connection)
            connection.autocommit = True
            self._place = _set_up(connection, schema, lock_timeout_ms)

        super().__init__(engine, lock_timeout_ms=lock_timeout_ms)

    @property
    def shown_url(self) -> str:
        url = super().shown_url
        return f"{url}, schema {self.schema}" if self.schema else url

    @property
    def channel(self) -> str:
        """Return the channel on which a commit is announced."""
        return f"ledger_{_digest(self._place).hex()[:16]}"

    def lock_key(self, name: str) -> int:
        """Return the number of this ledger's advisory lock of that name."""
        # 56 bits, as it is signed.
        return int.from_bytes(_digest(f"{self._place}\0{name}")[:7])

    def before_fork(self) -> None:
        # The child does not use the parent's connections, so their state does not matter.
        pass

    def after_fork(self) -> None:
        pass

    def forget(self) -> None:
        # While a child has the parent's sockets, the server would keep the parent's sessions and
        # their locks, even after its death.  The sockets are replaced and not closed, because the
        # driver's objects still hold their numbers.
        nowhere = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        for connection in self._opened:
            with suppress(driver_errors()):
                os.dup2(nowhere, connection.fileno(), inheritable=False)
        os.close(nowhere)
        self._opened.clear()
        super().forget()

    @contextmanager
    def translated(self) -> Iterator[None]:
        import psycopg  # noqa: PLC0415 - an extra

        try:
            with super().translated():
                yield
        except psycopg.Error as error:
            # From statements that go directly to the driver.
            self._generation += 1
            if isinstance(error, psycopg.OperationalError | psycopg.InterfaceError):
                text = f"{DOES_NOT_ANSWER}: {error}"
                raise Unavailable(text, public=DOES_NOT_ANSWER) from error
            raise translation(error, error) from error

    @contextmanager
    def migrating(self) -> Iterator[MigrationSession]:
        with self.translated(), self.engine.connect() as connection:
            try:
                connection.execute(_NOTICE_DEATH)
                self._lock_schema(connection)
                yield MigrationSession(
                    partial(_transaction, connection, "BEGIN"), lambda: nullcontext(connection)
                )
            finally:
                # The lock, and what a migration has set, end with the session.
                discard(connection)

    def _lock_schema(self, connection: Connection) -> None:
        key = {"key": self.lock_key("schema")}
        deadline_s = time.monotonic() + self.lock_timeout_ms / 1000
        while not connection.scalar(_TRY_LOCK, key):
            if time.monotonic() > deadline_s:
                raise Unavailable(
                    f"{self.shown_url} is being migrated by another process; try again when it "
                    "has ended"
                )
            time.sleep(_RETRY_S)

    def create_schema(self, tx: Connection) -> None:
        # Not with IF NOT EXISTS, which asks for the right to create it even if it is there.
        if self.schema is None or tx.scalar(_IS_THERE, {"name": self.schema}):
            return
        quoted = tx.dialect.identifier_preparer.quote_identifier(self.schema)
        tx.exec_driver_sql(f"CREATE SCHEMA {quoted}")

    def has_tables(self) -> bool:
        with self.read() as connection:
            return bool(connection.scalar(_HAS_TABLES))

    def tables_were_created(self) -> None:
        pass

    def unanswered(self, tx: Connection) -> AbstractContextManager[object]:
        pipeline: AbstractContextManager[object] = driver_of(tx).pipeline()
        return pipeline

    def announce(self, tx: Connection, types: Collection[str] | None) -> None:
        driver_of(tx).execute(
            "SELECT pg_notify(%s, %s)", (self.channel, announced_types.encode(types))
        )

    def watch(self) -> Watch:
        with self.translated():
            return _Listener(self)

    def leadership(self, role: str) -> Leadership:
        return _AdvisoryLeadership(self, role)

    @contextmanager
    def write(self) -> Iterator[Connection]:
        # On the connection that the thread keeps: separate ones would double their number, and a
        # server allows a hundred by default.
        with self.read() as connection:
            connection.exec_driver_sql("BEGIN")
            try:
                yield connection
                self._commit(connection)
            except BaseException:
                try:
                    connection.exec_driver_sql("ROLLBACK")
                except exc.SQLAlchemyError:
                    self.release()
                raise

    def _commit(self, connection: Connection) -> None:
        try:
            connection.exec_driver_sql("COMMIT")
        except exc.DBAPIError as error:
            if error.connection_invalidated:
                # Otherwise the server itself says that it has not committed.
                self._generation += 1
                raise OutcomeUnknown(f"{error.orig}".strip()) from error
            raise

    @contextmanager
    def settled(self, write: Callable[[Connection], None]) -> Iterator[Connection]:
        with (
            self.translated(),
            self.engine.connect() as connection,
            _transaction(connection, self._begin_snapshot) as tx,
        ):
            write(tx)
            yield tx


class _Listener(Watch):
    """A watch that receives the notifications of ``announce``."""

    def __init__(self, database: "PostgresDatabase") -> None:
        self.connection = database.engine.connect()
        self.connection.exec_driver_sql(f"LISTEN {database.channel}")
        self._sleep = WakeableSleep(driver_of(self.connection))

    def wait(self, timeout_s: float) -> bool:
        try:
            # A notification that came with an earlier result is no longer in the socket.
            if self._heard():
                return True
            return self._sleep.sleep(timeout_s) and self._heard()
        except driver_errors() as error:
            self.connection.invalidate()
            text = f"{DOES_NOT_ANSWER}: {error}"
            raise Unavailable(text, public=DOES_NOT_ANSWER) from error

    def wake(self) -> None:
        self._sleep.wake()

    def close(self) -> None:
        self._sleep.close()
        with suppress(exc.SQLAlchemyError):
            # In the pool it would still listen.
            discard(self.connection)

    def _heard(self) -> bool:
        """Return whether a notification has arrived; several count as one."""
        announced = [each.payload for each in driver_of(self.connection).notifies(timeout=0)]
        self.types = announced_types.decode(announced)
        return bool(announced)


@contextmanager
def _transaction(connection: Connection, begin: str) -> Iterator[Connection]:
    try:
        connection.exec_driver_sql(begin)
        yield connection
        connection.exec_driver_sql("COMMIT")
    except BaseException:
        with suppress(exc.SQLAlchemyError):
            connection.exec_driver_sql("ROLLBACK")
        raise


def driver_errors() -> type[Exception]:
    """Return the base class of the driver's errors; the driver is installed if this is called."""
    import psycopg  # noqa: PLC0415 - an extra

    return psycopg.Error


def _digest(name: str) -> bytes:
    return hashlib.sha256(f"ledger:{name}".encode()).digest()


def _set_up(
    connection: Any,  # noqa: ANN401 - psycopg is optional
    schema: str | None,
    lock_timeout_ms: int,
) -> str:
    """Set what our statements rely on; return the schema in which the tables are, or will be."""
    timeout = f"{lock_timeout_ms}"
    if schema is not None:
        connection.execute(_SET_UP_IN_SCHEMA, (timeout, schema))
        return schema
    _, first, found = connection.execute(_SET_UP, (timeout,)).fetchone()
    if found is not None and found != first:
        connection.execute(_PUT_FIRST, (found,))
    return str(found or first or "")


class _AdvisoryLeadership(Leadership):
    """An advisory lock of a session, on the connection of the thread that asks for it.

    The lock ends with the session, so the role is held only while the connection is the same.
    """

    def __init__(self, database: PostgresDatabase, role: str) -> None:
        self._database = database
        self._role = role
        self._key: dict[str, int] = {}
        self._connection: Connection | None = None

    def held(self) -> bool:
        with self._database.translated():
            connection = self._database.kept()
            if connection is self._connection:
                # Ours while the session lives; the statement fails if it does not.
                connection.execute(text("SELECT 1"))
                return True
            self._connection = None
            self._key = {"key": self._database.lock_key(self._role)}
            if connection.scalar(text("SELECT pg_try_advisory_lock(:key)"), self._key):
                self._connection = connection
        return self._connection is not None

    def release(self) -> None:
        if self._connection is not None:
            connection, self._connection = self._connection, None
            # The end of the session would release it too, but not immediately.
            with suppress(exc.SQLAlchemyError):
                connection.execute(text("SELECT pg_advisory_unlock(:key)"), self._key)

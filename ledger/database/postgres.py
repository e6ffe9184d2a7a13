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

Two URLs
--------
Through a pooler (see ``postgres_session.py``), reads and writes are as right as without, each in
a transaction; leaders keep a transaction open (``postgres_leadership.py``), and watches poll
(``postgres_watch.py``).  A second URL that reaches the server itself spares both, and a migration
needs it: it builds indexes outside of transactions.

Why a migration polls for its lock
----------------------------------
A session that waits in ``pg_advisory_lock`` holds a snapshot.  ``CREATE INDEX CONCURRENTLY``
waits for all older snapshots to end, so the second of two ``ledger migrate`` would wait for the
first, and the first for the second, until PostgreSQL ends one of them: perhaps the one that
builds the index.  ``pg_try_advisory_lock`` in a loop holds no snapshot while it waits, as long as
no transaction is open: in one, the snapshot of a statement with parameters stays until the next.
"""

import hashlib
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from functools import partial
from typing import Final

from sqlalchemy import Connection, exc, text
from sqlalchemy.engine import URL

from ledger.database import announced_types
from ledger.database.contract import (
    LOCK_TIMEOUT_MS,
    Database,
    Leadership,
    MigrationSession,
    Watch,
    discard,
)
from ledger.database.fast_sql import driver_of
from ledger.database.postgres_engine import PostgresEngine
from ledger.database.postgres_leadership import (
    SessionLeadership,
    TransactionLeadership,
    is_locked,
)
from ledger.database.postgres_watch import ListeningWatch, PollingWatch
from ledger.database.translation import DOES_NOT_ANSWER, translation
from ledger.errors import InvalidInput, OutcomeUnknown, SchemaMismatch, Unavailable

# See postgres_session.py for why a transaction has no time limit.
_BEGIN: Final = "BEGIN ISOLATION LEVEL {}; SET LOCAL statement_timeout = 0{}"
_READ_COMMITTED: Final = "READ COMMITTED"
# The swap of a read model's tables locks `ledger_checkpoints` exclusively.  After the swap a
# name means the new table at once, but rows are visible as of the snapshot: a snapshot older
# than the new rows would see only part of them.  So every snapshot locks `ledger_checkpoints`
# in shared mode, which makes the swap wait.  The lock is taken before the snapshot, which
# begins at the first SELECT.
_LOCK_CHECKPOINTS: Final = "; LOCK TABLE ledger_checkpoints IN ACCESS SHARE MODE"
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
_ENCODING: Final = text("SELECT current_setting('server_encoding')")
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
        direct_url: The same database, reached without a connection pooler.
    """

    is_embedded = False

    def __init__(
        self,
        url: URL,
        *,
        schema: str | None = None,
        lock_timeout_ms: int = LOCK_TIMEOUT_MS,
        direct_url: URL | None = None,
    ) -> None:
        self.schema = schema
        self._server = PostgresEngine(
            url, schema, lock_timeout_ms=lock_timeout_ms, on_lost=self._reconnect
        )
        super().__init__(self._server.pool, lock_timeout_ms=lock_timeout_ms)
        self._direct = (
            PostgresDatabase(direct_url, schema=schema, lock_timeout_ms=lock_timeout_ms)
            if direct_url is not None
            else None
        )

    @property
    def direct(self) -> "PostgresDatabase":
        """Return this database as it is reached without a pooler, if there is such a way."""
        return self if self._direct is None else self._direct

    @property
    def is_pooled(self) -> bool:
        """Return whether a pooler is between us and the server."""
        return self._server.session.is_pooled

    def begin(self, level: str = _READ_COMMITTED) -> str:
        """Return the statements that begin a transaction."""
        return _BEGIN.format(level, self._server.session.settings)

    @property
    def _begin_snapshot(self) -> str:
        return self.begin("REPEATABLE READ") + _LOCK_CHECKPOINTS

    @property
    def shown_url(self) -> str:
        url = super().shown_url
        return f"{url}, schema {self.schema}" if self.schema else url

    @property
    def channel(self) -> str:
        """Return the channel on which a commit is announced."""
        return f"ledger_{_digest(self._server.session.place).hex()[:16]}"

    def lock_key(self, name: str) -> int:
        """Return the number of this ledger's advisory lock of that name."""
        # 56 bits, as it is signed.
        return int.from_bytes(_digest(f"{self._server.session.place}\0{name}")[:7])

    def before_fork(self) -> None:
        # The child does not use the parent's connections, so their state does not matter.
        pass

    def after_fork(self) -> None:
        pass

    def forget(self) -> None:
        self._server.forget_sockets()
        super().forget()
        if self._direct is not None:
            self._direct.forget()

    def close(self) -> None:
        super().close()
        if self._direct is not None:
            self._direct.close()

    def translate(self, error: BaseException) -> BaseException:
        import psycopg  # noqa: PLC0415 - an extra

        if not isinstance(error, psycopg.Error):
            return super().translate(error)
        # From statements that go directly to the driver.
        self._generation += 1
        said = translation(error, error)
        if said is error and isinstance(error, psycopg.OperationalError | psycopg.InterfaceError):
            return Unavailable(f"{DOES_NOT_ANSWER}: {error}", public=DOES_NOT_ANSWER)
        return said

    def _reconnect(self) -> None:
        self._generation += 1

    def _has_seat(self) -> bool:
        return not self.is_pooled and super()._has_seat()

    def _checked_out(self) -> AbstractContextManager[Connection]:
        if not self.is_pooled:
            return super()._checked_out()
        return self._pooled()

    @contextmanager
    def _pooled(self) -> Iterator[Connection]:
        # A transaction that sees each commit of others, as statements of their own would.
        with (
            self.engine.connect() as connection,
            _transaction(connection, self.begin()) as tx,
        ):
            yield tx

    @contextmanager
    def migrating(self) -> Iterator[MigrationSession]:
        if self._direct is not None:
            with self._direct.migrating() as session:
                yield session
            return
        with self.translated(), self.engine.connect() as connection:
            self._require_direct()
            try:
                connection.exec_driver_sql("SET statement_timeout = 0")
                connection.execute(_NOTICE_DEATH)
                self._lock_schema(connection)
                yield MigrationSession(
                    partial(_transaction, connection, self.begin()),
                    lambda: nullcontext(connection),
                )
            finally:
                # The lock, and what a migration has set, end with the session.
                discard(connection)

    def _require_direct(self) -> None:
        if self.is_pooled:
            raise InvalidInput(
                "database url",
                f"expected a URL that reaches the server itself, as a migration needs a session; "
                f"got {self.shown_url}, which leads to a connection pooler; set "
                "LEDGER_DATABASE_DIRECT_URL to a URL of the same database without the pooler",
            )

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

    def require_suitable(self, tx: Connection) -> None:
        # SQL_ASCII is none: the server stores what it gets, and from us that is UTF-8.
        encoding = tx.scalar(_ENCODING)
        if encoding not in {"UTF8", "SQL_ASCII"}:
            raise SchemaMismatch(
                f"{self.shown_url} has the encoding {encoding}, in which not every text can be "
                "stored; create a database with ENCODING 'UTF8' TEMPLATE template0"
            )

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
        with self.translated(), self.direct.translated():
            if self.direct.is_pooled:
                return PollingWatch(self.read)
            return ListeningWatch(self.direct.engine, self.channel)

    def leadership(self, role: str) -> Leadership:
        return _Leadership(self, role)

    def lock(self, role: str) -> SessionLeadership | TransactionLeadership:
        """Return the claim to *role*, by a lock of the kind that the connections allow."""
        direct, key = self.direct, self.lock_key(role)
        if direct.is_pooled:
            return TransactionLeadership(direct.engine.connect, direct.begin, key)
        return SessionLeadership(direct, key)

    @contextmanager
    def write(self) -> Iterator[Connection]:
        with self.translated(), self._of_writer() as connection:
            connection.exec_driver_sql(self.begin())
            try:
                yield connection
                self._commit(connection)
            except BaseException:
                try:
                    connection.exec_driver_sql("ROLLBACK")
                except exc.SQLAlchemyError:
                    self.release()
                raise

    def _of_writer(self) -> AbstractContextManager[Connection]:
        # On the connection that the thread keeps: separate ones would double their number, and a
        # server allows a hundred by default.
        return self.engine.connect() if self.is_pooled else self.read()

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


class _Leadership(Leadership):
    """A claim to a role, whose lock is of the kind that the connections allow."""

    def __init__(self, database: PostgresDatabase, role: str) -> None:
        self._database = database
        self._role = role
        self._lock: SessionLeadership | TransactionLeadership | None = None

    def held(self) -> bool:
        with self._database.translated(), self._database.direct.translated():
            # Only now: the name of the lock contains the schema, which a connection finds.
            self._lock = self._lock or self._database.lock(self._role)
            return self._lock.held()

    def taken(self) -> bool:
        with self._database.read() as connection:
            return is_locked(connection, self._database.lock_key(self._role))

    def release(self) -> None:
        if self._lock is not None:
            self._lock.release()


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


def _digest(name: str) -> bytes:
    return hashlib.sha256(f"ledger:{name}".encode()).digest()

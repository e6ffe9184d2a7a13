"""Keep a ledger on a PostgreSQL server, for any number of machines.

PostgreSQL queues by itself: the first statement of an append locks the one row of
``ledger_head``, and whoever waits for it waits in order.
"""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Any, Final

from sqlalchemy import Connection, Engine, create_engine, event, exc, text
from sqlalchemy.engine import URL

from ledger.database import (
    LOCK_TIMEOUT_MS,
    POOL_OVERFLOW,
    POOL_SIZE,
    Database,
    Leadership,
    Watch,
    translation,
)
from ledger.errors import InvalidInput, Unavailable
from ledger.rows import driver_of
from ledger.wakeable import WakeableSleep

# Who waits for news listens here; one word a batch.
CHANNEL: Final = "ledger"


class PostgresDatabase(Database):
    """Be a ledger on a PostgreSQL server, for any number of machines."""

    is_embedded = False
    # The tables of a read model are swapped by whoever locks `checkpoints` alone.  A name
    # leads to the new table at once, the rows in it are seen as of the snapshot: one that
    # is older than they are would see half of them.  So it is held off while a snapshot
    # is there; the lock is taken before the snapshot is, which the first SELECT does.
    _begin_snapshot = (
        "BEGIN ISOLATION LEVEL REPEATABLE READ; LOCK TABLE checkpoints IN ACCESS SHARE MODE"
    )

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

    @contextmanager
    def translated(self) -> Iterator[None]:
        import psycopg  # noqa: PLC0415 - an extra

        try:
            with super().translated():
                yield
        except psycopg.Error as error:
            # Of statements that go to the driver directly.
            self._generation += 1
            if isinstance(error, psycopg.OperationalError | psycopg.InterfaceError):
                raise Unavailable(f"the database does not answer: {error}") from error
            raise translation(error, error) from error

    def lock_schema(self, tx: Connection) -> None:
        tx.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _lock_key("schema")})

    def unanswered(self, tx: Connection) -> AbstractContextManager[object]:
        pipeline: AbstractContextManager[object] = driver_of(tx).pipeline()
        return pipeline

    def announce(self, tx: Connection) -> None:
        driver_of(tx).execute(f"NOTIFY {CHANNEL}")

    def watch(self) -> Watch:
        with self.translated():
            return _Listener(self)

    def leadership(self, role: str) -> Leadership:
        return _AdvisoryLeadership(self.engine, role)

    @contextmanager
    def write(self) -> Iterator[Connection]:
        with self.translated(), self.engine.connect() as connection:
            connection.exec_driver_sql("BEGIN")
            try:
                yield connection
                connection.exec_driver_sql("COMMIT")
            except BaseException:
                with suppress(exc.SQLAlchemyError):
                    connection.exec_driver_sql("ROLLBACK")
                raise

    @contextmanager
    def settled(self, write: Callable[[Connection], None]) -> Iterator[Connection]:
        with self.translated(), self.engine.connect() as connection:
            try:
                connection.exec_driver_sql(self._begin_snapshot)
                write(connection)
                yield connection
                connection.exec_driver_sql("COMMIT")
            except BaseException:
                with suppress(exc.SQLAlchemyError):
                    connection.exec_driver_sql("ROLLBACK")
                raise


class _Listener(Watch):
    """Listen to what ``announce`` tells."""

    def __init__(self, database: "PostgresDatabase") -> None:
        self._database = database
        self._connection = database.engine.connect()
        self._connection.exec_driver_sql(f"LISTEN {CHANNEL}")
        self._sleep = WakeableSleep(driver_of(self._connection))

    def wait(self, timeout_s: float) -> bool:
        try:
            # What came with the answer to an earlier statement is in no socket any more.
            if self._heard():
                return True
            return self._sleep.sleep(timeout_s) and self._heard()
        except driver_errors() as error:
            self._connection.invalidate()
            raise Unavailable(f"the database does not answer: {error}") from error

    def wake(self) -> None:
        self._sleep.wake()

    def close(self) -> None:
        self._sleep.close()
        with suppress(exc.SQLAlchemyError):
            # It must not go back to the pool listening.
            self._connection.invalidate()
            self._connection.close()

    def _heard(self) -> bool:
        """Return whether anything has been announced; several are the same news."""
        return len(list(driver_of(self._connection).notifies(timeout=0))) > 0


def driver_errors() -> type[Exception]:
    """Return the base of the driver's errors, which is there where this is used."""
    import psycopg  # noqa: PLC0415 - an extra

    return psycopg.Error


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
            raise translation(error, error.orig) from error
        if taken:
            self._connection = connection
        else:
            connection.close()
        return bool(taken)

    def release(self) -> None:
        if self._connection is not None:
            connection, self._connection = self._connection, None
            with suppress(exc.SQLAlchemyError):
                # The session's end frees it too, but a moment after we have gone on.
                connection.execute(text("SELECT pg_advisory_unlock(:key)"), {"key": self._key})
            connection.invalidate()
            connection.close()

"""The connections of a process to one PostgreSQL server, set up as our statements need them."""

import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, Final
from weakref import WeakSet

from sqlalchemy import create_engine, event
from sqlalchemy.engine import URL

from ledger.database.contract import POOL_OVERFLOW, POOL_SIZE
from ledger.database.postgres_session import Session, set_up
from ledger.errors import InvalidInput, Unavailable

# A server whose machine loses power or network closes no connection.  With these options, the
# kernel gives it up after about 15 seconds: ``tcp_user_timeout`` if it does not acknowledge what
# we have sent, keepalives while we wait for an answer.  A URL can set each differently.
OPTIONS: Final[Mapping[str, int]] = {
    "connect_timeout": 5,
    "keepalives": 1,
    "keepalives_idle": 5,
    "keepalives_interval": 5,
    "keepalives_count": 2,
    "tcp_user_timeout": 15_000,
}


class PostgresEngine:
    """The pool of connections to a server, and what they have found there.

    Args:
        url: The server and the PostgreSQL database.
        schema: The schema that the tables are in; None is where the server puts tables by itself.
        lock_timeout_ms: How long a statement waits for a lock, and a thread for a connection.
        on_lost: Called when no connection that was made so far can be relied on.

    Attributes:
        pool: SQLAlchemy's engine.
    """

    def __init__(
        self,
        url: URL,
        schema: str | None,
        *,
        lock_timeout_ms: int,
        on_lost: Callable[[], None],
    ) -> None:
        try:
            self.pool = create_engine(
                url,
                isolation_level="AUTOCOMMIT",
                pool_size=POOL_SIZE,
                max_overflow=POOL_OVERFLOW,
                pool_timeout=lock_timeout_ms / 1000,
                # SQLAlchemy would ask the server for a type that we do not use.
                use_native_hstore=False,
            )
        except ModuleNotFoundError as error:
            raise InvalidInput(
                "database url",
                "PostgreSQL needs the extra: pip install 'ledger-queue[postgres]'",
            ) from error
        self._schema = schema
        self._lock_timeout_ms = lock_timeout_ms
        self._on_lost = on_lost
        self._found: Session | None = None
        self._opened: WeakSet[Any] = WeakSet()

        @event.listens_for(self.pool, "do_connect")
        def connect(*_: object) -> Any:  # noqa: ANN401 - psycopg is optional
            return self._connect()

        # Before SQLAlchemy asks for the connection's schema, which it takes for the default one.
        @event.listens_for(self.pool, "connect", insert=True)
        def configure(connection: Any, _: object) -> None:  # noqa: ANN401 - as connect
            try:
                self._configure(connection)
            except BaseException:
                connection.close()
                raise

    @property
    def session(self) -> Session:
        """Return what the last connection has found; connect if there was none."""
        while self._found is None:
            with self.pool.connect():
                pass
        return self._found

    def _connect(self) -> Any:  # noqa: ANN401 - psycopg is optional
        """Return a new connection of the driver, with nothing set."""
        positional, named = self.pool.dialect.create_connect_args(self.pool.url)
        # Otherwise the encoding would be the role's, in which not every text can be sent.
        options = {**OPTIONS, **named, "client_encoding": "utf8"}
        return self.pool.dialect.connect(*positional, **options)

    def _configure(self, connection: Any) -> None:  # noqa: ANN401 - psycopg is optional
        self._opened.add(connection)
        connection.autocommit = True
        session = set_up(connection, self._schema, self._lock_timeout_ms)
        self._remember(session)

    def _remember(self, session: Session) -> None:
        before, self._found = self._found, session
        if before is None or before.is_pooled == session.is_pooled:
            return
        if before.is_pooled:
            # It may be again at any time, and what is right for a pooler is right without.
            self._found = before
            return
        self._on_lost()
        raise Unavailable("the database is now reached through a connection pooler; try again")

    def forget_sockets(self) -> None:
        """Leave all connections to the process that this one was forked from."""
        # While a child has the parent's sockets, the server would keep the parent's sessions and
        # their locks, even after its death.  The sockets are replaced and not closed, because the
        # driver's objects still hold their numbers.
        nowhere = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        for connection in self._opened:
            with suppress(driver_errors()):
                os.dup2(nowhere, connection.fileno(), inheritable=False)
        os.close(nowhere)
        self._opened.clear()


def driver_errors() -> type[Exception]:
    """Return the base class of the driver's errors; the driver is installed if this is called."""
    import psycopg  # noqa: PLC0415 - an extra

    return psycopg.Error

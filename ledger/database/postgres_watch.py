"""Watching for commits on PostgreSQL: notifications or, through a pooler, polling.

A pooler executes ``LISTEN`` in the session that happens to serve it, and discards the
notifications.  What can be read through every pooler is the position of the last event.
"""

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from typing import Final

from sqlalchemy import Connection, Engine, exc, text

from ledger.database import announced_types
from ledger.database.contract import Watch, discard
from ledger.database.fast_sql import driver_of
from ledger.database.interruptible_wait import WakeableSleep
from ledger.database.postgres_engine import driver_errors
from ledger.database.translation import DOES_NOT_ANSWER
from ledger.errors import Unavailable

# How often a watch without notifications looks.
POLL_S: Final = 0.25
_POSITION: Final = text("SELECT position FROM ledger_head")


class ListeningWatch(Watch):
    """A watch that receives the notifications of ``announce``.

    Args:
        engine: Its connections must not be pooled.
        channel: The channel of the notifications.
    """

    def __init__(self, engine: Engine, channel: str) -> None:
        self.connection = engine.connect()
        self.connection.exec_driver_sql(f"LISTEN {channel}")
        self._sleep = WakeableSleep(driver_of(self.connection))

    def wait(self, timeout_s: float) -> bool:
        try:
            # A notification that came with an earlier result is no longer in the socket.
            if self._heard():
                return True
            return self._sleep.sleep(timeout_s) and self._heard()
        except driver_errors() as error:
            self.connection.invalidate()
            text_ = f"{DOES_NOT_ANSWER}: {error}"
            raise Unavailable(text_, public=DOES_NOT_ANSWER) from error

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


class PollingWatch(Watch):
    """A watch that looks whether the last event is still the same.

    Args:
        read: Yields a connection to read on.
        poll_s: See POLL_S.
    """

    def __init__(
        self, read: Callable[[], AbstractContextManager[Connection]], *, poll_s: float = POLL_S
    ) -> None:
        self._read = read
        self._poll_s = poll_s
        self._sleep = WakeableSleep()
        self._position = self._look()

    def reading(self) -> AbstractContextManager[Connection]:
        return self._read()

    def wait(self, timeout_s: float) -> bool:
        deadline_s = time.monotonic() + timeout_s
        while not self._sleep.is_over:
            position = self._look()
            if position != self._position:
                self._position = position
                return True
            left_s = deadline_s - time.monotonic()
            if left_s <= 0:
                break
            self._sleep.sleep(min(self._poll_s, left_s))
        return False

    def wake(self) -> None:
        self._sleep.wake()

    def close(self) -> None:
        self._sleep.close()

    def _look(self) -> object:
        with self._read() as connection:
            return connection.scalar(_POSITION)

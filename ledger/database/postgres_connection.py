"""Connections that notice when their server has gone without a word.

A server whose machine loses power or network closes no connection.  Who waits for its answer would
wait until the kernel gives up, after a quarter of an hour or never.

Two cases differ.  If packets are lost, the kernel can tell, and does so after about 15 seconds
with the options below: ``tcp_user_timeout`` for what we have sent and was not acknowledged,
keepalives while we wait for an answer.  If something acknowledges the packets and answers
nothing, such as a proxy whose own server is gone, or a machine that hangs, the kernel sees
nothing wrong.  A time limit for each statement would not do: building an index may take an hour.
So after ``silence_s`` without a byte we ask, on another connection, whether the server still
works on our statement.  If it does, we go on waiting.

Behind a pooler we cannot know which process works for us.  There, it suffices that the pooler
lets somebody connect and gets an answer.
"""

import time
from collections.abc import Callable, Generator, Mapping
from contextlib import closing
from functools import cache
from typing import Any, Final

CONNECT_TIMEOUT_S: Final = 5
# For libpq.  A URL can set each of them differently.
OPTIONS: Final[Mapping[str, int]] = {
    "connect_timeout": CONNECT_TIMEOUT_S,
    "keepalives": 1,
    "keepalives_idle": 5,
    "keepalives_interval": 5,
    "keepalives_count": 2,
    "tcp_user_timeout": 15_000,
}
# An answer that was on its way while we asked arrives within this time.
_GRACE_S: Final = 1.0
_ASK: Final = "SELECT state FROM pg_stat_activity WHERE pid = %s"
# What the server says of a process that works on a statement, or that it may not tell.
_WORKING: Final = {"active", "fastpath function call", "disabled"}


@cache
def connection_class() -> Any:  # noqa: ANN401 - psycopg is optional
    """Return the class of our connections; the driver must be installed."""
    import psycopg  # noqa: PLC0415 - an extra

    class Connection(psycopg.Connection[Any]):
        """A connection that gives up a server which is silent and does not work for it.

        Attributes:
            silence_s: Time without a byte from the server after which it asks.
            is_working: Returns whether the server still works on the present statement.
        """

        silence_s: float = CONNECT_TIMEOUT_S
        is_working: Callable[[], bool] = staticmethod(lambda: False)

        def wait(self, gen: Any, *args: Any, **options: Any) -> Any:  # noqa: ANN401 - psycopg's
            return super().wait(self._watched(gen), *args, **options)

        def _watched(self, gen: Generator[Any, Any, Any]) -> Generator[Any, Any, Any]:
            """Pass on what *gen* waits for; raise when it has waited for too long."""
            ready = None
            is_doubted = False
            # Zero until it has waited in vain: most answers come at once, and need no clock.
            deadline_s = 0.0
            while True:
                try:
                    waits_for = gen.send(ready)
                except StopIteration as end:
                    return end.value
                ready = yield waits_for
                if ready:
                    deadline_s, is_doubted = 0.0, False
                elif not deadline_s:
                    deadline_s = time.monotonic() + self.silence_s
                elif time.monotonic() > deadline_s:
                    if is_doubted:
                        self._give_up()
                    is_doubted = not self.is_working()
                    wait_s = _GRACE_S if is_doubted else self.silence_s
                    deadline_s = time.monotonic() + wait_s

        def _give_up(self) -> None:
            self.close()
            raise psycopg.OperationalError(
                f"the server has been silent for {self.silence_s:g} s and does not work on our "
                "statement; the connection is closed"
            )

    return Connection


def is_working(connect: Callable[[], Any], pid: int | None) -> bool:
    """Return whether the server works on the statement of the process *pid*.

    Args:
        connect: Returns a new connection that asks nobody when the server is silent.
        pid: A process of the server; None if it is not known: then whether it answers at all.
    """
    import psycopg  # noqa: PLC0415 - an extra

    try:
        with closing(connect()) as connection:
            row = connection.execute(_ASK, (pid or 0,)).fetchone()
    except psycopg.Error as error:
        # A server that refuses a connection, because it has too many, is there.
        return "FATAL" in str(error)
    return pid is None or (row is not None and row[0] in _WORKING)

"""The connections that wait without a thread: for a request, for its rest, or for their client.

A thread costs memory and there are few, so a client must not be able to hold one: 32 clients with
half a request each would make a server of 32 threads deaf.  Here, the main thread collects a
request until all of it has come, and a thread gets it only then; and the main thread sends what a
client has not taken of its answer when the thread is finished.  nginx buffers requests and
answers for the same reason.

What waits is limited in three ways.  A client must make progress within a time; otherwise its
connection is closed, with 408 if it has begun a request.  When a process has as many connections
as it may, the one that has waited longest makes room for the next.  And when unfinished requests,
or untaken answers, need more memory than they may, those that have waited longest are given up.
So however many slow clients there are, a client that sends and reads at once is served.
"""

import selectors
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, Final, NamedTuple

from ledger.api.server.client_connection import PROGRESS_BYTES, Came, ClientConnection
from ledger.api.server.malformed_requests import answer_malformed

# A connection that the server closes is read for this time, or this much, because data that
# arrive at a closed connection make the client discard the answer.
CLOSING_S: Final = 2.0
# When the server stops, a client that makes no progress within this time is not served.
STOPPING_S: Final = 2.0
# Unfinished requests, and untaken answers, that a process keeps.
LARGEST_HELD_BYTES: Final = 64 * 1024 * 1024
LARGEST_UNSENT_BYTES: Final = 256 * 1024 * 1024

# A connection as gunicorn has it; its ``sock`` is a ``ClientConnection``.
Connection = Any


class LoopLimits(NamedTuple):
    """How long connections wait, and how much memory they take.

    Attributes:
        timeout_s: The time in which a client must send a head, 64 KiB of a body or its rest, or
            take 64 KiB of an answer or its rest.
        idle_s: How long a connection may wait for its next request.
        held_bytes: The most that unfinished requests take.
        unsent_bytes: The most that untaken answers take, but for the newest.
    """

    timeout_s: float
    idle_s: float
    held_bytes: int = LARGEST_HELD_BYTES
    unsent_bytes: int = LARGEST_UNSENT_BYTES


class ConnectionLoop:
    """The waiting connections of a process; only its main thread uses it.

    Args:
        poller: The selector of the main thread.
        limits: How long connections wait, and how much memory they take.
        submit: Gives a connection with a whole request to a thread.
        closed: Called after a connection was closed.
    """

    def __init__(
        self,
        poller: selectors.BaseSelector,
        limits: LoopLimits,
        *,
        submit: Callable[[Connection], None],
        closed: Callable[[], None],
    ) -> None:
        self._poller = poller
        self._limits = limits
        self._submit = submit
        self._closed = closed
        self._idle = _Waiting(limits.idle_s)
        self._receiving = _Waiting(limits.timeout_s)
        self._sending = _Waiting(limits.timeout_s)
        self._closing = _Waiting(CLOSING_S)
        # Of requests, also of those that threads have.
        self._held = _Sizes()
        self._unsent = _Sizes()

    # --- from and to the threads

    def begin(self, connection: Connection) -> None:
        """Wait for the first request of a new connection."""
        came = self._read(connection)
        if came is Came.ALL:
            self._submit(connection)
        elif came is Came.END:
            self._end(connection)
        else:
            self._wait(connection, self._receiving, self._receive)

    def resume(self, connection: Connection, *, keep: bool) -> None:
        """Take a connection back from a thread.

        Args:
            connection: The connection, whose answer may be unsent.
            keep: Whether it is open for another request.
        """
        client: ClientConnection = connection.sock
        self._held.put(connection, len(client.arrival) if keep else 0)
        if not client.unsent_bytes:
            self._go_on(connection, keep=keep)
            return
        self._unsent.put(connection, client.kept_bytes)
        self._wait(connection, self._sending, partial(self._send, keep=keep))
        while self._unsent.total > self._limits.unsent_bytes and len(self._sending) > 1:
            self._drop(self._sending.oldest())

    def _go_on(self, connection: Connection, *, keep: bool) -> None:
        client: ClientConnection = connection.sock
        if not keep:
            self._linger(connection)
        elif client.arrival.is_complete:
            self._submit(connection)
        elif not client.invite():
            self._end(connection)
        else:
            waiting = self._receiving if len(client.arrival) else self._idle
            self._wait(connection, waiting, self._receive)

    # --- steps of a connection, when its socket is ready

    def _receive(self, connection: Connection) -> None:
        came = self._read(connection)
        if came is Came.ALL:
            self._forget(connection)
            self._submit(connection)
        elif came is Came.END:
            self._drop(connection)
        else:
            if came is Came.SOME:
                self._note_progress(connection)
            self._watch(connection)
            while self._held.total > self._limits.held_bytes and self._receiving:
                self._give_up(self._receiving.oldest())

    def _read(self, connection: Connection) -> Came:
        client: ClientConnection = connection.sock
        came = client.receive()
        self._held.put(connection, len(client.arrival))
        return came

    def _note_progress(self, connection: Connection) -> None:
        if connection in self._idle:
            self._forget(connection)
            self._wait(connection, self._receiving, self._receive)
        arrival = connection.sock.arrival
        self._receiving.note(connection, (arrival.has_head, len(arrival) // PROGRESS_BYTES))

    def _send(self, connection: Connection, *, keep: bool) -> None:
        client: ClientConnection = connection.sock
        try:
            client.send_more()
        except OSError:
            self._drop(connection)
            return
        self._unsent.put(connection, client.kept_bytes)
        if client.unsent_bytes:
            self._sending.note(connection, client.unsent_bytes // PROGRESS_BYTES)
            self._watch(connection)
        else:
            self._forget(connection)
            self._go_on(connection, keep=keep)

    # --- the end of a connection

    def _linger(self, connection: Connection) -> None:
        """Close a connection when its client does, or soon, so that it can read its answer."""
        client: ClientConnection = connection.sock
        self._held.put(connection, 0)
        if client.finish():
            self._wait(connection, self._closing, self._drain)
        else:
            self._end(connection)

    def _drain(self, connection: Connection) -> None:
        client: ClientConnection = connection.sock
        if not client.drain():
            self._drop(connection)

    def _give_up(self, connection: Connection) -> None:
        """Close a connection for which there is no room any more."""
        if len(connection.sock.arrival):
            _refuse(connection, 503, "Service Unavailable")
        self._drop(connection)

    def _drop(self, connection: Connection) -> None:
        self._forget(connection)
        self._end(connection)

    def _end(self, connection: Connection) -> None:
        self._held.put(connection, 0)
        connection.sock.close()
        self._closed()

    # --- limits

    def make_room(self) -> None:
        """Close the connection that has waited longest, if any waits."""
        waiting = [each for each in self._kinds if each]
        if waiting:
            longest = min(waiting, key=_Waiting.since_s)
            end = self._give_up if longest is self._receiving else self._drop
            end(longest.oldest())

    def close_late(self) -> None:
        """Close the connections whose time is over."""
        now_s = time.monotonic()
        for connection in self._receiving.late(now_s):
            self._forget(connection)
            if len(connection.sock.arrival):
                _refuse(connection, 408, "Request Timeout")
                self._linger(connection)
            else:
                self._end(connection)
        for waiting in (self._idle, self._sending, self._closing):
            for connection in waiting.late(now_s):
                self._drop(connection)

    def stop(self) -> None:
        """Wait for clients for a short time only, because the server will end."""
        for waiting in self._kinds:
            waiting.shorten(STOPPING_S)

    # --- what waits

    @property
    def _kinds(self) -> tuple["_Waiting", ...]:
        return (self._idle, self._receiving, self._sending, self._closing)

    def _wait(
        self, connection: Connection, waiting: "_Waiting", step: Callable[[Connection], None]
    ) -> None:
        waiting.add(connection)
        client: ClientConnection = connection.sock
        self._poller.register(client.fileno(), client.needs, partial(self._run, connection, step))

    def _run(self, connection: Connection, step: Callable[[Connection], None], _: object) -> None:
        # A step of another connection may have closed this one.
        if any(connection in each for each in self._kinds):
            step(connection)

    def _watch(self, connection: Connection) -> None:
        """Make the poller wait for what the connection needs now."""
        client: ClientConnection = connection.sock
        key = self._poller.get_key(client.fileno())
        if key.events != client.needs:
            self._poller.modify(client.fileno(), client.needs, key.data)

    def _forget(self, connection: Connection) -> None:
        """Take a connection out of those that wait."""
        for waiting in self._kinds:
            if waiting.remove(connection):
                self._unsent.put(connection, 0)
                self._poller.unregister(connection.sock.fileno())


class _Waiting:
    """Connections that wait for the same time, the one that has waited longest first.

    Args:
        limit_s: The time.
    """

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self._since_s: dict[Connection, float] = {}
        self._progress: dict[Connection, object] = {}

    def __len__(self) -> int:
        return len(self._since_s)

    def __contains__(self, connection: Connection) -> bool:
        return connection in self._since_s

    def add(self, connection: Connection) -> None:
        self._since_s[connection] = time.monotonic()

    def remove(self, connection: Connection) -> bool:
        """Remove a connection; return whether it was there."""
        self._progress.pop(connection, None)
        return self._since_s.pop(connection, None) is not None

    def note(self, connection: Connection, progress: object) -> None:
        """Give a connection its time again if its progress has changed."""
        if self._progress.get(connection) != progress:
            self._progress[connection] = progress
            del self._since_s[connection]
            self.add(connection)

    def oldest(self) -> Connection:
        return next(iter(self._since_s))

    def since_s(self) -> float:
        return self._since_s[self.oldest()]

    def late(self, now_s: float) -> list[Connection]:
        """Return the connections whose time is over."""
        late = []
        for connection, since_s in self._since_s.items():
            if since_s + self._limit_s > now_s:
                break
            late.append(connection)
        return late

    def shorten(self, limit_s: float) -> None:
        """Shorten the time, from now on, for those that wait too."""
        if limit_s < self._limit_s:
            self._limit_s = limit_s
            self._since_s = dict.fromkeys(self._since_s, time.monotonic())


class _Sizes:
    """Numbers of bytes by connection, and their total."""

    def __init__(self) -> None:
        self._sizes: dict[Connection, int] = {}
        self.total = 0

    def put(self, connection: Connection, size: int) -> None:
        self.total += size - self._sizes.pop(connection, 0)
        if size:
            self._sizes[connection] = size


def _refuse(connection: Connection, status: int, reason: str) -> None:
    with suppress(OSError):
        answer_malformed(connection.sock, status, reason, "")
        connection.sock.flush()

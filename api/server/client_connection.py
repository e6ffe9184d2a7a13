"""A client's connection, on which nothing blocks: the request that arrives, the answer that leaves.

A thread that answers writes as much as the client's side takes.  The rest is kept, and the main
thread sends it as the client reads.  Only an app that goes on writing while something is unsent
waits for its client, for a limited time.

gunicorn writes the headers of an answer alone, which would wake the client twice.  They are held
until the body or its first chunk is written.
"""

import errno
import select
import selectors
import socket
import ssl
import time
from collections.abc import Callable
from enum import Enum
from typing import Any, Final

from ledger.api.server.request_arrival import ArrivalLimits, RequestArrival

# A larger body is sent in a write of its own, rather than copied behind the headers.
_JOINED_BYTES: Final = 64 * 1024
# TLS leaves nothing behind that it has read already if a read is as large as its records.
_FIRST_BYTES: Final = 16 * 1024
_READ_BYTES: Final = 64 * 1024
_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
# A client that sends or takes so much has made progress, and has its time again.
PROGRESS_BYTES: Final = 64 * 1024
# What is read at most of a connection that is closed.
CLOSING_BYTES: Final = 64 * 1024


class Came(Enum):
    """What has come from a client."""

    NOTHING = "nothing yet"
    SOME = "a part of a request"
    ALL = "a whole request, or all there will be of it"
    END = "the end of the connection"


class ClientConnection:
    """One connection; one thread at a time uses it.

    Args:
        connection: The socket, which this object owns from now on.
        limits: The largest requests.
        secure: Returns the socket with TLS; None leaves it plain.
        timeout_s: How long an app that streams waits for a client that does not read.
    """

    def __init__(
        self,
        connection: socket.socket,
        limits: ArrivalLimits,
        *,
        timeout_s: float,
        secure: Callable[[socket.socket], ssl.SSLSocket] | None = None,
    ) -> None:
        connection.setblocking(False)  # noqa: FBT003 - as in the standard library
        self._socket: socket.socket = connection
        self._limits = limits
        self._timeout_s = timeout_s
        self._secure = secure
        self._secured: ssl.SSLSocket | None = None
        # Whether TLS's handshake is not over yet.
        self._is_insecure = secure is not None
        self._held = b""
        self._is_head = True
        self._unsent = memoryview(b"")
        self._unread = 0
        self._poll: select.poll | None = None
        self.arrival = RequestArrival(limits)
        # The event of the socket that the last unfinished step waits for.
        self.needs: int = selectors.EVENT_READ

    # --- what arrives

    def receive(self) -> Came:
        """Read what has come of the request, if anything."""
        try:
            if self._is_insecure:
                self._secure_first()
            data = self._socket.recv(_READ_BYTES if len(self.arrival) else _FIRST_BYTES)
        except (BlockingIOError, ssl.SSLWantReadError):
            self.needs = selectors.EVENT_READ
            return Came.NOTHING
        except ssl.SSLWantWriteError:
            self.needs = selectors.EVENT_WRITE
            return Came.NOTHING
        except (OSError, ValueError):
            return Came.END
        return self._received(data) if data else self._ended()

    def _secure_first(self) -> None:
        """Begin or continue the TLS handshake."""
        if self._secure is not None:
            # A client that sends nothing costs no handshake.
            self._socket.recv(1, socket.MSG_PEEK)
            self._secured = self._socket = self._secure(self._socket)
            self._secure = None
        if self._secured is not None:
            self._secured.do_handshake()
            self._is_insecure = False

    def _received(self, data: bytes) -> Came:
        arrival = self.arrival
        arrival.add(data)
        if arrival.is_complete:
            return Came.ALL
        self.needs = selectors.EVENT_READ
        return Came.SOME if self.invite() else Came.END

    def invite(self) -> bool:
        """Send ``100 Continue`` if the client waits for it; return whether it may be there."""
        if not self.arrival.awaits_continue:
            return True
        self.arrival.awaits_continue = False
        try:
            return self._socket.send(_CONTINUE) == len(_CONTINUE)
        except OSError:
            return False

    def _ended(self) -> Came:
        if not self.arrival.has_head:
            return Came.END
        # The client may still read why its request is refused.
        self.arrival.cut()
        return Came.ALL

    def begin_next(self) -> None:
        """Expect the request after the one that was answered."""
        self.arrival = RequestArrival(self._limits, self.arrival.rest)

    def finish(self) -> bool:
        """Tell the client that nothing more follows; return whether it may still be there."""
        self._unread = CLOSING_BYTES
        self.needs = selectors.EVENT_READ
        try:
            self._socket.shutdown(socket.SHUT_WR)
        except OSError:
            return False
        return True

    def drain(self) -> bool:
        """Discard what has come; return whether more may come."""
        try:
            data = self._socket.recv(_READ_BYTES)
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return True
        except (OSError, ValueError):
            return False
        self._unread -= len(data)
        return bool(data) and self._unread > 0

    def comes_within(self, milliseconds: int) -> bool:
        """Wait for more from the client; return whether something has come."""
        if self._poll is None:
            self._poll = select.poll()
            self._poll.register(self._socket, select.POLLIN)
        return bool(self._poll.poll(milliseconds))

    # --- what leaves, as gunicorn writes it

    def sendall(self, data: bytes) -> None:
        if self._is_head:
            self._held, self._is_head = data, False
        elif self._held and len(data) <= _JOINED_BYTES:
            held, self._held = self._held, b""
            self._write(held + data)
        else:
            is_begun = bool(self._held)
            self._write_held()
            if is_begun and self._unsent:
                # A thread waits for its client only in the middle of an answer.
                self._unsent = memoryview(bytes(self._unsent) + data)
            else:
                self._write(data)

    def sendfile(self, file: Any, offset: int = 0, count: int | None = None) -> int:  # noqa: ANN401 - any file
        file.seek(offset)
        sent = 0
        while count is None or sent < count:
            most = _JOINED_BYTES if count is None else min(_JOINED_BYTES, count - sent)
            data = file.read(most)
            if not data:
                break
            self.sendall(data)
            sent += len(data)
        return sent

    def flush(self) -> None:
        """Send held data at the end of an answer."""
        self._write_held()
        self._is_head = True

    def _write_held(self) -> None:
        if self._held:
            held, self._held = self._held, b""
            self._write(held)

    def _write(self, data: bytes) -> None:
        if self._unsent:
            self._wait_until_sent()
        self._unsent = memoryview(data)
        self.send_more()

    def _wait_until_sent(self) -> None:
        until_s = time.monotonic() + self._timeout_s
        taken = 0
        while self._unsent:
            poll = select.poll()
            poll.register(
                self._socket,
                select.POLLOUT if self.needs == selectors.EVENT_WRITE else select.POLLIN,
            )
            if not poll.poll(max(0.0, until_s - time.monotonic()) * 1000):
                raise BrokenPipeError(errno.EPIPE, "the client does not read its answer")
            taken += self.send_more()
            if taken >= PROGRESS_BYTES:
                until_s, taken = time.monotonic() + self._timeout_s, 0

    @property
    def unsent_bytes(self) -> int:
        """The number of bytes that the client has not taken yet."""
        return len(self._unsent)

    @property
    def kept_bytes(self) -> int:
        """The memory that they take, about; a slice keeps all that it is a slice of."""
        return len(self._unsent.obj) if self._unsent else 0  # type: ignore[arg-type]  # bytes

    def send_more(self) -> int:
        """Send what the client's side takes; return the number of bytes.

        Raises:
            OSError: The client is gone.
        """
        sent = 0
        try:
            while self._unsent:
                some = self._socket.send(self._unsent)
                self._unsent = self._unsent[some:]
                sent += some
        except (BlockingIOError, ssl.SSLWantWriteError):
            self.needs = selectors.EVENT_WRITE
        except ssl.SSLWantReadError:
            self.needs = selectors.EVENT_READ
        if not self._unsent:
            self._unsent = memoryview(b"")
            self.needs = selectors.EVENT_READ
        elif 2 * len(self._unsent) < self.kept_bytes:
            self._unsent = memoryview(bytes(self._unsent))
        return sent

    # --- the rest of a socket, as gunicorn uses it

    def fileno(self) -> int:
        return self._socket.fileno()

    def setblocking(self, flag: bool) -> None:  # noqa: FBT001 - gunicorn's call
        """Do nothing: the connection never blocks."""

    def settimeout(self, timeout_s: float | None) -> None:
        """Do nothing: the connection never blocks."""

    def recv(self, most: int) -> bytes:
        return self._socket.recv(most)

    def shutdown(self, how: int) -> None:
        self._socket.shutdown(how)

    def close(self) -> None:
        self._unsent = memoryview(b"")
        self._socket.close()


class RequestSource:
    """The current request of a connection, from which gunicorn's parser reads."""

    def __init__(self, client: ClientConnection) -> None:
        self._client = client

    def recv(self, most: int) -> bytes:
        """Return the next bytes of the request.

        Raises:
            IncompleteRequest: There are none.
        """
        return self._client.arrival.read(most)

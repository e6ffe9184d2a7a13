"""What may stand between Ledger and a PostgreSQL server: a connection pooler."""

import os
import random
import select
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final

import psycopg
from sqlalchemy.engine import URL, make_url

_HOST: Final = "127.0.0.1"
_SSL_REQUEST: Final = 80_877_103
_GSS_REQUEST: Final = 80_877_104
_CANCEL_REQUEST: Final = 80_877_102
# The kind of a message, and its length.
_HEAD_BYTES: Final = 5
# Sent to each client when it connects, as libpq and psycopg rely on them.
_PARAMETERS: Final = ("server_version", "server_encoding", "client_encoding", "integer_datetimes")


class _Listener:
    """A port of this machine that serves each client in a thread."""

    def __init__(self, url: str) -> None:
        self._server = make_url(url)
        self._socket = socket.create_server((_HOST, 0))
        self._sockets: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self) -> str:
        """Return the URL of the same database by way of this port."""
        way = URL.create(
            self._server.drivername,
            self._server.username or "postgres",
            self._server.password,
            _HOST,
            self._socket.getsockname()[1],
            self._server.database,
        )
        return way.render_as_string(hide_password=False)

    def close(self) -> None:
        for each in [self._socket, *self._sockets]:
            # Wakes the thread that waits for it.
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._socket.accept()
                # Otherwise the second of two small answers waits 40 ms for an acknowledgement.
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._sockets.append(client)
                threading.Thread(target=self._serve_quietly, args=(client,), daemon=True).start()

    def _serve_quietly(self, client: socket.socket) -> None:
        with suppress(OSError, EOFError), client:
            self._serve(client)

    def _serve(self, client: socket.socket) -> None:
        raise NotImplementedError


class _Session:
    """A session of the server, whose socket is used once the driver has greeted the server."""

    def __init__(self, url: URL) -> None:
        plain = url.set(drivername="postgresql").update_query_dict({"sslmode": "disable"})
        self.connection: psycopg.Connection[Any] = psycopg.connect(
            plain.render_as_string(hide_password=False), autocommit=True, client_encoding="utf8"
        )
        self.socket = socket.socket(fileno=os.dup(self.connection.pgconn.socket))
        self.socket.setblocking(True)  # noqa: FBT003

    def close(self) -> None:
        with suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()
        self.connection.close()


class Pooler(_Listener):
    """A pooler that gives each transaction one of a few sessions, as PgBouncer does.

    Like PgBouncer in transaction mode, it resets nothing between two transactions.  Unlike it, it
    takes any of its free sessions, so that what was set in a session is lost at once.
    """

    def __init__(self, url: str, *, sessions: int = 6) -> None:
        self._url = make_url(url)
        self._one_is_free = threading.Condition()
        self._is_closed = False
        self._sessions: list[_Session] = []
        self._free = [self._connected() for _ in range(sessions)]
        status = self._free[0].connection.info.parameter_status
        self._parameters = {name: status(name) or "" for name in _PARAMETERS}
        super().__init__(url)

    def _connected(self) -> "_Session":
        session = _Session(self._url)
        self._sessions.append(session)
        return session

    def close(self) -> None:
        self._is_closed = True
        super().close()
        for each in self._sessions:
            each.close()

    @contextmanager
    def _session(self) -> "Iterator[_Session]":
        with self._one_is_free:
            self._one_is_free.wait_for(lambda: self._free)
            session = self._free.pop(random.randrange(len(self._free)))
        try:
            yield session
        except (OSError, EOFError):
            # A client has gone within a transaction: the server rolls it back.
            session.close()
            if not self._is_closed:
                session = self._connected()
            raise
        finally:
            with self._one_is_free:
                self._free.append(session)
                self._one_is_free.notify()

    def _serve(self, client: socket.socket) -> None:
        self._greet(client)
        while True:
            kind, message = _read(client)
            if kind == b"X":
                return
            with self._session() as session:
                self._relay(client, session.socket, kind, message)

    def _greet(self, client: socket.socket) -> None:
        while True:
            (length, code) = struct.unpack("!II", _exactly(client, 8))
            _exactly(client, length - 8)
            if code == _CANCEL_REQUEST:
                raise EOFError
            if code not in {_SSL_REQUEST, _GSS_REQUEST}:
                break
            client.sendall(b"N")
        client.sendall(_message(b"R", struct.pack("!I", 0)))
        for name, value in self._parameters.items():
            client.sendall(_message(b"S", f"{name}\0{value}\0".encode()))
        made_up = struct.pack("!Ii", random.randrange(1 << 24, 1 << 30), 0)
        client.sendall(_message(b"K", made_up) + _message(b"Z", b"I"))

    @staticmethod
    def _relay(client: socket.socket, session: socket.socket, kind: bytes, message: bytes) -> None:
        """Carry messages between both until a transaction has ended."""
        expected = 0
        is_open = False
        answers = _Answers()
        while True:
            session.sendall(message)
            # All that is not followed by Sync belongs to what follows.
            is_open = kind not in {b"Q", b"S"}
            expected += not is_open
            while True:
                ready = select.select([client, session], [], [])[0]
                if session in ready:
                    some = session.recv(65_536)
                    if not some:
                        raise EOFError
                    client.sendall(some)
                    for status in answers.take(some):
                        expected -= 1
                        if status == b"I" and not expected and not is_open:
                            return
                elif client in ready:
                    kind, message = _read(client)
                    if kind == b"X":
                        raise EOFError
                    break


class _Answers:
    """The messages of a server, of which the last one may have come in part.

    A server sends what fills its buffer, and the rest only when the client sends Sync.
    """

    def __init__(self) -> None:
        self._rest = b""

    def take(self, some: bytes) -> list[bytes]:
        """Return the state of the transaction in each ReadyForQuery that is complete now."""
        self._rest += some
        found = []
        while len(self._rest) >= _HEAD_BYTES:
            (length,) = struct.unpack("!I", self._rest[1:_HEAD_BYTES])
            if len(self._rest) < 1 + length:
                break
            message, self._rest = self._rest[: 1 + length], self._rest[1 + length :]
            if message[:1] == b"Z":
                found.append(message[-1:])
        return found


def _read(connection: socket.socket) -> tuple[bytes, bytes]:
    """Return the kind of the next message, and the whole message."""
    head = _exactly(connection, _HEAD_BYTES)
    (length,) = struct.unpack("!I", head[1:])
    return head[:1], head + _exactly(connection, length - 4)


def _exactly(connection: socket.socket, length: int) -> bytes:
    got = b""
    while len(got) < length:
        some = connection.recv(length - len(got))
        if not some:
            raise EOFError
        got += some
    return got


def _message(kind: bytes, body: bytes) -> bytes:
    return kind + struct.pack("!I", len(body) + 4) + body

"""The connections that wait without a thread: which of them are given up for others."""

import selectors
import socket
from collections.abc import Iterator
from typing import Final, NamedTuple

import pytest

from ledger.api.server.client_connection import ClientConnection
from ledger.api.server.connection_loop import ConnectionLoop, LoopLimits
from ledger.api.server.request_arrival import ArrivalLimits

LIMITS: Final = LoopLimits(timeout_s=60, idle_s=60, held_bytes=1_000, unsent_bytes=5_000_000)
HEAD: Final = b"POST /job HTTP/1.1\r\nContent-Length: 900\r\n\r\n"
ANSWER: Final = b"x" * 4_000_000


class Connection(NamedTuple):
    """A connection as gunicorn has it."""

    sock: ClientConnection


class Loop:
    """A loop, with the clients of its connections."""

    def __init__(self) -> None:
        self.poller = selectors.DefaultSelector()
        self.submitted: list[Connection] = []
        self.closed = 0
        self.clients: list[socket.socket] = []
        self.loop = ConnectionLoop(
            self.poller, LIMITS, submit=self.submitted.append, closed=self._note_closed
        )

    def _note_closed(self) -> None:
        self.closed += 1

    def connect(self) -> Connection:
        ours, theirs = socket.socketpair()
        theirs.settimeout(5)
        self.clients.append(theirs)
        limits = ArrivalLimits(line=100, head=400, body=1_000)
        return Connection(sock=ClientConnection(ours, limits, timeout_s=60))

    def answer(self, connection: Connection, answer: bytes = ANSWER) -> None:
        """Answer as a thread does, to a client that does not read."""
        connection.sock.sendall(b"head")
        connection.sock.sendall(answer)
        connection.sock.flush()
        self.loop.resume(connection, keep=True)

    def turn(self) -> None:
        """Do what is to be done, as the main thread does."""
        for key, _ in self.poller.select(0):
            key.data(key.fileobj)

    def close(self) -> None:
        while len(self.poller.get_map()):
            self.loop.make_room()
        for each in self.submitted:
            each.sock.close()
        for client in self.clients:
            client.close()
        self.poller.close()


@pytest.fixture
def loop() -> Iterator[Loop]:
    loop = Loop()
    yield loop
    loop.close()


def is_closed(connection: Connection) -> bool:
    return bool(connection.sock.fileno() == -1)


def test_the_oldest_untaken_answer_is_given_up_for_the_newest(loop: Loop) -> None:
    connections = [loop.connect() for _ in range(3)]
    for connection in connections:
        loop.answer(connection)

    assert [is_closed(each) for each in connections] == [True, True, False]
    assert loop.closed == 2


def test_an_answer_that_is_taken_makes_room(loop: Loop) -> None:
    first, second = loop.connect(), loop.connect()
    loop.answer(first)
    got = 0
    while got < len(ANSWER):
        got += len(loop.clients[0].recv(1_000_000))
        loop.turn()
    loop.answer(second)

    assert not is_closed(first)
    assert not is_closed(second)


def test_an_answer_whose_client_left_makes_room(loop: Loop) -> None:
    first, second, third = loop.connect(), loop.connect(), loop.connect()
    loop.answer(first)
    loop.clients[0].recv(100_000)
    loop.clients[0].close()
    loop.turn()
    for connection in (second, third):
        loop.answer(connection, ANSWER[:1_000_000])

    assert (is_closed(first), is_closed(second), is_closed(third)) == (True, False, False)


def test_the_oldest_unfinished_request_is_given_up_for_the_memory_of_newer_ones(
    loop: Loop,
) -> None:
    connections = [loop.connect() for _ in range(2)]
    for connection, client in zip(connections, loop.clients, strict=True):
        loop.loop.begin(connection)
        client.sendall(HEAD + b"x" * 600)
        loop.turn()

    assert [is_closed(each) for each in connections] == [True, False]
    assert loop.clients[0].recv(1_000).startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
    # The other one is finished.
    loop.clients[1].sendall(b"x" * 300)
    loop.turn()
    assert loop.submitted == connections[1:]


def test_the_connection_that_has_waited_longest_makes_room(loop: Loop) -> None:
    kept, new, half = (loop.connect() for _ in range(3))
    loop.loop.resume(kept, keep=True)
    loop.loop.begin(new)
    loop.loop.begin(half)
    loop.clients[0].sendall(HEAD)
    # It has waited for its next request, and now waits for a part of it.
    loop.turn()
    order = []
    for _ in range(3):
        loop.loop.make_room()
        order.append([is_closed(each) for each in (kept, new, half)])

    assert order == [[False, True, False], [False, True, True], [True, True, True]]

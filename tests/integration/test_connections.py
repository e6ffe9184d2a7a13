"""Connections as the server's threads share them: kept, pipelined, too many, broken."""

import os
import re
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil  # type: ignore[import-untyped]  # comes with the package that brings PostgreSQL
import pytest
from gunicorn.config import Config

from ledger.api.server.client_connection import ClientConnection
from ledger.api.server.gunicorn_worker import STAND_BACK_EVERY_S, _Errors
from ledger.api.server.request_arrival import ArrivalLimits
from tests.integration.servers import DEADLINE_S, HOST, Asker, Server, children, wait_until

REQUEST = b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n"
BODY = b'{"status":"live"}'
LIMITS = ArrivalLimits(8_194, 100_000, 1_000_000)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    url = f"sqlite:///{tmp_path / 'ledger.db'}"
    few = {"LEDGER_SERVER_PROCESSES": "1", "LEDGER_THREADS": "2"}
    with Server(url, tmp_path, variables=few) as server:
        yield server


@pytest.fixture
def ends() -> Iterator[tuple[ClientConnection, socket.socket]]:
    ours, theirs = socket.socketpair()
    one = ClientConnection(ours, LIMITS, timeout_s=DEADLINE_S)
    yield one, theirs
    one.close()
    theirs.close()


def read_answers(connection: socket.socket, number: int) -> bytes:
    connection.settimeout(DEADLINE_S)
    got = b""
    while got.count(BODY) < number:
        some = connection.recv(65536)
        if not some:
            break
        got += some
    return got


def test_more_kept_connections_than_threads_are_all_served(server: Server) -> None:
    clients, each = 8, 50
    statuses: list[int] = []

    def ask() -> None:
        with Asker(server.port) as asker:
            statuses.extend(asker.ask("GET", "/stats").status for _ in range(each))

    threads = [threading.Thread(target=ask) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE_S)

    assert statuses == [200] * clients * each


def test_requests_that_come_in_one_piece_are_answered_in_order(server: Server) -> None:
    with socket.create_connection((HOST, server.port)) as connection:
        connection.sendall(REQUEST + REQUEST + REQUEST.replace(b"live", b"nowhere") + REQUEST)
        answers = read_answers(connection, 3)

    statuses = re.findall(rb"HTTP/1\.1 (\d+)", answers)
    assert statuses == [b"200", b"200", b"404", b"200"]


def test_a_connection_that_is_kept_but_silent_takes_no_thread(server: Server) -> None:
    silent = [socket.create_connection((HOST, server.port)) for _ in range(6)]
    for connection in silent:
        connection.sendall(REQUEST)
        read_answers(connection, 1)
    with Asker(server.port) as asker:
        status = asker.ask("GET", "/stats").status
    for connection in silent:
        connection.close()

    assert status == 200


def test_a_client_that_goes_without_reading_leaves_the_server_well(server: Server) -> None:
    for _ in range(20):
        connection = socket.create_connection((HOST, server.port))
        connection.sendall(REQUEST * 50)
        connection.close()
    with Asker(server.port) as asker:
        status = asker.ask("GET", "/stats").status
    output = server.output

    assert status == 200
    assert "Traceback" not in output


def test_a_head_waits_for_its_body_and_both_go_out_in_one_piece(
    ends: tuple[ClientConnection, socket.socket],
) -> None:
    joined, peer = ends
    joined.sendall(b"head")
    peer.setblocking(False)  # noqa: FBT003
    with pytest.raises(BlockingIOError):
        peer.recv(100)
    joined.sendall(b"body")

    assert peer.recv(100) == b"headbody"


def test_a_head_without_a_body_goes_out_at_the_end_of_the_answer(
    ends: tuple[ClientConnection, socket.socket],
) -> None:
    joined, peer = ends
    joined.sendall(b"head")
    joined.flush()
    first = peer.recv(100)
    joined.sendall(b"next head, ")
    joined.sendall(b"next body")

    assert (first, peer.recv(100)) == (b"head", b"next head, next body")


def test_each_chunk_goes_out_as_it_is_written(
    ends: tuple[ClientConnection, socket.socket],
) -> None:
    joined, peer = ends
    joined.sendall(b"head, ")
    got = []
    for chunk in (b"one", b"two", b"three"):
        joined.sendall(chunk)
        got.append(peer.recv(100))

    assert got == [b"head, one", b"two", b"three"]


def test_a_file_goes_out_behind_its_head(
    ends: tuple[ClientConnection, socket.socket], tmp_path: Path
) -> None:
    joined, peer = ends
    (tmp_path / "file").write_bytes(b"body")
    joined.sendall(b"head")
    with (tmp_path / "file").open("rb") as file:
        joined.sendfile(file)
    joined.close()

    assert b"".join(iter(lambda: peer.recv(100), b"")) == b"headbody"


def test_a_large_answer_is_sent_as_its_client_reads(
    ends: tuple[ClientConnection, socket.socket],
) -> None:
    one, peer = ends
    one.sendall(b"head")
    large = b"x" * 7_000_000
    # Nobody reads, and nothing waits.
    one.sendall(large)
    one.flush()
    unsent = one.unsent_bytes
    got = b""
    while len(got) < len(b"head") + len(large):
        got += peer.recv(65536)
        one.send_more()

    assert 0 < unsent < len(large)
    assert one.unsent_bytes == 0
    assert got == b"head" + large


def test_what_is_kept_of_an_answer_shrinks_as_its_client_reads(
    ends: tuple[ClientConnection, socket.socket],
) -> None:
    one, peer = ends
    one.sendall(b"head")
    one.sendall(b"x" * 7_000_000)
    one.flush()
    first = one.kept_bytes
    while one.unsent_bytes > 1_000_000:
        peer.recv(65536)
        one.send_more()

    assert first == 7_000_000
    assert one.kept_bytes <= 2_000_000


def test_a_body_does_not_wait_for_the_rest_of_its_head(
    ends: tuple[ClientConnection, socket.socket],
) -> None:
    one, peer = ends
    # Nobody reads, and what is not read leaves no room for the whole head.
    head = b"h" * 5_000_000
    body = b"b" * 100_000
    one.sendall(head)
    began_s = time.monotonic()
    one.sendall(body)
    took_s = time.monotonic() - began_s
    one.flush()
    got = b""
    while len(got) < len(head) + len(body):
        got += peer.recv(65536)
        one.send_more()

    assert took_s < DEADLINE_S / 2
    assert got == head + body


def test_an_app_that_streams_waits_for_its_client(
    ends: tuple[ClientConnection, socket.socket],
) -> None:
    one, peer = ends
    chunks = [bytes([number]) * 1_000_000 for number in range(5)]
    one.sendall(b"head")
    got = b""

    def read() -> None:
        nonlocal got
        while len(got) < len(b"head") + 5_000_000:
            got += peer.recv(65536)

    reader = threading.Thread(target=read)
    reader.start()
    for chunk in chunks:
        one.sendall(chunk)
    while one.unsent_bytes:
        one.send_more()
    reader.join(DEADLINE_S)

    assert got == b"head" + b"".join(chunks)


def test_an_app_that_streams_gives_up_on_a_client_that_does_not_read() -> None:
    ours, theirs = socket.socketpair()
    one = ClientConnection(ours, LIMITS, timeout_s=0.1)
    one.sendall(b"head")
    one.sendall(b"x" * 7_000_000)

    with theirs, pytest.raises(BrokenPipeError, match="the client does not read"):
        one.sendall(b"y")
    one.close()


# --- shared out between processes


def held(server: Server) -> dict[int, int]:
    """Return how many connections each of the server's processes has."""
    assert server.process is not None
    return {
        pid: sum(
            one.status == psutil.CONN_ESTABLISHED and one.laddr.port == server.port
            for one in psutil.Process(pid).net_connections()
        )
        for pid in children(server.process.pid)
    }


def connected(server: Server) -> socket.socket:
    connection = socket.create_connection((HOST, server.port))
    connection.sendall(REQUEST)
    read_answers(connection, 1)
    return connection


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Server]:
    url = f"sqlite:///{tmp_path / 'ledger.db'}"
    two = {"LEDGER_SERVER_PROCESSES": "2", "LEDGER_SEARCH": "off"}
    with Server(url, tmp_path, variables=two) as server:
        wait_until(lambda: len(held(server)) == 2, "both processes are there")
        yield server


def test_a_process_with_few_connections_takes_the_next_ones(pair: Server) -> None:
    stopped, busy = sorted(held(pair))
    os.kill(stopped, signal.SIGSTOP)
    try:
        # Nobody waits for long for one that does not answer.
        kept = [connected(pair) for _ in range(12)]
        assert held(pair)[busy] == 12
    finally:
        os.kill(stopped, signal.SIGCONT)

    while held(pair)[stopped] < 8 and len(kept) < 40:
        # Once in that time a process that is ahead stands back.
        time.sleep(STAND_BACK_EVERY_S)
        kept.append(connected(pair))

    # All went to the other, but those for which it was not there in time.
    assert held(pair)[stopped] == 8
    assert held(pair)[busy] < 20
    for connection in kept:
        connection.close()


def test_what_an_application_writes_of_errors_is_in_the_log(
    capfd: pytest.CaptureFixture[str],
) -> None:
    cfg = Config()
    errors = _Errors(cfg)

    errors.write("it broke\n")
    errors.writelines(["twice", "\n"])
    errors.flush()

    assert cfg.errorlog == "-"
    assert capfd.readouterr().err == "it broke\ntwice\n"

"""Clients that send or read slowly, or not at all, cost the others nothing."""

import json
import os
import signal
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from http.client import HTTPResponse
from pathlib import Path
from typing import Final

import psutil  # type: ignore[import-untyped]  # comes with the package that brings PostgreSQL
import pytest

from tests.documents import ROOT
from tests.integration.servers import DEADLINE_S, HOST, Server, children, tool, wait_until

THREADS: Final = 4
SLOW: Final = 300
# Those who do not read have a page of this each; one of more than 8 MiB would be cut.
PAGE_BYTES: Final = 7_500_000
UNREAD: Final = 12
# Others are answered within this time, though each process has four threads and the machine
# runs other tests.
SOON_S: Final = 5.0
CERTIFICATE: Final = Path(__file__).with_name("certificate.pem")

HALF_HEAD: Final = b"GET /stats HTTP/1.1\r\nX-A: b"
POST: Final = b"POST /job HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
HALF_BODY: Final = POST + b'Content-Length: 500\r\n\r\n{"type":'
HALF_CHUNKS: Final = POST + b'Transfer-Encoding: chunked\r\n\r\n80\r\n{"type":'
PAGE: Final = b"GET /jobs/0..99 HTTP/1.1\r\nHost: localhost\r\n\r\n"
HEALTH: Final = b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n"


def variables(timeout_ms: int) -> dict[str, str]:
    return {
        "LEDGER_SERVER_PROCESSES": "1",
        "LEDGER_THREADS": f"{THREADS}",
        "LEDGER_SEARCH": "off",
        "LEDGER_CLIENT_TIMEOUT_MS": f"{timeout_ms}",
    }


@pytest.fixture
def patient(tmp_path: Path) -> Iterator[Server]:
    """Yield a server that waits longer for its clients than any test."""
    url = f"sqlite:///{tmp_path / 'ledger.db'}"
    with Server(url, tmp_path, variables=variables(600_000)) as server:
        yield server


@pytest.fixture
def impatient(tmp_path: Path) -> Iterator[Server]:
    """Yield a server that waits half a second for its clients."""
    url = f"sqlite:///{tmp_path / 'ledger.db'}"
    with Server(url, tmp_path, variables=variables(500)) as server:
        yield server


def connected(server: Server, sent: bytes = b"") -> socket.socket:
    connection = socket.socket()
    # So that a page does not fit into the buffers.
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.settimeout(DEADLINE_S)
    connection.connect((HOST, server.port))
    connection.sendall(sent)
    return connection


def fill_page(server: Server) -> None:
    """Create jobs whose page has PAGE_BYTES."""
    for _ in range(20):
        data = "x" * (PAGE_BYTES // 20)
        assert server.ask("POST", "/job", {"type": "large", "data": data}).status == 200


def worker(server: Server) -> psutil.Process:
    (pid,) = children(server.pid)
    return psutil.Process(pid)


def established(process: psutil.Process) -> int:
    """Return how many connections of clients a process has."""
    return sum(bool(one.raddr) and one.laddr.ip == HOST for one in process.net_connections("tcp4"))


def check_others(server: Server, between: Callable[[], None] = lambda: None) -> None:
    """Require that requests of other clients are answered quickly."""
    for _ in range(10):
        between()
        begun = time.monotonic()
        assert server.ask("GET", "/health/live").status == 200
        server.create()
        assert time.monotonic() - begun < SOON_S


@pytest.mark.parametrize(
    ("number", "sent"),
    [
        (SLOW, b""),
        (SLOW, HALF_HEAD),
        (SLOW, HALF_BODY),
        (SLOW, HALF_CHUNKS),
        (SLOW, HEALTH),
        (UNREAD, PAGE),
        (UNREAD, PAGE * 20),
    ],
    ids=["nothing", "head", "body", "chunks", "unread", "page", "pages"],
)
def test_many_slow_clients_leave_the_others_alone(
    patient: Server, number: int, sent: bytes
) -> None:
    if sent.startswith(PAGE):
        fill_page(patient)
    process = worker(patient)
    check_others(patient)
    before = (process.num_fds(), process.num_threads())
    with ExitStack() as slow:
        for _ in range(number):
            slow.enter_context(connected(patient, sent))
        wait_until(lambda: established(process) >= number, "all are connected")
        check_others(patient)
        threads = process.num_threads()

    wait_until(lambda: established(process) == 0, "the connections are closed")
    # A thread of the pool is started, and opens the database, when it is needed first.
    assert threads <= before[1] + THREADS
    most = before[0] + 3 * THREADS
    wait_until(lambda: process.num_fds() <= most, "their files are closed")
    assert "Traceback" not in patient.output


def test_clients_that_send_a_byte_at_a_time_leave_the_others_alone(patient: Server) -> None:
    request = b'POST /job HTTP/1.1\r\nHost: localhost\r\nContent-Length: 16\r\n\r\n{"type":"email"}'
    request = request.replace(b"Content-L", b"Content-Type: application/json\r\nContent-L")
    with ExitStack() as slow:
        clients = [slow.enter_context(connected(patient)) for _ in range(50)]
        sent = 0

        def send_a_byte() -> None:
            nonlocal sent
            for client in clients:
                client.sendall(request[sent : sent + 1])
            sent += 1

        check_others(patient, send_a_byte)
        while sent < len(request):
            send_a_byte()
        statuses = {answer_of(client).status for client in clients}

    assert statuses == {200}


def answer_of(connection: socket.socket) -> HTTPResponse:
    answer = HTTPResponse(connection)
    answer.begin()
    return answer


# --- the time they have


@pytest.mark.parametrize(
    "sent", [HALF_HEAD, HALF_BODY, HALF_CHUNKS], ids=["head", "body", "chunks"]
)
def test_a_request_that_does_not_come_in_time_is_answered_with_408(
    impatient: Server, sent: bytes
) -> None:
    with connected(impatient, sent) as connection:
        answer = answer_of(connection)
        body = json.loads(answer.read())
        end = connection.recv(1)

    assert (answer.status, answer.getheader("Connection"), end) == (408, "close", b"")
    assert body["error"].startswith("the request has not come in time; ")
    assert impatient.ask("GET", "/jobs/0..-1").json == []


def test_a_connection_without_a_request_is_closed_without_an_answer(impatient: Server) -> None:
    with connected(impatient) as connection:
        assert connection.recv(1) == b""


def test_a_client_that_does_not_read_loses_its_connection(impatient: Server) -> None:
    fill_page(impatient)
    process = worker(impatient)
    with connected(impatient, PAGE) as connection:
        wait_until(lambda: established(process) == 1, "it is connected")
        wait_until(lambda: established(process) == 0, "it is given up")
        got = 0
        while some := connection.recv(1_000_000):
            got += len(some)

    assert 0 < got < PAGE_BYTES


def test_a_client_that_reads_slowly_but_steadily_gets_its_answer(impatient: Server) -> None:
    fill_page(impatient)
    begun = time.monotonic()
    with connected(impatient, PAGE) as connection:
        answer = answer_of(connection)
        got = 0
        while some := answer.read(500_000):
            got += len(some)
            time.sleep(0.1)
        took_s = time.monotonic() - begun

    assert got > PAGE_BYTES
    # That is longer than a client may make no progress.
    assert took_s > 1


def test_a_server_that_stops_does_not_wait_for_slow_clients(patient: Server) -> None:
    fill_page(patient)
    process = worker(patient)
    with ExitStack() as slow:
        for sent in (b"", HALF_HEAD, HALF_BODY, PAGE):
            slow.enter_context(connected(patient, sent))
        wait_until(lambda: established(process) == 4, "all are connected")
        begun = time.monotonic()
        os.kill(patient.pid, signal.SIGTERM)
        code = patient.ended()
        took_s = time.monotonic() - begun

    assert code == 0
    assert took_s < 2 * SOON_S


# --- the room they have


def test_the_connection_that_has_waited_longest_makes_room_for_another(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'ledger.db'}"
    # That is 84 connections: see run._most_connections.
    few = ("sh", "-c", 'ulimit -n 200; exec "$@"', "sh", tool("ledger"), "serve")
    with (
        Server(url, tmp_path, command=few, variables=variables(600_000)) as server,
        ExitStack() as slow,
    ):
        clients = [slow.enter_context(connected(server, HALF_HEAD)) for _ in range(200)]
        check_others(server)
        first = answer_of(clients[0])
        body = json.loads(first.read())

        assert (first.status, first.getheader("Retry-After")) == (503, "1")
        assert body == {"error": "the server has too many unfinished requests; try again"}


def test_unfinished_requests_take_no_more_memory_than_they_may(patient: Server) -> None:
    process = worker(patient)
    before = process.memory_info().rss
    large = POST + b"Content-Length: 1000000\r\n\r\n" + b" " * 999_000
    with ExitStack() as slow, ThreadPoolExecutor() as pool:
        clients = [slow.enter_context(connected(patient)) for _ in range(120)]
        sends = [pool.submit(client.sendall, large) for client in clients]
        check_others(patient)
        for send in sends:
            # Those that were given up while they sent.
            send.exception(DEADLINE_S)
        check_others(patient)
        taken = process.memory_info().rss - before

    assert taken < 110 * 1024 * 1024


# --- all that is still served


def test_a_client_that_asks_before_it_sends_its_body_is_told_to_once(patient: Server) -> None:
    with connected(patient, POST + b"Content-Length: 16\r\nExpect: 100-continue\r\n\r\n") as one:
        told = one.recv(100)
        one.sendall(b'{"type":"email"}' + HEALTH)
        got = b""
        while b'"live"' not in got:
            got += one.recv(65536)

    assert told == b"HTTP/1.1 100 Continue\r\n\r\n"
    assert got.startswith(b"HTTP/1.1 200 OK\r\n")
    assert (got.count(b"HTTP/1.1 200"), got.count(b"100 Continue")) == (2, 0)


def test_a_client_is_told_to_send_its_body_behind_another_request_too(patient: Server) -> None:
    head = POST + b"Content-Length: 16\r\nExpect: 100-continue\r\n\r\n"
    with connected(patient, HEALTH + head) as one:
        got = b""
        while not got.endswith(b"100 Continue\r\n\r\n"):
            got += one.recv(65536)
        one.sendall(b'{"type":"email"}')
        created = one.recv(65536)

    assert got.startswith(b"HTTP/1.1 200 OK\r\n")
    assert created.startswith(b"HTTP/1.1 200 OK\r\n")


def test_what_comes_after_the_last_request_does_not_cut_its_answer(patient: Server) -> None:
    fill_page(patient)
    last = PAGE.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    with connected(patient, last) as one:
        answer = answer_of(one)
        one.sendall(HEALTH)
        # The server has sent all that the buffers take by then, and closes.
        time.sleep(0.3)
        one.sendall(HEALTH)
        page = answer.read()

    assert len(page) > PAGE_BYTES


def test_a_body_in_the_shortest_chunks_is_taken(patient: Server) -> None:
    body = b'{"type":"email","data":"' + b"x" * 100_000 + b'"}'
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in body) + b"0\r\n\r\n"
    with connected(patient, POST + b"Transfer-Encoding: chunked\r\n\r\n") as one:
        one.sendall(chunks)
        answer = answer_of(one)
        answer.read()

    assert answer.status == 200


def test_a_body_that_is_too_large_is_refused_before_it_is_sent(patient: Server) -> None:
    head = POST + b"Content-Length: 99000000\r\nExpect: 100-continue\r\n\r\n"
    with connected(patient, head) as connection:
        answer = answer_of(connection)
        answer.read()
        end = connection.recv(1)

    assert (answer.status, answer.getheader("Connection"), end) == (413, "close", b"")


def test_a_client_that_sends_a_body_that_is_too_large_reads_why_it_is_refused(
    patient: Server,
) -> None:
    with connected(patient, POST + b"Content-Length: 99000000\r\n\r\n" + b"x" * 50_000) as one:
        one.sendall(b"x" * 10_000)
        answer = answer_of(one)
        answer.read()

    assert answer.status == 413


def test_clients_of_a_server_with_tls_may_be_slow_too(tmp_path: Path) -> None:
    command = (
        *(tool("gunicorn"), "--no-control-socket", "--pythonpath", str(ROOT)),
        *("--workers", "1", "--threads", f"{THREADS}", "--certfile", str(CERTIFICATE)),
        *("-k", "ledger.api.server.gunicorn_worker.LingeringWorker", "ledger.api.wsgi:app"),
    )
    url = f"sqlite:///{tmp_path / 'ledger.db'}"
    trusting = ssl.create_default_context(cafile=str(CERTIFICATE))
    server = Server(url, tmp_path, command=command, variables=variables(600_000), wait=False)

    def secure() -> ssl.SSLSocket:
        return trusting.wrap_socket(connected(server), server_hostname="localhost")

    def ask(request: bytes) -> tuple[int, bytes]:
        with secure() as connection:
            connection.sendall(request)
            answer = answer_of(connection)
            return answer.status, answer.read()

    def listens() -> bool:
        with socket.socket() as connection:
            return connection.connect_ex((HOST, server.port)) == 0

    with server, ExitStack() as slow:
        wait_until(listens, "it listens")
        body = b'{"type":"large","data":"' + b"x" * 1_000_000 + b'"}'
        large = POST + f"Content-Length: {len(body)}\r\n\r\n".encode() + body
        assert [ask(large)[0] for _ in range(7)] == [200] * 7
        for _ in range(20):
            slow.enter_context(connected(server))
            # The first bytes of a handshake.
            slow.enter_context(connected(server, b"\x16\x03\x01"))
            slow.enter_context(secure()).sendall(HALF_HEAD)
            slow.enter_context(secure()).sendall(HALF_BODY)
        for _ in range(6):
            slow.enter_context(secure()).sendall(PAGE)
        begun = time.monotonic()
        page = ask(PAGE)
        with secure() as kept:
            kept.sendall(HEALTH * 3)
            statuses = []
            for _ in range(3):
                answer = answer_of(kept)
                answer.read()
                statuses.append(answer.status)
        took_s = time.monotonic() - begun

    assert (page[0], len(page[1]) > 7_000_000, statuses) == (200, True, [200] * 3)
    assert took_s < 2 * SOON_S
    assert "Traceback" not in server.output

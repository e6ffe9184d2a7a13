"""gunicorn's worker class of Ledger: what it needs, what serves without, what it passes on."""

import http.client
import json
import os
import re
import signal
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Final

import pytest

from ledger.api.server.gunicorn_needs import NEEDS, Need, unmet_needs
from ledger.api.server.gunicorn_worker import LingeringWorker, StoppableWorker
from tests.documents import ROOT
from tests.integration.misfit import MisfitWorker
from tests.integration.servers import DEADLINE_S, HOST, Asker, Server, children, tool, wait_until
from tests.integration.streams import CHUNKS

POSTED_IN_CHUNKS: Final = (
    b"POST /job HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n"
)
HEALTH: Final = b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n"
GUNICORN: Final = (
    *(tool("gunicorn"), "--no-control-socket", "--pythonpath", str(ROOT)),
    *("--workers", "1", "--threads", "4", "--keep-alive", "30"),
)


def name(worker: type[StoppableWorker]) -> str:
    return f"{worker.__module__}.{worker.__qualname__}"


# --- what is needed


def test_the_installed_gunicorn_has_all_that_is_used_of_it() -> None:
    assert unmet_needs() == ()


@pytest.mark.parametrize(
    "need",
    [
        Need("worker.brews_coffee"),
        Need("connection.parser.unreader.leftovers"),
        Need("worker.accept", 2),
        Need("worker.nr_conns", 0),
    ],
    ids=["no attribute", "none further on", "other arguments", "not to be called"],
)
def test_what_is_missing_is_named(need: Need) -> None:
    assert unmet_needs((*NEEDS, need)) == (need.path,)


# --- without it


@pytest.fixture
def misfit(tmp_path: Path) -> Iterator[Server]:
    url = f"sqlite:///{tmp_path / 'ledger.db'}"
    command = (*GUNICORN, "--worker-class", name(MisfitWorker), "ledger.api.wsgi:app")
    with Server(url, tmp_path, command=command, variables={"LEDGER_THREADS": "4"}) as server:
        yield server


def test_a_gunicorn_that_does_not_fit_is_warned_of_once(misfit: Server) -> None:
    (warning,) = [line for line in misfit.output.splitlines() if "[WARNING]" in line]

    assert re.search(
        r"gunicorn \d\S* lacks functions that Ledger's worker class uses \(worker\.brews_coffee\): "
        r"gunicorn's gthread runs instead, and takes longer for each request; install a "
        r"version that Ledger supports, gunicorn\S+$",
        warning,
    )


def test_a_gunicorn_that_does_not_fit_answers_on_a_kept_connection(misfit: Server) -> None:
    with Asker(misfit.port) as asker:
        created = [asker.ask("POST", "/job", {"type": "email"}).json["id"] for _ in range(3)]
        ours = asker.connection.sock
        stats = asker.ask("GET", "/stats")
        kept = asker.connection.sock is ours

    sent = parsedate_to_datetime(stats.headers["date"]).timestamp()
    assert created == [1, 2, 3]
    assert stats.json["inactiveCount"] == 3
    assert (stats.headers["connection"], kept) == ("keep-alive", True)
    assert abs(sent - time.time()) < DEADLINE_S  # noqa: TID251 - a Date


def test_a_gunicorn_that_does_not_fit_answers_long_polls(misfit: Server) -> None:
    claim = {"types": ["email"], "worker": "w", "wait": 60}
    with ThreadPoolExecutor() as pool:
        claimed = pool.submit(misfit.ask, "POST", "/jobs/claim", claim)
        created = misfit.create()
        jobs = claimed.result(DEADLINE_S).json

    assert [job["id"] for job in jobs] == [str(created)]


def test_a_gunicorn_that_does_not_fit_ends_though_a_long_poll_waits(misfit: Server) -> None:
    claim = {"types": ["email"], "worker": "w", "wait": 60}
    with ThreadPoolExecutor() as pool:
        begun = time.monotonic()
        claimed = pool.submit(misfit.ask, "POST", "/jobs/claim", claim)
        wait_until(lambda: misfit.ask("GET", "/workers").json != [], "the claim waits")
        os.kill(misfit.pid, signal.SIGTERM)
        answer = claimed.result(DEADLINE_S)
        code = misfit.ended()
        took_s = time.monotonic() - begun

    assert (answer.status, answer.json, code) == (200, [], 0)
    # gunicorn would wait for half a minute.
    assert took_s < 25


# --- streams


@pytest.fixture(params=[LingeringWorker, MisfitWorker], ids=["ours", "gthread"])
def streaming(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Server]:
    command = (*GUNICORN, "--worker-class", name(request.param), "tests.integration.streams:app")
    with Server("", tmp_path, command=command) as server:
        wait_until(lambda: len(children(server.pid)) == 1, "the worker runs")
        yield server


def ask_next(server: Server) -> None:
    with Asker(server.port) as asker:
        assert asker.ask("GET", "/next").status == 200


def read_up_to(connection: socket.socket, end: bytes) -> bytes:
    got = b""
    while not got.endswith(end):
        some = connection.recv(65_536)
        assert some, got
        got += some
    return got


def test_a_stream_is_passed_on_chunk_by_chunk(streaming: Server) -> None:
    with socket.create_connection((HOST, streaming.port), DEADLINE_S) as connection:
        connection.sendall(b"GET /stream HTTP/1.1\r\nHost: localhost\r\n\r\n")
        first = read_up_to(connection, b"\r\n\r\n3\r\none\r\n")
        ask_next(streaming)
        second = read_up_to(connection, b"two\r\n")
        ask_next(streaming)
        third = read_up_to(connection, b"0\r\n\r\n")

    assert b"Transfer-Encoding: chunked" in first
    assert (second, third) == (b"3\r\ntwo\r\n", b"5\r\nthree\r\n0\r\n\r\n")


def test_a_stream_of_known_length_is_passed_on_chunk_by_chunk(streaming: Server) -> None:
    got = []
    with socket.create_connection((HOST, streaming.port), DEADLINE_S) as connection:
        connection.sendall(b"GET /known HTTP/1.0\r\nHost: localhost\r\n\r\n")
        got.append(read_up_to(connection, CHUNKS[0]))
        for chunk in CHUNKS[1:]:
            ask_next(streaming)
            got.append(read_up_to(connection, chunk))

    assert b"Content-Length: 11" in got[0]
    assert got[1:] == [*CHUNKS[1:]]


# --- what is no request


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("serving")
    with Server(f"sqlite:///{folder / 'ledger.db'}", folder) as server:
        yield server


@pytest.mark.parametrize(
    ("sent", "status", "error"),
    [
        (b"nonsense\r\n\r\n", 400, "the request is not valid HTTP: Invalid Request Line "),
        (b"GET / HTTP/9.9\r\n\r\n", 400, "the request is not valid HTTP: Invalid HTTP Version "),
        (b"GET / HTTP/1.1\r\nA B: c\r\n\r\n", 400, "the request is not valid HTTP: "),
        (b"GET /\x1b[31m HTTP/1.1\r\n \x9b: c\r\n\r\n", 400, "the request is not valid HTTP: "),
        (
            b"GET /" + b"a" * 8_200 + b" HTTP/1.1\r\n\r\n",
            414,
            ("the request line is too long: ", "the request is not valid HTTP: Request Line is"),
        ),
        (
            b"GET / HTTP/1.1\r\nA: " + b"b" * 9_000 + b"\r\n\r\n",
            431,
            "the request has too many headers, or too long ones: ",
        ),
        (
            b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 200 + b"\r\n",
            431,
            "the request has too many headers, or too long ones: ",
        ),
        (
            b"POST /job HTTP/1.1\r\nTransfer-Encoding: nonsense\r\n\r\n",
            501,
            "",
        ),
    ],
    ids=["nonsense", "version", "header", "controls", "line", "long", "many", "encoding"],
)
def test_what_is_no_request_is_answered_in_json(
    serving: Server, sent: bytes, status: int, error: str | tuple[str, ...]
) -> None:
    with socket.create_connection((HOST, serving.port), DEADLINE_S) as connection:
        connection.sendall(sent)
        answer = http.client.HTTPResponse(connection)
        answer.begin()
        body = answer.read()

    # gunicorn before 27 answers 400 to a request line that is too long.
    assert answer.status in ({400, 414} if status == 414 else {status})
    assert answer.getheader("Content-Type") == "application/json; charset=utf-8"
    assert list(json.loads(body)) == ["error"]
    assert json.loads(body)["error"].startswith(error)
    assert not {*body} & {0x1B, 0x9B}
    assert serving.ask("GET", "/stats").status == 200


@pytest.mark.parametrize(
    "chunks",
    [b"zz\r\n", b"3\r\nabcdef\r\n", b"2\r\n{}\r\n0\r\nno trailer\r\n\r\n"],
    ids=["size", "end", "trailer"],
)
def test_a_body_in_invalid_chunks_is_an_error_of_the_client(serving: Server, chunks: bytes) -> None:
    with socket.create_connection((HOST, serving.port), DEADLINE_S) as connection:
        # The second request might be a part of the body for whoever has passed it on.
        connection.sendall(POSTED_IN_CHUNKS + chunks + HEALTH)
        answer = http.client.HTTPResponse(connection)
        answer.begin()
        body = answer.read()
        after = connection.recv(100)

    assert (answer.status, after) == (400, b"")
    assert json.loads(body)["error"].startswith("body: cannot be read: ")


def test_a_body_whose_client_leaves_creates_nothing_and_is_no_fault_of_ours(
    serving: Server,
) -> None:
    with socket.create_connection((HOST, serving.port), DEADLINE_S) as connection:
        connection.sendall(POSTED_IN_CHUNKS + b'D\r\n{"type": "a"}')
        connection.shutdown(socket.SHUT_WR)
        answer = http.client.HTTPResponse(connection)
        answer.begin()

    assert answer.status == 400
    assert serving.ask("GET", "/jobs/0..-1").json == []

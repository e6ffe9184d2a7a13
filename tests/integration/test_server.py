"""The server as its operator knows it: starting, stopping, sharing a database, failing well."""

import os
import shutil
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import closing, contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Final

import pytest
from click.testing import CliRunner
from sqlalchemy import create_engine, text

from ledger import migrations
from ledger.cli import main
from ledger.database.migration import migrate
from ledger.database.revision import REVISIONS
from ledger.log import store
from ledger.processes.composition import System
from ledger.rules.commands import Create
from tests.builders import carry_out, open_sqlite, open_system, rows, verified
from tests.integration.servers import (
    DEADLINE_S,
    HOST,
    Asker,
    Server,
    ask,
    children,
    free_port,
    is_running,
    surroundings,
    tool,
    wait_until,
)

GUNICORN: Final = (tool("gunicorn"), "ledger.api.wsgi:app", "--no-control-socket")
NO_DATABASE: Final = 3


def served(url: str, folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """Return what a server that cannot start says."""
    return subprocess.run(
        [tool("ledger"), "serve", *arguments],
        env=surroundings(folder, LEDGER_DATABASE_URL=url),
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=DEADLINE_S,
    )


def job_ids(system: System) -> list[int]:
    return [row["id"] for row in rows(system, "SELECT id FROM ledger_jobs ORDER BY id")]


# --- starting


def test_serving_a_new_file_creates_the_ledger(tmp_path: Path) -> None:
    path = tmp_path / "new.db"

    with Server(f"sqlite:///{path}", tmp_path) as server:
        created = server.create()
        output = server.output

    assert created == 1
    assert path.exists()
    assert f"Serving sqlite:///{path} on {HOST}:{server.port}" in output


def test_the_default_is_a_file_in_the_working_directory_and_serving_goes_on_there(
    tmp_path: Path,
) -> None:
    server = Server("unused", tmp_path)
    del server.environment["LEDGER_DATABASE_URL"]

    with server:
        created = server.create(priority="high")
        before = server.ask("GET", "/job/1").json
    with server:
        after = server.ask("GET", "/job/1").json

    assert created == 1
    assert after == before
    assert (tmp_path / "ledger.db").exists()


def test_several_servers_may_start_on_one_new_file_at_once(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'new.db'}"
    servers = [Server(url, tmp_path) for _ in range(3)]
    for server in servers:
        server.start()
    try:
        for server in servers:
            server.wait_ready()
        created = sorted(server.create() for server in servers)
    finally:
        for server in servers:
            server.kill()

    assert created == [1, 2, 3]


def test_a_database_of_an_unknown_revision_is_not_served(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'foreign.db'}"
    engine = create_engine(url)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE ledger_alembic_version (version_num VARCHAR(32))"))
        connection.execute(text("INSERT INTO ledger_alembic_version VALUES ('9999')"))
    engine.dispose()

    end = served(url, tmp_path)

    assert (end.returncode, end.stdout) == (NO_DATABASE, "")
    assert end.stderr == (
        f"Error: {url} has the tables of revision 9999, which this version does not know: "
        "it was migrated by a newer Ledger; upgrade this one\n"
    )


def test_a_database_of_an_older_revision_is_served_after_ledger_migrate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"sqlite:///{tmp_path / 'older.db'}"
    system = open_system(url)
    before, current = migrate(system.database)
    system.close()
    a_version_later(tmp_path, str(current), monkeypatch)

    refused = CliRunner().invoke(main, ["--database", url, "serve"])
    migrated = CliRunner().invoke(main, ["--database", url, "migrate"])
    accepted = CliRunner().invoke(main, ["--database", url, "status"])

    assert before is None
    assert (refused.exit_code, refused.stdout) == (NO_DATABASE, "")
    assert refused.stderr == (
        f"Error: {url} has the tables of revision {current}, this version needs later; "
        "run `ledger migrate`\n"
    )
    assert migrated.stdout == f"{url}: upgraded from revision {current} to later\n"
    assert accepted.exit_code == 0


def a_version_later(folder: Path, current: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let this be a version whose tables are one revision ahead."""
    package = folder / "later_migrations"
    shutil.copytree(Path(migrations.__file__).parent, package)
    (package / "versions" / "9999_later.py").write_text(
        f"revision = 'later'\ndown_revision = {current!r}\n\ndef upgrade() -> None: pass\n"
    )
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setattr("ledger.database.migration._PACKAGE", package.name)
    monkeypatch.setattr("ledger.database.revision.REVISIONS", (*REVISIONS, "later"))


def test_an_empty_postgresql_database_is_served_after_ledger_migrate(
    postgres_url: str, tmp_path: Path
) -> None:
    end = served(postgres_url, tmp_path)

    assert (end.returncode, end.stdout) == (NO_DATABASE, "")
    assert "has no ledger yet; create it with `ledger migrate`" in end.stderr


@pytest.mark.parametrize("text", ["hello, this is not a database", "x" * 8192])
def test_a_file_that_is_no_database_is_not_served(tmp_path: Path, text: str) -> None:
    path = tmp_path / "notes.txt"
    path.write_text(text)

    end = served(f"sqlite:///{path}", tmp_path)

    assert (end.returncode, end.stdout) == (NO_DATABASE, "")
    assert end.stderr.startswith("Error: ")
    assert "file is not a database" in end.stderr
    assert "Traceback" not in end.stderr
    assert path.read_text() == text


def test_a_folder_that_is_not_there_is_said_to_be_missing(tmp_path: Path) -> None:
    end = served(f"sqlite:///{tmp_path / 'nowhere' / 'ledger.db'}", tmp_path)

    assert (end.returncode, end.stdout) == (NO_DATABASE, "")
    assert end.stderr.startswith("Error: ")
    assert "Traceback" not in end.stderr


def test_a_port_in_use_is_said_to_be_so(tmp_path: Path) -> None:
    with socket.create_server((HOST, free_port())) as taken:
        port = taken.getsockname()[1]
        end = served(f"sqlite:///{tmp_path / 'ledger.db'}", tmp_path, "--bind", f"{HOST}:{port}")

    assert end.returncode == 1
    assert f"{HOST}:{port} is in use; stop the process that listens on it" in end.stderr
    assert "Traceback" not in end.stderr


def test_all_bad_settings_are_named_together(tmp_path: Path) -> None:
    end = subprocess.run(
        [tool("ledger"), "serve", "--bind", "nowhere"],
        env=surroundings(tmp_path, LEDGER_SERVER_PROCESSES="many", LEDGER_SWEEP="perhaps"),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )

    assert (end.returncode, end.stdout) == (2, "")
    assert end.stderr == (
        "Error: --bind: expected HOST:PORT or unix:PATH, got 'nowhere'\n"
        "LEDGER_SERVER_PROCESSES: expected an integer from 1 to 1000, got 'many'\n"
        "LEDGER_SWEEP: expected on or off, got 'perhaps'\n"
    )


@pytest.mark.parametrize(
    ("flags", "variables", "workers"),
    [
        (("--processes", "3"), {"LEDGER_SERVER_PROCESSES": "1"}, 3),
        ((), {"LEDGER_SERVER_PROCESSES": "1"}, 1),
        ((), {"LEDGER_WORKERS": "1"}, 1),
        (("--workers", "3"), {}, 3),
    ],
)
def test_flags_win_over_the_environment(
    tmp_path: Path, flags: tuple[str, ...], variables: dict[str, str], workers: int
) -> None:
    url = f"sqlite:///{tmp_path / 'ledger.db'}"

    with Server(
        url, tmp_path, command=(tool("ledger"), "serve", *flags), variables=variables
    ) as server:
        wait_until(lambda: len(children(server.pid)) == workers, f"there are {workers} workers")


# --- stopping


@contextmanager
def request_under_way(port: int, data: bytes) -> Iterator[socket.socket]:
    """Yield the connection of a POST whose body the server waits for."""
    with socket.create_connection((HOST, port), timeout=DEADLINE_S) as connection:
        head = (
            f"POST /job HTTP/1.1\r\nHost: {HOST}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(data)}\r\nExpect: 100-continue\r\n\r\n"
        )
        connection.sendall(head.encode())
        assert connection.recv(100).startswith(b"HTTP/1.1 100 ")
        yield connection


def read_all(connection: socket.socket) -> bytes:
    """Return what comes until the other side ends."""
    return b"".join(iter(lambda: connection.recv(65_536), b""))


def test_a_stopped_server_answers_what_it_has_begun_and_ends_well(tmp_path: Path) -> None:
    data = b'{"type": "email"}'
    url = f"sqlite:///{tmp_path / 'ledger.db'}"
    with Server(url, tmp_path) as server, request_under_way(server.port, data) as connection:
        os.kill(server.pid, signal.SIGTERM)
        wait_until(lambda: len(children(server.pid)) == 1, "the process without work has ended")
        connection.sendall(data)
        answer = read_all(connection)
        code = server.ended()
        output = server.output
    system = open_system(url)
    kept = job_ids(system)
    report = verified(system)
    system.close()

    assert answer.startswith(b"HTTP/1.1 200 OK")
    assert answer.endswith(b'{"message":"job 1 created","id":1}')
    assert code == 0
    assert kept == [1]
    assert report.differences == []
    assert "Traceback" not in output


def test_a_closed_terminal_replaces_the_processes_of_a_server_and_loses_no_request(
    tmp_path: Path,
) -> None:
    data = b'{"type": "email"}'
    url = f"sqlite:///{tmp_path / 'ledger.db'}"
    with Server(url, tmp_path) as server, request_under_way(server.port, data) as connection:
        before = set(children(server.pid))
        # A terminal sends it to the whole group.
        os.killpg(server.pid, signal.SIGHUP)
        wait_until(lambda: len(set(children(server.pid)) & before) == 1, "the others have ended")
        connection.sendall(data)
        answer = read_all(connection)
        wait_until(lambda: not set(children(server.pid)) & before, "all have been replaced")
        created = server.create()
        os.kill(server.pid, signal.SIGTERM)
        code = server.ended()

    assert answer.endswith(b'{"message":"job 1 created","id":1}')
    assert (created, code) == (2, 0)


def test_ctrl_c_ends_a_server_and_all_of_its_processes(tmp_path: Path) -> None:
    with Server(f"sqlite:///{tmp_path / 'ledger.db'}", tmp_path) as server:
        server.create()
        workers = children(server.pid)
        # A terminal sends it to the whole group.
        os.killpg(server.pid, signal.SIGINT)
        code = server.ended()
        wait_until(lambda: not any(map(is_running, workers)), "its processes have ended")
        output = server.output

    assert code == 0
    assert "Traceback" not in output


# --- connections


def test_a_connection_is_kept_from_request_to_request(tmp_path: Path) -> None:
    with (
        Server(f"sqlite:///{tmp_path / 'ledger.db'}", tmp_path) as server,
        Asker(server.port) as asker,
    ):
        statuses = []
        sockets = set()
        for method, path, body in (
            ("POST", "/job", {"type": "email"}),
            ("GET", "/job/1", None),
            ("GET", "/no/such/route", None),
            ("POST", "/job", {"type": ""}),
            ("PUT", "/job/1/state/complete", None),
            ("DELETE", "/job/1", None),
            ("GET", "/stats", None),
        ):
            statuses.append(asker.ask(method, path, body).status)
            sockets.add(asker.connection.sock.getsockname())

    assert statuses == [200, 200, 404, 400, 200, 200, 200]
    assert len(sockets) == 1


# --- names


def answered(port: int, host: str) -> int:
    """Return the status of an answer to a client that asks for *host*."""
    connection = HTTPConnection(HOST, port, timeout=DEADLINE_S)
    with closing(connection):
        connection.request("GET", "/stats", headers={"Host": host})
        return connection.getresponse().status


def test_a_server_answers_to_names_of_this_machine_and_to_those_in_the_settings(
    tmp_path: Path,
) -> None:
    variables = {"LEDGER_HOSTS": "Ledger.Example.org"}
    with Server(f"sqlite:///{tmp_path / 'l.db'}", tmp_path, variables=variables) as server:
        statuses = {
            host: answered(server.port, host)
            for host in (
                "localhost",
                f"{HOST}:{server.port}",
                "ledger.example.org:80",
                "evil.example.org",
                "10.0.0.7",
            )
        }
        output = server.output

    assert list(statuses.values()) == [200, 200, 200, 421, 421]
    # The server's first line; anybody can send what it refuses, so that is not logged.
    assert len(output.splitlines()) == 1


def test_no_odd_request_gets_past_the_check_of_names_and_pages(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'ledger.db'}"
    with Server(url, tmp_path) as server:
        server.create()
        server.ask("PUT", "/job/1/state/complete")
        requests = (TWO_NAMES, *ODD_REQUESTS)
        statuses = {request: status_of(server.port, request) for request in requests}
        kinds = [event["kind"] for event in server.ask("GET", "/job/1/events").json]

    # From version 26 on, gunicorn refuses two names itself.
    assert statuses.pop(TWO_NAMES) in {400, 421}
    assert statuses == ODD_REQUESTS
    assert kinds == ["created", "moved"]


TWO_NAMES: Final = ("GET /stats HTTP/1.1", "Host: localhost", "Host: evil.test")
# By the first line and the headers of each request, the status of its answer.
ODD_REQUESTS: Final = {
    ("GET /stats HTTP/1.0",): 200,
    ("GET /stats HTTP/1.0", "Host: evil.test"): 421,
    ("GET /stats HTTP/1.1", "Host:"): 421,
    ("GET /stats HTTP/1.1", "Host: evil.test", "X-Forwarded-Host: localhost"): 421,
    ("GET /stats HTTP/1.1", "Host: evil.test", "Forwarded: host=localhost"): 421,
    ("GET http://localhost/stats HTTP/1.1", "Host: localhost"): 200,
    ("GET http://evil.test/stats HTTP/1.1", "Host: localhost"): 421,
    ("GET http://localhost/stats HTTP/1.1", "Host: evil.test"): 421,
    ("OPTIONS * HTTP/1.1", "Host: evil.test"): 421,
    ("CONNECT evil.test:80 HTTP/1.1", "Host: localhost"): 421,
    ("GET x://localhost/Inactive/1/ HTTP/1.1", "Host: localhost", "Origin: http://evil.test"): 403,
    (
        "GET /inactive/1 HTTP/1.1",
        "Host: localhost",
        "Sec-Fetch-Site: same-origin",
        "Sec-Fetch-Site: cross-site",
    ): 403,
    (
        "POST /inactive/1 HTTP/1.1",
        "Host: localhost",
        "Sec_Fetch_Site: same-origin",
        "Origin: http://evil.test",
    ): 403,
    (
        "POST /inactive/1 HTTP/1.1",
        "Host: localhost",
        "X-HTTP-Method-Override: GET",
        "Origin: http://evil.test",
    ): 403,
    (
        "HEAD /inactive/1 HTTP/1.1",
        "Host: localhost",
        "X-HTTP-Method-Override: GET",
        "Origin: http://evil.test",
    ): 200,
}


def status_of(port: int, request: tuple[str, ...]) -> int:
    """Return the status of the answer to a request that no library would send."""
    with socket.create_connection((HOST, port), timeout=DEADLINE_S) as connection:
        connection.sendall("\r\n".join((*request, "Connection: close", "", "")).encode())
        return int(read_all(connection).split()[1])


def test_a_server_on_all_addresses_answers_to_each_and_says_that_names_have_to_be_listed(
    tmp_path: Path,
) -> None:
    with Server(f"sqlite:///{tmp_path / 'l.db'}", tmp_path, host="0.0.0.0") as server:
        statuses = [answered(server.port, host) for host in ("10.0.0.7:80", "evil.example.org")]
        output = server.output

    assert statuses == [200, 421]
    assert (
        "The server accepts requests for localhost and IP addresses; it answers 421 for other "
        "names until LEDGER_HOSTS lists them.\n"
    ) in output


@pytest.mark.parametrize(
    ("variables", "statuses"),
    [({}, [200, 421]), ({"LEDGER_HOSTS": "0.0.0.0"}, [200, 200])],
    ids=["by default", "of all addresses"],
)
def test_ones_own_gunicorn_answers_to_the_names_in_the_settings(
    tmp_path: Path, variables: dict[str, str], statuses: list[int]
) -> None:
    url = f"sqlite:///{tmp_path / 'ledger.db'}"

    with Server(url, tmp_path, command=GUNICORN, variables=variables) as server:
        assert [answered(server.port, host) for host in ("localhost", "10.0.0.7")] == statuses


# --- gunicorn


@pytest.mark.parametrize("arguments", [(), ("--preload",)], ids=["plain", "preload"])
def test_gunicorn_serves_and_each_of_its_workers_reads_and_writes(
    system: System, database_url: str, tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    command = (*GUNICORN, "--workers", "3", "--threads", "4", *arguments)
    with Server(database_url, tmp_path, command=command) as server:
        wait_until(lambda: len(children(server.pid)) == 3, "all workers run")
        workers = children(server.pid)
        answers = [answers_alone(system, worker, workers, server.port) for worker in workers]
        delayed = server.create(delay=1)
        wait_until(
            lambda: server.ask("GET", f"/job/{delayed}").json["state"] == "inactive",
            "the delayed job is promoted",
        )
        survivors = children(server.pid)
        output = server.output

    assert answers == [(f"job {n} created", str(n), n) for n in (1, 2, 3)]
    assert survivors == workers
    assert job_ids(system) == [1, 2, 3, 4]
    assert verified(system).differences == []
    assert "Traceback" not in output


def answers_alone(
    system: System, worker: int, workers: list[int], port: int
) -> tuple[str, str, int]:
    """Return what one worker answers to a POST and two GETs while the others stand still."""
    with standing_still(system, [pid for pid in workers if pid != worker]):
        created = ask(port, "POST", "/job", {"type": "email"}).json
        shown = ask(port, "GET", f"/job/{created['id']}").json
        stats = ask(port, "GET", "/stats").json
    return created["message"], shown["id"], stats["inactiveCount"]


@contextmanager
def standing_still(system: System, pids: list[int]) -> Iterator[None]:
    """Let processes stand still, but none that holds a lock which others need."""

    def write() -> None:
        with system.database.write() as tx:
            store.lock_head(tx)

    def signal_all(number: signal.Signals) -> None:
        for pid in pids:
            os.kill(pid, number)

    def stop() -> bool:
        signal_all(signal.SIGSTOP)
        written = pool.submit(write)
        # Whoever runs and holds the lock has given it back by then.
        if written in wait([written], timeout=1).done:
            written.result()
            return True
        signal_all(signal.SIGCONT)
        written.result(DEADLINE_S)
        return False

    with ThreadPoolExecutor(1) as pool:
        try:
            wait_until(stop, "they stand still in a moment in which they write nothing")
            yield
        finally:
            signal_all(signal.SIGCONT)


def test_a_preloaded_worker_is_replaced_when_it_dies_and_ends_well_when_told(
    tmp_path: Path,
) -> None:
    url = f"sqlite:///{tmp_path / 'ledger.db'}"
    command = (*GUNICORN, "--preload", "--workers", "1", "--threads", "2")
    with Server(url, tmp_path, command=command) as server:
        server.create()
        (first,) = children(server.pid)
        os.kill(first, signal.SIGKILL)
        wait_until(lambda: children(server.pid) not in ([], [first]), "there is another worker")
        created = server.create()
        os.kill(server.pid, signal.SIGTERM)
        code = server.ended()

    assert (created, code) == (2, 0)


# --- several servers, one file


def test_two_servers_on_one_file_leave_no_gap_and_answer_no_error(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'ledger.db'}"
    each, clients = 60, 4
    answers: list[tuple[int, int]] = []

    def post(port: int) -> None:
        with Asker(port) as asker:
            for number in range(each):
                answer = asker.ask("POST", "/job", {"type": "email", "data": {"number": number}})
                answers.append((answer.status, answer.json["id"]))

    with Server(url, tmp_path) as one, Server(url, tmp_path) as other:
        threads = [
            threading.Thread(target=post, args=(server.port,))
            for server in (one, other)
            for _ in range(clients)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        seen = [server.ask("GET", "/stats").json["inactiveCount"] for server in (one, other)]
    total = 2 * clients * each
    system = open_system(url)
    positions = [row["position"] for row in rows(system, "SELECT position FROM ledger_events")]
    report = verified(system)
    system.close()

    assert sorted(answers) == [(200, job_id) for job_id in range(1, total + 1)]
    assert seen == [total, total]
    assert sorted(positions) == list(range(1, total + 1))
    assert report.differences == []


# --- the file beside the file


def test_the_wal_stays_bounded_though_readers_come_and_go(tmp_path: Path) -> None:
    limit = 256 * 1024
    # The write after that which exceeds the limit cuts the log.
    one_write = limit // 4
    wal = tmp_path / "ledger.db-wal"
    system = open_sqlite(tmp_path / "ledger.db", wal_limit_bytes=limit)
    migrate(system.database)
    data = f'"{"x" * 10_000}"'

    def write(jobs: int) -> list[int]:
        """Return how long the file is after each write."""
        sizes = []
        for _ in range(jobs):
            carry_out(system, Create(type="email", data=data))
            # Let the thread that copies the log keep up.
            system.database._wal.close()  # type: ignore[attr-defined]
            sizes.append(wal.stat().st_size)
        return sizes

    alone = write(80)
    with system.database.snapshot() as reader:
        before = reader.execute(text("SELECT count(*) FROM ledger_jobs")).scalar_one()
        while_read = write(40)
        seen = reader.execute(text("SELECT count(*) FROM ledger_jobs")).scalar_one()
    wait_until(lambda: write(1)[0] <= limit + one_write, "the log is cut")
    afterwards = write(80)
    report = verified(system)
    system.close()

    assert max(alone) <= limit + one_write
    assert max(while_read) > limit + one_write
    assert max(afterwards) <= limit + one_write
    assert (before, seen) == (80, 80)
    assert report.differences == []

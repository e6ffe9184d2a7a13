"""Child processes are started, replaced, stopped and killed, and end with their parent."""

import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final

import pytest

from ledger.processes.child_output import ChildOutput
from ledger.processes.child_process import ChildProcess, ChildSpec
from ledger.processes.composition import System
from ledger.processes.follower_process import FollowerProcess
from ledger.processes.log_format import Lines
from ledger.processes.parent_connection import ParentConnection
from ledger.processes.settings import Settings
from ledger.processes.stop_requests import STOP_SIGNALS
from ledger.processes.supervisor import Supervisor
from tests.integration.servers import DEADLINE_S, is_running, surroundings, wait_until

# `python -m ledger` in the children below.  Its first argument says what it does.
PROGRAM: Final = """
import os, signal, socket, sys, time

what, parent = sys.argv[1], sys.argv[2].removeprefix("--parent=")
connection = socket.socket(fileno=int(parent))
if what == "exit":
    sys.exit(int(sys.argv[3]))
if what == "answer":
    connection.recv(1)
    connection.sendall(b"last\\n")
    sys.exit()
if what == "speak":
    print("last words")
    sys.exit(1)
if what == "signal":
    os.kill(os.getpid(), int(sys.argv[3]))
if what == "report":
    connection.sendall(b"first\\n" + b"x" * 300_000 + b"\\n")
    time.sleep(0.1)
    connection.sendall(b"in two ")
    time.sleep(0.1)
    connection.sendall(b"parts\\nlast\\n")
    sys.exit()
if what == "optimize":
    connection.sendall(b"%d\\n" % sys.flags.optimize)
if what == "stubborn":
    connection.sendall(b"ready\\n")
    time.sleep(3600)
connection.sendall(b"%d\\n" % os.getpid())
while connection.recv(1):
    pass
"""


@pytest.fixture
def variables(tmp_path: Path) -> Mapping[str, str]:
    """Give the variables by which a child runs the program above in place of `ledger`."""
    package = tmp_path / "path" / "ledger"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "__main__.py").write_text(PROGRAM)
    return {"PYTHONPATH": str(tmp_path / "path")}


Spec = Callable[..., ChildSpec]


@pytest.fixture
def spec(variables: Mapping[str, str]) -> Spec:
    def make(*arguments: str) -> ChildSpec:
        return ChildSpec(name="child", arguments=arguments, variables=variables)

    return make


def run_until(supervisor: Supervisor, condition: Callable[[], bool]) -> None:
    """Run the children until *condition* holds."""
    deadline_s = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline_s
        supervisor.run_once(timeout_s=0.01)


def logged(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return what was logged, without the ids of processes."""
    words = [message.split() for message in caplog.messages]
    return [" ".join(word for word in line if "process=" not in word) for line in words]


# --- replacing


def test_a_child_that_dies_at_once_is_replaced_after_pauses_that_double(
    spec: Spec, caplog: pytest.LogCaptureFixture
) -> None:
    supervisor = Supervisor([spec("exit", "3")], first_pause_s=0.01, longest_pause_s=1e9)
    run_until(supervisor, lambda: len(caplog.messages) == 4)
    supervisor.stop(kill_after_s=0)

    assert logged(caplog) == [
        f"child died exit=3 replaced_in_s={pause_s}" for pause_s in (0.01, 0.02, 0.04, 0.08)
    ]


def test_the_pauses_have_an_upper_limit_and_begin_again_after_a_long_life(
    spec: Spec, caplog: pytest.LogCaptureFixture
) -> None:
    # None of these lives for 10 s, and each lives for longer than 0.00001 s.
    short_lived = Supervisor([spec("exit", "0")], first_pause_s=10.0, longest_pause_s=10.0)
    long_lived = Supervisor([spec("exit", "0")], first_pause_s=1e-6, longest_pause_s=1e-5)
    run_until(short_lived, lambda: len(caplog.messages) == 1)
    run_until(long_lived, lambda: len(caplog.messages) == 4)
    long_lived.stop(kill_after_s=0)

    assert logged(caplog) == [
        "child died exit=0 replaced_in_s=10.0",
        *["child died exit=0 replaced_in_s=1e-06"] * 3,
    ]


@pytest.mark.parametrize(
    ("number", "name"), [(signal.SIGKILL, "SIGKILL"), (signal.SIGRTMIN + 1, "35")]
)
def test_the_log_says_which_signal_ended_a_child(
    spec: Spec, caplog: pytest.LogCaptureFixture, number: int, name: str
) -> None:
    supervisor = Supervisor([spec("signal", str(int(number)))])
    run_until(supervisor, lambda: bool(caplog.messages))

    assert logged(caplog) == [f"child died signal={name} replaced_in_s=0.5"]
    assert caplog.records[0].levelno == logging.WARNING
    assert 'event="child died"' in Lines(as_json=False).format(caplog.records[0])


def test_a_child_that_cannot_be_started_is_tried_again(
    spec: Spec, caplog: pytest.LogCaptureFixture
) -> None:
    # No system passes so much to a program.
    too_long = spec("run")._replace(variables={"TOO_LONG": "x" * 10_000_000})
    reports: list[bytes] = []
    supervisor = Supervisor(
        [too_long, spec("run")],
        first_pause_s=0.01,
        on_report=lambda number, report: reports.append(b"%d: %s" % (number, report)),
    )
    run_until(supervisor, lambda: len(caplog.messages) >= 2 and bool(reports))
    supervisor.stop(kill_after_s=0)

    assert "cannot start error=" in caplog.messages[0]
    assert caplog.messages[1].endswith("replaced_in_s=0.02")
    assert reports[0].startswith(b"1: ")


def test_a_follower_process_that_dies_at_once_is_replaced_and_logged(
    system: System, database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    following = FollowerProcess(
        ["nothing"], lambda: system.database.leadership("test"), Settings(database_url=database_url)
    )
    following.start()
    wait_until(lambda: len(caplog.messages) == 2, "two have died")
    following.stop()

    assert logged(caplog) == [
        f"follower process died exit=2 replaced_in_s={pause_s}" for pause_s in (0.5, 1.0)
    ]


# --- reports and output


def test_the_last_words_of_a_child_are_shown_before_its_death_is_logged(
    spec: Spec, caplog: pytest.LogCaptureFixture
) -> None:
    shown: list[tuple[str, int]] = []
    # The thread that reads otherwise is late: it is not started.
    output = ChildOutput(lambda lines: shown.extend((line, len(caplog.messages)) for line in lines))
    supervisor = Supervisor([spec("speak")._replace(stdout="captured")], output=output)
    run_until(supervisor, lambda: bool(caplog.messages))
    output.start()
    output.close()

    assert shown == [("last words", 0)]
    assert logged(caplog) == ["child died exit=1 replaced_in_s=0.5"]


def test_reports_arrive_whole_and_none_is_lost_at_the_end(spec: Spec) -> None:
    reports: list[bytes] = []
    ended: list[int] = []
    supervisor = Supervisor(
        [spec("report")],
        on_report=lambda _, report: reports.append(report),
        on_end=ended.append,
    )
    run_until(supervisor, lambda: bool(ended))

    assert reports == [b"first", b"x" * 300_000, b"in two parts", b"last"]
    assert ended == [0]


def test_a_report_is_not_lost_that_comes_between_a_receipt_and_the_end(
    spec: Spec, monkeypatch: pytest.MonkeyPatch
) -> None:
    receive = ChildProcess.receive

    def receive_before_the_end(process: ChildProcess) -> list[bytes]:
        reports = receive(process)
        process.request_stop(1)
        wait_until(lambda: not is_running(process.pid), "it has ended")
        return reports

    monkeypatch.setattr(ChildProcess, "receive", receive_before_the_end)
    reports: list[bytes] = []
    ended: list[int] = []
    supervisor = Supervisor(
        [spec("answer")], on_report=lambda _, report: reports.append(report), on_end=ended.append
    )
    run_until(supervisor, lambda: bool(ended))

    assert reports == [b"last"]


# --- stopping


def test_children_that_are_asked_to_stop_are_not_replaced(
    spec: Spec, caplog: pytest.LogCaptureFixture
) -> None:
    pids: list[int] = []
    supervisor = Supervisor(
        [spec("run"), spec("run")], on_report=lambda _, report: pids.append(int(report))
    )
    run_until(supervisor, lambda: len(pids) == 2)
    running = supervisor.running
    supervisor.request_stop(1)
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    run_until(supervisor, lambda: not supervisor.running)
    supervisor.run_once(timeout_s=0)

    assert (running, supervisor.running) == (2, 0)
    assert caplog.messages == []


def test_a_child_that_does_not_stop_in_time_is_killed(spec: Spec) -> None:
    reports: list[bytes] = []
    supervisor = Supervisor([spec("stubborn")], on_report=lambda _, report: reports.append(report))
    run_until(supervisor, lambda: bool(reports))
    began_s = time.monotonic()
    supervisor.stop(kill_after_s=0.5)

    assert supervisor.running == 0
    assert 0.5 <= time.monotonic() - began_s < DEADLINE_S


# --- processes that fork, are killed, or have options

# A parent that forks, as gunicorn does.  It is killed when it has printed three lines.
FORKING: Final = """
import os, sys, time
from ledger.processes.child_process import ChildSpec
from ledger.processes.supervisor import Supervisor

spec = ChildSpec(name="child", arguments=[sys.argv[2]], variables={"PYTHONPATH": sys.argv[1]})
reports = []
supervisor = Supervisor([spec], on_report=lambda _, report: reports.append(report.decode()))
while not reports:
    supervisor.run_once(timeout_s=0.1)
os.write(1, f"{reports[0]}\\n".encode())
forked = os.fork()
if not forked:
    supervisor.forget()
    os.write(1, b"forgotten\\n")
    time.sleep(3600)
os.write(1, f"{forked}\\n".encode())
time.sleep(3600)
"""


@pytest.fixture
def forking(
    variables: Mapping[str, str], tmp_path: Path
) -> Iterator[Callable[..., "subprocess.Popen[str]"]]:
    """Give a way to start the program above; the processes are killed at the end."""
    started = []

    def start(what: str, *options: str) -> "subprocess.Popen[str]":
        process = subprocess.Popen(
            [sys.executable, *options, "-c", FORKING, variables["PYTHONPATH"], what],
            env=surroundings(tmp_path),
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def test_children_end_with_their_parent_although_a_forked_process_lives(
    forking: Callable[..., "subprocess.Popen[str]"],
) -> None:
    process = forking("run")
    assert process.stdout is not None
    child = int(process.stdout.readline())
    lines = {process.stdout.readline(), process.stdout.readline()} - {"forgotten\n"}
    forked = int(lines.pop())
    before = is_running(child)
    process.kill()
    wait_until(lambda: not is_running(child), "the child has ended")

    assert before
    assert is_running(forked)


def test_children_get_the_options_of_the_interpreter(
    forking: Callable[..., "subprocess.Popen[str]"],
) -> None:
    process = forking("optimize", "-O")
    assert process.stdout is not None

    assert process.stdout.readline() == "1\n"


# --- the child's side


@pytest.fixture
def connected() -> Iterator[tuple[socket.socket, ParentConnection]]:
    """Give both ends of a connection; at the end signals are handled as before."""
    handlers = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    parent, child = socket.socketpair()
    connection = ParentConnection(child.detach())
    yield parent, connection
    parent.close()
    for thread in threading.enumerate():
        if thread.name == "ledger-parent":
            thread.join(DEADLINE_S)
    connection._socket.close()
    connection._sleep.close()
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    for number, handler in handlers.items():
        signal.signal(number, handler)


def test_a_child_counts_what_its_parent_sends_and_not_ctrl_c(
    connected: tuple[socket.socket, ParentConnection],
) -> None:
    parent, connection = connected
    os.kill(os.getpid(), signal.SIGINT)
    after_interrupt = connection.stop_requests
    parent.sendall(b"1\n")
    connection.wait_for_stop()
    after_one = connection.stop_requests
    os.kill(os.getpid(), signal.SIGINT)
    os.kill(os.getpid(), signal.SIGTERM)
    after_signals = connection.stop_requests
    parent.sendall(b"2\n")
    wait_until(lambda: connection.stop_requests == 2, "the second request arrives")

    assert (after_interrupt, after_one, after_signals) == (0, 1, 1)


def test_sigterm_stops_a_child_gracefully(
    connected: tuple[socket.socket, ParentConnection],
) -> None:
    _, connection = connected
    os.kill(os.getpid(), signal.SIGTERM)
    connection.wait_for_stop()

    assert connection.stop_requests == 1


def test_the_end_of_its_parent_stops_a_child_gracefully(
    connected: tuple[socket.socket, ParentConnection],
) -> None:
    parent, connection = connected
    parent.close()
    connection.wait_for_stop()

    assert connection.stop_requests == 1
    # Neither waits or fails.
    connection.report(b"report")
    connection.report_last(b"another")


def test_a_parent_that_does_not_read_does_not_hold_up_a_child(
    connected: tuple[socket.socket, ParentConnection],
) -> None:
    parent, connection = connected
    reports = [b"%d " % number + b"x" * 100_000 for number in range(20)]
    for report in reports:
        connection.report(report)
    received = b""
    while not received.endswith(b"\n"):
        received += parent.recv(1_000_000)
        connection.report(reports[-1])
    connection.report_last(b"last")
    while not received.endswith(b"last\n"):
        received += parent.recv(1_000_000)
    lines = received.split(b"\n")

    assert set(lines[:-2]) <= set(reports)
    assert lines[0] == reports[0]
    assert len(lines) < len(reports)

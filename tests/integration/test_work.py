"""`ledger work`: jobs get done in one process or several, and nothing is left behind."""

import json
import os
import pty
import re
import select
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import msgspec
import psutil  # type: ignore[import-untyped]  # comes with the package that brings PostgreSQL
import pytest

import ledger
from ledger.database.migration import migrate
from ledger.processes.composition import System, compose
from ledger.processes.counters import Count
from ledger.processes.import_target import Target
from ledger.processes.settings import Settings
from ledger.processes.worker_processes import WorkerProcesses, hung_after_s
from ledger.queue import presence
from ledger.rules.commands import Create
from tests.builders import verified
from tests.integration.servers import (
    DEADLINE_S,
    children,
    is_running,
    kill_family,
    surroundings,
    tool,
    wait_until,
)
from tests.integration.shell import REFUSED, USAGE, Shell, in_time
from tests.integration.terminal import shown

# As the application below says.
LONG_AT_ONCE: Final = 2

# The application: a handler of each kind that the tests need.
MODULE: Final = """
import logging
import pathlib
import subprocess
import sys
import time

import ledger

queue = ledger.connect()


@queue.process("quick", concurrency=4)
def quick(job):
    return job.id


@queue.process("bad")
def bad(job):
    raise ValueError('not "this" way\\nbut another')


@queue.process("long", concurrency=2)
def long(job):
    while not pathlib.Path("open").exists() and not job.expired:
        time.sleep(0.01)


@queue.process("breaks")
def breaks(job):
    def broken(*args, **options):
        raise OSError(9, "Bad file descriptor")

    if job.attempt == 1:
        queue.ledger.submit = broken


@queue.process("hangs")
def hangs(job):
    if job.attempt == 1:
        queue.ledger.submit = lambda *args, **options: time.sleep(3600)


# It keeps the standard error that there is now.
logging.basicConfig(format="logged %(message)s", level=logging.INFO)


@queue.process("talks", concurrency=3)
def talks(job):
    sys.stdout.write(f"printed {job.id}\\n")
    logging.info("%s", job.id)
    time.sleep(0.1)
    subprocess.run(["echo", f"echoed {job.id}"])
    sys.stdout.write("-" * 150 + "\\n")
"""


# Two processes with enough time to return their jobs on a slow machine.
PATIENT: Final = """
from ledger.processes.import_target import Target
from ledger.processes.stop_requests import StopRequests
from ledger.processes.worker_processes import WorkerProcesses

target = Target(name="jobs:queue", types=(), concurrency=None, grace_s=3600)
processes = WorkerProcesses(target, 2, as_json=False, at_once_s=60)
stop_requests = StopRequests()
with stop_requests.handled():
    processes.run(stop_requests=lambda: stop_requests.number, tick=lambda: None)
"""

# Two processes that may hang for a few seconds only.
IMPATIENT: Final = """
import logging
import sys

from ledger.processes.import_target import Target
from ledger.processes.log_format import send_lines
from ledger.processes.stop_requests import StopRequests
from ledger.processes.worker_processes import WorkerProcesses

send_lines(logging.StreamHandler(sys.stdout), as_json=False)
target = Target(name="jobs:queue", types=(), concurrency=None, grace_s=10)
processes = WorkerProcesses(target, 2, as_json=False, hung_after_s=4)
stop_requests = StopRequests()
with stop_requests.handled():
    processes.run(stop_requests=lambda: stop_requests.number, tick=lambda: None)
"""

# The same, in which the first child process finds no database.
UNREACHED: Final = f"""
{MODULE}

def is_first(name):
    try:
        return bool(open(name, "x"))
    except FileExistsError:
        return False


if not is_first("command") and is_first("child"):
    handlers = queue.handlers
    queue = ledger.connect("postgresql+psycopg://127.0.0.1:1/none")
    queue.handlers = handlers
"""


class Work:
    """``ledger work`` on an application of its own.

    Args:
        system: On which ledger.
        url: The ledger's.
        folder: Where the application is; what the command says goes to a file there.
    """

    def __init__(self, system: System, url: str, folder: Path) -> None:
        self.system = system
        self.folder = folder
        self.shell = Shell(url, folder / "search")
        self.environment = surroundings(folder, LEDGER_DATABASE_URL=url)
        (folder / "jobs.py").write_text(MODULE)

    def create(self, type_: str, number: int = 1, **options: Any) -> list[int]:
        """Create jobs, and return their ids."""
        create = [Create(type=type_, **options) for _ in range(number)]
        answers = self.system.ledger.submit(create, actor="test")
        return [answer.job_id for answer in answers]  # type: ignore[union-attr]  # none is refused

    def fill(self, processes: int) -> list[int]:
        """Create as many long jobs as so many processes do at once, and return their ids.

        A process that is told to stop later than another could take what that gives back.
        """
        return self.create("long", LONG_AT_ONCE * processes)

    def states(self) -> Counter[str]:
        """Return how many jobs are in each state."""
        with self.system.database.read() as connection:
            counts = self.system.state_counts.stats(connection).counts
        return Counter({str(state): jobs for state, jobs in counts.items() if jobs})

    def wait_for(self, **states: int) -> None:
        """Return as soon as there are so many jobs in each state, and no others."""
        wait_until(lambda: self.states() == states, f"the jobs are {states}")

    def kinds(self, job_id: int) -> list[str]:
        """Return what happened to a job."""
        return [event["kind"] for event in self.events(job_id)]

    def events(self, job_id: int) -> list[dict[str, Any]]:
        """Return all about what happened to a job."""
        events: list[dict[str, Any]] = self.shell.json("events", "--job", str(job_id))
        return events

    def pids(self) -> list[int]:
        """Return the processes that have told of themselves, and run."""
        with self.system.database.read() as connection:
            seen = presence.seen(connection)
        return sorted(
            pid for pid in (int(one.name.split(":")[-2]) for one in seen) if is_running(pid)
        )

    def seen_for_ms(self, ms: int) -> int:
        """Return how many workers have sent heartbeats for so long."""
        with self.system.database.read() as connection:
            seen = presence.seen(connection)
        return sum(one.seen_at_ms - one.started_at_ms >= ms for one in seen)

    def holders(self) -> list[int]:
        """Return the processes that hold a job."""
        with self.system.database.read() as connection:
            held = self.system.jobs.held_counts(connection)
        return [int(name.split(":")[-2]) for name, number in held.items() for _ in range(number)]

    def refusal(self, *arguments: str) -> tuple[int, str]:
        """Return how a command that cannot work ends, and what it says."""
        done = subprocess.run(
            [tool("ledger"), "work", *arguments],
            env=self.environment,
            cwd=self.folder,
            capture_output=True,
            text=True,
            check=False,
            timeout=DEADLINE_S,
        )
        assert done.stdout == ""
        return done.returncode, done.stderr

    @property
    def output(self) -> str:
        """Return what it has said."""
        return (self.folder / "output").read_text()

    def said(self, event: str) -> list[dict[str, str]]:
        """Return the facts of each line that logs *event*."""
        lines = [_facts(line) for line in self.output.splitlines()]
        return [facts for facts in lines if facts["event"] == event]

    def running(self, *arguments: str) -> AbstractContextManager["subprocess.Popen[bytes]"]:
        """Yield the running command; at the end it and its children are killed."""
        return self._running([tool("ledger"), "work", "jobs:queue", *arguments])

    def running_patiently(self) -> AbstractContextManager["subprocess.Popen[bytes]"]:
        """Yield what runs two processes that may take long to give back; as ``running``."""
        return self._running([sys.executable, "-c", PATIENT])

    def running_impatiently(self) -> AbstractContextManager["subprocess.Popen[bytes]"]:
        """Yield what runs two processes that may not hang for long; as ``running``."""
        return self._running([sys.executable, "-c", IMPATIENT])

    @contextmanager
    def _running(self, command: Sequence[str]) -> Iterator["subprocess.Popen[bytes]"]:
        with (self.folder / "output").open("wb") as output:
            process = subprocess.Popen(
                command,
                env=self.environment,
                cwd=self.folder,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        try:
            yield process
        except BaseException as error:
            error.add_note(f"it said:\n{self.output}")
            raise
        finally:
            kill_family(process)


def _facts(line: str) -> dict[str, str]:
    """Return what a line says, every word of which must be ``name=value``."""
    pairs = [word.partition("=") for word in shlex.split(line)]
    assert all(equals for _, equals, _ in pairs), line
    return {name: value for name, _, value in pairs}


def stopped(process: "subprocess.Popen[bytes]", *signals: int) -> int:
    """Return how it ends after the signals."""
    for number in signals:
        process.send_signal(number)
    return process.wait(DEADLINE_S)


@pytest.fixture
def work(system: System, database_url: str, tmp_path: Path) -> Work:
    """Return the command on a new ledger, on each engine in turn."""
    return Work(system, database_url, tmp_path)


@pytest.fixture
def quick(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Work]:
    """Yield the command on a new SQLite file."""
    url = f"sqlite:///{tmp_path / 'ledger.db'}"
    composed = compose(Settings(database_url=url))
    migrate(composed.database)
    yield Work(composed, url, tmp_path)
    composed.close()


# --- working


def test_several_processes_do_all_the_jobs_once(work: Work) -> None:
    job_ids = work.create("quick", 200)

    with work.running("--processes", "2") as process:
        wait_until(lambda: len(work.pids()) == 2, "two processes work")
        work.wait_for(complete=200)
        work.create("quick", 200)
        work.wait_for(complete=400)
        code = stopped(process, signal.SIGTERM)

    assert code == 0
    assert {tuple(work.kinds(job_id)) for job_id in (job_ids[0], job_ids[-1], 400)} == {
        ("created", "started", "completed")
    }
    assert work.said("work ended")[0]["completed"] == "400"
    assert work.pids() == []
    report = verified(work.system)
    assert (report.differences, report.position) == ([], 1_200)


def test_one_process_does_jobs_and_says_so_in_lines_that_parse(work: Work) -> None:
    work.create("quick", 3)
    (failing,) = work.create("bad", attempts=2)

    with work.running() as process:
        work.wait_for(complete=3, failed=1)
        # What the ledger knows is logged a moment later.
        wait_until(lambda: len(work.said("attempt failed")) == 2, "both failures are logged")
        code = stopped(process, signal.SIGTERM)
    events = [_facts(line)["event"] for line in work.output.splitlines()]
    failures = [
        {name: facts[name] for name in ("level", "job", "type", "attempt", "next", "reason")}
        for facts in work.said("attempt failed")
    ]

    assert code == 0
    assert events == [
        "work started",
        "worker started",
        "attempt failed",
        "attempt failed",
        "worker stopping",
        "worker stopped",
        "work ended",
    ]
    assert failures == [
        {
            "level": "warning",
            "job": str(failing),
            "type": "bad",
            "attempt": attempt,
            "next": following,
            "reason": 'ValueError: not "this" way',
        }
        for attempt, following in (("1", "inactive"), ("2", "failed"))
    ]


def test_a_variable_that_is_nearly_a_setting_is_warned_of_once(quick: Work) -> None:
    quick.environment["LEDGER_THREDS"] = "2"
    quick.create("quick", 2)

    with quick.running("--processes", "2") as process:
        wait_until(lambda: len(quick.pids()) == 2, "two processes work")
        quick.wait_for(complete=2)
        stopped(process, signal.SIGTERM)

    assert [line for line in quick.output.splitlines() if "THREDS" in line] == [
        "Warning: LEDGER_THREDS: no such setting; did you mean LEDGER_THREADS?"
    ]


def test_json_lines_are_json(quick: Work) -> None:
    quick.create("bad")

    with quick.running("--json") as process:
        quick.wait_for(failed=1)
        stopped(process, signal.SIGINT)
    lines = [json.loads(line) for line in quick.output.splitlines()]

    assert [line["event"] for line in lines if line["level"] == "warning"] == ["attempt failed"]
    assert lines[0]["types"] == "quick:4,bad:1,long:2,breaks:1,hangs:1,talks:3"
    assert lines[-1] | {"at": ""} == {
        "at": "",
        "level": "info",
        "event": "work ended",
        "completed": 0,
        "failed": 1,
        "returned": 0,
    }


def test_only_the_types_that_are_asked_for_are_done(quick: Work) -> None:
    quick.create("quick", 2)
    quick.create("bad")

    with quick.running("--type", "quick", "--concurrency", "9") as process:
        quick.wait_for(complete=2, inactive=1)
        listed = quick.shell.json("workers")
        stopped(process, signal.SIGTERM)

    assert [one["types"] for one in listed] == [{"quick": 9}]
    assert quick.states() == {"complete": 2, "inactive": 1}


def test_without_a_server_a_delayed_job_is_done_when_it_is_due(work: Work) -> None:
    (job_id,) = work.create("quick", delay_ms=50)

    with work.running() as process:
        work.wait_for(complete=1)
        stopped(process, signal.SIGTERM)

    assert work.kinds(job_id) == ["created", "promoted", "started", "completed"]


def test_a_paused_type_waits_until_it_is_resumed(work: Work) -> None:
    said = work.shell.says("pause", "quick")
    work.create("quick", 3)
    work.create("bad")

    with work.running() as process:
        work.wait_for(inactive=3, failed=1)
        stats = work.shell.says("stats")
        status = work.shell.json("status")
        resumed = work.shell.says("resume", "quick")
        work.wait_for(complete=3, failed=1)
        stopped(process, signal.SIGTERM)

    assert said == "quick is paused; resume it with `ledger resume quick`\n"
    assert resumed == "quick resumed\n"
    assert "\nquick has been paused since 20" in stats
    assert list(status["paused"]) == ["quick"]
    assert work.kinds(0) == ["paused", "resumed"]
    assert work.shell.says("resume", "quick") == "quick was not paused\n"
    assert work.shell.json("status")["paused"] == {}


def test_a_restarted_job_is_done_again(quick: Work) -> None:
    (job_id,) = quick.create("bad")

    with quick.running() as process:
        quick.wait_for(failed=1)
        said = quick.shell.says("restart", str(job_id))
        wait_until(lambda: quick.kinds(job_id).count("failed") == 2, "it fails again")
        stopped(process, signal.SIGTERM)

    assert said == f"job {job_id} queued again\n"
    assert quick.kinds(job_id) == ["created", "started", "failed", "moved", "started", "failed"]


# --- stopping


@pytest.mark.parametrize(
    ("database_url", "processes"), [("sqlite", "2"), ("postgres", "1")], indirect=["database_url"]
)
def test_a_job_that_outlasts_the_grace_is_given_back(work: Work, processes: str) -> None:
    job_ids = work.fill(int(processes))

    with work.running("--processes", processes, "--grace", "0.2") as process:
        work.wait_for(active=len(job_ids))
        code = stopped(process, signal.SIGTERM)
    reason = work.events(job_ids[0])[-1]["body"]["reason"]

    assert code == 0
    assert work.states() == {"inactive": len(job_ids)}
    for job_id in job_ids:
        assert work.kinds(job_id) == ["created", "started", "returned"]
    assert re.fullmatch(r"worker \S+ was stopped; the job had not ended after \d+\.\d s", reason)
    assert sorted(int(facts["job"]) for facts in work.said("job returned")) == job_ids
    assert work.said("work ended")[0]["returned"] == str(len(job_ids))
    assert verified(work.system).differences == []


@pytest.mark.parametrize("processes", ["1", "2"])
def test_a_job_that_ends_within_the_grace_is_complete(quick: Work, processes: str) -> None:
    quick.create("long", 2)
    quick.create("quick")

    with quick.running("--type", "long", "--processes", processes, "--grace", "60") as process:
        quick.wait_for(active=2, inactive=1)
        process.send_signal(signal.SIGTERM)
        wait_until(lambda: bool(quick.said("worker stopping")), "it stops")
        (quick.folder / "open").touch()
        code = process.wait(DEADLINE_S)

    assert code == 0
    assert quick.states() == {"complete": 2, "inactive": 1}


@pytest.mark.parametrize(
    ("database_url", "processes"), [("sqlite", 1), ("postgres", 2)], indirect=["database_url"]
)
def test_a_second_signal_ends_it_at_once(work: Work, processes: int) -> None:
    job_ids = work.fill(processes)
    running = work.running("--grace", "3600") if processes == 1 else work.running_patiently()

    with running as process:
        work.wait_for(active=len(job_ids))
        process.send_signal(signal.SIGINT)
        wait_until(lambda: bool(work.said("worker stopping")), "it stops")
        still = process.poll()
        code = stopped(process, signal.SIGINT)

    assert (still, code) == (None, 0)
    for job_id in job_ids:
        assert work.kinds(job_id) == ["created", "started", "returned"]


def test_a_second_signal_ends_two_processes_at_once(quick: Work) -> None:
    job_ids = quick.fill(2)

    with quick.running("--processes", "2", "--grace", "3600") as process:
        quick.wait_for(active=len(job_ids))
        process.send_signal(signal.SIGINT)
        wait_until(lambda: len(quick.said("worker stopping")) == 2, "they stop")
        code = stopped(process, signal.SIGINT)

    # Whether a slow machine gave them the time to return their jobs or not.
    assert code == 0
    assert quick.pids() == []


@pytest.mark.parametrize("processes", ["1", "2"])
def test_any_number_of_hangups_is_one_request_to_stop(quick: Work, processes: str) -> None:
    job_ids = quick.fill(int(processes))

    with quick.running("--processes", processes, "--grace", "3600") as process:
        quick.wait_for(active=len(job_ids))
        # As the kernel and then a shell do when a terminal is closed: to parent and children.
        os.killpg(process.pid, signal.SIGHUP)
        wait_until(lambda: len(quick.said("worker stopping")) == int(processes), "they stop")
        os.killpg(process.pid, signal.SIGHUP)
        process.send_signal(signal.SIGHUP)
        time.sleep(0.5)
        still = process.poll()
        (quick.folder / "open").touch()
        code = process.wait(DEADLINE_S)

    assert (still, code) == (None, 0)
    assert quick.states() == {"complete": len(job_ids)}
    assert [facts["at_once"] for facts in quick.said("worker stopping")] == ["false"] * int(
        processes
    )


def test_a_signal_after_a_hangup_ends_it_at_once(quick: Work) -> None:
    job_ids = quick.fill(1)

    with quick.running("--grace", "3600") as process:
        quick.wait_for(active=len(job_ids))
        process.send_signal(signal.SIGHUP)
        wait_until(lambda: bool(quick.said("worker stopping")), "it stops")
        code = stopped(process, signal.SIGTERM)

    assert code == 0
    assert quick.states() == {"inactive": len(job_ids)}


@pytest.mark.parametrize("processes", ["1", "2"])
def test_who_ignores_hangups_works_on(quick: Work, processes: str) -> None:
    command = ["nohup", tool("ledger"), "work", "jobs:queue", "--processes", processes]

    with quick._running(command) as process:
        wait_until(lambda: len(quick.pids()) == int(processes), "they work")
        family = [process.pid, *quick.pids()]
        ignoring = [pid for pid in family if _signals(pid)["SigIgn:"] & 1 << signal.SIGHUP - 1]
        for pid in (process.pid, *children(process.pid)):
            os.kill(pid, signal.SIGHUP)
        quick.create("quick", 10)
        quick.wait_for(complete=10)
        code = stopped(process, signal.SIGTERM)

    assert code == 0
    assert ignoring == family
    assert not quick.said("process died")
    assert not quick.said("follower process died")
    assert len(quick.said("worker stopping")) == int(processes)


def test_a_signal_handler_may_stop_a_worker_whatever_it_interrupts(quick: Work) -> None:
    queue = ledger.connect(quick.environment["LEDGER_DATABASE_URL"])
    queue.process("quick")(print)
    worker = ledger.Worker(queue)

    def interrupted() -> None:
        with worker._mailbox._mutex:
            worker.stop()

    thread = threading.Thread(target=interrupted, daemon=True)
    thread.start()
    thread.join(DEADLINE_S)
    queue.close()

    assert not thread.is_alive()


# --- processes that die


def test_a_process_that_is_killed_is_replaced(work: Work) -> None:
    work.create("quick", 10)

    with work.running("--processes", "2") as process:
        work.wait_for(complete=10)
        wait_until(lambda: len(work.pids()) == 2, "two processes work")
        killed, survivor = work.pids()
        os.kill(killed, signal.SIGKILL)
        wait_until(
            lambda: killed not in work.pids() and len(work.pids()) == 2, "the killed is replaced"
        )
        replacement = {*work.pids()} - {survivor}
        work.create("quick", 10)
        work.wait_for(complete=20)
        code = stopped(process, signal.SIGTERM)
    died = [(facts["process"], facts["signal"]) for facts in work.said("process died")]

    assert code == 0
    assert died == [(str(killed), "SIGKILL")]
    assert len(replacement) == 1
    assert work.pids() == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_process_that_is_told_to_end_is_replaced_once_its_job_has_ended(
    quick: Work, number: int
) -> None:
    (job_id,) = quick.create("long")

    with quick.running("--processes", "2", "--grace", "3600") as process:
        quick.wait_for(active=1)
        (holder,) = quick.holders()
        os.kill(holder, number)
        wait_until(lambda: bool(quick.said("worker stopping")), "it stops")
        still = is_running(holder)
        (quick.folder / "open").touch()
        wait_until(lambda: holder not in quick.pids() and len(quick.pids()) == 2, "it is replaced")
        code = stopped(process, signal.SIGTERM)
    died = [(facts["process"], facts["exit"]) for facts in quick.said("process died")]

    assert (still, code, died) == (True, 0, [(str(holder), "0")])
    assert quick.kinds(job_id) == ["created", "started", "completed"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_the_follower_process_that_is_told_to_end_is_replaced(quick: Work, number: int) -> None:
    with quick.running() as process:
        wait_until(lambda: len(children(process.pid)) == 1, "there is a follower process")
        (follower,) = children(process.pid)
        wait_until(lambda: _handles(follower, number), "it handles signals")
        os.kill(follower, number)
        wait_until(lambda: bool(quick.said("follower process died")), "it has ended")
        code = stopped(process, signal.SIGTERM)

    assert code == 0
    assert [facts["exit"] for facts in quick.said("follower process died")] == ["0"]


def _handles(pid: int, number: int) -> bool:
    """Return whether a process has a handler for a signal, and does not block it."""
    signals = _signals(pid)
    return bool(signals["SigCgt:"] & ~signals["SigBlk:"] & 1 << number - 1)


def _signals(pid: int) -> dict[str, int]:
    """Return the sets of signals that a process blocks, ignores and handles, as bits."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    words = [line.split() for line in lines if line.startswith(("SigBlk", "SigIgn", "SigCgt"))]
    return {name: int(bits, 16) for name, bits in words}


def test_no_command_line_names_the_database(work: Work) -> None:
    with work.running("--processes", "2") as process:
        wait_until(lambda: len(children(process.pid)) == 3, "there are two, and a follower")
        family = [process.pid, *children(process.pid)]
        lines = [" ".join(psutil.Process(pid).cmdline()) for pid in family]
        stopped(process, signal.SIGTERM)

    assert not any(work.environment["LEDGER_DATABASE_URL"] in line for line in lines)


def test_the_job_of_a_killed_process_is_tried_again(work: Work) -> None:
    # Two processes live, and a machine that stands still for so long has lost them both.
    work.environment["LEDGER_LEASE_MS"] = "2000"
    (job_id,) = work.create("long", attempts=2)

    with work.running("--processes", "2") as process:
        work.wait_for(active=1)
        (holder,) = work.holders()
        (work.folder / "open").touch()
        os.kill(holder, signal.SIGKILL)
        work.wait_for(complete=1)
        code = stopped(process, signal.SIGTERM)
    events = work.events(job_id)

    assert code == 0
    assert [event["kind"] for event in events] == [
        "created",
        "started",
        "failed",
        "started",
        "completed",
    ]
    assert events[2]["body"]["reason"] == "lost"
    assert f":{holder}:" in events[2]["content"]


def test_a_process_in_which_every_step_fails_is_replaced(work: Work) -> None:
    work.environment["LEDGER_LEASE_MS"] = "2000"
    (job_id,) = work.create("breaks", attempts=2)

    with work.running("--processes", "2") as process:
        work.wait_for(complete=1)
        code = stopped(process, signal.SIGTERM)
    (died,) = work.said("process died")
    (failed,) = work.said("process failed")

    assert code == 0
    assert died["exit"] == "1"
    assert "steps in a row have failed, the last with OSError: " in failed["reason"]
    assert [event["kind"] for event in work.events(job_id)][1:] == [
        "started",
        "failed",
        "started",
        "completed",
    ]
    assert work.output.count("Traceback") == 1


def test_a_process_that_starts_without_the_database_says_so_in_a_line(quick: Work) -> None:
    (quick.folder / "jobs.py").write_text(UNREACHED)

    with quick.running("--processes", "2") as process:
        wait_until(lambda: bool(quick.said("process failed")), "one has failed")
        wait_until(lambda: len(quick.pids()) == 2, "it is replaced")
        code = stopped(process, signal.SIGTERM)
    (failed,) = quick.said("process failed")

    assert code == 0
    assert failed["reason"].startswith("the database does not answer: ")
    assert "Traceback" not in quick.output


def hang_in_a_step(work: Work) -> int:
    work.create("hangs")
    work.wait_for(active=1)
    (process,) = work.holders()
    return process


def stop_by_a_signal(work: Work) -> int:
    process = work.pids()[0]
    os.kill(process, signal.SIGSTOP)
    return process


@pytest.mark.parametrize("hang", [hang_in_a_step, stop_by_a_signal])
def test_a_process_that_hangs_is_replaced(quick: Work, hang: Callable[[Work], int]) -> None:
    quick.environment["LEDGER_LEASE_MS"] = "1000"
    with quick.running_impatiently() as process:
        # For long enough that both have told their parent of a step.
        wait_until(lambda: quick.seen_for_ms(1_000) == 2, "two processes work")
        hung = hang(quick)
        wait_until(lambda: quick.said("process died") != [], "it is killed")
        wait_until(lambda: len(quick.pids()) == 2, "it is replaced")
        others = quick.pids()
        code = stopped(process, signal.SIGTERM)
    (hangs,) = quick.said("process hangs")
    (died,) = quick.said("process died")

    assert code == 0
    assert hangs["process"] == died["process"] == str(hung)
    assert int(hangs["no_step_for_s"]) >= 4
    assert died["signal"] == "SIGKILL"
    assert hung not in others


def test_a_suspension_of_all_processes_is_no_hang(caplog: pytest.LogCaptureFixture) -> None:
    target = Target(name="jobs:queue", types=(), concurrency=None, grace_s=1)
    processes = WorkerProcesses(target, 1, as_json=False, hung_after_s=60)

    def looked(*, suspended_s: float) -> list[str]:
        processes._record(0, msgspec.json.encode(Count(steps=processes._counts[0].steps + 1)))
        processes._stepped_s = [processes._stepped_s[0] - 100]
        processes._looked_s = time.monotonic() - suspended_s
        processes._kill_hung()
        return caplog.messages

    assert looked(suspended_s=100) == []
    assert looked(suspended_s=1) == ["process hangs process=None no_step_for_s=100"]


@pytest.mark.parametrize(("lease_ms", "seconds"), [(1_000, 60), (30_000, 60), (90_000, 180)])
def test_a_process_hangs_once_its_attempts_have_long_been_lost(
    lease_ms: int, seconds: float
) -> None:
    assert hung_after_s(lease_ms) == seconds


def test_the_only_process_in_which_every_step_fails_ends_with_an_error(quick: Work) -> None:
    quick.create("breaks")

    with quick.running() as process:
        code = process.wait(DEADLINE_S)

    assert code == REFUSED
    assert re.search(
        r"^Error: worker \S+ cannot work: \d+ steps in a row have failed, the last with OSError: "
        r"\[Errno 9\] Bad file descriptor; start it in another process$",
        quick.output,
        re.MULTILINE,
    )
    # The sweeper, which is in this process too, has its own.
    lines = [line for line in quick.output.splitlines() if ' event="worker ' in line]
    assert len(lines) > 1
    assert sum("Traceback" in line for line in lines) == 1


def test_children_end_by_themselves_when_their_parent_is_killed(quick: Work) -> None:
    (job_id,) = quick.create("long")

    with quick.running("--processes", "2", "--grace", "0") as process:
        wait_until(lambda: len(quick.pids()) == 2, "two processes work")
        quick.wait_for(active=1)
        children = quick.pids()
        process.kill()
        wait_until(lambda: not any(map(is_running, children)), "the children are gone")

    assert quick.kinds(job_id)[-1] == "returned"
    assert quick.states() == {"inactive": 1}


# --- on a terminal


@pytest.mark.parametrize("processes", ["1", "2"])
def test_a_terminal_shows_what_is_done(quick: Work, processes: str) -> None:
    quick.create("quick", 30)
    quick.create("bad")

    code, lines = _on_a_terminal(
        quick,
        ["--processes", processes],
        until=lambda: quick.states() == {"complete": 30, "failed": 1},
    )
    screen = "\n".join(lines)
    last = screen.rpartition("jobs:queue on sqlite:///")[2]

    assert code == 0
    assert 'event="attempt failed" job=31' in screen
    assert "this run: 30 completed, 1 attempts failed, 0 running" in last
    assert re.search(r"quick\s*│\s*0 │\s*0 │\s*0 │\s*30 │\s*0 │", last)


@pytest.mark.parametrize(("processes", "columns"), [("1", 120), ("2", 60)])
def test_what_is_printed_stands_above_what_is_shown(
    quick: Work, processes: str, columns: int
) -> None:
    quick.create("talks", 9)

    _, lines = _on_a_terminal(
        quick,
        ["--processes", processes],
        until=lambda: quick.states() == {"complete": 9},
        columns=columns,
    )
    here = [n for n, line in enumerate(lines) if line.startswith("jobs:queue on")]
    above = Counter(line for line in lines[: here[0]] if not line.startswith("at="))

    assert len(here) == 1, lines
    for job_id in range(1, 10):
        said = [f"{what} {job_id}" for what in ("printed", "logged", "echoed")]
        assert [above[line] for line in said] == [1, 1, 1], (job_id, lines)


def test_children_that_are_stopped_as_they_start_show_no_traceback(quick: Work) -> None:
    code, lines = _on_a_terminal(quick, ["--processes", "2"], until=_a_child_starts)

    assert code == 0, lines
    assert "Traceback" not in "\n".join(lines)


def _a_child_starts() -> bool:
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            if any(word.startswith("--parent=") for word in process.cmdline()):
                return True
    return False


def _on_a_terminal(
    quick: Work, arguments: Sequence[str], *, until: Callable[[], bool], columns: int = 120
) -> tuple[int, list[str]]:
    """Return how it ended after Ctrl-C, and what the terminal shows then."""
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [tool("ledger"), "work", "jobs:queue", *arguments],
        env=quick.environment | {"TERM": "xterm", "COLUMNS": str(columns), "LINES": "50"},
        cwd=quick.folder,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    ) as process:
        os.close(theirs)
        sent, end, asked = b"", time.monotonic() + DEADLINE_S, False
        while time.monotonic() < end:
            if select.select([ours], [], [], 0.05)[0]:
                try:
                    sent += os.read(ours, 65_536)
                except OSError:
                    break  # Nobody has it open any more.
            if not asked and b"work started" in sent and until():
                # As a terminal does: to the parent and its children.
                os.killpg(process.pid, signal.SIGINT)
                asked = True
        code = process.wait(DEADLINE_S)
    os.close(ours)
    return code, shown(sent.decode(), columns=columns)


# --- what is refused

TARGETS: Final = """
import ledger

queue = ledger.connect()
idle = ledger.connect()
number = 7
for name in ("quick", "bad"):
    queue.process(name)(print)
"""


@pytest.fixture
def targets(quick: Work, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shell]:
    """Yield the command line in the folder of an application, in this process."""
    (quick.folder / "jobs.py").write_text(TARGETS)
    monkeypatch.chdir(quick.folder)
    monkeypatch.setattr(sys, "path", [*sys.path])
    # The command sets it for the application.
    monkeypatch.setenv("LEDGER_DATABASE_URL", quick.shell.url)
    yield quick.shell
    sys.modules.pop("jobs", None)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("jobs",), "expected MODULE:ATTRIBUTE, such as myapp.jobs:queue; got 'jobs'"),
        ((":queue",), "expected MODULE:ATTRIBUTE, such as myapp.jobs:queue; got ':queue'"),
        (("nothing.jobs:queue",), "there is no module 'nothing' in "),
        (
            (".jobs:queue",),
            "expected MODULE:ATTRIBUTE, such as myapp.jobs:queue; got '.jobs:queue'",
        ),
        (("jobs:line",), "module jobs has no 'line'; its queues are queue, idle"),
        (
            ("jobs:number",),
            "jobs:number is of type int; expected a Queue, as returned by ledger.connect()",
        ),
        (("jobs:idle",), "jobs:idle has no handlers; decorate a function"),
        (
            ("jobs:queue", "--type", "slow"),
            "no handler for slow; it has handlers for quick, bad",
        ),
        (("jobs:queue", "--processes", "0"), "expected an integer from 1 to 1000, got '0'"),
        (("jobs:queue", "--processes", "9999"), "expected an integer from 1 to 1000, got '9999'"),
        (("jobs:queue", "--grace", "-1"), "expected seconds from 0 to 604800, got '-1'"),
        (("jobs:queue", "--grace", "nan"), "expected seconds from 0 to 604800, got 'nan'"),
        ((), "Missing argument 'TARGET'"),
    ],
)
def test_what_is_no_target_is_told(
    targets: Shell, arguments: tuple[str, ...], complaint: str
) -> None:
    code, said = in_time(lambda: targets.refusal("work", *arguments))

    assert code == USAGE
    assert complaint in said


def test_a_module_that_fails_shows_where(quick: Work) -> None:
    (quick.folder / "broken.py").write_text("import ledger\nimport not_installed\n")

    code, said = quick.refusal("broken:queue")

    assert code == REFUSED
    assert "import not_installed" in said
    assert "ModuleNotFoundError: No module named 'not_installed'" in said

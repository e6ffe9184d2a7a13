"""What stands still in the background is told by readiness, by two commands, and by the log."""

import logging
import os
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Final

import psutil  # type: ignore[import-untyped]  # comes with the package that brings PostgreSQL
import pytest

from ledger.database.contract import Leadership
from ledger.database.own_files import NotOurs
from ledger.errors import Unavailable
from ledger.log.recorded import AnyChange
from ledger.processes.composition import System
from ledger.processes.late_log import LateLog
from ledger.projections.follower import catch_up
from ledger.projections.following import Following
from ledger.projections.lag import LATE_MS, Late, lags
from ledger.queue import presence
from ledger.queue.overdue import SWEEPER, late_sweeper
from ledger.rules.commands import Create, Start
from ledger.worker.sweeper import Sweeper
from tests.builders import Clock, carry_out, job_in, open_sqlite
from tests.contract.client import Client
from tests.followers import Remembering
from tests.integration.servers import (
    DEADLINE_S,
    Server,
    is_running,
    is_stopped,
    kill_family,
    surroundings,
    tool,
    wait_until,
)
from tests.integration.shell import Shell

# Longer than the limit, by a time that does not round.
WAITED_MS: Final = LATE_MS + 1_000
NO_SWEEPER: Final = "no process sweeps; run `ledger serve`, `ledger work` or `ledger sweep`"
HANGS: Final = "hangs, or has more to do than it can"


@pytest.fixture
def clock(system: System) -> Clock:
    clock = Clock()
    system.ledger.clock = clock
    return clock


@pytest.fixture
def shell(system: System, database_url: str, tmp_path: Path) -> Shell:
    return Shell(database_url, tmp_path / "search")


def told(system: System) -> Any:
    """Return what readiness tells of late work; it stays ready."""
    answer = Client(system).get("/health/ready")
    assert (answer.status, answer.json["status"]) == (200, "ready")
    return answer.json.get("late", {})


def without_process(name: str, position: int) -> str:
    return (
        f"event {position} is not applied; no process follows it; run `ledger serve` or "
        f"`ledger follow {name}`"
    )


class Away(Remembering):
    """A follower whose reads fail, which closes the connection of the thread."""

    def reached(self) -> int:
        self._database.release()
        raise Unavailable("it is away")


def test_a_follower_that_cannot_read_hides_no_other(system: System, clock: Clock) -> None:
    carry_out(system, Create(type="email"))
    clock.now_ms += WAITED_MS
    followers = [Away(system), Remembering(system), Away(system)]

    found = lags(system.database, followers, (), time_ms=system.ledger.time_ms)

    assert [each.stopped for each in found] == ["it is away", None, "it is away"]
    assert [each.late and each.late.ms for each in found] == [None, WAITED_MS, None]


@contextmanager
def running(folder: Path, url: str, *words: str) -> Iterator["subprocess.Popen[bytes]"]:
    """Run a command until the end of the block; then kill it, stopped or not."""
    process = subprocess.Popen(
        [tool("ledger"), "--database", url, *words],
        cwd=folder,
        env=surroundings(folder, LEDGER_SEARCH_DIRECTORY=str(folder / "search")),
        start_new_session=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait(DEADLINE_S)


@contextmanager
def stopped(process: "subprocess.Popen[bytes]") -> Iterator[None]:
    process.send_signal(signal.SIGSTOP)
    wait_until(lambda: is_stopped(process.pid), "the process is stopped")
    yield
    process.send_signal(signal.SIGCONT)


# --- followers


def test_a_follower_is_late_once_it_lacks_an_event_for_too_long(
    system: System, clock: Clock
) -> None:
    carry_out(system, Create(type="email"))
    clock.now_ms += LATE_MS
    in_time = told(system)
    clock.now_ms += 1

    assert in_time == {}
    assert told(system) == {
        name: {"ms": LATE_MS + 1, "reason": without_process(name, 1)}
        for name in ("search", "activity")
    }


def test_the_oldest_event_that_it_lacks_tells_how_late_it_is(system: System, clock: Clock) -> None:
    carry_out(system, Create(type="email"))
    catch_up(system.database, system.activity)
    clock.now_ms += 5_000
    carry_out(system, Create(type="email"))
    clock.now_ms += WAITED_MS
    carry_out(system, Create(type="email"))

    assert told(system)["activity"] == {
        "ms": WAITED_MS,
        "reason": without_process("activity", 2),
    }


def test_a_follower_process_that_is_stopped_is_told_and_one_that_goes_on_no_longer(
    system: System, clock: Clock, database_url: str, tmp_path: Path
) -> None:
    def is_late() -> bool:
        return bool(told(system))

    with running(tmp_path, database_url, "follow") as follower:
        carry_out(system, Create(type="email"))
        clock.now_ms += WAITED_MS
        wait_until(lambda: not is_late(), "both read models have followed")
        with stopped(follower):
            carry_out(system, Create(type="email"))
            clock.now_ms += WAITED_MS
            during = told(system)
        wait_until(lambda: not is_late(), "it goes on")
    carry_out(system, Create(type="email"))
    clock.now_ms += WAITED_MS

    reason = f"event 2 is not applied; the process that follows it {HANGS}"
    assert during == {name: {"ms": WAITED_MS, "reason": reason} for name in ("search", "activity")}
    assert {name: late["reason"] for name, late in told(system).items()} == {
        name: without_process(name, 3) for name in ("search", "activity")
    }


class Failing(Remembering):
    """A follower whose storage does not take what it is told, for as long as the test says."""

    def __init__(self, system: System, error: Exception) -> None:
        super().__init__(system)
        self.refuse = self._refuse
        self.error: Exception | None = error

    def _refuse(self, changes: Sequence[AnyChange]) -> None:
        if self.error is not None:
            raise self.error


@pytest.mark.parametrize(
    "error", [Unavailable("the index cannot be written: no space left"), ValueError("poison")]
)
def test_an_error_at_every_step_is_told_by_all_processes_until_it_is_over(
    system: System, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    follower = Failing(system, error)
    carry_out(system, Create(type="email"))
    following = Following(
        system.database, follower, system.commit_notifier, standby_s=0.001, stuck_s=0.001
    )

    def told_of() -> str | None:
        (lag,) = lags(system.database, [follower], ())
        return lag.stopped

    with caplog.at_level(logging.WARNING):
        following.start()
        wait_until(lambda: told_of() is not None, "the error is told")
        during = told_of()
        follower.error = None
        wait_until(lambda: told_of() is None, "the error is over")
        wait_until(lambda: len(caplog.messages) == 2, "that is logged")
        following.stop()

    reason = str(error) if isinstance(error, Unavailable) else "ValueError: poison"
    assert during == f"event 1 cannot be applied: {reason}"
    begun, over = caplog.messages
    assert reason in begun
    assert over.startswith(("remembering runs again", "remembering continues: event 1 is applied"))


def test_a_role_that_cannot_be_taken_is_told(system: System) -> None:
    """For example because root owns the lock file."""

    class Roleless(Remembering):
        def leadership(self) -> Leadership:
            raise Unavailable("cannot open the lock file: Permission denied")

    follower = Roleless(system)
    following = Following(system.database, follower, system.commit_notifier, standby_s=0.001)
    carry_out(system, Create(type="email"))

    def lag() -> tuple[str | None, Late | None]:
        (found,) = lags(system.database, [follower], (), late_ms=-1)
        return found.stopped, found.late

    following.start()
    wait_until(lambda: lag()[0] is not None, "the error is told")
    following.stop()

    why = "cannot open the lock file: Permission denied"
    stopped_by, late = lag()
    assert stopped_by == f"event 1 cannot be applied: {why}"
    assert late is not None
    assert late.reason == f"event 1 is not applied; {why}"


def test_a_failure_of_an_event_that_is_not_recorded_is_none(system: System) -> None:
    """A process that cannot follow has noted it while another had applied everything."""
    follower = Failing(system, Unavailable("no"))
    carry_out(system, Create(type="email"))
    following = Following(system.database, follower, system.commit_notifier, standby_s=0.001)
    following.start()
    wait_until(lambda: following.failure is not None, "it has failed")
    following.stop()
    follower.error = None
    catch_up(system.database, follower)

    assert [each.stopped for each in lags(system.database, [follower], ())] == [None]


# --- roles


def test_whether_a_role_is_taken_is_found_out_without_taking_it(
    system: System, database_url: str, tmp_path: Path
) -> None:
    claim = system.database.leadership(SWEEPER)

    free = claim.taken()
    with running(tmp_path, database_url, "sweep"):
        wait_until(claim.taken, "the process sweeps")
        is_ours = claim.held()
    wait_until(lambda: not claim.taken(), "the process is gone")
    held = claim.held()
    taken = claim.taken()
    others = system.database.leadership(SWEEPER).taken()
    claim.release()

    assert (free, is_ours, held, taken, others) == (False, False, True, True, True)
    assert not claim.taken()


def test_a_role_whose_file_is_a_strangers_cannot_be_asked_for(tmp_path: Path) -> None:
    system = open_sqlite(tmp_path / "ledger.db")
    (tmp_path / f"ledger.db-{SWEEPER}").write_text("my own notes")

    with pytest.raises(NotOurs, match="not a lock file"):
        system.database.leadership(SWEEPER).taken()
    system.close()


# --- the sweeper


def sweeper(system: System) -> Late | None:
    return late_sweeper(system.ledger, system.read_models)


def test_a_delay_that_nobody_ends_is_told(system: System, clock: Clock) -> None:
    job_in(system, "delayed", delay_ms=500)
    clock.now_ms += 500 + LATE_MS
    in_time = sweeper(system)
    clock.now_ms += 1
    late = sweeper(system)
    Sweeper(system.ledger, system.jobs).sweep()

    assert in_time is None
    assert late == Late(SWEEPER, LATE_MS + 1, f"job 1 is due and not promoted; {NO_SWEEPER}")
    assert sweeper(system) is None


def test_an_attempt_whose_ttl_nobody_enforces_is_told(system: System, clock: Clock) -> None:
    job_in(system, "active", ttl_ms=500)
    clock.now_ms += 500 + WAITED_MS

    assert sweeper(system) == Late(
        SWEEPER, WAITED_MS, f"job 1 has an expired attempt; {NO_SWEEPER}"
    )


def test_a_lost_worker_whose_attempts_nobody_fails_is_told(system: System, clock: Clock) -> None:
    with system.database.write() as tx:
        for name in ("lost", "idle"):
            presence.beat(tx, name, {}, now_ms=clock.now_ms, lease_ms=300)
    carry_out(system, Start(job_id=job_in(system, "inactive"), worker="lost"))
    # A sweeper may have to excuse the silence for one more lease.
    clock.now_ms += 2 * 300 + LATE_MS
    in_time = sweeper(system)
    clock.now_ms += 1
    late = sweeper(system)
    Sweeper(system.ledger, system.jobs).sweep()

    assert in_time is None
    assert late == Late(
        SWEEPER,
        LATE_MS + 1,
        f"worker lost is lost and its attempts have not failed; {NO_SWEEPER}",
    )
    assert sweeper(system) is None


def test_what_is_due_for_longest_is_told(system: System, clock: Clock) -> None:
    for delay_ms in (3_000, 1_000, 2_000):
        job_in(system, "delayed", delay_ms=delay_ms)
    clock.now_ms += 60_000

    late = sweeper(system)

    assert late is not None
    assert late.ms == 59_000
    assert late.reason.startswith("job 2 ")


def test_a_sweeper_that_is_stopped_is_told_by_readiness_and_commands(
    system: System, clock: Clock, database_url: str, tmp_path: Path, shell: Shell
) -> None:
    with running(tmp_path, database_url, "sweep") as sweeping:
        wait_until(system.database.leadership(SWEEPER).taken, "the process sweeps")
        with stopped(sweeping):
            job_in(system, "delayed", delay_ms=1)
            clock.now_ms += 1 + WAITED_MS
            ready = told(system)[SWEEPER]
            status = shell("status")
            workers = shell("workers")
            late = shell.json("status")["late"][SWEEPER]

    reason = f"job 1 is due and not promoted; the process that sweeps {HANGS}"
    assert ready == {"ms": WAITED_MS, "reason": reason}
    assert late["reason"] == reason
    assert status.exit_code == workers.exit_code == 0
    # These judge by the database's clock, which is years ahead.
    assert f": {reason}\n" in status.stdout
    assert "\nsweeper is late by " in status.stdout
    assert workers.stdout == "no workers\n"
    assert "Warning: sweeper is late by " in workers.stderr


def test_workers_are_not_listed_with_a_warning_of_what_has_never_followed(
    system: System, clock: Clock, shell: Shell
) -> None:
    """A program that uses only Python runs no server, and then nothing follows."""
    carry_out(system, Create(type="email"))
    never = shell("workers").stderr
    catch_up(system.database, system.activity)
    carry_out(system, Create(type="email"))
    once = shell("workers").stderr

    assert never == ""
    assert once.startswith("Warning: activity is late by ")
    assert once.count("\n") == 1


def test_a_sweeper_that_cannot_take_its_role_is_told_with_the_reason(
    tmp_path: Path, sqlite_template: Path
) -> None:
    path = tmp_path / "ledger.db"
    path.write_bytes(sqlite_template.read_bytes())
    system = open_sqlite(path)
    system.ledger.clock = clock = Clock()
    job_in(system, "delayed", delay_ms=1)
    clock.now_ms += 1 + WAITED_MS
    (tmp_path / f"ledger.db-{SWEEPER}").write_text("my own notes")

    late = sweeper(system)

    assert late is not None
    assert "it is a file of 12 bytes, not a lock file" in late.reason
    system.close()


# --- the log


def test_what_becomes_late_is_logged_once_and_so_is_its_end(
    caplog: pytest.LogCaptureFixture,
) -> None:
    late: list[Late] = []
    log = LateLog(lambda: late)

    with caplog.at_level(logging.WARNING):
        log.check()
        late.append(Late("search", 11_900, "it hangs"))
        log.check()
        late[:] = [Late("search", 16_900, "it hangs"), Late("sweeper", 12_000, "none")]
        log.check()
        log.check()
        late.clear()
        late.append(Late("sweeper", 90_000, "none"))
        log.check()

    assert caplog.messages == [
        "search is late by 11 s: it hangs",
        "sweeper is late by 12 s: none",
        "search is no longer late",
    ]


def test_the_log_goes_on_after_an_error(caplog: pytest.LogCaptureFixture) -> None:
    answers: list[Any] = [
        Unavailable("no database"),
        ZeroDivisionError("no"),
        [Late("search", 11_000, "it hangs")],
    ]

    def late() -> Any:
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    log = LateLog(late, every_s=0.001)
    with caplog.at_level(logging.WARNING):
        log.start()
        wait_until(lambda: len(caplog.messages) == 2, "both are logged")
        log.stop()

    assert caplog.messages == [
        "cannot determine what is late; retrying",
        "search is late by 11 s: it hangs",
    ]


JOBS: Final = """
import ledger
queue = ledger.connect()

@queue.process("sms")
def send(job):
    pass
"""


def test_servers_and_workers_log_it_once(tmp_path: Path) -> None:
    (tmp_path / "jobs.py").write_text(JOBS)
    url = f"sqlite:///{tmp_path / 'ledger.db'}"
    log = tmp_path / "work.log"
    with Server(url, tmp_path) as server, log.open("wb") as to:
        wait_until(lambda: len(followers_of(server.pid)) == 1, "the follower process runs")
        server.create()
        with working(tmp_path, url, to):
            (follower,) = followers_of(server.pid)
            # It has loaded what it needs, and applied the first event.
            shell = Shell(url)
            up_to_date = "up to date, at position 1"
            wait_until(
                lambda: shell.json("status")["projections"]["activity"] == up_to_date,
                "the event is applied",
            )
            os.kill(follower, signal.SIGSTOP)
            server.create()
            begun = "activity is late by "
            wait_until(lambda: begun in server.output and begun in log.read_text(), "it is told")
            ready = server.ask("GET", "/health/ready").json
            os.kill(follower, signal.SIGCONT)
            over = "activity is no longer late"
            wait_until(lambda: over in server.output and over in log.read_text(), "it is over")

    assert (ready["status"], sorted(ready["late"])) == ("ready", ["activity", "search"])
    for lines in (server.output, log.read_text()):
        # One for each process that serves, and one for the worker.
        assert lines.count(begun) == lines.count(over) <= 2
        assert f"event 2 is not applied; the process that follows it {HANGS}" in lines


def followers_of(pid: int) -> list[int]:
    found = psutil.Process(pid).children(recursive=True)
    return [child.pid for child in found if is_running(child.pid) and "follow" in child.cmdline()]


@contextmanager
def working(folder: Path, url: str, log: BinaryIO) -> Iterator[None]:
    process = subprocess.Popen(
        [tool("ledger"), "--database", url, "work", "jobs:queue"],
        cwd=folder,
        env=surroundings(folder),
        stdout=log,
        stderr=log,
        start_new_session=True,
    )
    try:
        yield
    finally:
        kill_family(process)

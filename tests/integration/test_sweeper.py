"""The sweeper lets time take effect: alone, in time, and through every absence."""

import json
import logging
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any, Final

import pytest
from sqlalchemy import Connection

from ledger.api.http import json_out
from ledger.database.contract import Leadership
from ledger.errors import AttemptOver, Corrupt, SchemaMismatch, Unavailable
from ledger.log import store
from ledger.log.ledger import Ledger
from ledger.processes.composition import System
from ledger.queue import presence
from ledger.queue.read_models import DueJobs
from ledger.rules.commands import Complete, Create, FailAttempt, Move, Progress, Remove, Start
from ledger.rules.events import Backoff
from ledger.worker.sweeper import LARGEST_SWEEP, Sweeper
from tests.builders import Clock, carry_out, job_in, open_system, rows
from tests.integration.servers import (
    DEADLINE_S,
    Server,
    children,
    kill_group,
    surroundings,
    tool,
    wait_until,
)

SOON_MS: Final = 1_000
LATE_MS: Final = 60_000


@pytest.fixture
def clock(system: System) -> Clock:
    clock = Clock()
    system.ledger.clock = clock
    return clock


@pytest.fixture
def sweeper(system: System) -> Sweeper:
    return Sweeper(system.ledger, system.jobs)


class Watched:
    """A read model without due jobs that raises errors first, and counts its calls."""

    def __init__(self, *errors: Exception) -> None:
        self.looks = 0
        self._errors = list(errors)

    def due(self, connection: Connection, *, now_ms: int, limit: int) -> Sequence[int]:
        self.looks += 1
        if self._errors:
            raise self._errors.pop(0)
        return ()

    def holders(self, connection: Connection) -> Sequence[str]:
        return ()

    def held_by(self, connection: Connection, worker: str) -> Sequence[tuple[int, int]]:
        return ()


class Outdated:
    """A read model that reports jobs as due that are not."""

    def __init__(self, *job_ids: int) -> None:
        self._job_ids = job_ids

    def due(self, connection: Connection, *, now_ms: int, limit: int) -> Sequence[int]:
        return self._job_ids[:limit]

    def holders(self, connection: Connection) -> Sequence[str]:
        return ()

    def held_by(self, connection: Connection, worker: str) -> Sequence[tuple[int, int]]:
        return ()


@contextmanager
def sweeping(ledger: Ledger, jobs: DueJobs) -> Iterator[Sweeper]:
    """Yield a sweeper that runs in a thread of its own."""
    sweeper = Sweeper(ledger, jobs)
    thread = threading.Thread(target=sweeper.run, name="sweeper")
    thread.start()
    try:
        yield sweeper
    finally:
        sweeper.stop()
        thread.join()


def state_of(system: System, job_id: int) -> str | None:
    with system.database.read() as connection:
        job = system.jobs.load(connection, [job_id]).get(job_id)
    return None if job is None else job.state.value


def counts(system: System) -> dict[str, int]:
    """Return the number of jobs in each state that has some."""
    with system.database.read() as connection:
        stats = system.state_counts.stats(connection)
    return {state.value: jobs for state, jobs in stats.counts.items() if jobs}


def log_of(system: System, job_id: int) -> bytes:
    with system.database.read() as connection:
        return json_out.log_lines(store.read_log(connection, job_id, newest=10))


# --- what time does


def test_a_delayed_job_is_promoted_when_it_is_due_and_not_before(
    system: System, sweeper: Sweeper, clock: Clock
) -> None:
    job_id = job_in(system, "delayed", delay_ms=SOON_MS)

    clock.now_ms += SOON_MS - 1
    before = sweeper.sweep(), state_of(system, job_id)
    clock.now_ms += 1
    due = sweeper.sweep(), state_of(system, job_id)
    again = sweeper.sweep(), state_of(system, job_id)

    assert before == (0, "delayed")
    assert due == (1, "inactive")
    assert again == (0, "inactive")
    assert rows(
        system, "SELECT kind, actor, cause, at_ms FROM ledger_events WHERE position = 2"
    ) == [{"kind": "promoted", "actor": "sweeper", "cause": "time", "at_ms": clock.now_ms}]


def test_an_attempt_that_outlives_its_ttl_fails(
    system: System, sweeper: Sweeper, clock: Clock
) -> None:
    job_id = job_in(system, "active", ttl_ms=SOON_MS)

    clock.now_ms += SOON_MS - 1
    before = sweeper.sweep(), state_of(system, job_id)
    clock.now_ms += 1
    due = sweeper.sweep(), state_of(system, job_id)

    assert before == (0, "active")
    assert due == (1, "failed")
    assert rows(
        system,
        "SELECT kind, actor, cause, content FROM ledger_events ORDER BY position DESC LIMIT 1",
    ) == [{"kind": "failed", "actor": "sweeper", "cause": "time", "content": '"TTL exceeded"'}]
    assert log_of(system, job_id) == b'["TTL exceeded"]'


def test_progress_renews_the_ttl(system: System, sweeper: Sweeper, clock: Clock) -> None:
    job_id = job_in(system, "active", ttl_ms=SOON_MS)
    clock.now_ms += SOON_MS - 1
    carry_out(system, Progress(job_id=job_id, attempt=1, progress=50))

    clock.now_ms += SOON_MS - 1
    renewed = sweeper.sweep(), state_of(system, job_id)
    clock.now_ms += 1
    due = sweeper.sweep(), state_of(system, job_id)

    assert renewed == (0, "active")
    assert due == (1, "failed")


def test_a_job_past_its_ttl_is_tried_again_after_its_backoff(
    system: System, sweeper: Sweeper, clock: Clock
) -> None:
    backoff = Backoff(type="fixed", delay_ms=LATE_MS)
    job_id = job_in(system, "active", attempts=2, ttl_ms=SOON_MS, backoff=backoff)

    clock.now_ms += SOON_MS
    expired = sweeper.sweep(), state_of(system, job_id)
    clock.now_ms += LATE_MS
    promoted = sweeper.sweep(), state_of(system, job_id)

    assert expired == (1, "delayed")
    assert promoted == (1, "inactive")


def test_the_late_word_of_an_expired_attempt_is_refused(
    system: System, sweeper: Sweeper, clock: Clock
) -> None:
    job_id = job_in(system, "active", ttl_ms=SOON_MS)
    clock.now_ms += SOON_MS
    sweeper.sweep()

    with pytest.raises(AttemptOver, match="attempt 1 is over"):
        carry_out(system, Complete(job_id=job_id, attempt=1, result="1"))

    assert state_of(system, job_id) == "failed"


@pytest.mark.parametrize("state", ["inactive", "complete", "failed", "removed"])
def test_time_changes_no_job_that_neither_waits_nor_runs(
    system: System, sweeper: Sweeper, clock: Clock, state: str
) -> None:
    job_in(system, state, ttl_ms=SOON_MS)
    before = rows(system, "SELECT position FROM ledger_head")

    clock.now_ms += LATE_MS
    changed = sweeper.sweep()

    assert changed == 0
    assert rows(system, "SELECT position FROM ledger_head") == before


def test_a_job_that_was_moved_before_it_was_due_is_left_alone(
    system: System, sweeper: Sweeper, clock: Clock
) -> None:
    waiting = job_in(system, "delayed", delay_ms=SOON_MS)
    running = job_in(system, "active", ttl_ms=SOON_MS)
    carry_out(
        system,
        Move(job_id=waiting, to="failed"),
        FailAttempt(job_id=running, attempt=1, error='"no"'),
    )

    clock.now_ms += LATE_MS
    changed = sweeper.sweep()

    assert changed == 0
    assert counts(system) == {"failed": 2}


def test_any_number_of_due_jobs_is_swept_at_once(
    system: System, sweeper: Sweeper, clock: Clock
) -> None:
    number = 2 * LARGEST_SWEEP + 1
    system.ledger.submit([Create(type="email", delay_ms=SOON_MS)] * number, actor="test")
    running = job_in(system, "active", ttl_ms=SOON_MS)

    clock.now_ms += SOON_MS
    changed = sweeper.sweep()

    assert changed == number + 1
    assert counts(system) == {"inactive": number, "failed": 1}
    assert state_of(system, running) == "failed"


def test_what_is_due_the_longest_comes_first(system: System, clock: Clock) -> None:
    for delay_ms in (300, 100, 400, 200):
        job_in(system, "delayed", delay_ms=delay_ms)

    with system.database.read() as connection:
        due = system.jobs.due(connection, now_ms=clock.now_ms + 300, limit=2)

    assert list(due) == [2, 4]


def test_what_changed_since_it_was_found_due_is_left_alone(system: System, clock: Clock) -> None:
    outdated = [
        *(job_in(system, state) for state in ("inactive", "delayed", "active", "removed")),
        *range(1_000, 1_000 + LARGEST_SWEEP),
    ]
    before = rows(system, "SELECT position FROM ledger_head")

    changed = Sweeper(system.ledger, Outdated(*outdated)).sweep()

    assert changed == 0
    assert rows(system, "SELECT position FROM ledger_head") == before


def test_a_job_that_is_removed_while_it_is_swept_is_refused_alone(
    system: System, clock: Clock
) -> None:
    gone = job_in(system, "delayed", delay_ms=SOON_MS)
    waiting = job_in(system, "delayed", delay_ms=SOON_MS)
    carry_out(system, Remove(job_id=gone))
    clock.now_ms += SOON_MS

    changed = Sweeper(system.ledger, Outdated(gone, waiting)).sweep()

    assert changed == 1
    assert counts(system) == {"inactive": 1}


# --- workers that are silent


def beat(system: System, worker: str, *, lease_ms: int) -> None:
    with system.database.write() as tx:
        now_ms = system.ledger.time_ms(tx)
        presence.beat(tx, worker, {"email": 1}, now_ms=now_ms, lease_ms=lease_ms)


def held_by(system: System, worker: str | None, **options: Any) -> int:
    """Return the id of a new job whose attempt that worker holds."""
    job_id = job_in(system, "inactive", **options)
    carry_out(system, Start(job_id=job_id, worker=worker))
    return job_id


def test_a_worker_that_is_silent_for_longer_than_its_lease_is_lost(
    system: System, sweeper: Sweeper, clock: Clock
) -> None:
    """The lease is the worker's own, not the sweeper's."""
    beat(system, "host:17:1", lease_ms=SOON_MS)
    jobs = [held_by(system, "host:17:1", attempts=attempts) for attempts in (1, 2)]

    clock.now_ms += SOON_MS
    before = sweeper.sweep(), [state_of(system, job_id) for job_id in jobs]
    clock.now_ms += 1
    due = sweeper.sweep(), [state_of(system, job_id) for job_id in jobs]
    again = sweeper.sweep()

    error = "worker host:17:1 was lost: silent for 1001 ms"
    assert before == (0, ["active", "active"])
    assert (due, again) == ((2, ["failed", "inactive"]), 0)
    assert rows(
        system,
        "SELECT job_id, actor, cause, content FROM ledger_events WHERE kind = 'failed' "
        "ORDER BY job_id",
    ) == [
        {"job_id": job_id, "actor": "sweeper", "cause": "lease", "content": json.dumps(error)}
        for job_id in jobs
    ]
    assert [json.loads(log_of(system, job_id)) for job_id in jobs] == [[error]] * 2


def test_a_sign_of_life_renews_the_lease(system: System, sweeper: Sweeper, clock: Clock) -> None:
    beat(system, "host:17:1", lease_ms=SOON_MS)
    job_id = held_by(system, "host:17:1")
    clock.now_ms += SOON_MS
    beat(system, "host:17:1", lease_ms=SOON_MS)

    clock.now_ms += SOON_MS
    renewed = sweeper.sweep(), state_of(system, job_id)
    clock.now_ms += 1
    due = sweeper.sweep(), state_of(system, job_id)

    assert renewed == (0, "active")
    assert due == (1, "failed")


def test_a_worker_that_was_never_seen_has_a_lease_from_when_it_was_missed(
    system: System, clock: Clock
) -> None:
    sweeper = Sweeper(system.ledger, system.jobs, lease_ms=SOON_MS)
    job_id = held_by(system, "host:17:1")

    clock.now_ms += LATE_MS
    missed = sweeper.sweep(), state_of(system, job_id)
    clock.now_ms += SOON_MS
    before = sweeper.sweep(), state_of(system, job_id)
    clock.now_ms += 1
    due = sweeper.sweep(), state_of(system, job_id)

    assert missed == before == (0, "active")
    assert due == (1, "failed")


def test_a_worker_that_was_missed_and_came_back_is_not_lost(system: System, clock: Clock) -> None:
    sweeper = Sweeper(system.ledger, system.jobs, lease_ms=SOON_MS)
    job_id = held_by(system, "host:17:1")
    sweeper.sweep()

    clock.now_ms += SOON_MS + 1
    beat(system, "host:17:1", lease_ms=SOON_MS)
    changed = sweeper.sweep()

    assert (changed, state_of(system, job_id)) == (0, "active")


class ComingBack:
    """A read model of which a silent worker beats, and claims, while what it holds is read."""

    def __init__(self, system: System, worker: str) -> None:
        self._system = system
        self._worker = worker
        self.due = system.jobs.due
        self.holders = system.jobs.holders

    def held_by(self, connection: Connection, worker: str) -> Sequence[tuple[int, int]]:
        beat(self._system, self._worker, lease_ms=SOON_MS)
        held_by(self._system, self._worker)
        return self._system.jobs.held_by(connection, worker)


def test_a_worker_that_comes_back_during_the_sweep_keeps_what_it_claims(
    system: System, clock: Clock
) -> None:
    beat(system, "host:17:1", lease_ms=SOON_MS)
    held_by(system, "host:17:1")
    clock.now_ms += SOON_MS + 1

    changed = Sweeper(system.ledger, ComingBack(system, "host:17:1")).sweep()

    assert changed == 0
    assert counts(system) == {"active": 2}


def test_an_attempt_that_no_worker_holds_cannot_lose_it(
    system: System, sweeper: Sweeper, clock: Clock
) -> None:
    """It was started without a name, or by an operator's hand after a worker had it."""
    nameless = held_by(system, None)
    by_hand = held_by(system, "host:17:1")
    carry_out(
        system,
        FailAttempt(job_id=by_hand, attempt=1, error='"no"'),
        Move(job_id=by_hand, to="active"),
    )
    sweeper.sweep()

    clock.now_ms += LATE_MS
    changed = sweeper.sweep()

    assert changed == 0
    assert [state_of(system, job_id) for job_id in (nameless, by_hand)] == ["active", "active"]


def test_the_late_word_of_a_lost_worker_is_refused(
    system: System, sweeper: Sweeper, clock: Clock
) -> None:
    beat(system, "host:17:1", lease_ms=SOON_MS)
    job_id = held_by(system, "host:17:1", attempts=2)
    clock.now_ms += SOON_MS + 1
    sweeper.sweep()

    with pytest.raises(AttemptOver, match="attempt 1 is over; the job is inactive"):
        carry_out(system, Complete(job_id=job_id, attempt=1))


def test_a_worker_that_left_is_struck_from_the_list(system: System, clock: Clock) -> None:
    for name in ("b", "a"):
        beat(system, name, lease_ms=SOON_MS)
    clock.now_ms += 5
    beat(system, "b", lease_ms=LATE_MS)

    with system.database.read() as connection:
        both = presence.seen(connection)
    with system.database.write() as tx:
        presence.leave(tx, "a")
    with system.database.read() as connection:
        left = presence.seen(connection)

    start_ms = clock.now_ms - 5
    b = presence.WorkerSeen("b", {"email": 1}, start_ms, clock.now_ms, LATE_MS)
    assert both == [presence.WorkerSeen("a", {"email": 1}, start_ms, start_ms, SOON_MS), b]
    assert left == [b]


def test_a_worker_that_died_is_struck_from_the_list_after_a_day(
    system: System, clock: Clock
) -> None:
    for name in ("dead", "alive", "holder"):
        beat(system, name, lease_ms=SOON_MS)
    clock.now_ms += presence.FORGOTTEN_MS
    beat(system, "alive", lease_ms=SOON_MS)
    clock.now_ms += 1
    job_id = held_by(system, "holder")
    kept = presence.forget(system.ledger, {"holder", "dead"})
    # What it holds is failed first.
    Sweeper(system.ledger, system.jobs).sweep()
    with system.database.read() as connection:
        left = [worker.name for worker in presence.seen(connection)]

    assert (kept, left) == (0, ["alive"])
    assert state_of(system, job_id) == "failed"


# --- one at a time


def test_one_sweeper_at_a_time_works_and_another_takes_over(database_url: str) -> None:
    one, other = open_system(database_url), open_system(database_url)
    watched = Watched(), Watched()

    with (
        sweeping(one.ledger, watched[0]) as first,
        sweeping(other.ledger, watched[1]) as second,
    ):
        # Long enough for whoever stands by to have tried several times.
        wait_until(lambda: sum(w.looks for w in watched) >= 8, "one of them has looked eight times")
        looks = sorted(w.looks for w in watched)
        leads, leader = (0, first) if watched[0].looks else (1, second)
        leader.stop()
        wait_until(lambda: watched[1 - leads].looks > 0, "the other has taken over")
    one.close()
    other.close()

    assert looks[0] == 0


def test_leadership_is_held_released_and_taken_over(database_url: str) -> None:
    one, other = open_system(database_url), open_system(database_url)
    mine, theirs = one.database.leadership("sweeper"), other.database.leadership("sweeper")
    elsewhere = other.database.leadership("another role")

    held = [mine.held(), mine.held(), theirs.held(), elsewhere.held()]
    mine.release()
    after_release = [theirs.held(), mine.held()]
    for leadership in (mine, theirs, elsewhere):
        leadership.release()
    again = mine.held()
    mine.release()
    one.close()
    other.close()

    assert held == [True, True, False, True]
    assert after_release == [True, False]
    assert again


def test_leadership_falls_free_when_its_holder_is_killed(
    system: System, database_url: str, tmp_path: Path
) -> None:
    leadership = system.database.leadership("sweeper")
    process = subprocess.Popen(
        [tool("ledger"), "sweep"],
        env=surroundings(tmp_path, LEDGER_DATABASE_URL=database_url),
        cwd=tmp_path,
        start_new_session=True,
    )
    with process:
        job_id = job_in(system, "delayed", delay_ms=1)
        wait_until(lambda: state_of(system, job_id) == "inactive", "the process sweeps")
        while_it_lives = leadership.held()
        kill_group(process)
        wait_until(leadership.held, "the role has fallen free")
    leadership.release()

    assert not while_it_lives


def test_no_signal_interrupts_a_sweep(system: System, database_url: str, tmp_path: Path) -> None:
    """Its connection would be left within a statement, and the end tell of that."""
    job_id = job_in(system, "delayed", delay_ms=1)
    with ExitStack() as stack:
        other = stack.enter_context(closing(open_system(database_url)))
        # The sweeper waits for as long as this is open.
        with system.database.write() as tx:
            store.lock_head(tx)
            process = stack.enter_context(
                subprocess.Popen(
                    [tool("ledger"), "sweep"],
                    env=surroundings(tmp_path, LEDGER_DATABASE_URL=database_url),
                    stderr=subprocess.PIPE,
                    text=True,
                )
            )
            stack.callback(process.kill)
            wait_until(other.database.leadership("sweeper").taken, "it sweeps")
            time.sleep(0.5)
            process.send_signal(signal.SIGTERM)
            time.sleep(0.2)
            is_running_yet = process.poll() is None
        _, said = process.communicate(timeout=DEADLINE_S)

    assert (process.returncode, said) == (0, "stopped\n")
    assert is_running_yet
    assert state_of(system, job_id) == "inactive"


# --- through every absence


@pytest.mark.parametrize(
    "error",
    [Unavailable("away"), SchemaMismatch("older"), Corrupt("damaged"), RuntimeError("a bug")],
    ids=lambda error: type(error).__name__,
)
def test_a_sweeper_goes_on_after_an_error(
    system: System, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    jobs = Watched(error, error)

    with caplog.at_level(logging.WARNING), sweeping(system.ledger, jobs):
        wait_until(lambda: jobs.looks >= 4, "it has looked again")

    # It complains once, and says when it is over.
    complaints = [record for record in caplog.records if record.threadName == "sweeper"]
    assert len(complaints) == 2
    assert str(error) in caplog.text


def test_a_sweeper_waits_for_tables_that_are_not_there_yet(
    database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    empty = open_system(database_url)

    with caplog.at_level(logging.WARNING), sweeping(empty.ledger, empty.jobs):
        wait_until(lambda: bool(caplog.records), "it has said so")
    empty.close()

    assert "run `ledger migrate`" in caplog.text


# --- in the server, on a real clock


def test_delayed_jobs_become_inactive_within_a_second_without_any_worker(
    system: System, database_url: str, tmp_path: Path
) -> None:
    number = 25

    def late_ms(first: int) -> list[int]:
        """Return how late each of some jobs was that became due over two seconds."""
        create = [Create(type="email", delay_ms=1 + 80 * place) for place in range(number)]
        system.ledger.submit(create, actor="test")
        wait_until(lambda: set(counts(system)) == {"inactive"}, "all of them are inactive")
        return [
            row["late_ms"]
            for row in rows(
                system,
                "SELECT events.at_ms - jobs.promote_at_ms AS late_ms"
                " FROM ledger_events AS events JOIN ledger_jobs AS jobs ON jobs.id = events.job_id"
                " WHERE events.kind = 'promoted' AND jobs.id >= :first",
                first=first,
            )
        ]

    seen: list[list[int]] = []

    def are_in_time() -> bool:
        seen.append(late_ms(first=1 + number * len(seen)))
        return max(seen[-1]) < 1_000

    with Server(database_url, tmp_path):
        # The machine may stand still for a while, but not always; a sweeper that looks too
        # seldom is late with some of any two seconds.
        wait_until(are_in_time, "all that becomes due in two seconds is promoted in time")

    assert [(len(each), min(each) >= 0) for each in seen] == [(number, True)] * len(seen)


def test_active_jobs_past_their_ttl_fail_without_any_worker(
    system: System, database_url: str, tmp_path: Path
) -> None:
    with Server(database_url, tmp_path) as server:
        job_id = server.create(ttl=100)
        carry_out(system, Start(job_id=job_id))
        wait_until(lambda: state_of(system, job_id) == "failed", "it has failed")
        job = server.ask("GET", f"/job/{job_id}").json
        log = server.ask("GET", f"/job/{job_id}/log").json
        history = server.ask("GET", f"/job/{job_id}/events").json

    assert (job["state"], job["error"]) == ("failed", "TTL exceeded")
    assert job["attempts"] == {"made": 1, "remaining": 0, "max": 1}
    assert log == ["TTL exceeded"]
    assert [(event["kind"], event["actor"]) for event in history] == [
        ("created", "anonymous"),
        ("started", "test"),
        ("failed", "sweeper"),
    ]


def test_promotion_survives_the_death_of_any_server_process(
    system: System, database_url: str, tmp_path: Path
) -> None:
    with Server(database_url, tmp_path) as server:
        for process in children(server.pid):
            os.kill(process, signal.SIGKILL)
            server.wait_ready()
            job_id = server.create(delay=1)
            wait_until(
                lambda: state_of(system, job_id) == "inactive",  # noqa: B023 - waited for at once
                "one of the others has promoted it",
            )
        wait_until(lambda: len(children(server.pid)) == 2, "both processes were replaced")

    assert counts(system) == {"inactive": 2}


def test_a_server_told_not_to_sweep_leaves_it_to_the_command(
    system: System, database_url: str, tmp_path: Path
) -> None:
    role = system.database.leadership("sweeper")

    with Server(database_url, tmp_path, variables={"LEDGER_SWEEP": "off"}) as server:
        job_id = server.create(delay=1)
        free = role.held()
        before = state_of(system, job_id)
        role.release()
        swept = subprocess.run(
            [tool("ledger"), "sweep", "--once"],
            env=surroundings(tmp_path, LEDGER_DATABASE_URL=database_url),
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=True,
        )

    assert (free, before) == (True, "delayed")
    assert swept.stdout == "1 jobs changed\n"
    assert state_of(system, job_id) == "inactive"


@pytest.mark.parametrize("by_ms", [LATE_MS, -LATE_MS])
def test_a_clock_that_jumps_makes_nobody_silent(system: System, clock: Clock, by_ms: int) -> None:
    sweeper = Sweeper(system.ledger, system.jobs)
    sweeper._step()
    beat(system, "host:17:1", lease_ms=SOON_MS)
    job_id = held_by(system, "host:17:1")

    clock.now_ms += by_ms
    sweeper._step()
    jumped = state_of(system, job_id)
    clock.now_ms += SOON_MS
    sweeper.sweep()
    silent = state_of(system, job_id)
    clock.now_ms += 1
    sweeper.sweep()

    assert (jumped, silent, state_of(system, job_id)) == ("active", "active", "failed")


@pytest.mark.parametrize("looks", range(4))
def test_a_clock_that_jumps_during_a_sweep_makes_nobody_silent(
    system: System, clock: Clock, monkeypatch: pytest.MonkeyPatch, looks: int
) -> None:
    """Between any two of the times that it asks for."""
    sweeper = Sweeper(system.ledger, system.jobs)
    sweeper._step()
    beat(system, "host:17:1", lease_ms=SOON_MS)
    job_id = held_by(system, "host:17:1")
    looked = 0

    def look(_: Connection) -> int:
        nonlocal looked
        if looked == looks:
            clock.now_ms += LATE_MS
        looked += 1
        return clock.now_ms

    monkeypatch.setattr(system.ledger, "time_ms", look)
    for _ in range(3):
        sweeper._step()

    assert looked > looks
    assert state_of(system, job_id) == "active"


def test_silence_while_the_database_was_away_is_nobodys(
    system: System, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweeper = Sweeper(system.ledger, system.jobs, jump_ms=10 * LATE_MS)
    beat(system, "host:17:1", lease_ms=SOON_MS)
    job_id = held_by(system, "host:17:1")

    def unavailable(_role: str) -> Leadership:
        raise Unavailable("the database is away")

    clock.now_ms += LATE_MS
    with monkeypatch.context() as away:
        away.setattr(system.database, "leadership", unavailable)
        led_while_away = sweeper._loop.leads()
    sweeper._step()

    assert not led_while_away

    assert state_of(system, job_id) == "active"

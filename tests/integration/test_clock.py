"""One clock decides, the database's; it may be set, and the clocks of the machines may be wrong."""

import json
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import Final

import pytest

import ledger
from ledger import Queue, RunningJob, Worker
from ledger.database.clock import current_time_ms
from ledger.errors import Unavailable
from ledger.log import store
from ledger.log.ledger import MOST_AHEAD_MS
from ledger.processes.composition import System
from ledger.queue import presence
from ledger.rules.commands import Create, FailAttempt, Start
from ledger.rules.events import Backoff
from ledger.worker.sweeper import Sweeper
from tests.builders import Clock, carry_out, rows, verified
from tests.integration.servers import DEADLINE_S, wait_until

AN_HOUR_MS: Final = 60 * 60 * 1000
LEASE_MS: Final = 3_000

each_wrong_clock = pytest.mark.parametrize(
    "off_by_s",
    [
        lambda: 0,
        lambda: 3_600,
        lambda: -3_600,
        lambda: -40,
        lambda: random.choice((-86_400, -40, 0, 40, 86_400)),
    ],
    ids=["right", "an hour ahead", "an hour behind", "behind", "jumping"],
)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, off_by_s: Callable[[], int]) -> None:
    """Set the clock that Python's programs read."""
    real = time.time_ns  # noqa: TID251 - to set it
    monkeypatch.setattr(time, "time_ns", lambda: real() + off_by_s() * 10**9)
    monkeypatch.setattr(time, "time", lambda: real() / 1e9 + off_by_s())


@pytest.fixture
def queue(system: System, database_url: str) -> Iterator[Queue]:
    """Yield a queue with a short lease, beside a system on the same database."""
    opened = ledger.connect(database_url, actor="tests")
    opened.lease_ms = LEASE_MS
    yield opened
    opened.close()


def state_of(system: System, job_id: int) -> str:
    with system.database.read() as connection:
        return system.jobs.load(connection, [job_id])[job_id].state.value


# --- machines


@each_wrong_clock
@pytest.mark.usefixtures("machine")
def test_the_clocks_of_the_machines_change_nothing(queue: Queue, system: System) -> None:
    """Delays, backoffs, ttls and leases; whoever creates, works and sweeps."""

    @queue.process("email", concurrency=4)
    def send(job: RunningJob) -> int:
        if job.data == "again" and job.attempt == 1:
            raise ValueError(job.data)
        if job.data == "late" and job.attempt == 1:
            wait_until(lambda: job.expired, "its ttl is over")
        if job.data == "long":
            time.sleep(1.2 * LEASE_MS / 1000)
        return job.attempt

    with system.database.read() as connection:
        begun_ms = current_time_ms(connection)
        in_300_ms = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=begun_ms + 300)
    worker = Worker(queue, sweep=True)
    thread = worker.start()
    try:
        jobs = {
            "plain": queue.create("email", "plain", ttl=AN_HOUR_MS),
            "delayed": queue.create("email", "delayed", delay=300),
            "at a time": queue.create("email", "at a time", delay=in_300_ms),
            "again": queue.create(
                "email", "again", attempts=2, backoff={"type": "fixed", "delay": 300}
            ),
            # On a slow machine, later attempts may be late as well.
            "late": queue.create("email", "late", attempts=100, ttl=300),
            "long": queue.create("email", "long"),
        }
        results = {name: job.wait(DEADLINE_S) for name, job in jobs.items()}
        (seen,) = queue.workers()
    finally:
        worker.stop()
        thread.join(DEADLINE_S)
    with system.database.read() as connection:
        ended_ms = current_time_ms(connection)

    late = results.pop("late")
    assert results == dict.fromkeys(results, 1) | {"again": 2}
    reasons = [
        json.loads(row["body"]).get("reason")
        for row in rows(
            system, "SELECT body FROM ledger_events WHERE kind = 'failed' ORDER BY position"
        )
    ]
    assert sorted(map(str, reasons)) == ["None", *["ttl"] * (late - 1)]
    assert late > 1
    times_ms = [row["at_ms"] for row in rows(system, "SELECT at_ms FROM ledger_events")]
    assert begun_ms <= min(times_ms) <= max(times_ms) <= ended_ms
    assert begun_ms <= seen.started_at_ms <= seen.seen_at_ms <= ended_ms
    for name in ("delayed", "again", "late"):
        first, *_, last = jobs[name].events()
        assert last.at_ms - first.at_ms >= 300, name
    # Its creation may have taken any time of that.
    *_, last = jobs["at a time"].events()
    assert last.at_ms >= begun_ms + 300
    assert verified(system).differences == []


@each_wrong_clock
@pytest.mark.usefixtures("machine")
def test_a_silent_worker_is_lost_by_the_databases_clock(system: System) -> None:
    sweeper = Sweeper(system.ledger, system.jobs)
    presence.beat_if_due(system.ledger, "alive", {"email": 1}, lease_ms=AN_HOUR_MS)
    presence.beat_if_due(system.ledger, "dead", {"email": 1}, lease_ms=300)
    with system.database.read() as connection:
        dead = presence.find(connection, "dead")
    for job_id, worker in ((1, "alive"), (2, "dead")):
        carry_out(system, Create(type="email"), Start(job_id=job_id, worker=worker))

    wait_until(lambda: sweeper.sweep() > 0, "a worker is lost")

    assert dead is not None
    (failed_ms,) = (
        row["at_ms"] for row in rows(system, "SELECT at_ms FROM ledger_events WHERE kind='failed'")
    )
    assert failed_ms - dead.seen_at_ms > 300
    assert (state_of(system, 1), state_of(system, 2)) == ("active", "failed")


def test_an_event_has_the_time_at_which_its_turn_came(system: System) -> None:
    """Not that at which it queued for the lock: others may have held it for long."""
    locked, release = threading.Event(), threading.Event()

    def hold() -> None:
        with system.database.write() as tx:
            store.lock_head(tx)
            locked.set()
            release.wait(DEADLINE_S)
        system.database.release()

    holder = threading.Thread(target=hold)
    holder.start()
    assert locked.wait(DEADLINE_S)
    creating = threading.Thread(target=lambda: carry_out(system, Create(type="email")))
    creating.start()
    time.sleep(0.3)
    with system.database.read() as connection:
        released_ms = current_time_ms(connection)
    release.set()
    holder.join(DEADLINE_S)
    creating.join(DEADLINE_S)

    ((created,),) = ([row["at_ms"] for row in rows(system, "SELECT at_ms FROM ledger_events")],)
    assert created >= released_ms


# --- the database's clock is set


@pytest.mark.parametrize("by_ms", [-AN_HOUR_MS, -1, 0, AN_HOUR_MS])
def test_what_falls_due_follows_a_clock_that_is_set(system: System, by_ms: int) -> None:
    """Recorded times never decrease, but nothing stands still until the clock has caught up."""
    system.ledger.clock = clock = Clock()
    sweeper = Sweeper(system.ledger, system.jobs)
    carry_out(system, Create(type="email"))
    clock.now_ms += by_ms

    carry_out(
        system,
        Create(type="email", delay_ms=500),
        Create(type="email", ttl_ms=500),
        Create(type="email", attempts=2, backoff=Backoff(type="fixed", delay_ms=500)),
        Create(type="email", run_at_ms=clock.now_ms + 500),
        Start(job_id=3),
        Start(job_id=4),
        FailAttempt(job_id=4, attempt=1, error='"no"'),
    )
    clock.now_ms += 499
    before = sweeper.sweep()
    clock.now_ms += 1
    after = sweeper.sweep()

    assert (before, after) == (0, 4)
    assert [state_of(system, id_) for id_ in (2, 3, 4, 5)] == [
        "inactive", "failed", "inactive", "inactive",
    ]  # fmt: skip
    times_ms = [
        row["at_ms"] for row in rows(system, "SELECT at_ms FROM ledger_events ORDER BY position")
    ]
    assert times_ms == sorted(times_ms)
    assert verified(system).differences == []


def test_a_moment_that_is_past_is_no_delay(system: System) -> None:
    system.ledger.clock = clock = Clock()

    carry_out(system, Create(type="email", run_at_ms=0), Create(type="email", run_at_ms=clock()))

    assert [state_of(system, job_id) for job_id in (1, 2)] == ["inactive", "inactive"]


# --- an event in the future of a SQLite file's machine

sqlite_only = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
postgres_only = pytest.mark.parametrize("database_url", ["postgres"], indirect=True)


def set_ahead(system: System, by_ms: int) -> None:
    """Record an event with a clock that is ahead."""
    with system.database.read() as connection:
        system.ledger.clock = Clock(current_time_ms(connection) + by_ms)
    carry_out(system, Create(type="email"))
    system.ledger.clock = None


@sqlite_only
def test_nothing_is_recorded_long_before_the_last_event(system: System) -> None:
    set_ahead(system, MOST_AHEAD_MS + AN_HOUR_MS)
    with system.database.read() as connection:
        before = store.read_head(connection)

    with pytest.raises(Unavailable) as refused:
        carry_out(system, Create(type="email"))

    with system.database.read() as connection:
        assert store.read_head(connection) == before
    ahead = datetime.fromtimestamp(before.at_ms / 1000, UTC)
    assert f"the last event has the time {ahead:%Y-%m-%dT%H:%M:%S}Z" in str(refused.value)
    assert "set LEDGER_ALLOW_FUTURE=on" in str(refused.value)
    assert state_of(system, 1) == "inactive"


@sqlite_only
def test_a_time_after_the_last_datetime_is_refused_in_words_too(system: System) -> None:
    set_ahead(system, 400_000 * 365 * 24 * AN_HOUR_MS)

    with pytest.raises(Unavailable, match=r"the last event has the time \+40\d{4}-"):
        carry_out(system, Create(type="email"))


@sqlite_only
def test_a_clock_that_was_set_back_a_little_stops_nobody(system: System) -> None:
    set_ahead(system, MOST_AHEAD_MS - 1_000)

    carry_out(system, Create(type="email"))

    assert state_of(system, 2) == "inactive"


@sqlite_only
def test_who_says_so_goes_on_before_the_last_event(
    system: System, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_ahead(system, AN_HOUR_MS)
    monkeypatch.setenv("LEDGER_ALLOW_FUTURE", "on")

    with closing(ledger.connect(database_url)) as allowed:
        job = allowed.create("email", delay=1)
        time.sleep(0.01)
        Sweeper(allowed.ledger, allowed.read_models).sweep()
        state = job.state

    assert state == "inactive"
    times_ms = [row["at_ms"] for row in rows(system, "SELECT at_ms FROM ledger_events")]
    assert times_ms == times_ms[:1] * 3
    assert verified(system).differences == []


@postgres_only
def test_the_clock_of_a_server_is_its_administrators(system: System) -> None:
    set_ahead(system, AN_HOUR_MS)

    carry_out(system, Create(type="email", delay_ms=1))
    time.sleep(0.01)
    Sweeper(system.ledger, system.jobs).sweep()

    assert state_of(system, 2) == "inactive"
    assert verified(system).differences == []

"""Which workers there are: who is silent, what each holds, which heartbeats are recorded."""

from collections.abc import Callable, Sequence, Sized
from typing import Any, Final

import pytest
from sqlalchemy import Connection

from ledger.database.fast_sql import driver_of
from ledger.processes.composition import System
from ledger.queue import presence
from ledger.queue.presence import ListedWorker, WorkerSeen
from ledger.rules.commands import Claim, Create, Start
from tests.builders import START_MS, Clock, carry_out, job_in

LEASE_MS: Final = 600
# A heartbeat that comes sooner after another one is not recorded.
RECORDED_EVERY_MS: Final = 100


def listed(system: System, *, now_ms: int) -> list[ListedWorker]:
    with system.database.read() as connection:
        return system.read_models.workers(connection, now_ms=now_ms)


def seen(system: System) -> list[tuple[int, dict[str, int], int]]:
    with system.database.read() as connection:
        return [
            (worker.seen_at_ms, worker.types, worker.lease_ms)
            for worker in presence.seen(connection)
        ]


@pytest.mark.parametrize(
    ("after_ms", "state"),
    [(0, "working"), (LEASE_MS, "working"), (LEASE_MS + 1, "silent"), (-LEASE_MS, "working")],
)
def test_a_worker_is_silent_once_its_lease_is_over(
    system: System, after_ms: int, state: presence.WorkerState
) -> None:
    with system.database.write() as tx:
        presence.beat(tx, "a", {"email": 2}, now_ms=START_MS, lease_ms=LEASE_MS)

    assert listed(system, now_ms=START_MS + after_ms) == [
        ListedWorker(WorkerSeen("a", {"email": 2}, START_MS, START_MS, LEASE_MS), state, 0)
    ]


def test_the_list_counts_the_attempts_that_each_worker_holds(system: System) -> None:
    with system.database.write() as tx:
        for name in ("b", "a", "idle"):
            presence.beat(tx, name, {}, now_ms=START_MS, lease_ms=LEASE_MS)
    for worker in ("a", "b", "b", "unlisted", None):
        carry_out(system, Start(job_id=job_in(system, "inactive"), worker=worker))

    held = {worker.seen.name: worker.held for worker in listed(system, now_ms=START_MS)}

    assert held == {"a": 1, "b": 2, "idle": 0}


@pytest.mark.parametrize(
    ("after_ms", "is_recorded"),
    [(0, False), (RECORDED_EVERY_MS - 1, False), (RECORDED_EVERY_MS, True), (-1, True)],
)
def test_a_heartbeat_that_comes_soon_after_another_is_not_recorded(
    system: System, after_ms: int, *, is_recorded: bool
) -> None:
    """Unless the clock was set back: the worker would seem to be heard from in the future."""
    for now_ms in (START_MS, START_MS + after_ms):
        system.ledger.clock = Clock(now_ms)
        presence.beat_if_due(system.ledger, "a", {"email": 1}, lease_ms=LEASE_MS)

    expected_ms = START_MS + after_ms if is_recorded else START_MS
    assert seen(system) == [(expected_ms, {"email": 1}, LEASE_MS)]


@pytest.mark.parametrize(
    ("types", "lease_ms", "recorded"),
    [
        ({"email": 9}, LEASE_MS, (START_MS, {"email": 1}, LEASE_MS)),
        (None, LEASE_MS, (START_MS, {"email": 1}, LEASE_MS)),
        ({"sms": 1}, LEASE_MS, (START_MS + 1, {"sms": 1}, LEASE_MS)),
        ({"email": 1}, 2 * LEASE_MS, (START_MS + 1, {"email": 1}, 2 * LEASE_MS)),
        (None, 2 * LEASE_MS, (START_MS + 1, {"email": 1}, 2 * LEASE_MS)),
    ],
)
def test_a_heartbeat_that_says_something_new_is_recorded_at_once(
    system: System,
    types: dict[str, int] | None,
    lease_ms: int,
    recorded: tuple[int, dict[str, int], int],
) -> None:
    system.ledger.clock = clock = Clock()
    presence.beat_if_due(system.ledger, "a", {"email": 1}, lease_ms=LEASE_MS)
    clock.now_ms += 1

    presence.beat_if_due(system.ledger, "a", types, lease_ms=lease_ms)

    assert seen(system) == [recorded]


@pytest.mark.parametrize("lease_ms", [LEASE_MS, 1_000])
def test_each_heartbeat_of_a_worker_that_sends_them_in_time_is_recorded(
    system: System, lease_ms: int
) -> None:
    recorded = []
    for number in range(4):
        now_ms = START_MS + int(number * presence.beat_interval_ms(lease_ms))
        system.ledger.clock = Clock(now_ms)
        presence.beat_if_due(system.ledger, "a", {}, lease_ms=lease_ms)
        recorded.append(seen(system) == [(now_ms, {}, lease_ms)])

    assert recorded == [True] * 4
    assert now_ms == START_MS + lease_ms


@pytest.mark.parametrize(
    ("database_url", "counted"),
    [("sqlite", "never"), ("postgres", "before"), ("postgres", "after")],
    indirect=["database_url"],
)
def test_what_a_worker_holds_is_found_without_reading_what_others_hold(
    system: System, counted: str
) -> None:
    """Each heartbeat asks for it.  Of all active jobs, it took 59 ms at 16,000.

    PostgreSQL plans by its statistics, which may be from before any job was active.
    """

    def count() -> None:
        with system.database.read() as connection:
            connection.exec_driver_sql("ANALYZE ledger_jobs")

    create = [Create(type="email")] * 1_000
    for _ in range(3):
        system.ledger.submit(create, actor="test")
    if counted == "before":
        count()
    for start in range(0, len(create) * 3, 1_000):
        claims = [
            Claim(worker=f"w{start + number}", slots={"email": 100})
            for number in range(0, 1_000, 100)
        ]
        system.ledger.submit(claims, actor="test")
    if counted == "after":
        count()
    queries: list[Callable[[Connection], Sized]] = [
        lambda connection: system.jobs.held_by(connection, "w700"),
        system.jobs.holders,
        system.jobs.held_counts,
    ]

    with system.database.read() as connection:
        found = [len(query(connection)) for query in queries]
        plans = [plan_of(connection, query) for query in queries]

    assert found == [100, 30, 30]
    assert [("ledger_jobs_held" in plan, "Seq Scan on ledger_jobs" in plan) for plan in plans] == [
        (True, False)
    ] * 3


def plan_of(connection: Connection, query: Callable[[Connection], Sized]) -> str:
    """Return how the database executes the statement of *query*."""
    driver = driver_of(connection)

    class Explaining:
        """The driver's connection, but that it returns the plan of each statement."""

        def execute(self, sql: str, parameters: Any) -> Any:
            explain = "EXPLAIN QUERY PLAN" if system_is_sqlite else "EXPLAIN"
            rows = driver.execute(f"{explain} {sql}", parameters).fetchall()
            lines.extend(str(row[-1]) for row in rows)
            return driver.execute(sql, parameters)

    system_is_sqlite = connection.dialect.name == "sqlite"
    lines: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ledger.database.fast_sql.driver_of", lambda _: Explaining())
        query(connection)
    return "\n".join(lines)


def test_only_the_heartbeats_of_holders_are_read_to_find_the_lost(
    system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sweep does so four times a second, and very many workers may hold nothing."""
    with system.database.write() as tx:
        for name in ("idle", "holder", "silent", "dead"):
            seen_at_ms = START_MS if name in {"idle", "holder"} else START_MS - LEASE_MS - 1
            presence.beat(tx, name, {}, now_ms=seen_at_ms, lease_ms=LEASE_MS)
    read: list[str] = []
    decoded = presence._seen

    def noted(row: Sequence[Any]) -> WorkerSeen:
        read.append(row[0])
        return decoded(row)

    monkeypatch.setattr(presence, "_seen", noted)
    lost = presence.LostWorkers(lease_ms=LEASE_MS)
    with system.database.read() as connection:
        found = lost.among(connection, ["holder", "silent"], now_ms=START_MS)
        nothing = lost.among(connection, [], now_ms=START_MS)
        many = lost.among(connection, [f"{n}" for n in range(2_500)] + ["silent"], now_ms=START_MS)

    assert found == many == {"silent": LEASE_MS + 1}
    assert nothing == {}
    assert sorted(read) == ["holder", "silent", "silent"]

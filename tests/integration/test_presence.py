"""Which workers there are: who is silent, what each holds, which heartbeats are recorded."""

from typing import Final

import pytest

from ledger.processes.composition import System
from ledger.queue import presence
from ledger.queue.presence import ListedWorker, WorkerSeen
from ledger.rules.commands import Start
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

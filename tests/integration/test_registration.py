"""A worker's name is its own: two live workers with one name must not end each other's attempts."""

import logging
import threading
import time
from collections.abc import Iterator
from typing import Any, Final

import pytest

import ledger
from ledger import Queue, RunningJob, Worker
from ledger.errors import NameTaken
from ledger.processes.composition import System
from ledger.queue import presence
from ledger.rules.commands import Claim
from ledger.worker.registration import Registration
from tests.builders import Clock
from tests.integration.servers import DEADLINE_S

LEASE_MS: Final = 600
NAME: Final = "pod:1:1"


@pytest.fixture
def queue(system: System, database_url: str) -> Iterator[Queue]:
    """Yield a queue with a short lease, beside a system on the same database."""
    opened = ledger.connect(database_url, actor="tests")
    opened.lease_ms = LEASE_MS
    opened.process("email")(lambda job: job.attempt)
    yield opened
    opened.close()


def registration(queue: Queue) -> Registration:
    return Registration(queue, NAME, {"email": 1})


def watch(one: Registration) -> None:
    """Look at the entry of another worker as often as a worker does, until the name is ours."""
    end_s = time.monotonic() + DEADLINE_S
    while not one.is_ours:
        assert time.monotonic() < end_s
        one.beat()
        time.sleep(0.02)


def names(system: System) -> list[str]:
    with system.database.read() as connection:
        return [worker.name for worker in presence.seen(connection)]


def claimed_by_the_dead(queue: Queue) -> None:
    """Leave a worker of the name in the list, and an attempt that it holds."""
    registration(queue).beat()
    queue.ledger.claim(Claim(worker=NAME, slots={"email": 1}), actor=f"worker:{NAME}")


# --- workers


def test_a_second_worker_of_the_name_does_not_work_and_ends_nothing(queue: Queue) -> None:
    entered, told = threading.Event(), threading.Event()

    @queue.process("sms", concurrency=2)
    def send(job: RunningJob) -> int:
        entered.set()
        assert told.wait(DEADLINE_S)
        return job.attempt

    first, second = Worker(queue, name=NAME), Worker(queue, name=NAME)
    job = queue.create("sms", attempts=3)
    thread = first.start()
    try:
        assert entered.wait(DEADLINE_S)
        other = queue.create("sms")

        with pytest.raises(NameTaken, match="another worker of this name is alive"):
            second.run()

        told.set()
        assert (job.wait(DEADLINE_S), other.wait(DEADLINE_S)) == (1, 1)
    finally:
        told.set()
        first.stop()
        thread.join(DEADLINE_S)
    assert [event.kind for event in job.events()] == ["created", "started", "completed"]


def test_what_a_dead_worker_of_the_name_held_is_failed_once_its_lease_is_over(
    queue: Queue, caplog: pytest.LogCaptureFixture
) -> None:
    """A container that starts again has its host's name and process number again."""
    job = queue.create("email", attempts=2)
    claimed_by_the_dead(queue)

    worker = Worker(queue, name=NAME)
    with caplog.at_level(logging.WARNING):
        thread = worker.start()
        result = job.wait(DEADLINE_S)
    worker.stop()
    thread.join(DEADLINE_S)

    _, begun, failed, *_ = job.events()
    assert (result, failed.kind) == (2, "failed")
    assert failed.at_ms - begun.at_ms >= LEASE_MS
    (line,) = job.log()
    assert line.startswith(f"worker {NAME} was lost: silent for ")
    assert f"worker {NAME} waits: a worker of this name was last heard from" in caplog.text


def test_a_worker_that_was_told_to_stop_does_not_wait_for_its_name(queue: Queue) -> None:
    queue.lease_ms = 1000 * int(10 * DEADLINE_S)
    registration(queue).beat()
    worker = Worker(queue, name=NAME)
    thread = worker.start()
    time.sleep(0.1)

    worker.stop()
    thread.join(DEADLINE_S)

    assert not thread.is_alive()


def test_the_name_of_a_worker_that_left_is_free_at_once(queue: Queue) -> None:
    queue.lease_ms = 1000 * int(10 * DEADLINE_S)
    for _ in range(2):
        worker = Worker(queue, name=NAME)
        thread = worker.start()
        assert queue.create("email").wait(DEADLINE_S) == 1
        worker.stop()
        thread.join(DEADLINE_S)


def test_an_attempt_of_an_unlisted_worker_of_the_name_is_failed(queue: Queue) -> None:
    job = queue.create("email", attempts=2)
    queue.ledger.claim(Claim(worker=NAME, slots={"email": 1}), actor=f"worker:{NAME}")

    worker = Worker(queue, name=NAME)
    thread = worker.start()
    result = job.wait(DEADLINE_S)
    worker.stop()
    thread.join(DEADLINE_S)

    assert (result, job.log()) == (2, [f"worker {NAME} was lost: silent for 0 ms"])


# --- entries


def test_a_worker_that_was_suspended_finds_its_name_taken_and_leaves_it(
    queue: Queue, system: System
) -> None:
    suspended, successor = registration(queue), registration(queue)
    suspended.beat()
    watch(successor)
    suspended.next_beat_s = 0.0

    with pytest.raises(NameTaken):
        suspended.beat()
    suspended.leave()

    assert names(system) == [NAME]
    successor.leave()
    assert names(system) == []


def test_a_worker_that_was_struck_from_the_list_is_entered_again(
    queue: Queue, system: System
) -> None:
    mine = registration(queue)
    mine.beat()
    with system.database.write() as tx:
        presence.leave(tx, NAME)

    mine.next_beat_s = 0.0
    mine.beat()

    assert mine.is_ours
    assert names(system) == [NAME]


def test_a_dead_worker_that_was_heard_from_in_the_future_is_replaced_after_a_lease(
    queue: Queue,
) -> None:
    """The database's clock was set back after its last heartbeat, and stands still."""
    queue.ledger.clock = clock = Clock()
    registration(queue).beat()
    clock.now_ms -= 1_000_000
    successor = registration(queue)

    began_s = time.monotonic()
    watch(successor)

    assert time.monotonic() - began_s >= LEASE_MS / 1000
    assert successor.predecessor_silent_ms > LEASE_MS


@pytest.mark.parametrize("was_free", [True, False])
def test_of_two_workers_that_find_the_name_free_one_gets_it(
    queue: Queue, monkeypatch: pytest.MonkeyPatch, *, was_free: bool
) -> None:
    if not was_free:
        registration(queue).beat()
    find = presence.find
    with queue.database.read() as connection:
        looked = find(connection, NAME)
    first, second = registration(queue), registration(queue)
    watch(first)
    entered: list[bool] = []
    enter = presence.enter

    def note(*args: Any, **options: Any) -> bool:
        entered.append(False)
        entered[-1] = enter(*args, **options)
        return entered[-1]

    monkeypatch.setattr(presence, "find", lambda *_: looked)
    monkeypatch.setattr(presence, "enter", note)
    while not entered:
        second.beat()
        time.sleep(0.02)

    assert (first.is_ours, second.is_ours, entered) == (True, False, [False])


def test_a_jump_of_the_clock_takes_no_name_from_a_live_worker(queue: Queue) -> None:
    queue.ledger.clock = clock = Clock()
    first, second = registration(queue), registration(queue)
    first.beat()
    clock.now_ms += 10 * LEASE_MS

    second.beat()
    first.beat()

    assert (first.is_ours, second.is_ours) == (True, False)
    with pytest.raises(NameTaken):
        second.beat()


def test_silence_while_the_database_is_away_takes_no_name(queue: Queue) -> None:
    """Neither worker reaches it for longer than the lease, and the waiting one comes first."""
    first, second = registration(queue), registration(queue)
    first.beat()
    second.beat()
    time.sleep(2.2)

    second.beat()
    first.beat()

    assert (first.is_ours, second.is_ours) == (True, False)
    with pytest.raises(NameTaken):
        second.beat()


def test_a_suspended_worker_does_not_take_back_its_name_from_a_dead_one(queue: Queue) -> None:
    """It does not know which attempts that one held, and its heartbeats would keep them."""
    suspended, successor = registration(queue), registration(queue)
    suspended.beat()
    watch(successor)
    time.sleep(1.1 * LEASE_MS / 1000)

    with pytest.raises(NameTaken):
        suspended.beat()


def test_a_name_is_one_workers_although_many_want_it_at_once(queue: Queue, system: System) -> None:
    wanted = [registration(queue) for _ in range(8)]
    began = threading.Barrier(len(wanted))

    def enter(one: Registration) -> None:
        began.wait(DEADLINE_S)
        one.beat()
        queue.database.release()

    threads = [threading.Thread(target=enter, args=(one,)) for one in wanted]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE_S)

    assert sum(one.is_ours for one in wanted) == 1
    assert names(system) == [NAME]

"""The loop that one process of all runs: roles, absences, failures, the end."""

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from ledger.database.contract import Leadership
from ledger.database.leader_loop import LeaderLoop
from ledger.errors import LedgerError, Unavailable
from ledger.processes.composition import System
from tests.integration.test_catch_up import eventually


class Role(Leadership):
    """A role that is refused, or fails, as the test says."""

    def __init__(self, *answers: str | Exception) -> None:
        self.answers = list(answers)
        self.released = 0

    def held(self) -> bool:
        answer = self.answers.pop(0) if self.answers else "ours"
        if isinstance(answer, Exception):
            raise answer
        return answer == "ours"

    def taken(self) -> bool:
        return False

    def release(self) -> None:
        self.released += 1


@contextmanager
def running(loop: LeaderLoop) -> Iterator[None]:
    thread = loop.start()
    try:
        yield
    finally:
        loop.stop()
        thread.join(10.0)
        assert not thread.is_alive()


def test_one_of_two_leads_and_the_other_takes_over(system: System) -> None:
    def loop(name: str) -> LeaderLoop:
        def step() -> float:
            steps.append(name)
            return 0.001

        return LeaderLoop(name, lambda: system.database.leadership("test"), step, standby_s=0.001)

    steps: list[str] = []
    first, second = loop("first"), loop("second")
    with running(first):
        eventually(lambda: "first" in steps)
        with running(second):
            seen = len(steps)
            eventually(lambda: len(steps) > seen + 20)
            before = set(steps)
            first.stop()
            eventually(lambda: "second" in steps)

    assert before == {"first"}
    # None of the first behind one of the second.
    assert steps == sorted(steps)


@pytest.mark.parametrize("error", [Unavailable("the database is away"), MemoryError()])
def test_a_step_that_fails_is_taken_again(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    errors: list[Exception] = []
    taken: list[int] = []

    def step() -> float:
        taken.append(1)
        if len(taken) < 4:
            raise error
        return 60.0

    loop = LeaderLoop("x", Role, step, standby_s=0.001, on_error=errors.append)
    with caplog.at_level(logging.WARNING), running(loop):
        eventually(lambda: len(taken) == 4)

    is_ours = isinstance(error, LedgerError)
    assert errors == [error] * 3
    # What stays the same is said once; what is not ours has a traceback.
    first, last = caplog.records
    assert bool(first.exc_info) is not is_ours
    assert last.getMessage() == "x runs again, after 3 failures"


def test_a_role_that_cannot_be_asked_for_is_claimed_anew(caplog: pytest.LogCaptureFixture) -> None:
    roles = [
        Role(Unavailable("away")),
        Role(ValueError("broken")),
        Role("theirs", "theirs", "ours"),
    ]
    claimed: list[Role] = []
    stepped = threading.Event()

    def claim() -> Role:
        claimed.append(roles[len(claimed)])
        return claimed[-1]

    def step() -> float:
        stepped.set()
        return 60.0

    with running(LeaderLoop("x", claim, step, standby_s=0.001)):
        assert stepped.wait(10.0)

    assert claimed == roles
    assert [role.released for role in roles] == [1, 1, 1]


def test_each_outage_is_told_once_by_those_who_stand_by(caplog: pytest.LogCaptureFixture) -> None:
    away = Unavailable("the database is away")
    role = Role(away, away, "theirs", away, away)
    loop = LeaderLoop("x", lambda: role, lambda: 0.0)
    with caplog.at_level(logging.WARNING):
        asked = [loop.leads() for _ in range(5)]

    assert asked == [False] * 5
    assert [record.getMessage() for record in caplog.records] == [
        "x cannot run, will retry: the database is away",
        "x cannot run, will retry: the database is away",
    ]


def test_it_enters_when_it_leads_and_leaves_when_it_no_longer_does() -> None:
    said: list[str] = []
    over = threading.Event()
    role = Role("ours", "ours", "theirs", "ours")

    @contextmanager
    def leading() -> Iterator[None]:
        said.append("enter")
        yield
        said.append("leave")

    def step() -> float:
        said.append("step")
        if said.count("step") == 3:
            over.set()
            return 60.0
        return 0.0

    with running(LeaderLoop("x", lambda: role, step, leading=leading, standby_s=0.001)):
        assert over.wait(10.0)

    assert said == ["enter", "step", "step", "leave", "enter", "step", "leave"]
    assert role.released == 1


def test_a_loop_that_is_stopped_before_it_runs_takes_no_role() -> None:
    def unexpected() -> Leadership:
        raise AssertionError

    step: Callable[[], float] = unexpected  # type: ignore[assignment]  # never called
    loop = LeaderLoop("x", unexpected, step)
    loop.stop()

    loop.run()

"""What ends a running attempt at one instant: one event, by the first command that may."""

import json
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

from hypothesis import example, given, settings
from hypothesis import strategies as st

from ledger.errors import AttemptOver, JobNotFound
from ledger.log.answers import Answer, Outcome
from ledger.log.batch import Submission
from ledger.processes.composition import System
from ledger.rules.commands import (
    Command,
    Complete,
    Create,
    Elapse,
    FailAttempt,
    Lose,
    Move,
    OnAttempt,
    Remove,
    Return,
    Start,
)
from tests.builders import Clock, carry_out, open_system, rows, verified
from tests.property.arenas import Arena
from tests.strategies import SHARED_FIXTURES

TTL_MS: Final = 1_000
STATES: Final = ("inactive", "delayed", "active", "complete", "failed")

# A command on a job: given its id and the number of the running attempt.
About = Callable[[int, int], Command]
COMMANDS: Final[dict[str, About]] = {
    "complete": lambda job_id, attempt: Complete(job_id=job_id, attempt=attempt, result="1"),
    "fail": lambda job_id, attempt: FailAttempt(job_id=job_id, attempt=attempt, error='"no"'),
    "fail at once": lambda job_id, attempt: FailAttempt(
        job_id=job_id, attempt=attempt, error='"no"', retry_after_ms=0
    ),
    "fail for a while": lambda job_id, attempt: FailAttempt(
        job_id=job_id, attempt=attempt, error='"no"', retry_after_ms=5
    ),
    "fail for good": lambda job_id, attempt: FailAttempt(
        job_id=job_id, attempt=attempt, error='"no"', final=True
    ),
    "elapse": lambda job_id, _: Elapse(job_id=job_id),
    "lose": lambda job_id, attempt: Lose(
        job_id=job_id, attempt=attempt, worker="w", silent_ms=TTL_MS
    ),
    "return": lambda job_id, attempt: Return(job_id=job_id, attempt=attempt, reason="stopped"),
    "remove": lambda job_id, _: Remove(job_id=job_id),
    # The next attempt, by the same worker.
    "start": lambda job_id, _: Start(job_id=job_id, worker="w"),
    "move to inactive": lambda job_id, _: Move(job_id=job_id, to="inactive"),
    "move to delayed": lambda job_id, _: Move(job_id=job_id, to="delayed"),
    "move to active": lambda job_id, _: Move(job_id=job_id, to="active"),
    "move to complete": lambda job_id, _: Move(job_id=job_id, to="complete"),
    "move to failed": lambda job_id, _: Move(job_id=job_id, to="failed"),
}
# The kind and reason of the event with which each ends the running attempt.
ENDS: Final[dict[str, tuple[str, str]]] = {
    "complete": ("completed", ""),
    "fail": ("failed", "error"),
    "fail at once": ("failed", "error"),
    "fail for a while": ("failed", "error"),
    "fail for good": ("failed", "error"),
    "elapse": ("failed", "ttl"),
    "lose": ("failed", "lost"),
    "return": ("returned", "stopped"),
    "remove": ("removed", ""),
    "move to inactive": ("moved", ""),
    "move to delayed": ("moved", ""),
    "move to complete": ("moved", ""),
    "move to failed": ("moved", ""),
}
# How commands reach the ledger at one instant.
WAYS: Final = ("one submission", "one batch", "transactions")


def submit(system: System, way: str, commands: Sequence[Command]) -> list[Answer]:
    """Return the answers to commands that reach the ledger at the same time, in this order."""
    if way == "one submission":
        return system.ledger.submit(commands, actor="test")
    if way == "transactions":
        return [system.ledger.submit([command], actor="test")[0] for command in commands]
    each = [
        Submission(commands=[command], actor="test", cause=None, atomic=False)
        for command in commands
    ]
    return [answer for (answer,) in system.ledger._append(lambda: each)]


def running_job(system: System, *, earlier: bool, **options: Any) -> tuple[int, int]:
    """Return the id of a job and the attempt that runs, whose ttl is over exactly now."""
    clock = system.ledger.clock
    assert isinstance(clock, Clock)
    (created,) = carry_out(system, Create(type="email", ttl_ms=TTL_MS, **options))
    job_id = created.job_id
    if earlier:
        returned = Return(job_id=job_id, attempt=1, reason="earlier")
        carry_out(system, Start(job_id=job_id, worker="w"), returned)
    carry_out(system, Start(job_id=job_id, worker="w"))
    clock.now_ms += TTL_MS
    return job_id, 2 if earlier else 1


def totals(system: System) -> dict[str, int]:
    """Return the number of jobs in each state, and the work time."""
    with system.database.read() as connection:
        stats = system.state_counts.stats(connection)
    counts = {state.value: number for state, number in stats.counts.items()}
    return counts | {"work_ms": stats.work_ms}


class Rivals(NamedTuple):
    """Commands that compete for the end of an attempt, and the job that they are about.

    Attributes:
        order: Names of the commands.
        way: How they reach the ledger.
        attempts: How often the job may run.
        removes: Whether it is removed once complete.
        earlier: Whether an attempt before this one was returned.
    """

    order: Sequence[str]
    way: str
    attempts: int = 1
    removes: bool = False
    earlier: bool = False


orders = st.lists(st.sampled_from(list(COMMANDS)), min_size=1, max_size=6)

rivalries = st.builds(
    Rivals,
    order=orders,
    way=st.sampled_from(WAYS),
    attempts=st.integers(1, 3),
    removes=st.booleans(),
    earlier=st.booleans(),
)


def test_one_command_ends_an_attempt_and_it_is_the_first(arena: Arena) -> None:
    end_attempts(arena, examples=60)


def end_attempts(arena: Arena, *, examples: int) -> None:
    """Check that one of competing commands ends an attempt; tests/soak does so for longer."""
    system = open_system(arena.fresh(), Clock(), search_directory=arena.search)

    @settings(max_examples=examples, suppress_health_check=SHARED_FIXTURES)
    @given(rivals=rivalries)
    @example(Rivals(["elapse", "complete"], "one batch", removes=True))
    @example(Rivals(["complete", "elapse", "lose"], "transactions", removes=True))
    @example(Rivals(["return", "start", "complete", "lose"], "one batch", earlier=True))
    @example(Rivals(["elapse", "start", "fail", "elapse"], "one submission", attempts=3))
    def compete(rivals: Rivals) -> None:
        order, way, attempts, removes, earlier = rivals
        job_id, attempt = running_job(
            system, earlier=earlier, attempts=attempts, remove_on_complete=removes
        )
        before = totals(system)
        answers = submit(system, way, [COMMANDS[name](job_id, attempt) for name in order])
        events = _events(system, job_id)[4 if earlier else 2 :]
        after = totals(system)

        _check_end(order, attempt, events)
        _check_answers(order, job_id, attempt, answers)
        _check_row(system, job_id, events, attempts=attempts)
        change = {name: after[name] - before[name] for name in after}
        completions = sum(event["kind"] == "completed" for event in events)
        assert change == _change(system, job_id) | {"work_ms": completions * TTL_MS}
        if removes and ("completed", "") in map(_of, events):
            assert [event["kind"] for event in events] == ["completed", "removed"]

    try:
        compete()
        assert verified(system).differences == []
    finally:
        system.close()


def _events(system: System, job_id: int) -> list[dict[str, Any]]:
    found = rows(
        system,
        "SELECT kind, body FROM ledger_events WHERE job_id = :id ORDER BY version",
        id=job_id,
    )
    return [{"kind": row["kind"]} | json.loads(row["body"]) for row in found]


def _of(event: dict[str, Any]) -> tuple[str, str]:
    """Return the kind of an event and its reason, which is only written if it is another."""
    if event["kind"] == "failed":
        return "failed", event.get("reason", "error")
    return event["kind"], event["reason"] if event["kind"] == "returned" else ""


def _first_end(order: Sequence[str]) -> int:
    """Return the place of the first command that can end a running attempt."""
    return next((n for n, name in enumerate(order) if name in ENDS), len(order))


def _check_end(order: Sequence[str], attempt: int, events: Sequence[dict[str, Any]]) -> None:
    """One event ends the attempt, that of the first command; none is about it after that."""
    first = _first_end(order)
    if first == len(order):
        assert events == []
        return
    assert _of(events[0]) == ENDS[order[first]]
    # Later commands may begin other attempts, and an operator may end them.
    of_reports = [event for event in events[1:] if event["kind"] not in {"moved", "started"}]
    assert {event["kind"] for event in of_reports} <= {"removed", "promoted"}
    assert all(event["attempt"] > attempt for event in events[1:] if "attempt" in event)


def _check_answers(
    order: Sequence[str], job_id: int, attempt: int, answers: Sequence[Answer]
) -> None:
    """Every report after the end is refused, whatever runs by then."""
    first = _first_end(order)
    gone = False
    for place, (name, answer) in enumerate(zip(order, answers, strict=True)):
        if place > first and isinstance(COMMANDS[name](job_id, attempt), OnAttempt):
            if name == "lose":
                # It names an attempt that is over, and so does nothing.
                assert isinstance(answer, Outcome)
                assert answer.events == ()
            else:
                assert type(answer) is (JobNotFound if gone else AttemptOver)
        if isinstance(answer, Outcome):
            gone = gone or any(event.kind == "removed" for event in answer.events)


def _check_row(
    system: System, job_id: int, events: Sequence[dict[str, Any]], *, attempts: int
) -> None:
    """The job counts the attempt once."""
    found = rows(system, "SELECT made, duration_ms FROM ledger_jobs WHERE id = :id", id=job_id)
    if events and any(event["kind"] == "removed" for event in events):
        assert found == []
        return
    ended = [event["kind"] for event in events if event["kind"] in {"completed", "failed"}]
    assert found == [
        {
            "made": min(len(ended), attempts),
            "duration_ms": TTL_MS if "completed" in ended else None,
        }
    ]
    assert len(ended) <= 1


def _change(system: System, job_id: int) -> dict[str, int]:
    """Return how the counts change when an active job comes into the state that it is in."""
    change = dict.fromkeys(STATES, 0)
    change["active"] -= 1
    for row in rows(system, "SELECT state FROM ledger_jobs WHERE id = :id", id=job_id):
        change[row["state"]] += 1
    return change

"""The rules of a job, without any database."""

from collections.abc import Callable
from typing import Any

import pytest
from msgspec.structs import replace

from ledger.errors import AttemptOver, Corrupt, InvalidInput, JobNotFound, Refused
from ledger.rules import commands, events
from ledger.rules.commands import (
    Claim,
    Command,
    Complete,
    Create,
    Elapse,
    Erase,
    FailAttempt,
    Log,
    Lose,
    Move,
    Pause,
    Progress,
    Remove,
    Reprioritize,
    Resume,
    Return,
    Start,
)
from ledger.rules.decide import backoff_wait_ms, decide
from ledger.rules.events import Backoff, Event
from ledger.rules.job import TRANSITIONS, JobState, State, evolve
from tests.builders import PERMITTED, START_MS, folded

NOW_MS = START_MS + 5_000
CREATED = events.Created(type="email", attempts=3, content="{}")
IN_STATE: dict[str, tuple[Event, ...]] = {
    "absent": (),
    "inactive": (CREATED,),
    "delayed": (events.Created(type="email", delay_ms=60_000, promote_at_ms=START_MS + 60_000),),
    "active": (CREATED, events.Started(attempt=1)),
    "complete": (CREATED, events.Started(attempt=1), events.Completed(attempt=1)),
    "failed": (CREATED, events.Started(attempt=1), events.Failed(attempt=1, next="failed")),
    "removed": (CREATED, events.Removed()),
}
# Every event, by the state to which it would lead; None where that is the job's own.
LEADING_TO: dict[str, dict[str | None, Event]] = {
    "created": {
        "inactive": events.Created(type="email"),
        "delayed": events.Created(type="email", delay_ms=1, promote_at_ms=START_MS + 1),
    },
    "started": {"active": events.Started(attempt=1)},
    "progressed": {None: events.Progressed(attempt=1, progress=1)},
    "logged": {None: events.Logged(attempt=1)},
    "completed": {"complete": events.Completed(attempt=1)},
    "failed": {
        "inactive": events.Failed(attempt=1, next="inactive"),
        "delayed": events.Failed(attempt=1, next="delayed", delay_ms=1, promote_at_ms=NOW_MS),
        "failed": events.Failed(attempt=1, next="failed"),
    },
    "promoted": {"inactive": events.Promoted()},
    "moved": {
        "inactive": events.Moved(to="inactive"),
        "delayed": events.Moved(to="delayed"),
        "active": events.Moved(to="active", attempt=2),
        "complete": events.Moved(to="complete"),
        "failed": events.Moved(to="failed"),
    },
    "reprioritized": {None: events.Reprioritized(priority=1)},
    "removed": {"removed": events.Removed()},
    "erased": {None: events.Erased()},
    "returned": {"inactive": events.Returned(attempt=1, reason="stopped")},
}


def a_job(state: str, **fields: Any) -> JobState:
    """Return a job that came into *state* at START_MS."""
    return folded(*IN_STATE[state])._replace(**fields)


def asked(command: Command, job: JobState, time_ms: int = NOW_MS) -> tuple[Event, ...]:
    return decide(command, job, time_ms=time_ms)


# --- the table


def test_the_table_is_what_is_written_here() -> None:
    table = {
        state.value: {
            event.kind: frozenset(to.value for to in targets) for event, targets in exits.items()
        }
        for state, exits in TRANSITIONS.items()
    }

    assert table == PERMITTED


STEPS = [
    (state, kind, to or state, event)
    for state in PERMITTED
    for kind, targets in LEADING_TO.items()
    for to, event in targets.items()
]


@pytest.mark.parametrize(
    ("state", "kind", "to", "event"),
    [step for step in STEPS if step[2] in PERMITTED[step[0]].get(step[1], ())],
)
def test_an_event_leads_where_it_is_permitted(state: str, kind: str, to: str, event: Event) -> None:
    after = evolve(a_job(state), event, position=9, at_ms=NOW_MS)

    assert (after.state.value, event.kind) == (to, kind)


@pytest.mark.parametrize(
    ("state", "kind", "to", "event"),
    [step for step in STEPS if step[2] not in PERMITTED[step[0]].get(step[1], ())],
)
def test_an_event_leads_nowhere_else(state: str, kind: str, to: str, event: Event) -> None:
    with pytest.raises(Corrupt) as stop:
        evolve(a_job(state), event, position=9, at_ms=NOW_MS)

    assert stop.value.position == 9
    assert str(stop.value).startswith(f"job 1: event {kind!r} cannot lead from {state} to {to}; ")


@pytest.mark.parametrize("state", PERMITTED)
def test_what_happens_to_the_ledger_itself_happens_to_no_job(state: str) -> None:
    with pytest.raises(
        Corrupt, match=f"^job 1: event 'paused' cannot lead from {state} to {state}; "
    ):
        evolve(a_job(state), events.Paused(type="email"), position=9, at_ms=NOW_MS)


def test_the_steps_that_are_tried_hold_all_that_are_permitted() -> None:
    tried = {(state, kind, to) for state, kind, to, _ in STEPS}
    permitted = {
        (state, kind, to)
        for state, exits in PERMITTED.items()
        for kind, targets in exits.items()
        for to in targets
    }

    assert permitted <= tried


def test_every_event_and_every_command_has_its_rule() -> None:
    of_jobs = {event.kind for event in events.EVENTS if not issubclass(event, events.LedgerEvent)}

    assert of_jobs == set(LEADING_TO)
    assert {event.kind for exits in TRANSITIONS.values() for event in exits} == set(LEADING_TO)


# --- each command: what it causes


def test_create_says_when_the_delay_is_over() -> None:
    command = Create(
        type="email",
        data='{"to": 1}',
        priority=-10,
        attempts=3,
        delay_ms=1_500,
        ttl_ms=200,
        backoff=Backoff(type="fixed", delay_ms=10),
        remove_on_complete=True,
        search_keys=("to",),
        unique="key",
    )

    assert asked(command, JobState(1)) == (
        events.Created(
            type="email",
            priority=-10,
            attempts=3,
            delay_ms=1_500,
            promote_at_ms=NOW_MS + 1_500,
            ttl_ms=200,
            backoff=Backoff(type="fixed", delay_ms=10),
            remove_on_complete=True,
            search_keys=("to",),
            unique="key",
            content='{"to": 1}',
        ),
    )


def test_a_created_job_is_what_was_asked_for() -> None:
    job = evolve(
        JobState(4),
        events.Created(
            type="email",
            priority=5,
            attempts=3,
            delay_ms=1_500,
            promote_at_ms=NOW_MS + 1_500,
            ttl_ms=200,
            backoff=Backoff(type="exponential", delay_ms=10, max_delay_ms=90),
            remove_on_complete=True,
            content="{}",
        ),
        position=12,
        at_ms=NOW_MS,
    )

    assert job == JobState(
        id=4,
        version=1,
        state=State.DELAYED,
        type="email",
        priority=5,
        max_attempts=3,
        delay_ms=1_500,
        ttl_ms=200,
        backoff="exponential",
        backoff_delay_ms=10,
        backoff_max_ms=90,
        remove_on_complete=True,
        created_at_ms=NOW_MS,
        promote_at_ms=NOW_MS + 1_500,
        updated_at_ms=NOW_MS,
        due_at_ms=NOW_MS + 1_500,
        data_position=12,
    )


def test_start_begins_the_next_attempt() -> None:
    job = a_job("inactive", attempt=2, ttl_ms=300)

    assert asked(Start(job_id=1, worker="w"), job) == (
        events.Started(attempt=3, worker="w", expires_at_ms=NOW_MS + 300),
    )


def test_a_started_job_names_its_worker_and_its_expiry() -> None:
    job = a_job("inactive")
    started = events.Started(attempt=1, worker="w", expires_at_ms=NOW_MS + 300)

    assert evolve(job, started, position=2, at_ms=NOW_MS) == job._replace(
        version=2,
        state=State.ACTIVE,
        attempt=1,
        started_attempt=1,
        worker="w",
        started_at_ms=NOW_MS,
        updated_at_ms=NOW_MS,
        due_at_ms=NOW_MS + 300,
    )


def test_progress_puts_the_expiry_off() -> None:
    job = a_job("active", ttl_ms=300, due_at_ms=NOW_MS + 1)

    (progressed,) = asked(Progress(job_id=1, attempt=1, progress=40), job)

    assert progressed == events.Progressed(attempt=1, progress=40, expires_at_ms=NOW_MS + 300)
    after = evolve(job, progressed, position=3, at_ms=NOW_MS)
    assert after == job._replace(
        version=3, progress=40, updated_at_ms=NOW_MS, due_at_ms=NOW_MS + 300
    )


def test_progress_data_stays_until_newer_data_comes() -> None:
    job = a_job("active")
    commands_ = (
        Progress(job_id=1, attempt=1, progress=1, data='"first"'),
        Progress(job_id=1, attempt=1, progress=2),
    )
    for position, command in enumerate(commands_, start=3):
        (event,) = asked(command, job)
        job = evolve(job, event, position=position, at_ms=NOW_MS)

    assert (job.progress, job.progress_position) == (2, 3)


def test_what_replay_reads_without_content_makes_the_same_job() -> None:
    job = a_job("active")
    for command in (
        Progress(job_id=1, attempt=1, progress=1, data='"first"'),
        Complete(job_id=1, attempt=1, result="1"),
        FailAttempt(job_id=1, attempt=1, error='"x"'),
        Log(job_id=1, attempt=1, line='"x"'),
    ):
        (event,) = asked(command, job)
        without = replace(event, content=None)

        with_content = evolve(job, event, position=3, at_ms=NOW_MS)
        assert evolve(job, without, position=3, at_ms=NOW_MS) == with_content


def test_log_changes_nothing_but_the_history() -> None:
    job = a_job("active")

    (logged,) = asked(Log(job_id=1, attempt=1, line='"a line"'), job)

    assert logged == events.Logged(attempt=1, content='"a line"')
    assert evolve(job, logged, position=3, at_ms=NOW_MS) == job._replace(
        version=3, updated_at_ms=NOW_MS
    )


def test_complete_says_how_long_the_attempt_took() -> None:
    job = a_job("active", due_at_ms=NOW_MS + 1)

    (completed,) = asked(Complete(job_id=1, attempt=1, result="[1]"), job)

    assert completed == events.Completed(attempt=1, duration_ms=5_000, content="[1]")
    assert evolve(job, completed, position=3, at_ms=NOW_MS) == job._replace(
        version=3,
        state=State.COMPLETE,
        made=1,
        progress=100,
        duration_ms=5_000,
        updated_at_ms=NOW_MS,
        due_at_ms=None,
        result_position=3,
    )


def test_complete_removes_a_job_that_asked_for_it() -> None:
    job = a_job("active", remove_on_complete=True)

    assert asked(Complete(job_id=1, attempt=1), job) == (
        events.Completed(attempt=1, duration_ms=5_000),
        events.Removed(reason="complete"),
    )


def test_a_failure_before_the_last_attempt_goes_back_to_the_queue() -> None:
    job = a_job("active")

    (failed,) = asked(FailAttempt(job_id=1, attempt=1, error='"x"'), job)

    assert failed == events.Failed(attempt=1, next="inactive", content='"x"')
    assert evolve(job, failed, position=3, at_ms=NOW_MS) == job._replace(
        version=3,
        state=State.INACTIVE,
        made=1,
        updated_at_ms=NOW_MS,
        failed_at_ms=NOW_MS,
        error_position=3,
    )


def test_a_failure_with_a_backoff_waits() -> None:
    job = a_job("active", backoff="fixed", backoff_delay_ms=700)

    (failed,) = asked(FailAttempt(job_id=1, attempt=1, error='"x"'), job)

    assert failed == events.Failed(
        attempt=1, next="delayed", delay_ms=700, promote_at_ms=NOW_MS + 700, content='"x"'
    )
    assert evolve(job, failed, position=3, at_ms=NOW_MS) == job._replace(
        version=3,
        state=State.DELAYED,
        made=1,
        delay_ms=700,
        promote_at_ms=NOW_MS + 700,
        updated_at_ms=NOW_MS,
        failed_at_ms=NOW_MS,
        due_at_ms=NOW_MS + 700,
        error_position=3,
    )


def test_the_last_attempts_failure_is_final() -> None:
    job = a_job("active", made=2, backoff="fixed", backoff_delay_ms=700)

    assert asked(FailAttempt(job_id=1, attempt=1, error='"x"'), job) == (
        events.Failed(attempt=1, next="failed", content='"x"'),
    )


@pytest.mark.parametrize(
    ("wait_ms", "changes"),
    [
        (5, {"next": "delayed", "delay_ms": 5, "promote_at_ms": NOW_MS + 5}),
        (0, {"next": "inactive"}),
    ],
)
def test_a_failure_that_says_when_to_try_again_overrules_the_backoff(
    wait_ms: int, changes: dict[str, Any]
) -> None:
    job = a_job("active", backoff="fixed", backoff_delay_ms=700)

    assert asked(FailAttempt(job_id=1, attempt=1, error='"x"', retry_after_ms=wait_ms), job) == (
        events.Failed(attempt=1, content='"x"', **changes),
    )


def test_a_failure_that_says_when_to_try_again_gets_no_further_attempt() -> None:
    job = a_job("active", made=2)

    assert asked(FailAttempt(job_id=1, attempt=1, error='"x"', retry_after_ms=5), job) == (
        events.Failed(attempt=1, next="failed", content='"x"'),
    )


def test_a_failure_that_is_final_uses_one_attempt_and_leaves_the_others() -> None:
    job = a_job("active", backoff="fixed", backoff_delay_ms=700)

    (failed,) = asked(FailAttempt(job_id=1, attempt=1, error='"x"', final=True), job)

    assert failed == events.Failed(attempt=1, next="failed", content='"x"')
    after = evolve(job, failed, position=3, at_ms=NOW_MS)
    assert (after.state, after.made, after.max_attempts) == (State.FAILED, 1, 3)


def test_a_returned_job_waits_again_and_no_attempt_is_used_up() -> None:
    job = a_job("active", ttl_ms=300, due_at_ms=NOW_MS + 1, worker="w")

    (returned,) = asked(Return(job_id=1, attempt=1, reason="stopped"), job)

    assert returned == events.Returned(attempt=1, reason="stopped")
    assert evolve(job, returned, position=3, at_ms=NOW_MS) == job._replace(
        version=3, state=State.INACTIVE, updated_at_ms=NOW_MS, due_at_ms=None
    )


def test_the_word_of_an_attempt_that_was_returned_is_refused() -> None:
    job = a_job("active")
    (returned,) = asked(Return(job_id=1, attempt=1, reason="stopped"), job)
    inactive = evolve(job, returned, position=3, at_ms=NOW_MS)

    with pytest.raises(AttemptOver):
        asked(Complete(job_id=1, attempt=1), inactive)

    assert asked(Start(job_id=1), inactive) == (events.Started(attempt=2),)


def test_a_lost_worker_fails_its_attempt_by_name() -> None:
    job = a_job("active", worker="hôst:17:1", backoff="fixed", backoff_delay_ms=700)

    assert asked(Lose(job_id=1, attempt=1, worker="hôst:17:1", silent_ms=30_001), job) == (
        events.Failed(
            attempt=1,
            next="delayed",
            reason="lost",
            delay_ms=700,
            promote_at_ms=NOW_MS + 700,
            content='"worker hôst:17:1 was lost: silent for 30001 ms"',
        ),
    )


def test_the_last_attempt_of_a_lost_worker_is_final() -> None:
    job = a_job("active", worker="w", made=2)

    assert asked(Lose(job_id=1, attempt=1, worker="w", silent_ms=9), job) == (
        events.Failed(
            attempt=1, next="failed", reason="lost", content='"worker w was lost: silent for 9 ms"'
        ),
    )


@pytest.mark.parametrize("state", PERMITTED)
@pytest.mark.parametrize(
    "lose",
    [
        Lose(job_id=1, attempt=1, worker="w", silent_ms=9),
        Lose(job_id=1, attempt=2, worker="another", silent_ms=9),
    ],
)
def test_an_attempt_that_is_not_the_lost_workers_is_left_alone(state: str, lose: Lose) -> None:
    job = a_job(state, attempt=2, worker="w")

    assert asked(lose, job) == ()


def test_attempts_count_every_run_that_ended() -> None:
    job = folded(CREATED)
    history = []
    for number in (1, 2, 3):
        for command in (Start(job_id=1), FailAttempt(job_id=1, attempt=number, error='"x"')):
            for event in asked(command, job):
                job = evolve(job, event, position=job.version + 1, at_ms=NOW_MS)
        history.append((job.attempt, job.made, job.state))

    assert history == [
        (1, 1, State.INACTIVE),
        (2, 2, State.INACTIVE),
        (3, 3, State.FAILED),
    ]


def test_a_job_that_runs_on_after_its_last_attempt_counts_no_further() -> None:
    failed = a_job("failed", made=3, attempt=3)
    (moved,) = asked(Move(job_id=1, to="active"), failed)
    active = evolve(failed, moved, position=7, at_ms=NOW_MS)

    (again,) = asked(FailAttempt(job_id=1, attempt=4, error='"x"'), active)

    after = evolve(active, again, position=8, at_ms=NOW_MS)
    assert (after.attempt, after.made, after.max_attempts, after.state) == (4, 3, 3, State.FAILED)


def test_elapse_promotes_a_delayed_job_that_is_due() -> None:
    job = a_job("delayed", due_at_ms=NOW_MS)

    assert asked(Elapse(job_id=1), job) == (events.Promoted(),)
    after = evolve(job, events.Promoted(), position=2, at_ms=NOW_MS)
    assert (after.state, after.due_at_ms) == (State.INACTIVE, None)


def test_elapse_fails_an_active_job_whose_ttl_ran_out() -> None:
    job = a_job("active", ttl_ms=300, due_at_ms=NOW_MS)

    assert asked(Elapse(job_id=1), job) == (
        events.Failed(attempt=1, next="inactive", reason="ttl", content='"TTL exceeded"'),
    )


@pytest.mark.parametrize("state", PERMITTED)
def test_elapse_does_nothing_before_its_time(state: str) -> None:
    due = {"delayed": NOW_MS + 1, "active": NOW_MS + 1}.get(state)

    assert asked(Elapse(job_id=1), a_job(state, due_at_ms=due)) == ()


@pytest.mark.parametrize("to", ["inactive", "delayed", "complete", "failed"])
def test_a_job_moved_from_active_loses_its_attempt(to: Any) -> None:
    job = a_job("active", ttl_ms=300, due_at_ms=NOW_MS + 300)
    (moved,) = asked(Move(job_id=1, to=to), job)
    after = evolve(job, moved, position=3, at_ms=NOW_MS)

    with pytest.raises(AttemptOver) as refusal:
        asked(Complete(job_id=1, attempt=1), after)

    assert (after.attempt, after.made) == (1, 0)
    assert str(refusal.value) == (
        f"job 1: attempt 1 is over; the job is {to}; "
        "stop working on it, its reports are no longer accepted"
    )


@pytest.mark.parametrize("state", ["inactive", "delayed", "complete", "failed"])
def test_a_job_moved_to_active_begins_an_attempt(state: str) -> None:
    job = a_job(state, attempt=1, ttl_ms=300)

    (moved,) = asked(Move(job_id=1, to="active"), job)

    assert moved == events.Moved(to="active", attempt=2, expires_at_ms=NOW_MS + 300)
    after = evolve(job, moved, position=9, at_ms=NOW_MS)
    assert after == job._replace(
        version=job.version + 1,
        state=State.ACTIVE,
        attempt=2,
        updated_at_ms=NOW_MS,
        due_at_ms=NOW_MS + 300,
    )


def test_an_attempt_that_nobody_started_took_no_known_time() -> None:
    job = a_job("failed")
    (moved,) = asked(Move(job_id=1, to="active"), job)
    active = evolve(job, moved, position=4, at_ms=NOW_MS)

    assert asked(Complete(job_id=1, attempt=2), active) == (events.Completed(attempt=2),)


def test_a_job_moved_to_delayed_is_due_when_its_delay_was() -> None:
    job = a_job("failed", promote_at_ms=START_MS + 7)

    after = evolve(job, events.Moved(to="delayed"), position=9, at_ms=NOW_MS)

    assert (after.state, after.due_at_ms) == (State.DELAYED, START_MS + 7)


@pytest.mark.parametrize("state", ["inactive", "delayed", "active", "complete", "failed"])
def test_what_is_already_so_causes_nothing(state: Any) -> None:
    job = a_job(state, priority=3)

    assert asked(Move(job_id=1, to=state), job) == ()
    assert asked(Reprioritize(job_id=1, priority=3), job) == ()


@pytest.mark.parametrize("state", ["inactive", "delayed", "active", "complete", "failed"])
def test_an_operators_hand_reaches_every_job_in_view(state: str) -> None:
    job = a_job(state)

    assert asked(Reprioritize(job_id=1, priority=-7), job) == (events.Reprioritized(priority=-7),)
    assert asked(Remove(job_id=1), job) == (events.Removed(),)
    assert asked(Erase(job_id=1, versions=(1,), reason="asked"), job) == (
        events.Erased(versions=(1,), reason="asked"),
    )


def test_a_removed_job_can_still_be_erased() -> None:
    assert asked(Erase(job_id=1), a_job("removed")) == (events.Erased(),)


def test_what_never_was_cannot_be_erased() -> None:
    with pytest.raises(InvalidInput) as refusal:
        asked(Erase(job_id=1, versions=(1, 3)), a_job("active"))

    assert str(refusal.value) == ("versions: expected versions from 1 to 2 of job 1, got 3")


# --- each command: when it is refused


ON_JOB: dict[str, Command] = {
    "started": Start(job_id=1),
    "progressed": Progress(job_id=1, attempt=1, progress=1),
    "logged": Log(job_id=1, attempt=1, line='""'),
    "completed": Complete(job_id=1, attempt=1),
    "failed": FailAttempt(job_id=1, attempt=1, error='""'),
    "moved": Move(job_id=1, to="inactive"),
    "reprioritized": Reprioritize(job_id=1, priority=9),
    "removed": Remove(job_id=1),
    "erased": Erase(job_id=1),
    "returned": Return(job_id=1, attempt=1, reason="stopped"),
}


@pytest.mark.parametrize("state", PERMITTED)
@pytest.mark.parametrize("kind", ON_JOB)
def test_a_command_is_refused_exactly_where_its_event_is_not_permitted(
    state: str, kind: str
) -> None:
    job = a_job(state)
    try:
        decide(ON_JOB[kind], job, time_ms=NOW_MS)
        refused = False
    except Refused as refusal:
        refused = bool(str(refusal)) and refusal.job_id == 1

    assert refused == (kind not in PERMITTED[state])


@pytest.mark.parametrize("state", ["absent", "removed"])
@pytest.mark.parametrize("kind", sorted(set(ON_JOB) - {"erased"}))
def test_a_job_out_of_view_is_not_found(state: str, kind: str) -> None:
    with pytest.raises(JobNotFound, match=r'^job "1" doesnt exist$'):
        decide(ON_JOB[kind], a_job(state), time_ms=NOW_MS)


@pytest.mark.parametrize(
    ("kind", "state", "text"),
    [
        ("started", "complete", "job 1 is complete; only an inactive job can be started"),
        ("started", "active", "job 1 is active; only an inactive job can be started"),
        ("completed", "inactive", "job 1 is inactive; only an active job can be completed"),
        ("failed", "delayed", "job 1 is delayed; only an active job can be failed"),
        ("logged", "inactive", "job 1 is inactive; only an active job can be logged to"),
        ("progressed", "inactive", "job 1 is inactive; only an active job can be reported on"),
        ("returned", "inactive", "job 1 is inactive; only an active job can be returned"),
    ],
)
def test_a_refusal_says_what_is_and_what_would_have_to_be(kind: str, state: str, text: str) -> None:
    with pytest.raises(Refused) as refusal:
        decide(ON_JOB[kind], a_job(state), time_ms=NOW_MS)

    assert str(refusal.value) == text


@pytest.mark.parametrize("kind", ["progressed", "logged", "completed", "failed", "returned"])
def test_the_late_word_of_an_attempt_that_is_over_is_refused(kind: str) -> None:
    with pytest.raises(AttemptOver) as refusal:
        decide(ON_JOB[kind], a_job("active", attempt=2), time_ms=NOW_MS)

    assert str(refusal.value) == (
        "job 1: attempt 1 is over; the job is active in attempt 2; "
        "stop working on it, its reports are no longer accepted"
    )


@pytest.mark.parametrize("kind", ["progressed", "logged", "completed", "failed", "returned"])
def test_the_early_word_of_an_attempt_that_never_began_is_refused(kind: str) -> None:
    with pytest.raises(Refused) as refusal:
        decide(ON_JOB[kind], a_job("active", attempt=0), time_ms=NOW_MS)

    assert str(refusal.value) == "job 1: attempt 1 never started; the latest is 0"


# --- backoff


@pytest.mark.parametrize(
    ("backoff", "waits_ms"),
    [
        (None, (0, 0, 0, 0)),
        (Backoff(type="exponential", delay_ms=2_000), (1_000, 3_000, 7_000, 15_000)),
        (
            Backoff(type="exponential", delay_ms=2_000, max_delay_ms=5_000),
            (1_000, 3_000, 4_000, 4_000),
        ),
        (Backoff(type="exponential", delay_ms=2_000, max_delay_ms=500), (0, 0, 0, 0)),
        # Math.round: halves go up.
        (Backoff(type="exponential", delay_ms=1), (1, 2, 4, 8)),
        (Backoff(type="exponential", delay_ms=333), (167, 500, 1_166, 2_498)),
        (Backoff(type="fixed", delay_ms=700), (700, 700, 700, 700)),
        (Backoff(type="fixed", delay_ms=700, max_delay_ms=1), (700, 700, 700, 700)),
        (Backoff(type="repeat", delay_ms=9), (60_000, 60_000, 60_000, 60_000)),
    ],
)
def test_a_job_waits_to_the_millisecond(backoff: Backoff | None, waits_ms: tuple[int, ...]) -> None:
    job = folded(
        events.Created(
            type="email", delay_ms=60_000, promote_at_ms=START_MS, attempts=9, backoff=backoff
        )
    )

    assert tuple(backoff_wait_ms(job._replace(made=made)) for made in (1, 2, 3, 4)) == waits_ms


def test_repeat_without_a_delay_waits_for_nothing() -> None:
    job = a_job("active", backoff="repeat", delay_ms=None, max_attempts=2)

    assert asked(FailAttempt(job_id=1, attempt=1, error='""'), job) == (
        events.Failed(attempt=1, next="inactive", content='""'),
    )


def test_the_longest_wait_can_still_be_said() -> None:
    job = a_job("active", backoff="exponential", backoff_delay_ms=2**53 - 1, made=2**53 - 1)

    assert backoff_wait_ms(job) == 2**53 - 1


# --- commands that cannot be


@pytest.mark.parametrize(
    "make",
    [
        lambda: Create(type=""),
        lambda: Create(type="x" * 256),
        lambda: Create(type="a\0"),
        lambda: Create(type="\ud800"),
        lambda: Create(type=7),  # type: ignore[arg-type]
        lambda: Create(type="x", priority=2**53),
        lambda: Create(type="x", priority=1.5),  # type: ignore[arg-type]
        lambda: Create(type="x", priority=True),
        lambda: Create(type="x", attempts=0),
        lambda: Create(type="x", delay_ms=0),
        lambda: Create(type="x", delay_ms=2**53),
        lambda: Create(type="x", ttl_ms=-1),
        lambda: Create(type="x", unique=""),
        lambda: Create(type="x", unique="k" * 256),
        lambda: Create(type="x", unique="\0"),
        lambda: Create(type="x", search_keys=("\0",)),
        lambda: Create(type="x", backoff=Backoff(type="fixed", delay_ms=-5)),
        lambda: Create(type="x", backoff=Backoff(type="fixed", delay_ms=2**70)),
        lambda: Create(type="x", backoff=Backoff(type="fixed", max_delay_ms=2**70)),
        lambda: Create(type="x", backoff=Backoff(type="linear")),  # type: ignore[arg-type]
        lambda: Start(job_id=1, worker="\0"),
        lambda: Start(job_id="1"),  # type: ignore[arg-type]
        lambda: Progress(job_id=1, attempt=1, progress=101),
        lambda: Progress(job_id=1, attempt=1, progress=-1),
        lambda: Progress(job_id=1, attempt=1, progress=1.5),  # type: ignore[arg-type]
        lambda: Complete(job_id=1, attempt="1"),  # type: ignore[arg-type]
        lambda: FailAttempt(job_id=1, attempt=2**70, error='""'),
        lambda: FailAttempt(job_id=1, attempt=1, error='""', retry_after_ms=-1),
        lambda: FailAttempt(job_id=1, attempt=1, error='""', retry_after_ms=1.5),  # type: ignore[arg-type]
        lambda: Return(job_id=1, attempt=-1, reason="x"),
        lambda: Return(job_id=1, attempt=1, reason="\0"),
        lambda: Claim(worker="", slots={}),
        lambda: Claim(worker="w" * 256, slots={}),
        lambda: Claim(worker="\0", slots={}),
        lambda: Claim(worker="w", slots={"email": -1}),
        lambda: Claim(worker="w", slots={"email": True}),
        lambda: Claim(worker="w", slots={"\ud800": 1}),
        lambda: Claim(worker="w", slots={"email": 1}, limit=0),
        lambda: Pause(type=""),
        lambda: Pause(type="x" * 256),
        lambda: Resume(type="\0"),
        lambda: Move(job_id=1, to="removed"),
        lambda: Move(job_id=1, to="asleep"),
        lambda: Reprioritize(job_id=1, priority=-(2**53)),
        lambda: Erase(job_id=1, versions=()),
        lambda: Erase(job_id=1, versions=(0,)),
        lambda: Erase(job_id=1, versions=("1",)),  # type: ignore[arg-type]
        lambda: Erase(job_id=1, reason="\udfff"),
    ],
)
def test_a_badly_formed_command_cannot_be_made(make: Callable[[], Command]) -> None:
    with pytest.raises(InvalidInput, match=r"^[\w. ]+: expected .+, got "):
        make()


def test_the_bounds_themselves_can_be_asked_for() -> None:
    largest = commands.LARGEST_INTEGER
    command = Create(
        type="x" * 255,
        priority=-largest,
        attempts=largest,
        delay_ms=largest,
        ttl_ms=1,
        unique="k" * 255,
        backoff=Backoff(type="exponential", delay_ms=largest, max_delay_ms=1),
    )

    (created,) = asked(command, JobState(1))

    assert evolve(JobState(1), created, position=1, at_ms=NOW_MS).due_at_ms == NOW_MS + largest

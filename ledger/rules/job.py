"""Hold the rules of a job: a table and two pure functions.

Theory of operation
-------------------
A job is what its events made of it.  ``evolve`` folds one event into a job,
``decide`` answers a command with the events that follow from it.  Neither knows
a clock, a database or another module's opinion of a state: times come in as
arguments, and ``TRANSITIONS`` is the only statement of what may follow what.

The table is asked twice.  ``decide`` lets it refuse a command whose event has no
exit from the job's state, and the events that ``decide`` returns are folded
through it again by ``evolve``, so it has the last word.  An event names the
state it leads to wherever the table allows several (``created`` by its promotion
time, ``failed`` by its ``next``, ``moved`` by its ``to``): replay decides nothing.

Every beginning of work raises the job's ``attempt``, whether a worker took the
job or an operator moved it to active.  A word about an attempt (progress, log,
complete, fail) carries its number and is refused unless that very attempt is
running: this is the fence that keeps a lost worker's late word out.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from enum import StrEnum
from typing import Any, Final, Literal, NamedTuple, cast

from ledger.errors import AttemptOver, Corrupt, InvalidInput, JobNotFound, Refused
from ledger.rules import commands, events
from ledger.rules.events import Event


class State(StrEnum):
    """Where a job can be: Kue's five words, and the two ends."""

    ABSENT = "absent"
    INACTIVE = "inactive"
    DELAYED = "delayed"
    ACTIVE = "active"
    COMPLETE = "complete"
    FAILED = "failed"
    REMOVED = "removed"


# Kue's five, in the order of its statistics.
LIVE_STATES: Final = (
    State.INACTIVE,
    State.COMPLETE,
    State.ACTIVE,
    State.FAILED,
    State.DELAYED,
)

_LIVE: Final = frozenset(LIVE_STATES)

_BY_HAND: Final[Mapping[type[Event], frozenset[State]]] = {
    events.Moved: _LIVE,
    events.Removed: frozenset({State.REMOVED}),
}


def _stays(state: State) -> Mapping[type[Event], frozenset[State]]:
    return {events.Reprioritized: frozenset({state}), events.Erased: frozenset({state})}


# The only statement of what may follow what: from a state, by an event, to which
# states.  An operator's hand (_BY_HAND) reaches everywhere a job can be seen.
TRANSITIONS: Final[Mapping[State, Mapping[type[Event], frozenset[State]]]] = {
    State.ABSENT: {
        events.Created: frozenset({State.INACTIVE, State.DELAYED}),
        # Of stream 0, the ledger's own, which no job has.
        events.Paused: frozenset({State.ABSENT}),
        events.Resumed: frozenset({State.ABSENT}),
    },
    State.INACTIVE: {
        events.Started: frozenset({State.ACTIVE}),
        **_BY_HAND,
        **_stays(State.INACTIVE),
    },
    State.DELAYED: {
        events.Promoted: frozenset({State.INACTIVE}),
        **_BY_HAND,
        **_stays(State.DELAYED),
    },
    State.ACTIVE: {
        events.Progressed: frozenset({State.ACTIVE}),
        events.Logged: frozenset({State.ACTIVE}),
        events.Completed: frozenset({State.COMPLETE}),
        events.Failed: frozenset({State.INACTIVE, State.DELAYED, State.FAILED}),
        events.Returned: frozenset({State.INACTIVE}),
        **_BY_HAND,
        **_stays(State.ACTIVE),
    },
    State.COMPLETE: {**_BY_HAND, **_stays(State.COMPLETE)},
    State.FAILED: {**_BY_HAND, **_stays(State.FAILED)},
    # Personal data can be erased after the job is gone from view.
    State.REMOVED: {events.Erased: frozenset({State.REMOVED})},
}


class Job(NamedTuple):
    """Be a job as its events have made it; a row of the projection ``jobs``.

    A tuple, since a replay makes one an event: ``_replace`` costs a fifth of
    ``dataclasses.replace`` on this many fields.  ``*_position`` point at the
    event that holds the content, which is stored nowhere else, so that erasing
    it there erases it everywhere.

    Attributes:
        version: Place of the job's newest event in its stream, from 1.
        max_attempts: How often it may run.
        made: Runs that have ended, by success or failure; at most max_attempts.
        attempt: Number of the newest attempt, 0 before the first.
        started_attempt: Number of the newest one that a worker started; an
            operator's hand begins attempts too, but Kue shows no start of them.
        delay_ms: The wait asked for at creation, then the last backoff's.
        ttl_ms: How long an attempt may go without progress.
        backoff_delay_ms: See ``events.Backoff``.
        worker: Who ran the newest attempt that a worker started.
        progress: Whole per cent; None until first set.
        promote_at_ms: When it may (have) run, by creation or the last backoff.
        due_at_ms: When time itself changes the state; None if it never does.
    """

    id: int
    version: int = 0
    state: State = State.ABSENT
    type: str = ""
    priority: int = 0
    max_attempts: int = 1
    made: int = 0
    attempt: int = 0
    started_attempt: int = 0
    delay_ms: int | None = None
    ttl_ms: int | None = None
    backoff: events.BackoffType | None = None
    backoff_delay_ms: int = 0
    backoff_max_ms: int | None = None
    remove_on_complete: bool = False
    worker: str | None = None
    progress: int | None = None
    created_at_ms: int = 0
    promote_at_ms: int = 0
    updated_at_ms: int = 0
    failed_at_ms: int | None = None
    started_at_ms: int | None = None
    duration_ms: int | None = None
    due_at_ms: int | None = None
    data_position: int | None = None
    result_position: int | None = None
    error_position: int | None = None
    progress_position: int | None = None

    @property
    def exists(self) -> bool:
        """Tell whether the job has been created and not removed."""
        return self.state in _LIVE


_PLACE: Final = {name: place for place, name in enumerate(Job._fields)}
_VERSION, _STATE, _UPDATED = _PLACE["version"], _PLACE["state"], _PLACE["updated_at_ms"]


def evolve(job: Job, event: Event, *, position: int, at_ms: int) -> Job:
    """Return *job* as it is after *event*, of whose content it knows nothing.

    Args:
        job: The job before, ``Job(id)`` if it did not exist.
        event: What happened.
        position: The event's place in the ledger.
        at_ms: The event's time, UTC milliseconds.

    Raises:
        Corrupt: The table does not allow the event here.
    """
    kind = type(event)
    state = _TARGETS[kind](job, event)
    if state not in TRANSITIONS[job.state].get(kind, ()):
        raise Corrupt(
            f"job {job.id}: {event.kind!r} cannot lead from {job.state} to {state}; "
            "the history was changed, or written by rules that this version does not know",
            position=position,
        )
    changes = _CHANGES[kind](job, event, position, at_ms)
    # As ``_replace``, in a third of its time: a replay does this for every event.
    values: list[Any] = list(job)
    values[_VERSION] += 1
    values[_STATE] = state
    values[_UPDATED] = at_ms
    for name, value in changes.items():
        values[_PLACE[name]] = value
    # As ``_make``, which counts them first.
    return tuple.__new__(Job, values)


def decide(command: commands.Command, job: Job, *, at_ms: int) -> tuple[Event, ...]:
    """Return the events that *command* causes; none if it is already so.

    Args:
        command: What is asked.
        job: The job as it is, ``Job(id)`` if it does not exist.
        at_ms: The time at which the events will be recorded.

    Raises:
        JobNotFound: There is no such job, or no longer.
        AttemptOver: The command speaks for an attempt that has ended.
        Refused: The job's state forbids it.
        InvalidInput: The command names what cannot be.
    """
    return tuple(_DECISIONS[type(command)](command, job, at_ms))


def backoff_wait_ms(job: Job) -> int:
    """Return how long *job* waits before its next try, after ``job.made`` runs.

    Source: Kue 0.11.6, lib/queue/job.js: the exponential is
    min(maxDelay - delay/2, delay/2 * (2^made - 1)), so delay 2000 waits
    1000, 3000, 7000 … ms; ``true`` repeats the job's delay.
    """
    if job.backoff is None:
        return 0
    if job.backoff == "repeat":
        return job.delay_ms or 0
    if job.backoff == "fixed":
        return job.backoff_delay_ms
    # 2**53 is the largest wait that can be said; a larger exponent changes nothing.
    doubled = job.backoff_delay_ms * ((1 << min(job.made, 53)) - 1)
    if job.backoff_max_ms is not None:
        doubled = min(doubled, 2 * job.backoff_max_ms - job.backoff_delay_ms)
    # Math.round: halves go up.
    return max(0, min((doubled + 1) // 2, commands.LARGEST_INTEGER))


# --- evolve, by event ------------------------------------------------------------

_Changes = dict[str, Any]


def _created(job: Job, event: events.Created, position: int, at_ms: int) -> _Changes:
    backoff = event.backoff
    return {
        "type": event.type,
        "priority": event.priority,
        "max_attempts": event.attempts,
        "delay_ms": event.delay_ms,
        "ttl_ms": event.ttl_ms,
        "backoff": backoff.type if backoff else None,
        "backoff_delay_ms": backoff.delay_ms if backoff else 0,
        "backoff_max_ms": backoff.max_delay_ms if backoff else None,
        "remove_on_complete": event.remove_on_complete,
        "created_at_ms": at_ms,
        "promote_at_ms": at_ms if event.promote_at_ms is None else event.promote_at_ms,
        "due_at_ms": event.promote_at_ms,
        "data_position": position,
    }


def _started(job: Job, event: events.Started, position: int, at_ms: int) -> _Changes:
    return {
        "attempt": event.attempt,
        "started_attempt": event.attempt,
        "worker": event.worker,
        "started_at_ms": at_ms,
        "due_at_ms": event.expires_at_ms,
    }


def _progressed(job: Job, event: events.Progressed, position: int, at_ms: int) -> _Changes:
    changes: _Changes = {"progress": event.progress, "due_at_ms": event.expires_at_ms}
    if event.has_data:
        changes["progress_position"] = position
    return changes


def _logged(job: Job, event: events.Logged, position: int, at_ms: int) -> _Changes:
    return {}


def _completed(job: Job, event: events.Completed, position: int, at_ms: int) -> _Changes:
    return {
        "made": min(job.made + 1, job.max_attempts),
        "progress": commands.COMPLETE_PERCENT,
        "duration_ms": event.duration_ms,
        "due_at_ms": None,
        "result_position": position,
    }


def _failed(job: Job, event: events.Failed, position: int, at_ms: int) -> _Changes:
    changes: _Changes = {
        "made": min(job.made + 1, job.max_attempts),
        "failed_at_ms": at_ms,
        "due_at_ms": event.promote_at_ms,
        "error_position": position,
    }
    if event.promote_at_ms is not None:
        changes |= {"delay_ms": event.delay_ms, "promote_at_ms": event.promote_at_ms}
    return changes


def _returned(job: Job, event: events.Returned, position: int, at_ms: int) -> _Changes:
    return {"due_at_ms": None}


def _promoted(job: Job, event: events.Promoted, position: int, at_ms: int) -> _Changes:
    return {"due_at_ms": None}


def _moved(job: Job, event: events.Moved, position: int, at_ms: int) -> _Changes:
    if event.attempt is not None:
        return {"attempt": event.attempt, "due_at_ms": event.expires_at_ms}
    # Kue: moved to delayed, a job is due when its delay was, so mostly at once.
    waits = State(event.to) is State.DELAYED
    return {"due_at_ms": job.promote_at_ms if waits else None}


def _reprioritized(job: Job, event: events.Reprioritized, position: int, at_ms: int) -> _Changes:
    return {"priority": event.priority}


def _removed(job: Job, event: events.Removed, position: int, at_ms: int) -> _Changes:
    return {"due_at_ms": None}


def _erased(job: Job, event: events.Erased, position: int, at_ms: int) -> _Changes:
    return {}


def _of_type(
    job: Job, event: events.Paused | events.Resumed, position: int, at_ms: int
) -> _Changes:
    return {}


_CHANGES: Final = cast(
    "Mapping[type[Event], Callable[[Job, Event, int, int], _Changes]]",
    {
        events.Created: _created,
        events.Started: _started,
        events.Progressed: _progressed,
        events.Logged: _logged,
        events.Completed: _completed,
        events.Failed: _failed,
        events.Promoted: _promoted,
        events.Moved: _moved,
        events.Reprioritized: _reprioritized,
        events.Removed: _removed,
        events.Erased: _erased,
        events.Returned: _returned,
        events.Paused: _of_type,
        events.Resumed: _of_type,
    },
)

# Where an event leads, if the table allows it.
_TARGETS: Final = cast(
    "Mapping[type[Event], Callable[[Job, Event], State]]",
    {
        events.Created: lambda _, event: (
            State.INACTIVE if event.promote_at_ms is None else State.DELAYED
        ),
        events.Started: lambda _, __: State.ACTIVE,
        events.Progressed: lambda job, _: job.state,
        events.Logged: lambda job, _: job.state,
        events.Completed: lambda _, __: State.COMPLETE,
        events.Failed: lambda _, event: State(event.next),
        events.Promoted: lambda _, __: State.INACTIVE,
        events.Moved: lambda _, event: State(event.to),
        events.Reprioritized: lambda job, _: job.state,
        events.Removed: lambda _, __: State.REMOVED,
        events.Erased: lambda job, _: job.state,
        events.Returned: lambda _, __: State.INACTIVE,
        events.Paused: lambda job, _: job.state,
        events.Resumed: lambda job, _: job.state,
    },
)


# --- decide, by command ----------------------------------------------------------

# How a refusal calls what was asked: "only an active job can be completed".
_PARTICIPLE: Final = {
    events.Started: "started",
    events.Progressed: "reported on",
    events.Logged: "logged to",
    events.Completed: "completed",
    events.Failed: "failed",
    events.Returned: "returned",
    events.Moved: "moved",
    events.Reprioritized: "reprioritized",
    events.Removed: "removed",
    events.Erased: "erased",
}


def _require(job: Job, event: type[Event]) -> None:
    """Refuse unless the table has an exit for *event* from the job's state."""
    if event in TRANSITIONS[job.state]:
        return
    if not job.exists:
        raise JobNotFound(job.id)
    allowed = " or ".join(state for state in LIVE_STATES if event in TRANSITIONS[state])
    article = "an" if allowed[0] in "aeiou" else "a"
    raise Refused(
        job.id,
        f"job {job.id} is {job.state}; only {article} {allowed} job can be {_PARTICIPLE[event]}",
    )


def _require_attempt(job: Job, attempt: int, event: type[Event]) -> None:
    """Refuse a word about any attempt but the one that is running."""
    if event in TRANSITIONS[job.state] and attempt == job.attempt:
        return
    if job.version and attempt <= job.attempt and job.state is not State.REMOVED:
        raise AttemptOver(
            job.id,
            f"job {job.id}: attempt {attempt} is over; the job is {job.state}"
            + (f" in attempt {job.attempt}" if job.state is State.ACTIVE else "")
            + "; drop the work, its word no longer counts",
        )
    _require(job, event)
    raise Refused(
        job.id, f"job {job.id}: attempt {attempt} never began; the newest is {job.attempt}"
    )


def _create(command: commands.Create, job: Job, at_ms: int) -> Iterator[Event]:
    yield events.Created(
        type=command.type,
        priority=command.priority,
        attempts=command.attempts,
        delay_ms=command.delay_ms,
        promote_at_ms=None if command.delay_ms is None else at_ms + command.delay_ms,
        ttl_ms=command.ttl_ms,
        backoff=command.backoff,
        remove_on_complete=command.remove_on_complete,
        search_keys=command.search_keys,
        unique=command.unique,
        content=command.data,
    )


def _expiry(job: Job, at_ms: int) -> int | None:
    return None if job.ttl_ms is None else at_ms + job.ttl_ms


def _start(command: commands.Start, job: Job, at_ms: int) -> Iterator[Event]:
    _require(job, events.Started)
    yield events.Started(
        attempt=job.attempt + 1, worker=command.worker, expires_at_ms=_expiry(job, at_ms)
    )


def _progress(command: commands.Progress, job: Job, at_ms: int) -> Iterator[Event]:
    _require_attempt(job, command.attempt, events.Progressed)
    yield events.Progressed(
        attempt=command.attempt,
        progress=command.progress,
        has_data=command.data is not None,
        expires_at_ms=_expiry(job, at_ms),
        content=command.data,
    )


def _log(command: commands.Log, job: Job, at_ms: int) -> Iterator[Event]:
    _require_attempt(job, command.attempt, events.Logged)
    yield events.Logged(attempt=command.attempt, content=command.line)


def _complete(command: commands.Complete, job: Job, at_ms: int) -> Iterator[Event]:
    _require_attempt(job, command.attempt, events.Completed)
    started_at_ms = job.started_at_ms if job.started_attempt == job.attempt else None
    yield events.Completed(
        attempt=command.attempt,
        duration_ms=None if started_at_ms is None else at_ms - started_at_ms,
        content=command.result,
    )
    if job.remove_on_complete:
        yield events.Removed(reason="complete")


def _fail(command: commands.Fail, job: Job, at_ms: int) -> Iterator[Event]:
    _require_attempt(job, command.attempt, events.Failed)
    yield _failure(
        job,
        at_ms,
        reason="error",
        error=command.error,
        wait_ms=command.retry_after_ms,
        final=command.final,
    )


def _lose(command: commands.Lose, job: Job, at_ms: int) -> Iterator[Event]:
    if job.state is State.ACTIVE and (job.attempt, job.worker) == (command.attempt, command.worker):
        error = f"worker {command.worker} was lost: silent for {command.silent_ms} ms"
        yield _failure(job, at_ms, reason="lost", error=json.dumps(error, ensure_ascii=False))


def _return(command: commands.Return, job: Job, at_ms: int) -> Iterator[Event]:
    _require_attempt(job, command.attempt, events.Returned)
    yield events.Returned(attempt=command.attempt, reason=command.reason)


def _failure(
    job: Job,
    at_ms: int,
    *,
    reason: Literal["error", "ttl", "lost"],
    error: str,
    wait_ms: int | None = None,
    final: bool = False,
) -> Event:
    """Return the failure of the running attempt, with what follows from it."""
    after = job._replace(made=min(job.made + 1, job.max_attempts))
    if wait_ms is None:
        wait_ms = backoff_wait_ms(after)
    changes: _Changes
    if final or after.made >= job.max_attempts:
        changes = {"next": State.FAILED.value}
    elif wait_ms:
        changes = {
            "next": State.DELAYED.value,
            "delay_ms": wait_ms,
            "promote_at_ms": at_ms + wait_ms,
        }
    else:
        changes = {"next": State.INACTIVE.value}
    return events.Failed(attempt=job.attempt, reason=reason, content=error, **changes)


def _elapse(command: commands.Elapse, job: Job, at_ms: int) -> Iterator[Event]:
    if job.due_at_ms is None or job.due_at_ms > at_ms:
        return
    if job.state is State.DELAYED:
        yield events.Promoted()
    else:
        # Kue's words, in its error and its log line.
        yield _failure(job, at_ms, reason="ttl", error='"TTL exceeded"')


def _move(command: commands.Move, job: Job, at_ms: int) -> Iterator[Event]:
    _require(job, events.Moved)
    if job.state == command.to:
        return
    to = cast("events.MovedTo", command.to)
    if State(to) is State.ACTIVE:
        yield events.Moved(to=to, attempt=job.attempt + 1, expires_at_ms=_expiry(job, at_ms))
    else:
        yield events.Moved(to=to)


def _reprioritize(command: commands.Reprioritize, job: Job, at_ms: int) -> Iterator[Event]:
    _require(job, events.Reprioritized)
    if job.priority != command.priority:
        yield events.Reprioritized(priority=command.priority)


def _remove(command: commands.Remove, job: Job, at_ms: int) -> Iterator[Event]:
    _require(job, events.Removed)
    yield events.Removed()


def _erase(command: commands.Erase, job: Job, at_ms: int) -> Iterator[Event]:
    _require(job, events.Erased)
    for version in command.versions or ():
        if not 1 <= version <= job.version:
            expected = f"places 1 to {job.version} in the history of job {job.id}"
            raise InvalidInput.expected("versions", expected, version)
    yield events.Erased(versions=command.versions, reason=command.reason)


def _pause(command: commands.Pause, job: Job, at_ms: int) -> Iterator[Event]:
    yield events.Paused(type=command.type)


def _resume(command: commands.Resume, job: Job, at_ms: int) -> Iterator[Event]:
    yield events.Resumed(type=command.type)


_DECISIONS: Final = cast(
    "Mapping[type[commands.Command], Callable[[commands.Command, Job, int], Iterator[Event]]]",
    {
        commands.Create: _create,
        commands.Start: _start,
        commands.Progress: _progress,
        commands.Log: _log,
        commands.Complete: _complete,
        commands.Fail: _fail,
        commands.Return: _return,
        commands.Lose: _lose,
        commands.Pause: _pause,
        commands.Resume: _resume,
        commands.Elapse: _elapse,
        commands.Move: _move,
        commands.Reprioritize: _reprioritize,
        commands.Remove: _remove,
        commands.Erase: _erase,
    },
)

"""Decisions on a job: from a command and the job's state to the events that follow.

A command is refused if ``rules.job.TRANSITIONS`` has no transition for its event from the
job's state.  That table alone states what may follow what; nothing here repeats it.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, Literal, cast

from msgspec.structs import replace

from ledger.errors import AttemptOver, InvalidInput, JobNotFound, Refused
from ledger.rules import commands, events
from ledger.rules.events import Event
from ledger.rules.job import LIVE_STATES, TRANSITIONS, JobState, State


def decide(command: commands.Command, job: JobState, *, time_ms: int) -> tuple[Event, ...]:
    """Return the events that *command* causes; none if it changes nothing.

    Args:
        command: The command.
        job: The present state of the job, ``JobState(id)`` if it does not exist.
        time_ms: The time, UTC milliseconds.  It may be before that of the job's last event, because
            the clock can be set back.

    Raises:
        JobNotFound: The job does not exist or was removed.
        AttemptOver: The command reports on an attempt that has ended.
        Refused: The job's state forbids the command.
        InvalidInput: The command names a version that the job does not have.
    """
    return tuple(_DECISIONS[type(command)](command, job, time_ms))


def backoff_wait_ms(job: JobState) -> int:
    """Return how long *job* waits before its next attempt, after ``job.made`` attempts.

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
    # The exponent is limited because a wait is at most 2**53 - 1 ms anyway.
    doubled = job.backoff_delay_ms * ((1 << min(job.made, 53)) - 1)
    if job.backoff_max_ms is not None:
        doubled = min(doubled, 2 * job.backoff_max_ms - job.backoff_delay_ms)
    # As Math.round in JavaScript: halves are rounded up.
    return max(0, min((doubled + 1) // 2, commands.LARGEST_INTEGER))


def repeats(command: commands.Create, created: events.Created) -> bool:
    """Return whether *command* asks for the same job as the command that caused *created*.

    Data counts byte for byte.  If it was erased, it cannot be compared, and counts as the same:
    to keep a digest of it would be to keep what should be erased.
    """
    [event] = _create(command, JobState(0), 0)
    same: dict[str, Any] = {"promote_at_ms": created.promote_at_ms}
    if created.content is None:
        same["content"] = None
    return replace(event, **same) == created


# The verbs of the error messages: "only an active job can be completed".
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


def _require(job: JobState, event: type[Event]) -> None:
    """Raise unless the table has a transition for *event* from the job's state."""
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


def _require_attempt(job: JobState, attempt: int, event: type[Event]) -> None:
    """Raise unless *attempt* is running and the job's state allows *event*."""
    if event in TRANSITIONS[job.state] and attempt == job.attempt:
        return
    if job.version and attempt <= job.attempt and job.state is not State.REMOVED:
        raise AttemptOver(
            job.id,
            f"job {job.id}: attempt {attempt} is over; the job is {job.state}"
            + (f" in attempt {job.attempt}" if job.state is State.ACTIVE else "")
            + "; stop working on it, its reports are no longer accepted",
        )
    _require(job, event)
    raise Refused(
        job.id, f"job {job.id}: attempt {attempt} never started; the latest is {job.attempt}"
    )


def _create(command: commands.Create, job: JobState, time_ms: int) -> Iterator[Event]:
    delay_ms = command.delay_ms
    if command.run_at_ms is not None:
        delay_ms = max(0, command.run_at_ms - time_ms) or None
    yield events.Created(
        type=command.type,
        priority=command.priority,
        attempts=command.attempts,
        delay_ms=delay_ms,
        promote_at_ms=None if delay_ms is None else time_ms + delay_ms,
        ttl_ms=command.ttl_ms,
        backoff=command.backoff,
        remove_on_complete=command.remove_on_complete,
        search_keys=command.search_keys,
        unique=command.unique,
        request=command.request,
        content=command.data,
    )


def _expiry(job: JobState, time_ms: int) -> int | None:
    return None if job.ttl_ms is None else time_ms + job.ttl_ms


def _start(command: commands.Start, job: JobState, time_ms: int) -> Iterator[Event]:
    _require(job, events.Started)
    yield events.Started(
        attempt=job.attempt + 1, worker=command.worker, expires_at_ms=_expiry(job, time_ms)
    )


def _progress(command: commands.Progress, job: JobState, time_ms: int) -> Iterator[Event]:
    _require_attempt(job, command.attempt, events.Progressed)
    yield events.Progressed(
        attempt=command.attempt,
        progress=command.progress,
        has_data=command.data is not None,
        expires_at_ms=_expiry(job, time_ms),
        content=command.data,
    )


def _log(command: commands.Log, job: JobState, time_ms: int) -> Iterator[Event]:
    _require_attempt(job, command.attempt, events.Logged)
    yield events.Logged(attempt=command.attempt, content=command.line)


def _complete(command: commands.Complete, job: JobState, time_ms: int) -> Iterator[Event]:
    _require_attempt(job, command.attempt, events.Completed)
    started_at_ms = job.started_at_ms if job.started_attempt == job.attempt else None
    yield events.Completed(
        attempt=command.attempt,
        duration_ms=None if started_at_ms is None else max(0, time_ms - started_at_ms),
        content=command.result,
    )
    if job.remove_on_complete:
        yield events.Removed(reason="complete")


def _fail(command: commands.FailAttempt, job: JobState, time_ms: int) -> Iterator[Event]:
    _require_attempt(job, command.attempt, events.Failed)
    yield _failure(
        job,
        time_ms,
        reason="error",
        error=command.error,
        wait_ms=command.retry_after_ms,
        final=command.final,
    )


def _lose(command: commands.Lose, job: JobState, time_ms: int) -> Iterator[Event]:
    if job.state is State.ACTIVE and (job.attempt, job.worker) == (command.attempt, command.worker):
        error = f"worker {command.worker} was lost: silent for {command.silent_ms} ms"
        yield _failure(job, time_ms, reason="lost", error=json.dumps(error, ensure_ascii=False))


def _return(command: commands.Return, job: JobState, time_ms: int) -> Iterator[Event]:
    _require_attempt(job, command.attempt, events.Returned)
    yield events.Returned(attempt=command.attempt, reason=command.reason)


def _failure(
    job: JobState,
    time_ms: int,
    *,
    reason: Literal["error", "ttl", "lost"],
    error: str,
    wait_ms: int | None = None,
    final: bool = False,
) -> Event:
    """Return the failure of the running attempt, with the state that follows it."""
    after = job._replace(made=min(job.made + 1, job.max_attempts))
    if wait_ms is None:
        wait_ms = backoff_wait_ms(after)
    changes: dict[str, Any]
    if final or after.made >= job.max_attempts:
        changes = {"next": State.FAILED.value}
    elif wait_ms:
        changes = {
            "next": State.DELAYED.value,
            "delay_ms": wait_ms,
            "promote_at_ms": time_ms + wait_ms,
        }
    else:
        changes = {"next": State.INACTIVE.value}
    return events.Failed(attempt=job.attempt, reason=reason, content=error, **changes)


def _elapse(command: commands.Elapse, job: JobState, time_ms: int) -> Iterator[Event]:
    if job.due_at_ms is None or job.due_at_ms > time_ms:
        return
    if job.state is State.DELAYED:
        yield events.Promoted()
    else:
        # Kue's wording, in its error and its log line.
        yield _failure(job, time_ms, reason="ttl", error='"TTL exceeded"')


def _move(command: commands.Move, job: JobState, time_ms: int) -> Iterator[Event]:
    _require(job, events.Moved)
    if job.state == command.to:
        return
    to = cast("events.MovedTo", command.to)
    if State(to) is State.ACTIVE:
        yield events.Moved(to=to, attempt=job.attempt + 1, expires_at_ms=_expiry(job, time_ms))
    else:
        yield events.Moved(to=to)


def _reprioritize(command: commands.Reprioritize, job: JobState, time_ms: int) -> Iterator[Event]:
    _require(job, events.Reprioritized)
    if job.priority != command.priority:
        yield events.Reprioritized(priority=command.priority)


def _remove(command: commands.Remove, job: JobState, time_ms: int) -> Iterator[Event]:
    _require(job, events.Removed)
    yield events.Removed()


def _erase(command: commands.Erase, job: JobState, time_ms: int) -> Iterator[Event]:
    _require(job, events.Erased)
    for version in command.versions or ():
        if not 1 <= version <= job.version:
            expected = f"versions from 1 to {job.version} of job {job.id}"
            raise InvalidInput.expected("versions", expected, version)
    yield events.Erased(versions=command.versions, reason=command.reason)


_DECISIONS: Final = cast(
    "Mapping[type[commands.Command], Callable[[commands.Command, JobState, int], Iterator[Event]]]",
    {
        commands.Create: _create,
        commands.Start: _start,
        commands.Progress: _progress,
        commands.Log: _log,
        commands.Complete: _complete,
        commands.FailAttempt: _fail,
        commands.Return: _return,
        commands.Lose: _lose,
        commands.Elapse: _elapse,
        commands.Move: _move,
        commands.Reprioritize: _reprioritize,
        commands.Remove: _remove,
        commands.Erase: _erase,
    },
)

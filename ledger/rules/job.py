"""The rules of a job: a table of transitions and the function that applies an event.

Theory of operation
-------------------
A job is the result of its events.  ``evolve`` applies one event to a job; ``decide``, in
``rules.decide``, answers a command with the events that follow from it.  Both are pure
functions, without a clock or a database: times are arguments, and ``TRANSITIONS`` is the
only statement of what may follow what.

The table is consulted twice.  ``decide`` refuses a command if the table has no transition
for its event from the job's state, and ``evolve`` checks each event that ``decide``
returns against the table again, so the table has the last word.  Where the table allows
several next states, the event itself names the one it leads to (``created`` by its
promotion time, ``failed`` by its ``next``, ``moved`` by its ``to``): a replay decides
nothing.

Each start of work increments the job's ``attempt``, whether a worker took the job or an
operator moved it to active.  A report on an attempt (progress, log, complete, fail,
return) carries its number and is refused unless that attempt is running.  The number is a
fencing token: it keeps out late reports of a lost worker.
"""

from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Any, Final, NamedTuple, cast

from ledger.errors import Corrupt
from ledger.rules import commands, events
from ledger.rules.events import Event


class State(StrEnum):
    """A state of a job: one of Kue's five, or ``absent`` or ``removed``."""

    ABSENT = "absent"
    INACTIVE = "inactive"
    DELAYED = "delayed"
    ACTIVE = "active"
    COMPLETE = "complete"
    FAILED = "failed"
    REMOVED = "removed"


# Kue's five states, in the order of its statistics.
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


# The only statement of what may follow what: state -> event -> the states it may lead to.  An
# operator can apply the events in _BY_HAND in every state of LIVE_STATES.
TRANSITIONS: Final[Mapping[State, Mapping[type[Event], frozenset[State]]]] = {
    State.ABSENT: {
        events.Created: frozenset({State.INACTIVE, State.DELAYED}),
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
    # Personal data can be erased after the job was removed.
    State.REMOVED: {events.Erased: frozenset({State.REMOVED})},
}


class JobState(NamedTuple):
    """A job after its events; a row of the projection ``jobs``.

    It is a tuple because a replay creates one per event: ``_replace`` takes a fifth of the
    time of ``dataclasses.replace`` with this many fields.  Each ``*_position`` is the position
    of the event that holds the content.  Content is stored nowhere else, so that erasing it
    there erases it everywhere.

    Attributes:
        version: Version of the job's newest event, from 1; 0 if the job does not exist.
        max_attempts: How often the job may run.
        made: Attempts that have ended in success or failure; at most max_attempts.
        attempt: Number of the newest attempt, 0 before the first.
        started_attempt: Number of the newest attempt that a worker started.  An operator
            who moves a job to active starts an attempt too, but Kue shows no start of it.
        delay_ms: The wait requested at creation, then that of the last backoff.
        ttl_ms: How long an attempt may go without progress.
        backoff_delay_ms: See ``events.Backoff``.
        worker: The worker of the newest attempt that a worker started.
        progress: Whole per cent; None until first set.
        promote_at_ms: Earliest time at which the job may run: its creation, or the end of
            its delay or last backoff.
        due_at_ms: When a delay or a ttl runs out and changes the state; None for never.
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
        """Return whether the job was created and not removed."""
        return self.state in _LIVE


_PLACE: Final = {name: place for place, name in enumerate(JobState._fields)}
_VERSION, _STATE, _UPDATED = _PLACE["version"], _PLACE["state"], _PLACE["updated_at_ms"]


def evolve(job: JobState, event: Event, *, position: int, at_ms: int) -> JobState:
    """Return *job* after *event*, whose content is not needed.

    Args:
        job: The job before, ``JobState(id)`` if it did not exist.
        event: The event.
        position: The event's position in the ledger.
        at_ms: The event's time, UTC milliseconds.

    Raises:
        Corrupt: The table does not allow the event here.
    """
    kind = type(event)
    state = _TARGETS[kind](job, event)
    if state not in TRANSITIONS[job.state].get(kind, ()):
        raise Corrupt(
            f"job {job.id}: event {event.kind!r} cannot lead from {job.state} to {state}; "
            "the history was altered, or written by a version with other rules",
            position=position,
        )
    changes = _CHANGES[kind](job, event, position, at_ms)
    # Same as ``_replace``, in a third of its time: a replay does this for every event.
    values: list[Any] = list(job)
    values[_VERSION] += 1
    values[_STATE] = state
    values[_UPDATED] = at_ms
    for name, value in changes.items():
        values[_PLACE[name]] = value
    # Same as ``_make``, which checks the length first.
    return tuple.__new__(JobState, values)


_Changes = dict[str, Any]


def _created(job: JobState, event: events.Created, position: int, at_ms: int) -> _Changes:
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


def _started(job: JobState, event: events.Started, position: int, at_ms: int) -> _Changes:
    return {
        "attempt": event.attempt,
        "started_attempt": event.attempt,
        "worker": event.worker,
        "started_at_ms": at_ms,
        "due_at_ms": event.expires_at_ms,
    }


def _progressed(job: JobState, event: events.Progressed, position: int, at_ms: int) -> _Changes:
    changes: _Changes = {"progress": event.progress, "due_at_ms": event.expires_at_ms}
    if event.has_data:
        changes["progress_position"] = position
    return changes


def _logged(job: JobState, event: events.Logged, position: int, at_ms: int) -> _Changes:
    return {}


def _completed(job: JobState, event: events.Completed, position: int, at_ms: int) -> _Changes:
    return {
        "made": min(job.made + 1, job.max_attempts),
        "progress": commands.COMPLETE_PERCENT,
        "duration_ms": event.duration_ms,
        "due_at_ms": None,
        "result_position": position,
    }


def _failed(job: JobState, event: events.Failed, position: int, at_ms: int) -> _Changes:
    changes: _Changes = {
        "made": min(job.made + 1, job.max_attempts),
        "failed_at_ms": at_ms,
        "due_at_ms": event.promote_at_ms,
        "error_position": position,
    }
    if event.promote_at_ms is not None:
        changes |= {"delay_ms": event.delay_ms, "promote_at_ms": event.promote_at_ms}
    return changes


def _returned(job: JobState, event: events.Returned, position: int, at_ms: int) -> _Changes:
    return {"due_at_ms": None}


def _promoted(job: JobState, event: events.Promoted, position: int, at_ms: int) -> _Changes:
    return {"due_at_ms": None}


def _moved(job: JobState, event: events.Moved, position: int, at_ms: int) -> _Changes:
    if event.attempt is not None:
        return {"attempt": event.attempt, "due_at_ms": event.expires_at_ms}
    # As in Kue, a job moved to delayed is due when its last delay ended, so usually at once.
    waits = State(event.to) is State.DELAYED
    return {"due_at_ms": job.promote_at_ms if waits else None}


def _reprioritized(
    job: JobState, event: events.Reprioritized, position: int, at_ms: int
) -> _Changes:
    return {"priority": event.priority}


def _removed(job: JobState, event: events.Removed, position: int, at_ms: int) -> _Changes:
    return {"due_at_ms": None}


def _erased(job: JobState, event: events.Erased, position: int, at_ms: int) -> _Changes:
    return {}


_CHANGES: Final = cast(
    "Mapping[type[Event], Callable[[JobState, Event, int, int], _Changes]]",
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
    },
)


def _unchanged(job: JobState, event: Event) -> State:
    return job.state


# The state to which each event leads, if the table allows it; it allows no job the events of the
# ledger itself.
_TARGETS: Final = cast(
    "Mapping[type[Event], Callable[[JobState, Event], State]]",
    dict.fromkeys(events.EVENTS, _unchanged)
    | {
        events.Created: lambda _, event: (
            State.INACTIVE if event.promote_at_ms is None else State.DELAYED
        ),
        events.Started: lambda _, __: State.ACTIVE,
        events.Completed: lambda _, __: State.COMPLETE,
        events.Failed: lambda _, event: State(event.next),
        events.Promoted: lambda _, __: State.INACTIVE,
        events.Moved: lambda _, event: State(event.to),
        events.Removed: lambda _, __: State.REMOVED,
        events.Returned: lambda _, __: State.INACTIVE,
    },
)

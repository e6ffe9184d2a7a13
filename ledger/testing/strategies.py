"""Hypothesis strategies for what a queue can be asked to do, valid and invalid.

    @given(strategies.jobs(types=st.just("email")))
    def test_any_mail_is_sent(arguments):
        with open_queue() as queue:
            queue.process("email")(send)
            queue.create(**arguments)

            drain(queue, raises=True)

``histories`` needs no queue: it generates the events that a custom projection follows.
"""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any, Final, NamedTuple

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy
from msgspec.structs import replace

from ledger.errors import InvalidInput, Refused
from ledger.log.recorded import LEDGER_STREAM, Recorded
from ledger.queue.kue_options import PRIORITIES
from ledger.rules import ledger_state
from ledger.rules.commands import (
    LARGEST_INTEGER,
    LONGEST_TYPE,
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
    OnAttempt,
    OnJob,
    OnLedger,
    Pause,
    Progress,
    Remove,
    Reprioritize,
    Resume,
    Return,
    Start,
)
from ledger.rules.decide import decide
from ledger.rules.events import Backoff, Event
from ledger.rules.job import JobState, State, evolve
from ledger.rules.ledger_state import Entry, Key
from ledger.testing.clock import START_MS

WORKER: Final = "host:1:1"


class Target(NamedTuple):
    """A job that a command may name, as far as the test knows it."""

    job_id: int
    state: str
    attempt: int
    version: int


# --- arguments of a queue's methods

# Without U+0000 and surrogates, which are refused because PostgreSQL cannot store them.
texts: SearchStrategy[str] = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0")
)


def json_values(*, largest: int = 10) -> SearchStrategy[Any]:
    """Return a strategy for JSON values, as Python objects.

    Args:
        largest: The approximate maximum number of leaves in a value.
    """
    return st.recursive(
        st.none()
        | st.booleans()
        | st.integers(-LARGEST_INTEGER, LARGEST_INTEGER)
        | st.floats(allow_nan=False, allow_infinity=False)
        | texts,
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
        max_leaves=largest,
    )


_objects = st.dictionaries(texts, json_values(), max_size=4)


def jobs(
    *,
    types: SearchStrategy[str] | None = None,
    data: SearchStrategy[Any] | None = None,
) -> SearchStrategy[dict[str, Any]]:
    """Return a strategy for keyword arguments of ``Queue.create``, all except ``unique``.

    Args:
        types: The types to draw; None for any text that is a valid type.
        data: The data to draw; None for objects of any content, or no data.
    """
    waits = st.integers(1, 10**7) | st.timedeltas(timedelta(milliseconds=1), timedelta(hours=3))
    backoff_delays = st.integers(1, 10**6)
    given = {"type": texts.filter(_can_be_type) if types is None else types}
    return st.fixed_dictionaries(
        given if data is None else given | {"data": data},
        optional=({"data": _objects} if data is None else {})
        | {
            "priority": st.integers(-20, 20) | st.sampled_from(sorted(PRIORITIES)),
            "attempts": st.integers(1, 5),
            "delay": waits,
            "ttl": waits,
            "backoff": st.booleans()
            | st.fixed_dictionaries({"type": st.just("fixed"), "delay": backoff_delays})
            | st.fixed_dictionaries(
                {"type": st.just("exponential"), "delay": backoff_delays},
                optional={"maxDelay": st.integers(1, 10**6)},
            ),
            "search_keys": st.lists(texts, max_size=3),
            "remove_on_complete": st.booleans(),
        },
    )


def _can_be_type(text: str) -> bool:
    return 0 < len(text) <= LONGEST_TYPE


# --- commands

# Numbers, orders and escapes that a parser would rewrite.
json_texts = st.sampled_from(
    ("{}", "null", '{"b": 1.50, "a": [1e3]}', '"\\u00e9 \\ud83d\\ude00 é"', "12345678901234567890")
)
json_strings = st.sampled_from(('""', '"a line"', '"\\u0001\\n"', '"ärger"'))
type_names = st.sampled_from(("email", "sms", "e-mail/ü"))
priorities = st.one_of(st.integers(-15, 15), st.sampled_from((-LARGEST_INTEGER, LARGEST_INTEGER)))
waits_ms = st.one_of(st.integers(1, 5_000), st.just(LARGEST_INTEGER))
backoffs = st.builds(
    Backoff,
    type=st.sampled_from(("repeat", "fixed", "exponential")),
    delay_ms=st.integers(0, 3_001),
    max_delay_ms=st.none() | st.integers(1, 6_000),
)
creations: SearchStrategy[Command] = st.builds(
    Create,
    type=type_names,
    data=json_texts,
    priority=priorities,
    attempts=st.integers(1, 3),
    delay_ms=st.none() | waits_ms,
    ttl_ms=st.none() | waits_ms,
    backoff=st.none() | backoffs,
    remove_on_complete=st.booleans(),
    search_keys=st.none() | st.just(("a", "b.c")),
    unique=st.none() | st.sampled_from(("one", "two")),
)
states = st.sampled_from(("inactive", "delayed", "active", "complete", "failed"))
on_types: SearchStrategy[Command] = st.one_of(
    st.builds(Pause, type=type_names), st.builds(Resume, type=type_names)
)
claims: SearchStrategy[Command] = st.builds(
    Claim,
    worker=st.sampled_from((WORKER, "host:1:2")),
    slots=st.dictionaries(type_names, st.integers(0, 3)),
    limit=st.none() | st.integers(1, 4),
)
clock_steps_ms = st.one_of(st.integers(0, 4_000), st.sampled_from((-86_400_000, 2**53)))
actors = st.sampled_from(("token:ann", f"worker:{WORKER}", "sweeper", "ü"))
causes = st.none() | st.sampled_from(("request 7", "ledger remove 1"))


# Built once, for any job: building them for each would take most of a test's time.  The attempt
# is 1 for the newest one, 0 for the one before, 2 for the next.
_attempts = st.sampled_from((1, 1, 0, 2))
_job = st.just(1)
_on_any_job: SearchStrategy[OnJob] = st.one_of(
    st.builds(Start, job_id=_job, worker=st.none() | st.just(WORKER)),
    st.builds(
        Progress,
        job_id=_job,
        attempt=_attempts,
        progress=st.integers(0, 100),
        data=st.none() | json_texts,
    ),
    st.builds(Log, job_id=_job, attempt=_attempts, line=json_strings),
    st.builds(Complete, job_id=_job, attempt=_attempts, result=st.none() | json_texts),
    st.builds(
        FailAttempt,
        job_id=_job,
        attempt=_attempts,
        error=json_strings,
        retry_after_ms=st.none() | st.just(0) | waits_ms,
        final=st.booleans(),
    ),
    st.builds(Return, job_id=_job, attempt=_attempts, reason=st.just("stopped")),
    st.builds(Lose, job_id=_job, attempt=_attempts, worker=st.just(WORKER), silent_ms=waits_ms),
    st.builds(Elapse, job_id=_job),
    st.builds(Move, job_id=_job, to=states),
    st.builds(Reprioritize, job_id=_job, priority=priorities),
    st.builds(Remove, job_id=_job),
    st.builds(
        Erase,
        job_id=_job,
        versions=st.none() | st.lists(st.integers(1, 8), min_size=1, max_size=3).map(tuple),
        reason=st.none() | st.just("asked by its owner"),
    ),
)


def on_job(target: Target) -> SearchStrategy[Command]:
    """Return a strategy for commands of all kinds on one job, whatever its state and attempt."""
    return _on_any_job.map(lambda command: _aimed(command, target))


def _aimed(command: OnJob, target: Target) -> Command:
    """Return a command on any job as a command on *target*."""
    changes: dict[str, Any] = {"job_id": target.job_id}
    if isinstance(command, OnAttempt):
        changes["attempt"] = max(0, target.attempt + command.attempt - 1)
    if isinstance(command, Erase) and command.versions is not None:
        # At most one past the newest: that is invalid enough.
        changes["versions"] = tuple(min(each, target.version + 1) for each in command.versions)
    aimed: Command = replace(command, **changes)
    return aimed


def next_step(target: Target) -> SearchStrategy[Command]:
    """Return a strategy for commands that usually come next, so that jobs reach late states."""
    job_id, attempt = target.job_id, target.attempt
    likely: Mapping[str, Sequence[Command]] = {
        "inactive": (
            Start(job_id=job_id, worker="host:1:2"),
            Start(job_id=job_id),
            Move(job_id=job_id, to="delayed"),
        ),
        "delayed": (Elapse(job_id=job_id), Move(job_id=job_id, to="inactive")),
        "active": (
            Progress(job_id=job_id, attempt=attempt, progress=50, data='{"at": 1}'),
            Log(job_id=job_id, attempt=attempt, line='"half"'),
            Complete(job_id=job_id, attempt=attempt, result='{"ok": true}'),
            FailAttempt(job_id=job_id, attempt=attempt, error='"no"'),
            FailAttempt(job_id=job_id, attempt=attempt, error='"no"', retry_after_ms=1_000),
            Return(job_id=job_id, attempt=attempt, reason="stopped"),
        ),
        "complete": (Move(job_id=job_id, to="active"),),
        "failed": (Move(job_id=job_id, to="inactive"), Move(job_id=job_id, to="delayed")),
        "removed": (Erase(job_id=job_id),),
    }
    return st.sampled_from(likely[target.state])


def on_jobs(targets: Sequence[Target]) -> SearchStrategy[Command]:
    """Return a strategy for creations, and commands on single jobs, most of them on *targets*."""
    newest = max((target.job_id for target in targets), default=0)
    strangers = [
        Target(job_id, "absent", 1, 1) for job_id in (newest + 1, newest + 2, 0, -1, 2**62)
    ]
    at_stranger = st.sampled_from(strangers).flatmap(on_job)
    if not targets:
        return st.one_of(creations, at_stranger)
    known = st.sampled_from(targets)
    return st.one_of(creations, known.flatmap(on_job), known.flatmap(next_step), at_stranger)


def commands(targets: Sequence[Target]) -> SearchStrategy[Command]:
    """Return a strategy for commands of all kinds; those on single jobs mostly on *targets*."""
    return st.one_of(on_jobs(targets), claims, on_types)


# --- histories


@st.composite
def histories(draw: DrawFn, *, longest: int = 40) -> list[Recorded]:
    """Return events that a ledger may have recorded since its creation.

    Positions and versions have no gaps, times never decrease, and each event is what the
    rules decide on a command.

    Args:
        draw: Passed by Hypothesis.
        longest: The largest number of events.
    """
    history = _History()
    for _ in range(draw(st.integers(0, longest))):
        history.at_ms += draw(st.integers(0, 5_000))
        command = draw(st.one_of(on_jobs(history.targets), on_types))
        history.carry_out(command, draw(actors), draw(causes))
    return history.recorded[:longest]


class _History:
    """A ledger without a database: the rules, and the events that they caused."""

    def __init__(self) -> None:
        self.recorded: list[Recorded] = []
        self.at_ms = START_MS
        self._jobs: dict[int, JobState] = {}
        self._keys: set[str] = set()
        self._entries: dict[Key, Entry] = {}
        self._version = 0

    @property
    def targets(self) -> list[Target]:
        """Return the jobs, including removed ones."""
        return [
            Target(job.id, job.state.value, job.attempt, job.version)
            for job in self._jobs.values()
            if job.state is not State.ABSENT
        ]

    def carry_out(self, command: Command, actor: str, cause: str | None) -> None:
        """Record what *command* causes, unless the rules refuse it."""
        if isinstance(command, OnLedger):
            self._carry_out_on_ledger(command, actor, cause)
            return
        job = self._job_of(command)
        if job is None:
            return
        try:
            events = decide(command, job, time_ms=self.at_ms)
        except (Refused, InvalidInput):
            return
        for event in events:
            job = self._jobs[job.id] = self._record(job, event, actor, cause)

    def _job_of(self, command: Command) -> JobState | None:
        """Return the job that a command is on; None if its unique key has a job already."""
        match command:
            case Create(unique=key):
                if key in self._keys:
                    return None
                if key is not None:
                    self._keys.add(key)
                return JobState(max(self._jobs, default=0) + 1)
            case OnJob(job_id=job_id):
                return self._jobs.get(job_id) or JobState(job_id)
        return None

    def _carry_out_on_ledger(self, command: OnLedger, actor: str, cause: str | None) -> None:
        key = ledger_state.key_of(command)
        entry = self._entries.get(key) or ledger_state.initial(key)
        for event in ledger_state.decide(command, entry, at_ms=self.at_ms):
            position = len(self.recorded) + 1
            self._entries[key] = ledger_state.evolve(
                entry, event, position=position, at_ms=self.at_ms
            )
            self._version += 1
            self.recorded.append(
                Recorded(position, LEDGER_STREAM, self._version, self.at_ms, actor, cause, event)
            )

    def _record(self, before: JobState, event: Event, actor: str, cause: str | None) -> JobState:
        position = len(self.recorded) + 1
        after = evolve(before, event, position=position, at_ms=self.at_ms)
        recorded = Recorded(position, after.id, after.version, self.at_ms, actor, cause, event)
        self.recorded.append(recorded)
        return after

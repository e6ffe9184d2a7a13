"""Generate what can be asked of a ledger, sensible and not."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from ledger.commands import (
    LARGEST_INTEGER,
    Command,
    Complete,
    Create,
    Elapse,
    Erase,
    Fail,
    Log,
    Move,
    Progress,
    Remove,
    Reprioritize,
    Start,
)
from ledger.events import Backoff


class Target(NamedTuple):
    """Be a job that a command may name, as far as the test knows it."""

    job_id: int
    state: str
    attempt: int
    version: int


class Words(NamedTuple):
    """Be what one caller hands in."""

    commands: Sequence[Command]
    actor: str
    cause: str | None
    atomic: bool


# Numbers, orders and escapes that a parser would rewrite.
json_texts = st.sampled_from(
    ("{}", "null", '{"b": 1.50, "a": [1e3]}', '"\\u00e9 \\ud83d\\ude00 é"', "12345678901234567890")
)
json_strings = st.sampled_from(('""', '"a line"', '"\\u0001\\n"', '"ärger"'))
types = st.sampled_from(("email", "sms", "e-mail/ü"))
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
    type=types,
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
clock_steps_ms = st.one_of(st.integers(0, 4_000), st.sampled_from((-86_400_000, 2**53)))
states = st.sampled_from(("inactive", "delayed", "active", "complete", "failed"))
actors = st.sampled_from(("token:ann", "worker:host:1:1", "sweeper", "ü"))
causes = st.none() | st.sampled_from(("request 7", "ledger remove 1"))


def on_job(target: Target) -> SearchStrategy[Command]:
    """Return commands on one job: all kinds, whatever its state and attempt."""
    job_id = st.just(target.job_id)
    attempt = st.sampled_from(
        (target.attempt, target.attempt, target.attempt + 1, max(0, target.attempt - 1))
    )
    versions = st.lists(st.integers(1, target.version + 1), min_size=1, max_size=3).map(tuple)
    return st.one_of(
        st.builds(Start, job_id=job_id, worker=st.none() | st.just("worker:host:1:1")),
        st.builds(
            Progress,
            job_id=job_id,
            attempt=attempt,
            progress=st.integers(0, 100),
            data=st.none() | json_texts,
        ),
        st.builds(Log, job_id=job_id, attempt=attempt, line=json_strings),
        st.builds(Complete, job_id=job_id, attempt=attempt, result=st.none() | json_texts),
        st.builds(Fail, job_id=job_id, attempt=attempt, error=json_strings),
        st.builds(Elapse, job_id=job_id),
        st.builds(Move, job_id=job_id, to=states),
        st.builds(Reprioritize, job_id=job_id, priority=priorities),
        st.builds(Remove, job_id=job_id),
        st.builds(
            Erase,
            job_id=job_id,
            versions=st.none() | versions,
            reason=st.none() | st.just("asked by its owner"),
        ),
    )


def next_step(target: Target) -> SearchStrategy[Command]:
    """Return what usually comes next for the job, so that jobs get old."""
    job_id, attempt = target.job_id, target.attempt
    likely: Mapping[str, Sequence[Command]] = {
        "inactive": (
            Start(job_id=job_id, worker="worker:host:1:2"),
            Start(job_id=job_id),
            Move(job_id=job_id, to="delayed"),
        ),
        "delayed": (Elapse(job_id=job_id), Move(job_id=job_id, to="inactive")),
        "active": (
            Progress(job_id=job_id, attempt=attempt, progress=50, data='{"at": 1}'),
            Log(job_id=job_id, attempt=attempt, line='"half"'),
            Complete(job_id=job_id, attempt=attempt, result='{"ok": true}'),
            Fail(job_id=job_id, attempt=attempt, error='"no"'),
            Fail(job_id=job_id, attempt=attempt, error='"no"'),
        ),
        "complete": (Move(job_id=job_id, to="active"),),
        "failed": (Move(job_id=job_id, to="inactive"), Move(job_id=job_id, to="delayed")),
        "removed": (Erase(job_id=job_id),),
    }
    return st.sampled_from(likely[target.state])


def commands(targets: Sequence[Target]) -> SearchStrategy[Command]:
    """Return commands of all kinds, most of them on *targets*."""
    newest = max((target.job_id for target in targets), default=0)
    strangers = [
        Target(job_id, "absent", 1, 1) for job_id in (newest + 1, newest + 2, 0, -1, 2**62)
    ]
    at_stranger = st.sampled_from(strangers).flatmap(on_job)
    if not targets:
        return st.one_of(creations, at_stranger)
    known = st.sampled_from(targets)
    return st.one_of(creations, known.flatmap(on_job), known.flatmap(next_step), at_stranger)


def submissions(targets: Sequence[Target]) -> SearchStrategy[list[Words]]:
    """Return what several callers hand in at the same time."""
    one = st.builds(
        Words,
        commands=st.lists(commands(targets), min_size=1, max_size=4),
        actor=actors,
        cause=causes,
        atomic=st.booleans(),
    )
    return st.lists(one, min_size=1, max_size=3)

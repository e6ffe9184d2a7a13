"""Many claims in one commit: each job is given once, and each row is read once."""

from collections.abc import Callable, Sequence
from typing import Any, Final

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection

from ledger.log import store
from ledger.log.answers import Claimed
from ledger.log.batch import Batch, Submission
from ledger.log.ports import WaitingJob
from ledger.processes.composition import System
from ledger.projections.models.jobs import Jobs
from ledger.rules.commands import Claim, Command, Create, Erase, Move, Remove
from tests.builders import carry_out, rows

CLAIMS: Final = 60
SLOTS: Final = 5
# Two sets of the same jobs: a batch works on one, single commands on the other.
TYPES: Final = (("mail", "sms"), ("mail again", "sms again"))


class Read:
    """What was read of the waiting jobs, and of their data."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.jobs = 0
        self.data: list[int] = []
        claimable: Callable[..., list[WaitingJob]] = Jobs.claimable
        data: Callable[..., Any] = Jobs.data

        def counted(
            jobs: Jobs, tx: Connection, type_: str, *, limit: int, with_data: bool
        ) -> list[WaitingJob]:
            found = claimable(jobs, tx, type_, limit=limit, with_data=with_data)
            self.jobs += len(found)
            self.data += [one.job.id for one in found if one.data is not None]
            return found

        def noted(jobs: Jobs, tx: Connection, job_ids: Sequence[int]) -> Any:
            self.data += job_ids
            return data(jobs, tx, job_ids)

        monkeypatch.setattr(Jobs, "claimable", counted)
        monkeypatch.setattr(Jobs, "data", noted)


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> Read:
    return Read(monkeypatch)


def created(system: System, number: int, type_: str = "mail") -> None:
    create = Create(type=type_, data='{"to":"tj"}')
    system.ledger.submit([create] * number, actor="test")


def claimed(system: System, commands: Sequence[Command]) -> list[list[int]]:
    """Return the ids of the jobs that each claim of one commit is given."""
    answers = system.ledger.submit(commands, actor="test")
    return [
        [one.job.id for one in answer.jobs] for answer in answers if isinstance(answer, Claimed)
    ]


def test_the_claims_of_a_commit_read_each_job_once(system: System, read: Read) -> None:
    created(system, CLAIMS * SLOTS + 7)

    given = claimed(system, [Claim(worker="w", slots={"mail": SLOTS})] * CLAIMS)

    ids = range(1, CLAIMS * SLOTS + 1)
    assert given == [list(ids[start : start + SLOTS]) for start in range(0, len(ids), SLOTS)]
    assert read.jobs == len(ids)
    assert read.data == list(ids)


def test_jobs_that_left_in_the_same_commit_are_read_a_second_time_at_most(
    system: System, read: Read
) -> None:
    created(system, 3 * CLAIMS * SLOTS)
    gone: list[Command] = [Remove(job_id=number) for number in range(1, CLAIMS * SLOTS + 1)]

    given = claimed(system, [*gone, *[Claim(worker="w", slots={"mail": SLOTS})] * CLAIMS])

    ids = range(CLAIMS * SLOTS + 1, 2 * CLAIMS * SLOTS + 1)
    assert [id_ for each in given for id_ in each] == list(ids)
    assert read.jobs == 3 * len(ids)


def test_only_the_data_of_jobs_that_are_given_is_read(system: System, read: Read) -> None:
    """A claim for all of many types looks at as many jobs of each."""
    for type_ in ("a", "b", "c"):
        created(system, 4, type_)

    slots = dict.fromkeys(("a", "b", "c"), 4)
    given = claimed(system, [Claim(worker="w", slots=slots, limit=4)] * 2)

    assert given == [[1, 5, 9, 2], [3, 6, 10, 4]]
    assert read.data == [1, 5, 9, 2, 3, 6, 10, 4]
    with system.database.read() as connection:
        assert set(system.jobs.data(connection, [1, 10]).values()) == {'{"to":"tj"}'}


def test_a_claim_of_long_jobs_is_given_fewer_of_them(system: System, read: Read) -> None:
    """The others still wait; and a single job may be longer than what a claim is given."""
    long, longest = (f'"{"x" * size * 1024 * 1024}"' for size in (3, 9))
    data = ["1", long, long, "2", long, longest, "3"]
    system.ledger.submit([Create(type="mail", data=each) for each in data], actor="test")

    claim = Claim(worker="w", slots={"mail": 5})
    answers = [system.ledger.claim(claim, actor="test") for _ in range(5)]

    assert [[one.job.id for one in each.jobs] for each in answers] == [
        [1, 2, 3, 4],
        [5],
        [6],
        [7],
        [],
    ]
    assert [each.is_cut for each in answers] == [True, True, True, False, False]
    assert [one.data for each in answers for one in each.jobs] == data
    assert sorted(read.data) == [1, 2, 3, 4, 5, 6, 7, 7, 7]


def test_a_refused_commit_gives_its_jobs_to_the_next_claim_of_the_batch(system: System) -> None:
    created(system, 3)
    claim = Claim(worker="w", slots={"mail": 2})
    nothing = Remove(job_id=99)

    with system.database.write() as tx:
        # Two callers whose commands come to one batch, the first of which is refused.
        batch = batch_of(system, tx, [claim, nothing], [claim])
    refused, given = batch

    assert [type(answer).__name__ for answer in refused] == ["Claimed", "JobNotFound"]
    assert [one.job.id for one in given[0].jobs] == [1, 2]


def batch_of(system: System, tx: Connection, *callers: Sequence[Command]) -> list[list[Any]]:
    """Return the answers to several callers, each of whom wants all or nothing."""
    head = store.lock_for_append(tx).head
    submissions = [
        Submission(commands=commands, actor="test", cause=None, atomic=True) for commands in callers
    ]
    batch = Batch(tx, system.ledger._stores, head, time_ms=head.at_ms)
    batch.load(submissions)
    return [batch.decide(submission) for submission in submissions]


steps = st.one_of(
    st.tuples(
        st.just("claim"),
        st.dictionaries(st.integers(0, 1), st.integers(0, 4), min_size=1),
        st.none() | st.integers(1, 4),
    ),
    st.tuples(st.just("remove"), st.integers(0, 11)),
    st.tuples(st.just("fail"), st.integers(0, 11)),
    st.tuples(st.just("erase"), st.integers(0, 11)),
)


@settings(
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    jobs=st.lists(st.tuples(st.integers(0, 1), st.integers(-2, 2)), min_size=4, max_size=12),
    taken=st.lists(steps, max_size=8),
)
def test_a_batch_gives_what_single_commits_give(
    system: System, jobs: list[tuple[int, int]], taken: list[tuple[Any, ...]]
) -> None:
    """Unless a command makes a job ready or more urgent, which only the next batch sees."""
    given = []
    for types in TYPES:
        created = [
            outcome.job_id
            for outcome in carry_out(
                system,
                *(
                    Create(type=types[type_], data="1", priority=priority)
                    for type_, priority in jobs
                ),
            )
        ]
        commands = [command_of(step, types, created) for step in taken]
        in_batches = [commands] if types is TYPES[0] else [[command] for command in commands]
        ids = [each for some in in_batches for each in claimed(system, some)]
        given.append([[created.index(id_) for id_ in each] for each in ids])
        # What waits still must not be claimed by the next example.
        carry_out(
            system,
            *(Remove(job_id=row["id"]) for row in rows(system, "SELECT id FROM ledger_jobs")),
        )

    assert given[0] == given[1]


def command_of(step: tuple[Any, ...], types: tuple[str, str], jobs: list[int]) -> Command:
    kind, *values = step
    if kind == "claim":
        slots, limit = values
        return Claim(
            worker="w", slots={types[each]: number for each, number in slots.items()}, limit=limit
        )
    job_id = jobs[values[0] % len(jobs)]
    if kind == "remove":
        return Remove(job_id=job_id)
    if kind == "fail":
        return Move(job_id=job_id, to="failed")
    return Erase(job_id=job_id)

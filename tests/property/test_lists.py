"""A page of a list is the page of a plain Python list, however deep and from wherever."""

import random
from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any, Final, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection

from ledger.database.migration import migrate
from ledger.processes.composition import System
from ledger.projections.models.job_runs import JobList, ListSizes
from ledger.projections.models.jobs import Jobs
from ledger.rules.commands import (
    LARGEST_INTEGER,
    Command,
    Complete,
    Create,
    FailAttempt,
    Move,
    Remove,
    Reprioritize,
    Start,
)
from ledger.rules.job import LIVE_STATES, State
from tests.builders import open_system, rows, shown_ids, verified
from tests.strategies import SHARED_FIXTURES

JOBS: Final = 150
TYPES: Final = ("email", "sms", "ü")
PRIORITIES: Final = (0, 0, 0, 1, -1, 7, -7, 8, LARGEST_INTEGER, -LARGEST_INTEGER)
SIZES: Final = ListSizes(
    id_spans=(1, 2, 6), large_id_span=2, priority_spans=(1, 2, 3), small=2, shallow=5
)
# Of two or three of the jobs.
FEW_BYTES: Final = 700
# The same lists, of which a page is cut before it has more bytes.
CUT_LISTS: Final = Jobs(list_sizes=SIZES._replace(page_bytes=FEW_BYTES)).lists
LISTS: Final = (
    JobList(),
    *(JobList(None, type_) for type_ in (*TYPES, "no such type")),
    *(JobList(state) for state in LIVE_STATES),
    *(JobList(state, type_) for state, type_ in product(LIVE_STATES, TYPES)),
    JobList(State.INACTIVE, "no such type"),
)


class Asked(NamedTuple):
    """A page that is requested."""

    list: JobList
    first: int
    last: int
    descending: bool
    by_priority: bool


# Within the list, beyond it on both sides, and the wrong way round.
ranks = st.one_of(st.integers(-JOBS - 10, JOBS + 10), st.integers(-12, 12), st.just(2**40))
pages = st.builds(
    Asked,
    list=st.one_of(st.just(JobList()), st.sampled_from(LISTS)),
    first=ranks,
    last=ranks,
    descending=st.booleans(),
    by_priority=st.booleans(),
)


@pytest.fixture(params=[1, 12, 100])
def few(request: pytest.FixtureRequest) -> int:
    """Return the number of runs that are added up at once: 1 is too few for every list."""
    number: int = request.param
    return number


@pytest.fixture
def empty(database_url: str, few: int) -> Iterator[System]:
    """Yield a ledger whose lists are counted in short runs, so that 150 jobs are deep."""
    jobs = Jobs(list_sizes=SIZES._replace(few=few))
    system = open_system(database_url, jobs=jobs)
    migrate(system.database)
    try:
        yield system
    finally:
        system.close()


@pytest.fixture
def filled(empty: System) -> System:
    """Return a ledger of 150 jobs, some of them removed."""
    fill(empty)
    return empty


def fill(system: System) -> None:
    """Create jobs of all types in all states, and gaps between them."""
    random_ = random.Random(20)
    for _ in range(3):
        created = [
            Create(
                type=random_.choice(TYPES),
                priority=random_.choice(PRIORITIES),
                delay_ms=random_.choice((None, None, 60_000)),
            )
            for _ in range(JOBS // 3)
        ]
        system.ledger.submit(created, actor="test")
        system.ledger.submit(fates(random_, JOBS), actor="test")
    # A run of which nothing is left, at the beginning and in the middle.
    gone = [*range(1, 10), *range(60, 75)]
    system.ledger.submit([Remove(job_id=job_id) for job_id in gone], actor="test")


def fates(random_: random.Random, number: int) -> list[Command]:
    """Return what befalls many jobs; what is refused does not matter."""
    commands: list[Command] = []
    for _ in range(number):
        job_id = random_.randint(1, JOBS)
        commands += random_.choice(
            (
                (Start(job_id=job_id),),
                (Start(job_id=job_id), Complete(job_id=job_id, attempt=1)),
                (Start(job_id=job_id), FailAttempt(job_id=job_id, attempt=1, error='""')),
                (Move(job_id=job_id, to=random_.choice(("delayed", "failed", "inactive"))),),
                (Reprioritize(job_id=job_id, priority=random_.choice(PRIORITIES)),),
                (Remove(job_id=job_id),) if random_.random() < 0.3 else (),
            )
        )
    return commands


def everything(system: System) -> list[dict[str, Any]]:
    return rows(system, "SELECT id, type, state, priority FROM ledger_jobs")


def expected(jobs: Sequence[dict[str, Any]], asked: Asked) -> list[int]:
    """Return the ids of the page, by what a Python list is."""
    state, type_ = asked.list
    chosen = [job for job in jobs if state in {None, job["state"]} and type_ in {None, job["type"]}]
    chosen.sort(key=lambda job: (job["priority"], job["id"]) if asked.by_priority else job["id"])
    if asked.descending:
        chosen.reverse()
    first = max(0, asked.first + len(chosen) if asked.first < 0 else asked.first)
    last = asked.last + len(chosen) if asked.last < 0 else asked.last
    return [job["id"] for rank, job in enumerate(chosen) if first <= rank <= last]


def shown(system: System, connection: Connection, asked: Asked) -> list[int]:
    return shown_ids(
        system.jobs.lists.page(
            connection,
            asked.list,
            asked.first,
            asked.last,
            descending=asked.descending,
            by_priority=asked.by_priority,
        )
    )


# Each example asks many pages of one filled ledger: pages change nothing, so the
# ledger need not be filled anew for each.
@settings(max_examples=60, suppress_health_check=SHARED_FIXTURES)
@given(asked=st.lists(pages, min_size=10, max_size=20))
def test_a_page_is_the_slice_of_the_list(filled: System, asked: list[Asked]) -> None:
    jobs = everything(filled)
    with filled.database.snapshot() as connection:
        found = [shown(filled, connection, each) for each in asked]

    assert found == [expected(jobs, each) for each in asked]


@settings(max_examples=30, suppress_health_check=SHARED_FIXTURES)
@given(asked=st.lists(pages, min_size=5, max_size=10))
def test_the_parts_of_a_page_that_is_cut_are_the_page(filled: System, asked: list[Asked]) -> None:
    same_end = [each for each in asked if (each.first < 0) is (each.last < 0)]
    with filled.database.snapshot() as connection:
        found = [in_parts(connection, each) for each in same_end]
        whole = [shown(filled, connection, each) for each in same_end]

    assert found == whole


def in_parts(connection: Connection, asked: Asked) -> list[int]:
    """Return the ids of a page, read as far as it goes, and from there on again."""
    found: list[int] = []
    first = asked.first
    while True:
        page = CUT_LISTS.page(
            connection,
            asked.list,
            first,
            asked.last,
            descending=asked.descending,
            by_priority=asked.by_priority,
        )
        found += shown_ids(page)
        assert page.jobs == len(shown_ids(page))
        assert len(page.json) - 2 <= FEW_BYTES
        if not page.left:
            return found
        assert page.jobs >= 1
        first = asked.last - page.left + 1 if first < 0 else first + page.jobs


def test_a_job_that_is_longer_than_a_page_may_be_is_a_page(filled: System) -> None:
    lists = Jobs(list_sizes=SIZES._replace(page_bytes=1)).lists
    with filled.database.snapshot() as connection:
        oldest = lists.page(connection, JobList(), 0, 9)
        newest = lists.page(connection, JobList(), -9, -1, descending=True)
        last = lists.page(connection, JobList(), -1, -1)

    ids = [row["id"] for row in rows(filled, "SELECT id FROM ledger_jobs ORDER BY id")]
    assert [shown_ids(page) for page in (oldest, newest, last)] == [[ids[0]], [ids[8]], [ids[-1]]]
    assert [page.left for page in (oldest, newest, last)] == [9, 8, 0]


def test_every_deep_page_is_the_slice_of_the_list(filled: System) -> None:
    """All ranks at which runs begin and end, in both directions."""
    jobs = everything(filled)
    asked = [
        Asked(list_, first, first + 3, descending, by_priority)
        for list_ in (JobList(), JobList(State.INACTIVE), JobList(None, "sms"))
        for first in range(len(jobs))
        for descending in (False, True)
        for by_priority in (False, True)
    ]
    with filled.database.snapshot() as connection:
        found = [shown(filled, connection, each) for each in asked]

    assert found == [expected(jobs, each) for each in asked]


def test_a_deep_page_walks_no_further_than_one_run(
    filled: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The way to it is counted: no statement skips more jobs than a run has ids."""
    skipped: list[int] = []

    walk = filled.jobs.lists._walk

    def counted(connection: Connection, list_: JobList, skip: int, *rest: Any, **how: Any) -> Any:
        skipped.append(skip)
        return walk(connection, list_, skip, *rest, **how)

    monkeypatch.setattr(filled.jobs.lists, "_walk", counted)
    length = len(everything(filled))
    with filled.database.snapshot() as connection:
        for first, by_priority in product(range(6, length - 10), (False, True)):
            filled.jobs.lists.page(connection, JobList(), first, first + 2, by_priority=by_priority)

    assert len(skipped) == 2 * (length - 16)
    assert max(skipped) < 1 << 2


def test_the_length_of_every_list_is_its_length(filled: System) -> None:
    jobs = everything(filled)
    with filled.database.snapshot() as connection:
        lengths = {list_: filled.jobs.lists.length(connection, list_) for list_ in LISTS}

    assert lengths == {
        list_: len(expected(jobs, Asked(list_, 0, -1, descending=False, by_priority=False)))
        for list_ in LISTS
    }


def test_the_counted_runs_are_those_of_a_replay(filled: System) -> None:
    assert verified(filled).differences == []


def test_priorities_of_which_no_job_is_left_leave_no_rows(empty: System) -> None:
    created = [Create(type="email", priority=1_000 * number) for number in range(1, 21)]
    empty.ledger.submit(created, actor="test")
    empty.ledger.submit([Remove(job_id=number) for number in range(1, 21)], actor="test")

    found = rows(
        empty,
        "SELECT count(*) AS rows_left FROM ledger_job_runs WHERE priority_span = 0",
    )

    assert found == [{"rows_left": 0}]


def test_an_empty_ledger_has_empty_pages(empty: System) -> None:
    with empty.database.snapshot() as connection:
        found = [
            shown(empty, connection, Asked(list_, first, last, descending, by_priority))
            for list_ in (JobList(), JobList(State.FAILED, "email"))
            for first, last in ((0, 9), (-5, -1), (2_000, 3_000), (-5_000, -2_000), (5, 2), (7, -1))
            for descending in (False, True)
            for by_priority in (False, True)
        ]

    assert found == [[]] * len(found)


@pytest.mark.parametrize(
    "priorities",
    [
        [0] * 300 + [1_000] * 600,
        [-1_000] * 600 + [0] * 300,
        [0] * 300 + [*range(1_000, 1_600)],
        [number % 7 * 100 - 300 for number in range(900)],
    ],
    ids=["large", "small", "own", "mixed"],
)
def test_a_deep_page_by_any_priority_is_the_slice_of_the_list(
    system: System, priorities: Sequence[int]
) -> None:
    """With the sizes that are in use."""
    system.ledger.submit(
        [Create(type="email", priority=priority) for priority in priorities], actor="test"
    )
    expected = sorted(range(1, len(priorities) + 1), key=lambda id_: (priorities[id_ - 1], id_))
    firsts = range(5, len(expected), 55)

    with system.database.snapshot() as connection:
        found = [
            shown_ids(
                system.jobs.lists.page(connection, JobList(), first, first + 4, by_priority=True)
            )
            for first in firsts
        ]

    assert found == [expected[first : first + 5] for first in firsts]

"""PostgreSQL reads a page of a list from an index, and no more of it than the page needs."""

from collections.abc import Iterator
from itertools import product
from typing import Final

import pytest
from sqlalchemy import Connection, insert, literal_column, select, text

from ledger.database.migration import migrate
from ledger.processes.composition import System
from ledger.projections.models.job_runs import JobList
from ledger.rules.commands import Create
from ledger.rules.job import State
from tests.builders import carry_out, open_system, shown_ids

pytestmark = pytest.mark.parametrize("database_url", ["postgres"], indirect=True)

JOBS: Final = 20_000
# A page of twenty, what is skipped before it, and the same rows again, of which only ids were read.
MOST_ROWS: Final = 600
# The server plans a statement with its parameters some times, and then perhaps once for all.
TIMES: Final = 12
LISTS: Final = (
    JobList(),
    JobList(State.INACTIVE),
    JobList(State.COMPLETE),
    JobList(State.INACTIVE, "type 3"),
    JobList(State.COMPLETE, "type 3"),
)


@pytest.fixture
def filled(database_url: str) -> Iterator[System]:
    """Yield a ledger of many jobs, of which the newest wait, as they do in use."""
    system = open_system(database_url)
    migrate(system.database)
    carry_out(system, Create(type="type 1"))
    # The next migration counts the jobs that are filled in.
    migrate(system.database, to="0009")
    jobs, _ = system.jobs.tables
    changed = {
        "id": "number",
        "type": "'type ' || number % 9",
        "state": f"CASE WHEN number > {JOBS * 9 // 10} THEN 'inactive' ELSE 'complete' END",
        "priority": "CASE number % 5 WHEN 0 THEN 10 ELSE 0 END",
        "json_start": """replace(json_start, '"1"', '"' || number || '"')""",
    }
    columns = [
        literal_column(changed[name]) if name in changed else column
        for name, column in jobs.columns.items()
    ]
    numbers = text(f"generate_series(2, {JOBS}) AS numbers(number)")
    with system.database.write() as tx:
        copies = select(*columns).select_from(jobs, numbers)
        tx.execute(insert(jobs).from_select(list(jobs.columns.keys()), copies))
    migrate(system.database)
    with system.database.write() as tx:
        tx.execute(text("ANALYZE ledger_jobs, ledger_job_runs"))
    yield system
    system.close()


def rows_read(connection: Connection) -> int:
    """Return how many rows of jobs this session has read, since some moment in the past."""
    read = text(
        """
        SELECT seq_tup_read + idx_tup_fetch
        FROM pg_stat_xact_user_tables
        WHERE relname = 'ledger_jobs'
        """
    )
    return int(connection.scalar(read) or 0)


@pytest.mark.parametrize("by_priority", [False, True], ids=["by age", "by priority"])
@pytest.mark.parametrize("descending", [False, True], ids=["ascending", "descending"])
def test_a_page_reads_few_rows(filled: System, descending: bool, by_priority: bool) -> None:  # noqa: FBT001 - parameters
    lists = filled.jobs.lists
    read: dict[tuple[JobList, str], int] = {}
    for jobs in LISTS:
        with filled.database.read() as connection:
            length = lists.length(connection, jobs)
        ranks = {"first": 0, "skipped to": 60, "deep": length * 2 // 3, "last": length - 20}
        for (name, first), _ in product(ranks.items(), range(TIMES)):
            with filled.database.snapshot() as connection:
                before = rows_read(connection)
                page = lists.page(
                    connection,
                    jobs,
                    first,
                    first + 19,
                    descending=descending,
                    by_priority=by_priority,
                )
                assert len(shown_ids(page)) == 20
                read[jobs, name] = max(read.get((jobs, name), 0), rows_read(connection) - before)

    assert {place: number for place, number in read.items() if number > MOST_ROWS} == {}

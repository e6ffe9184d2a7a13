"""Lists with more data than is read at once, in Python and on the command line."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Final

import pytest

from ledger.processes.composition import System, queue_of
from ledger.projections.models.job_runs import ListSizes
from ledger.projections.models.jobs import Jobs
from ledger.queue import presence
from ledger.queue.queue import Queue
from ledger.rules.commands import Create
from tests.builders import open_system
from tests.integration.shell import Shell

# Two of them are more than is read at once.
LONG: Final = f'"{"x" * 5 * 1024 * 1024}"'


@pytest.fixture
def queue(system: System, database_url: str) -> Iterator[Queue]:
    """Yield a queue of which two or three jobs are read at once."""
    jobs = Jobs(list_sizes=ListSizes(page_bytes=700))
    with closing(open_system(database_url, jobs=jobs)) as short:
        yield queue_of(short, actor="test", lease_ms=30_000)


def test_a_list_has_all_of_its_jobs_whatever_their_length(queue: Queue) -> None:
    created = queue.create_many([{"type": f"{n % 2}", "data": {"n": n}} for n in range(9)])

    listed = queue.jobs(newest_first=True, limit=8)
    of_state = queue.jobs(type="1", state="inactive")
    of_type = queue.jobs(type="0", offset=1)

    assert listed == created[:0:-1]
    assert [job.data for job in listed] == [{"n": n} for n in range(8, 0, -1)]
    assert [job.type for job in listed] == ["0", "1"] * 4
    assert [job.id for job in of_state] == [2, 4, 6, 8]
    assert [(job.id, job.data) for job in of_type] == [(n + 1, {"n": n}) for n in (2, 4, 6, 8)]


def test_the_command_prints_every_job_of_a_long_list(
    system: System, database_url: str, tmp_path: Path
) -> None:
    system.ledger.execute_all([Create(type="long", data=LONG)] * 3, actor="test")
    shell = Shell(database_url, tmp_path / "search")

    listed = shell.json("jobs", "--limit", "100")
    drawn = shell.says("jobs", "--type", "long")
    events = shell.says("events")

    assert [job["id"] for job in listed] == ["3", "2", "1"]
    assert all(len(job["data"]) == len(LONG) - 2 for job in listed)
    assert [line.split()[1] for line in drawn.splitlines() if "long" in line] == ["3", "2", "1"]
    assert max(map(len, drawn.splitlines())) <= 1_000
    assert [int(line.split()[0]) for line in events.splitlines()] == [1, 2, 3]
    assert shell.json("jobs", "--state", "failed") == []


def test_the_counts_of_many_types_are_shown_in_parts(
    system: System, database_url: str, tmp_path: Path
) -> None:
    types = [f"type {number:03}" for number in range(101)]
    system.ledger.submit([Create(type=type_) for type_ in types], actor="test")
    shell = Shell(database_url, tmp_path / "search")

    first = shell.says("stats")
    rest = shell.says("stats", "--after", "type 099")
    two = shell.says("stats", "--limit", "2", "--after", "type 009")
    past = shell.says("replay", "--at", "101")

    assert first.count("type 0") == 100 + 1
    assert "… and 1 more types; see them with --after 'type 099'" in first
    assert "│ all types │      101 │" in first
    assert "type 100" in rest
    assert "more types" not in rest
    assert [line.split("│")[1].strip() for line in two.splitlines() if "│" in line] == [
        "type 010",
        "type 011",
        "all types",
    ]
    assert "… and 89 more types; see them with --after 'type 011'" in two
    assert "… and 1 more types, which are counted in the last line" in past


def test_many_workers_are_shown_in_parts(system: System, database_url: str, tmp_path: Path) -> None:
    names = [f"w{number:03}" for number in range(101)]
    with system.database.write() as tx:
        for name in names:
            presence.beat(tx, name, {"email": 1}, now_ms=1, lease_ms=1)
    shell = Shell(database_url, tmp_path / "search")

    first = shell.says("workers")
    rest = shell.says("workers", "--after", "w099")

    assert "… and 1 more workers; see them with --after w099" in first
    assert "w100" not in first
    assert "w100" in rest
    assert "more workers" not in rest
    assert [worker["name"] for worker in shell.json("workers")] == names
    assert [worker["name"] for worker in shell.json("workers", "--limit", "2")] == names[:2]
    assert shell.json("workers", "--after", "w100") == []

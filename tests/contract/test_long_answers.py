"""Answers that end at a number of bytes, and say where the rest is."""

import re
from collections.abc import Iterator
from typing import Any, Final

import pytest

from ledger.processes.composition import System
from ledger.projections.models.job_runs import ListSizes
from ledger.projections.models.jobs import Jobs
from ledger.queue import presence
from ledger.rules.commands import Create, Log, Remove, Start
from tests.builders import carry_out, open_system
from tests.contract.client import Answer, Client

# The JSON of a job has about 230 bytes, and most of an event's are not counted.
FEW_BYTES: Final = 700
LINES: Final = [f'"{number}: {"x" * 300}"' for number in range(5)]


@pytest.fixture
def cut(system: System, database_url: str) -> Iterator[Client]:
    """Yield a client whose answers are short, on a ledger with nine jobs and a long log."""
    jobs = Jobs(list_sizes=ListSizes(page_bytes=FEW_BYTES))
    short = open_system(database_url, jobs=jobs)
    carry_out(
        system,
        *(Create(type="a/ü%", priority=-number) for number in range(9)),
        Start(job_id=1),
        *(Log(job_id=1, attempt=1, line=line) for line in LINES),
        Remove(job_id=4),
    )
    yield Client(short, answer_bytes=FEW_BYTES)
    short.close()


def linked(answer: Answer, rel: str = "next") -> str | None:
    """Return the target of an answer's link."""
    link = answer.headers.get("link")
    if link is None:
        return None
    found = re.fullmatch(rf'<(/[!-~]*)>; rel="{rel}"', link)
    assert found, link
    return found[1]


def parts(client: Client, target: str) -> list[list[Any]]:
    """Return what a target and its links lead to."""
    found = []
    following: str | None = target
    while following is not None:
        answer = client.get(following)
        assert answer.status == 200, answer.content
        found.append(answer.json)
        following = linked(answer)
    return found


@pytest.mark.parametrize(
    "target",
    [
        "/jobs/0..99",
        "/jobs/2...6/",
        "/jobs/0%2e%2e99",
        "/jobs/0%2E.99/desc",
        "/jobs/0..99/desc",
        "/jobs/-99..-2",
        "/jobs/1..-2/desc",
        "/jobs/0..99?sort=priority",
        "/jobs/inactive/-5..-1/desc?sort=priority",
        "/jobs/a%2F%C3%BC%25/inactive/0..99",
        "/jobs/a%2Fü%25/inactive/0..99/asc".encode().decode("latin-1"),
    ],
)
def test_a_long_list_is_linked_part_by_part(cut: Client, system: System, target: str) -> None:
    whole = Client(system).get(target)
    found = parts(cut, target)

    assert [job for part in found for job in part] == whole.json
    assert "link" not in whole.headers
    assert len(found) > 1
    assert {len(part) for part in found[:-1]} <= {2, 3}


def test_the_link_of_a_list_is_this(cut: Client) -> None:
    answer = cut.get("/jobs/inactive/0..5/desc?sort=priority&x=1")

    assert answer.headers["link"] == '</jobs/inactive/3..5/desc?sort=priority>; rel="next"'


def test_a_list_that_fits_has_no_link(cut: Client) -> None:
    assert "link" not in cut.get("/jobs/0..1").headers


def test_a_long_history_is_linked_part_by_part(cut: Client, system: System) -> None:
    whole = Client(system).get("/job/1/events")
    found = parts(cut, "/job/1/events")
    limited = parts(cut, "/job/1/events?after=1&limit=2")

    assert [event for part in found for event in part] == whole.json
    assert "link" not in whole.headers
    assert [len(part) for part in found] == [4, 2, 1]
    assert [event["version"] for part in limited for event in part] == [2, 3, 4, 5, 6, 7]
    assert linked(cut.get("/job/1/events?after=1&limit=2")) == "/job/1/events?after=3&limit=2"


def test_of_a_long_log_the_newest_lines_come_first(cut: Client, system: System) -> None:
    whole = Client(system).get("/job/1/log")
    newest = cut.get("/job/1/log")
    older = cut.get(linked(newest, "prev") or "")
    oldest = cut.get(linked(older, "prev") or "")

    assert oldest.json + older.json + newest.json == whole.json
    assert [len(answer.json) for answer in (oldest, older, newest)] == [1, 2, 2]
    assert "link" not in whole.headers
    assert "link" not in oldest.headers


def test_a_single_line_may_be_longer(system: System, cut: Client) -> None:
    one_byte = Client(system, answer_bytes=1)

    assert [len(part) for part in parts(one_byte, "/job/1/events")] == [1] * 7
    assert len(one_byte.get("/job/1/log").json) == 1


def test_many_types_are_linked_part_by_part(system: System) -> None:
    types = ["a", "B", "b/ü&x=1", "b+ c", "ä", "\U0001f600"]
    carry_out(system, *(Create(type=type_) for type_ in types))
    carry_out(system, Create(type="c"), Remove(job_id=len(types) + 1))

    found = parts(Client(system, largest_page=2), "/job/types")

    assert [type_ for part in found for type_ in part] == sorted(types)
    assert [len(part) for part in found] == [2, 2, 2]
    assert Client(system).get("/job/types").json == sorted(types)


def test_many_workers_are_linked_part_by_part(system: System) -> None:
    client = Client(system, largest_page=2)
    names = ["a b", "b", "c?&", "d", "e"]
    for name in names:
        client.post({"types": ["x"], "worker": name}, "/jobs/claim")

    found = parts(client, "/workers")

    assert [worker["name"] for part in found for worker in part] == names
    assert [len(part) for part in found] == [2, 2, 1]
    assert len(Client(system).get("/workers").json) == len(names)


def test_workers_with_very_many_types_are_linked_sooner(system: System) -> None:
    types = {f"{number} {'x' * 200}": 1 for number in range(20_000)}
    with system.database.write() as tx:
        for name in ("a", "b", "c"):
            presence.beat(tx, name, types, now_ms=1, lease_ms=1)

    found = parts(Client(system), "/workers")

    assert [[worker["name"] for worker in part] for part in found] == [["a"], ["b"], ["c"]]


def test_the_description_names_the_link(cut: Client) -> None:
    described = cut.get("/openapi.json").json["paths"]
    with_link = {
        path
        for path, methods in described.items()
        if "Link" in methods.get("get", {}).get("responses", {}).get("200", {}).get("headers", {})
    }

    lists = {path for path in described if "{range}" in path}
    assert with_link == lists | {"/job/{id}/log", "/job/{id}/events", "/job/types", "/workers"}

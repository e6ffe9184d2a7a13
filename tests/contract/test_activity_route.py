"""GET /activity: what it counts, how it is asked, what it refuses."""

from typing import Any, Final
from urllib.parse import quote

import pytest
from sqlalchemy import text

from ledger.projections.follower import catch_up
from ledger.rules.commands import Complete, Create, FailAttempt, Start
from tests.builders import START_MS, Clock, carry_out
from tests.contract.client import LARGEST_PAGE, Client

MINUTE_MS: Final = 60_000
FIRST_MS: Final = START_MS - START_MS % MINUTE_MS
FIELDS: Final = ("created", "started", "completed", "failed", "work_ms")


@pytest.fixture
def busy(client: Client) -> Client:
    """Return a ledger in which something happened in three of seven minutes."""
    clock = Clock()
    client.system.ledger.clock = clock
    clock.now_ms = FIRST_MS
    carry_out(client.system, Create(type="email", attempts=2), Create(type="video"))
    clock.now_ms = FIRST_MS + 2 * MINUTE_MS + 59_990
    carry_out(client.system, Start(job_id=1), FailAttempt(job_id=1, attempt=1, error='"x"'))
    carry_out(client.system, Start(job_id=1), Start(job_id=2))
    clock.now_ms = FIRST_MS + 6 * MINUTE_MS
    carry_out(client.system, Complete(job_id=1, attempt=2), Create(type="email"))
    carry_out(client.system, Complete(job_id=2, attempt=1))
    catch_up(client.system.database, client.system.activity)
    return client


def minute(number: int, *counts: int) -> dict[str, Any]:
    at_ms = FIRST_MS + number * MINUTE_MS
    seconds = at_ms // 1000
    at = f"2023-11-14T22:{(seconds // 60) % 60:02}:00.000Z"
    return {"at": at, "at_ms": at_ms} | dict(zip(FIELDS, counts, strict=True))


def test_what_happened_is_counted_by_minute(busy: Client) -> None:
    answer = busy.get(f"/activity?from={FIRST_MS}&to={FIRST_MS + 7 * MINUTE_MS}")

    work_ms = 2 * (6 * MINUTE_MS - 2 * MINUTE_MS - 59_990)
    assert answer.json == [
        minute(0, 2, 0, 0, 0, 0),
        minute(2, 0, 3, 0, 1, 0),
        minute(6, 1, 0, 2, 0, work_ms),
    ]


def test_the_last_hour_is_what_is_shown_unasked(busy: Client) -> None:
    busy.system.ledger.clock = lambda: FIRST_MS + 60 * MINUTE_MS + 1  # of minutes 1 to 60

    assert [each["at_ms"] for each in busy.get("/activity").json] == [
        FIRST_MS,
        FIRST_MS + 2 * MINUTE_MS,
        FIRST_MS + 6 * MINUTE_MS,
    ]


def test_one_type_is_counted_alone(busy: Client) -> None:
    end = FIRST_MS + 7 * MINUTE_MS
    of_email = busy.get(f"/activity?from={FIRST_MS}&to={end}&type=email").json
    of_none = busy.get(f"/activity?from={FIRST_MS}&to={end}&type=nobody%27s").json

    assert [[each[name] for name in FIELDS[:4]] for each in of_email] == [
        [1, 0, 0, 0],
        [0, 2, 0, 1],
        [1, 0, 1, 0],
    ]
    assert of_none == []


@pytest.mark.parametrize(
    ("from_", "to"),
    [
        ("2023-11-14T22:15:00Z", "2023-11-14T22:16:00Z"),
        ("2023-11-14T22:15:30.5Z", "2023-11-14T22:15:31Z"),
        ("2023-11-14t23:15:00+01:00", "2023-11-14T17:15:01-05:00"),
        (str(FIRST_MS + 2 * MINUTE_MS), "2023-11-14T22:15:00.001Z"),
    ],
)
def test_times_are_said_in_either_way(busy: Client, from_: str, to: str) -> None:
    answer = busy.get(f"/activity?from={quote(from_, safe='')}&to={quote(to, safe='')}")

    assert [each["at"] for each in answer.json] == ["2023-11-14T22:15:00.000Z"]


@pytest.mark.parametrize(
    ("query", "error"),
    [
        *(
            (
                f"{name}={quote(value, safe='')}",
                f"{name}: expected UTC milliseconds, or an RFC 3339",
            )
            for name in ("from", "to")
            for value in (
                *("yesterday", "", "-1", "1.5", "2026-11-22", "2026-11-22T14:00:00", "1" * 16),
                *("2026-13-22T14:00:00Z", "1969-12-31T23:59:59Z", "9" * 15 + "9", "٣"),
                *("20261122T140000Z", "2026-11-22T14:00Z", "0001-01-01T00:00:00+23:59"),
            )
        ),
        ("from=2&to=1", "from: expected a time before `to`"),
        (f"from=0&to={LARGEST_PAGE * MINUTE_MS + 1}", f"from: expected at most {LARGEST_PAGE} min"),
        ("from=1&from=2", "from: expected one value"),
        ("type=a&type=b", "type: expected one value"),
        ("type=%00", "type: expected text without NUL"),
    ],
)
def test_what_is_no_range_is_refused(crowd: Client, query: str, error: str) -> None:
    with crowd.unchanged():
        answer = crowd.get(f"/activity?{query}")

    assert answer.status == 400
    assert answer.json["error"].startswith(error), answer.json


def test_the_tag_is_how_far_it_has_come(busy: Client) -> None:
    target = f"/activity?from={FIRST_MS}&to={FIRST_MS + 7 * MINUTE_MS}"
    tag = busy.tag
    first = busy.get(target)
    carry_out(busy.system, Create(type="email"))
    again = busy.ask("GET", target, If_None_Match=first.headers["etag"])
    catch_up(busy.system.database, busy.system.activity)
    caught_up = busy.ask("GET", target, If_None_Match=first.headers["etag"])

    assert first.headers["etag"] == tag
    assert (again.status, caught_up.status) == (304, 200)
    assert caught_up.json[-1]["created"] == first.json[-1]["created"] + 1


def test_a_range_that_moves_with_time_has_no_tag(busy: Client) -> None:
    assert "etag" not in busy.get("/activity").headers


def test_readiness_tells_what_is_stopped(busy: Client) -> None:
    (created,) = carry_out(busy.system, Create(type="email"))
    with busy.system.database.write() as tx:
        tx.execute(
            text("INSERT INTO ledger_failures VALUES ('activity', :position, 'it broke', 1)"),
            {"position": created.position},
        )

    answer = busy.get("/health/ready")

    assert (answer.status, answer.json["status"]) == (200, "ready")
    assert answer.json["stopped"] == {
        "activity": f"event {created.position} cannot be applied: it broke"
    }

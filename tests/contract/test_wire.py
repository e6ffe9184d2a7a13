"""The manual's examples word for word, and the job object over a whole life."""

import json
import re
from typing import Any

import pytest

from ledger.processes.composition import System
from ledger.rules.commands import Complete, Elapse, FailAttempt, Log, Progress, Start
from tests.builders import START_MS, Clock, carry_out, job_in
from tests.contract.client import JSON_TYPE, Client

# Kue's order, which the object keeps whatever is absent.
KEYS = (
    *("id", "type", "data", "result", "priority", "progress", "progress_data", "state", "error"),
    *("created_at", "promote_at", "updated_at", "failed_at", "started_at", "duration", "delay"),
    *("workerId", "ttl", "attempts"),
)
NUMBER, TEXT, OBJECT = int, str, dict
ORIGIN = "https://ui.example.org"


@pytest.fixture
def clock(system: System) -> Clock:
    """Return the ledger's clock, which stands until it is set."""
    clock = Clock()
    system.ledger.clock = clock
    return clock


@pytest.fixture
def client(system: System, clock: Clock) -> Client:
    """Return a client over an empty ledger whose time stands still."""
    del clock
    return Client(system)


def test_get_job_search_answers_the_ids_of_jobs_that_have_the_words(client: Client) -> None:
    for title in ("avi video", "video", "The AVI videos", "avi"):
        client.post({"type": "video", "data": {"title": title}})
    answer = client.get("/job/search?q=avi%20video")

    assert (answer.status, answer.media_type, answer.json) == (200, JSON_TYPE, ["3", "1"])


def test_get_stats_counts_and_adds_up_the_work(client: Client, clock: Clock) -> None:
    empty = client.get("/stats").content
    for state in ("inactive", "inactive", "active", "failed", "delayed", "removed"):
        job_in(client.system, state)
    job_id = job_in(client.system, "active")
    clock.now_ms += 20_892
    carry_out(client.system, Complete(job_id=job_id, attempt=1))

    assert empty == (
        b'{"inactiveCount":0,"completeCount":0,"activeCount":0,"failedCount":0,'
        b'"delayedCount":0,"workTime":0}'
    )
    assert client.get("/stats").content == (
        b'{"inactiveCount":2,"completeCount":1,"activeCount":1,"failedCount":1,'
        b'"delayedCount":1,"workTime":20892}'
    )


def test_get_job_answers_the_manuals_object(client: Client, clock: Clock) -> None:
    data = {
        "title": "welcome email for tj",
        "to": "tj@learnboost.com",
        "template": "welcome-email",
    }
    job_in(client.system, "inactive")
    job_in(client.system, "inactive")
    client.post({"type": "email", "data": data, "options": {"priority": "high"}})
    carry_out(client.system, Start(job_id=3, worker="worker:host:1:1"))
    clock.now_ms += 15_002
    carry_out(client.system, Complete(job_id=3, attempt=1))

    assert client.get("/job/3").json == {
        "id": "3",
        "type": "email",
        "data": data,
        "priority": -10,
        "progress": "100",
        "state": "complete",
        "created_at": str(START_MS),
        "promote_at": str(START_MS),
        "updated_at": str(START_MS + 15_002),
        "started_at": str(START_MS),
        "duration": "15002",
        "workerId": "worker:host:1:1",
        "attempts": {"made": 1, "remaining": 0, "max": 1},
    }


def test_get_job_log_answers_its_lines(client: Client) -> None:
    job_id = job_in(client.system, "active")
    for line in ("foo", "bar", "baz"):
        carry_out(client.system, Log(job_id=job_id, attempt=1, line=json.dumps(line)))

    assert client.get(f"/job/{job_id}/log").content == b'["foo","bar","baz"]'


def test_lists_are_ranges_of_jobs_in_order_of_creation(client: Client) -> None:
    for state in ("inactive", "complete", "failed"):
        job_in(client.system, state)
    for type_ in ("sms", "email"):
        job_in(client.system, "complete", type=type_)
    shown = {
        target: [job["id"] for job in client.get(target).json]
        for target in (
            "/jobs/0..2",
            "/jobs/0..2/asc",
            "/jobs/0..2/desc",
            "/jobs/-2..-1",
            "/jobs/-2..-1/desc",
            "/jobs/complete/0..-1",
            "/jobs/complete/0..0/desc",
            "/jobs/email/complete/0..9",
            "/jobs/email/complete/1..9/desc",
            "/jobs/nothing/complete/0..9",
            "/jobs/delayed/0..9",
            "/jobs/3..1",
            "/jobs/7..9",
        )
    }

    assert shown == {
        "/jobs/0..2": ["1", "2", "3"],
        "/jobs/0..2/asc": ["1", "2", "3"],
        "/jobs/0..2/desc": ["5", "4", "3"],
        "/jobs/-2..-1": ["4", "5"],
        "/jobs/-2..-1/desc": ["2", "1"],
        "/jobs/complete/0..-1": ["2", "4", "5"],
        "/jobs/complete/0..0/desc": ["5"],
        "/jobs/email/complete/0..9": ["2", "5"],
        "/jobs/email/complete/1..9/desc": ["2"],
        "/jobs/nothing/complete/0..9": [],
        "/jobs/delayed/0..9": [],
        "/jobs/3..1": [],
        "/jobs/7..9": [],
    }


def test_a_list_shows_each_job_as_it_is_shown_alone(client: Client) -> None:
    for state in ("inactive", "delayed", "active", "complete", "failed"):
        job_in(client.system, state, data='{"n": 1.0}')
    alone = b",".join(client.get(f"/job/{job_id}").content for job_id in range(1, 6))

    assert client.get("/jobs/0..9").content == b"[" + alone + b"]"


def test_sorted_by_priority_a_list_is_in_the_order_of_running(client: Client) -> None:
    for priority in ("normal", "low", "critical", "normal", "high"):
        client.post({"type": "email", "options": {"priority": priority}})
    ids = {
        order: [job["id"] for job in client.get(f"/jobs/inactive/0..3{order}").json]
        for order in ("?sort=priority", "/desc?sort=priority")
    }

    assert ids == {
        "?sort=priority": ["3", "5", "1", "4"],
        "/desc?sort=priority": ["2", "4", "1", "5"],
    }


def test_delete_job_removes_it_from_every_view_but_its_history(client: Client) -> None:
    for _ in range(2):
        job_in(client.system, "inactive")
    answer = client.delete("/job/2")
    again = client.delete("/job/2")

    assert (answer.status, answer.content) == (200, b'{"message":"job 2 removed"}')
    assert (again.status, again.json) == (404, {"error": 'job "2" doesnt exist'})
    assert client.get("/job/2").status == client.get("/job/2/log").status == 404
    assert [job["id"] for job in client.get("/jobs/0..-1").json] == ["1"]
    assert client.get("/jobs/email/inactive/stats").content == b'{"count":1}'
    kinds = [event["kind"] for event in client.get("/job/2/events").json]
    assert kinds == ["created", "removed"]


def test_post_job_answers_its_id(client: Client) -> None:
    job = {"type": "email", "data": {"title": "t"}, "options": {"attempts": 5, "priority": "high"}}
    answers = [client.post(job) for _ in range(3)]

    assert (answers[2].status, answers[2].media_type) == (200, JSON_TYPE)
    assert answers[2].content == b'{"message":"job 3 created","id":3}'
    assert client.get("/job/3").json["attempts"] == {"made": 0, "remaining": 5, "max": 5}
    assert client.get("/job/3").json["priority"] == -10


def test_put_state_and_priority_and_inactive_answer_in_kues_words(client: Client) -> None:
    job_id = job_in(client.system, "failed")
    answers = [
        client.put(f"/job/{job_id}/state/complete"),
        client.put(f"/job/{job_id}/priority/critical"),
        client.get(f"/inactive/{job_id}"),
        client.ask("POST", f"/inactive/{job_id}"),
    ]
    job = client.get(f"/job/{job_id}").json

    assert [answer.content for answer in answers] == [
        b'{"message":"updated state"}',
        b'{"message":"updated priority"}',
        b'{"message":"job 1 inactive"}',
        b'{"message":"job 1 inactive"}',
    ]
    assert (job["state"], job["priority"]) == ("inactive", -15)


def test_an_active_job_moved_by_hand_loses_its_attempt(client: Client) -> None:
    job_id = job_in(client.system, "active")
    client.put(f"/job/{job_id}/state/inactive")
    late = client.system.ledger.submit([Complete(job_id=job_id, attempt=1)], actor="test")
    moved = client.get(f"/job/{job_id}/events").json[-1]

    assert "attempt 1 is over" in str(late[0])
    assert (moved["kind"], moved["body"]["to"]) == ("moved", "inactive")


def test_a_job_has_kues_keys_and_types_its_whole_life_long(client: Client, clock: Clock) -> None:
    system = client.system
    seen: dict[str, dict[str, Any]] = {}

    def look(moment: str) -> None:
        seen[moment] = client.get("/job/1").json
        clock.now_ms += 100

    options = {
        "attempts": 2,
        "delay": 1_000,
        "ttl": 60_000,
        "backoff": {"type": "fixed", "delay": 500},
    }
    client.post({"type": "email", "data": {"a": 1}, "options": options})
    look("created")
    clock.now_ms = START_MS + 1_000
    carry_out(system, Elapse(job_id=1))
    look("promoted")
    carry_out(system, Start(job_id=1, worker="worker:host:1:1"))
    look("started")
    carry_out(system, Progress(job_id=1, attempt=1, progress=40, data='{"at":2}'))
    look("progressed")
    carry_out(system, FailAttempt(job_id=1, attempt=1, error='"Error: boom\\n    at handle"'))
    look("failed")
    clock.now_ms += 500
    carry_out(system, Elapse(job_id=1), Start(job_id=1, worker="worker:host:1:2"))
    look("started again")
    carry_out(system, Complete(job_id=1, attempt=2, result='{"ok":true}'))
    look("completed")

    keys = {moment: set(job) for moment, job in seen.items()}
    first = set(KEYS) - {
        *("result", "progress_data", "error", "failed_at", "started_at", "duration", "workerId")
    }
    assert keys == {
        "created": first,
        "promoted": first,
        "started": first | {"started_at", "workerId"},
        "progressed": first | {"started_at", "workerId", "progress_data"},
        "failed": set(KEYS) - {"result", "duration"},
        "started again": set(KEYS) - {"result", "duration"},
        "completed": set(KEYS),
    }
    assert [list(job) for job in seen.values()] == [
        [key for key in KEYS if key in job] for job in seen.values()
    ]
    assert [job["state"] for job in seen.values()] == [
        "delayed",
        "inactive",
        "active",
        "active",
        "delayed",
        "active",
        "complete",
    ]
    assert [job["progress"] for job in seen.values()] == [0, 0, 0, "40", "40", "40", "100"]
    waited = int(seen["failed"]["promote_at"]) - int(seen["failed"]["failed_at"])
    assert (waited, seen["failed"]["delay"]) == (500, "500")
    assert {key: type(seen["completed"][key]) for key in KEYS} == {
        "id": TEXT,
        "type": TEXT,
        "data": OBJECT,
        "result": OBJECT,
        "priority": NUMBER,
        "progress": TEXT,
        "progress_data": OBJECT,
        "state": TEXT,
        "error": TEXT,
        "created_at": TEXT,
        "promote_at": TEXT,
        "updated_at": TEXT,
        "failed_at": TEXT,
        "started_at": TEXT,
        "duration": TEXT,
        "delay": TEXT,
        "workerId": TEXT,
        "ttl": TEXT,
        "attempts": OBJECT,
    }
    assert list(seen["completed"]["attempts"].items()) == [
        ("made", 2),
        ("remaining", 0),
        ("max", 2),
    ]


@pytest.mark.parametrize("result", ["0", "false", '""', "null", "[]", "1.50", '{"b":1,"a":2}'])
def test_a_result_is_kept_as_it_was_returned(client: Client, result: str) -> None:
    job_id = job_in(client.system, "active")
    carry_out(client.system, Complete(job_id=job_id, attempt=1, result=result))

    shown = client.get(f"/job/{job_id}").content.decode()
    assert f'"data":{{}},"result":{result},"priority":0' in shown


def test_an_attempt_without_a_result_shows_none(client: Client) -> None:
    job_id = job_in(client.system, "active")
    carry_out(client.system, Complete(job_id=job_id, attempt=1))

    assert "result" not in client.get(f"/job/{job_id}").json


def test_a_log_holds_the_first_line_of_each_failure_in_its_place(client: Client) -> None:
    client.post({"type": "email", "options": {"attempts": 3}})
    system = client.system
    carry_out(
        system,
        Start(job_id=1),
        Log(job_id=1, attempt=1, line='"one\\ntwo"'),
        FailAttempt(job_id=1, attempt=1, error='"Error: boom\\n    at handle"'),
        Start(job_id=1),
        FailAttempt(job_id=1, attempt=2, error='""'),
        Start(job_id=1),
        Log(job_id=1, attempt=3, line='"ünï"'),
        Complete(job_id=1, attempt=3),
    )

    assert client.get("/job/1/log").json == ["one\ntwo", "Error: boom", "", "ünï"]
    assert client.get("/job/1").json["error"] == ""


def test_a_job_past_its_ttl_says_so(client: Client, clock: Clock) -> None:
    client.post({"type": "email", "options": {"ttl": 1_000}})
    carry_out(client.system, Start(job_id=1))
    clock.now_ms += 1_000
    carry_out(client.system, Elapse(job_id=1))
    job = client.get("/job/1").json

    assert (job["state"], job["error"]) == ("failed", "TTL exceeded")
    assert client.get("/job/1/log").json == ["TTL exceeded"]


def test_a_jobs_events_tell_everything_in_order(client: Client, clock: Clock) -> None:
    client.post('{"type":"email","data":{"b": 1.0}}', X_Request_ID="r-1")
    clock.now_ms += 1
    carry_out(client.system, Start(job_id=1, worker="worker:host:1:1"), actor="worker:host:1:1")
    client.delete("/job/1")
    answer = client.get("/job/1/events")
    created, started, removed = answer.json

    chains = [event.pop("chain") for event in (created, started, removed)]
    assert created == {
        "position": 1,
        "job_id": "1",
        "version": 1,
        "kind": "created",
        "schema": 1,
        "at": "2023-11-14T22:13:20.000Z",
        "at_ms": START_MS,
        "actor": "anonymous",
        "cause": "request r-1",
        "body": {"type": "email"},
        "content": {"b": 1.0},
        "salt": created["salt"],
        "digest": created["digest"],
    }
    assert started == created | {
        "position": 2,
        "version": 2,
        "kind": "started",
        "at": "2023-11-14T22:13:20.001Z",
        "at_ms": START_MS + 1,
        "actor": "worker:host:1:1",
        "cause": None,
        "body": {"attempt": 1, "worker": "worker:host:1:1"},
        "content": None,
        "salt": None,
        "digest": None,
    }
    assert (removed["kind"], removed["actor"], removed["position"]) == ("removed", "anonymous", 3)
    assert [len(chain) for chain in chains] == [64, 64, 64]
    assert (len(created["salt"]), len(created["digest"])) == (32, 64)
    assert b'"content":{"b": 1.0}' in answer.content


def test_events_come_in_pages(client: Client) -> None:
    job_in(client.system, "complete")
    pages = [
        [event["version"] for event in client.get(f"/job/1/events{query}").json]
        for query in ("", "?limit=2", "?after=1", "?after=1&limit=1", "?after=3", "?limit=0")
    ]

    assert pages == [[1, 2, 3], [1, 2], [2, 3], [2], [], []]


def test_pages_of_other_origins_get_no_leave_unless_named(client: Client) -> None:
    preflight = {"Origin": ORIGIN, "Access_Control_Request_Method": "POST"}
    answers = [client.get("/stats", Origin=ORIGIN), client.ask("OPTIONS", "/job", **preflight)]

    assert [[name for name in a.headers if name.startswith("access")] for a in answers] == [[], []]


def test_a_named_origin_may_read_write_and_see_the_tag(client: Client) -> None:
    open_ = Client(client.system, cors_origins=(ORIGIN,))
    preflight = {
        "Origin": ORIGIN,
        "Access_Control_Request_Method": "POST",
        "Access_Control_Request_Headers": "content-type",
    }
    read = open_.get("/stats", Origin=ORIGIN)
    asked = open_.ask("OPTIONS", "/job", **preflight)
    error = open_.get("/job/99", Origin=ORIGIN)
    other = open_.get("/stats", Origin="https://evil.example.org")

    assert read.headers["access-control-allow-origin"] == ORIGIN
    assert read.headers["access-control-expose-headers"] == "ETag, Link"
    assert asked.status == 200
    assert asked.headers["access-control-allow-origin"] == ORIGIN
    assert "POST" in asked.headers["access-control-allow-methods"]
    assert asked.headers["access-control-allow-headers"] == "content-type"
    assert error.headers["access-control-allow-origin"] == ORIGIN
    assert "access-control-allow-origin" not in other.headers


def test_health_and_description_answer(client: Client) -> None:
    job_in(client.system, "inactive")

    assert client.get("/health/live").json == {"status": "live"}
    assert client.get("/health/ready").json == {"status": "ready", "position": 1}
    assert re.fullmatch(r"3\.1\.\d", client.get("/openapi.json").json["openapi"])

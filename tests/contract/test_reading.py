"""Read: HEAD, OPTIONS, tags, tolerated spellings of paths; no read changes anything."""

import re

import pytest

from tests.builders import job_in
from tests.contract.client import JSON_TYPE, Client

READS = (
    "/stats",
    "/job/types",
    "/job/search?q=x",
    "/job/1",
    "/job/1/log",
    "/job/1/events",
    "/job/6/events",
    "/jobs/0..3",
    "/jobs/0..-1/desc",
    "/jobs/0..3?sort=priority",
    "/jobs/failed/0..3",
    "/jobs/failed/0..3/desc",
    "/jobs/email/failed/0..3",
    "/jobs/email/failed/0..3/asc",
    "/jobs/email/failed/stats",
    "/jobs/nothing/failed/0..3",
    "/jobs/claim/failed/0..3",
    "/activity",
    "/activity?from=0&to=600000000&type=email",
    "/workers",
    "/health/live",
    "/health/ready",
    "/openapi.json",
)
# Reads of what the ledger changes.
TAGGED = tuple(
    read for read in READS if not read.startswith(("/activity", "/health", "/openapi", "/workers"))
)


@pytest.mark.parametrize("target", READS)
def test_head_is_get_without_its_body(crowd: Client, target: str) -> None:
    with crowd.unchanged():
        get, head = crowd.get(target), crowd.ask("HEAD", target)

    assert (get.status, get.media_type) == (200, JSON_TYPE)
    assert head == (200, get.headers, b"")


@pytest.mark.parametrize("target", ["/job/99", "/job/6/log", "/jobs/bogus/0..3", "/nowhere"])
def test_head_of_what_is_not_there_is_get_without_its_body(crowd: Client, target: str) -> None:
    get, head = crowd.get(target), crowd.ask("HEAD", target)

    assert head[0] == get.status in {400, 404}
    assert (head.media_type, head.content) == (JSON_TYPE, b"")


def test_only_the_exact_get_of_inactive_moves_a_job(client: Client) -> None:
    job_id = job_in(client.system, "failed")
    with client.unchanged():
        head = client.ask("HEAD", f"/inactive/{job_id}")
        options = client.ask("OPTIONS", f"/inactive/{job_id}")
        missing = client.ask("HEAD", "/inactive/99")
    get = client.get(f"/inactive/{job_id}")

    assert (head.status, options.status, missing.status) == (200, 200, 404)
    assert get.json == {"message": f"job {job_id} inactive"}
    assert client.get(f"/job/{job_id}").json["state"] == "inactive"


@pytest.mark.parametrize(
    ("target", "allowed"),
    [
        *(
            (target, "GET HEAD OPTIONS")
            for target in READS
            if target not in {"/job/1", "/job/1/log"}
        ),
        ("/job", "OPTIONS POST"),
        ("/job/1/log", "GET HEAD OPTIONS POST"),
        ("/job/1/complete", "OPTIONS POST"),
        ("/jobs/claim", "OPTIONS POST"),
        ("/workers/w", "DELETE OPTIONS"),
        ("/workers/w/heartbeat", "OPTIONS POST"),
        ("/job/1", "DELETE GET HEAD OPTIONS"),
        ("/job/1/state/failed", "OPTIONS PUT"),
        ("/job/1/priority/5", "OPTIONS PUT"),
        ("/inactive/1", "GET HEAD OPTIONS POST"),
    ],
)
def test_options_tells_the_methods(crowd: Client, target: str, allowed: str) -> None:
    with crowd.unchanged():
        answer = crowd.ask("OPTIONS", target)

    told = {name.strip() for name in answer.headers["allow"].split(",")} | {"OPTIONS"}
    assert (answer.status, answer.content, told) == (200, b"", set(allowed.split()))


@pytest.mark.parametrize(
    ("spelt", "target"),
    [
        ("/stats/", "/stats"),
        ("/stats?", "/stats"),
        ("/stats/?", "/stats"),
        ("/STATS", "/stats"),
        ("/stats?x=1&callback=cb", "/stats"),
        ("/Job/1", "/job/1"),
        ("/job/1/", "/job/1"),
        ("/JOB/TYPES/", "/job/types"),
        ("/job/1/LOG", "/job/1/log"),
        ("/job/1/Events/", "/job/1/events"),
        ("/job/Search/?q=x", "/job/search?q=x"),
        ("/jobs/0..3/", "/jobs/0..3"),
        ("/Jobs/0..3/desc/?", "/jobs/0..3/desc"),
        ("/jobs/failed/0..20/asc?", "/jobs/failed/0..20/asc"),
        ("/jobs/email/failed/0..20/desc?", "/jobs/email/failed/0..20/desc"),
        ("/jobs/email/failed/stats/", "/jobs/email/failed/stats"),
        ("/jobs/email/failed/STATS", "/jobs/email/failed/stats"),
        ("/WORKERS/", "/workers"),
        ("/jobs/em%61il/failed/0..3", "/jobs/email/failed/0..3"),
        ("/jobs/0%2E%2E3", "/jobs/0..3"),
        ("http://localhost/stats", "/stats"),
    ],
)
def test_a_path_may_be_spelt_as_kues_clients_do(crowd: Client, spelt: str, target: str) -> None:
    assert crowd.get(spelt) == crowd.get(target)


def test_types_and_states_and_orders_keep_their_case(crowd: Client) -> None:
    answers = [
        crowd.get(target)
        for target in ("/jobs/EMAIL/failed/stats", "/jobs/FAILED/0..3", "/jobs/0..3/DESC")
    ]

    assert [answer.status for answer in answers] == [200, 400, 400]
    assert answers[0].json == {"count": 0}


@pytest.mark.parametrize(
    "content_type", ["application/x-www-form-urlencoded", "text/plain", "application/json", "x"]
)
def test_a_request_without_a_body_may_carry_any_content_type(
    client: Client, content_type: str
) -> None:
    job_in(client.system, "failed")
    asked = [
        client.ask(method, target, Content_Type=content_type)
        for method, target in (
            ("GET", "/job/1"),
            ("PUT", "/job/1/state/inactive"),
            ("PUT", "/job/1/priority/5"),
            ("DELETE", "/job/1/"),
            ("POST", "/job"),
        )
    ]

    assert [answer.status for answer in asked] == [200, 200, 200, 200, 204]


@pytest.mark.parametrize(
    "accept",
    [
        "",
        "*/*",
        "application/*",
        "application/json",
        "APPLICATION/JSON",
        "text/html, application/json",
        "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
        "application/json, text/javascript, */*; q=0.01",
    ],
)
def test_whoever_takes_json_gets_it(crowd: Client, accept: str) -> None:
    assert crowd.get("/stats", Accept=accept) == crowd.get("/stats")


@pytest.mark.parametrize("target", TAGGED)
def test_a_read_is_tagged_with_the_position_and_its_chain_value(crowd: Client, target: str) -> None:
    assert crowd.get(target).headers["etag"] == crowd.tag


@pytest.mark.parametrize("target", TAGGED)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_whoever_has_the_newest_is_told_so(crowd: Client, method: str, target: str) -> None:
    own = crowd.tag
    tags = (own, own.removeprefix("W/"), f'W/"1", {own}, "x"', "*")
    answers = [crowd.ask(method, target, If_None_Match=tag) for tag in tags]

    assert answers == [(304, {"etag": own}, b"")] * 4


@pytest.mark.parametrize("tags", ['W/"1"', '"x"', 'W/"1", "2"', "13", "W/", '""', "é", ""])
def test_whoever_has_something_else_is_shown(crowd: Client, tags: str) -> None:
    assert crowd.get("/stats", If_None_Match=tags) == crowd.get("/stats")


def test_a_tag_is_old_as_soon_as_anything_is_recorded(client: Client) -> None:
    client.post({"type": "email"})
    tag = client.get("/job/1").headers["etag"]
    fresh = client.get("/job/1", If_None_Match=tag).status
    client.put("/job/1/priority/5")
    stale = client.get("/job/1", If_None_Match=tag)

    assert (fresh, stale.status, stale.json["priority"]) == (304, 200, 5)


@pytest.mark.parametrize("target", TAGGED)
def test_a_tag_of_another_ledger_of_the_same_length_is_not_current(
    crowd: Client, target: str
) -> None:
    other = re.sub("-[0-9a-f]{8}", "-00000000", crowd.tag)
    assert other != crowd.tag

    for tag in (other, f'W/"{crowd.position}"'):
        assert crowd.get(target, If_None_Match=tag) == crowd.get(target)


def test_an_absent_job_is_absent_whatever_tag_one_has(crowd: Client) -> None:
    assert crowd.get("/job/99", If_None_Match='W/"1"').status == 404

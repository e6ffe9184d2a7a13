"""``LEDGER_KUE_LENIENT``: Kue's routes answer as Kue did, and no others."""

import pytest

from ledger.errors import Unavailable
from ledger.processes.composition import System
from tests.contract.client import JSON_TYPE, Client


@pytest.fixture
def lenient(system: System) -> Client:
    """Return a client of a server with the setting on."""
    return Client(system, kue_lenient=True)


def test_one_job_is_answered_in_kues_words(lenient: Client) -> None:
    answer = lenient.post({"type": "email"})

    assert answer.json == {"message": "job created", "id": 1}


def test_unknown_options_and_fields_are_ignored(lenient: Client) -> None:
    job = {"type": "email", "state": "failed", "options": {"timeout": 5, "priority": "high"}}
    lenient.post(job)
    lenient.post([job])

    assert [(each["state"], each["priority"]) for each in lenient.get("/jobs/0..9").json] == [
        ("inactive", -10),
        ("inactive", -10),
    ]


def test_an_array_has_its_errors_in_their_places(lenient: Client) -> None:
    answer = lenient.post([{"type": "email"}, {}, {"type": "a", "options": {"attempts": -1}}])

    assert (answer.status, [list(item) for item in answer.json]) == (
        200,
        [["message", "id"], ["error"], ["error"]],
    )


@pytest.mark.parametrize(
    ("method", "target", "body", "error"),
    [
        ("GET", "/job/9", "", 'job "9" doesnt exist'),
        ("GET", "/job/9/log", "", 'job "9" doesnt exist'),
        ("DELETE", "/job/9", "", 'job "9" doesnt exist'),
        ("PUT", "/job/9/state/active", "", 'job "9" doesnt exist'),
        ("PUT", "/job/9/priority/x", "", "priority: expected an integer or one of low, "),
        ("GET", "/inactive/9", "", 'job "9" doesnt exist'),
        ("GET", "/jobs/0..x", "", "range: expected FROM..TO, two integers"),
        ("GET", "/jobs/email/bogus/stats", "", "state: expected one of inactive, "),
        ("POST", "/job", '{"data":1}', "Must provide job type"),
        ("POST", "/job", '{"type":"a","options":{"delay":true}}', "delay: expected an integer"),
    ],
)
def test_refusals_are_200_with_the_same_error(
    lenient: Client, method: str, target: str, body: str, error: str
) -> None:
    headers = {"Content-Type": "application/json"}
    strict = Client(lenient.system).send(method, target, body, headers)

    answer = lenient.send(method, target, body, headers)

    assert (answer.status, answer.media_type) == (200, JSON_TYPE)
    assert answer.json["error"].startswith(error)
    assert strict.status in {400, 404}
    assert strict.json == answer.json


@pytest.mark.parametrize(
    ("method", "target", "status"),
    [
        ("POST", "/job/9/log", 404),
        ("POST", "/job/9/complete", 404),
        ("GET", "/job/9/events", 404),
        ("POST", "/jobs/claim", 400),
        ("GET", "/activity?from=x", 400),
        ("GET", "/nowhere", 404),
        ("PATCH", "/stats", 405),
    ],
)
def test_other_routes_and_http_itself_keep_their_statuses(
    lenient: Client, method: str, target: str, status: int
) -> None:
    body = {"attempt": 1, "line": "x"} if target.endswith("log") else {"attempt": 1}
    answer = lenient.post(body, target) if method == "POST" else lenient.ask(method, target)

    assert answer.status == status


def test_an_outage_is_503_all_the_same(lenient: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*_: object) -> None:
        raise Unavailable("it is away")

    monkeypatch.setattr(lenient.system.database, "read", away)

    assert lenient.get("/job/1").status == 503

"""Write: what was posted comes back as it was, once, in its place, with its cause."""

import codecs
import gzip
import zlib
from typing import Any

import pytest

from ledger.rules.commands import Erase
from tests.builders import job_in, rows
from tests.contract.client import Client

JSON = {"Content-Type": "application/json"}


def sent_back(client: Client, data: str) -> str:
    """Return the text of the data of a new job with that data."""
    job_id = client.post(f'{{"type":"email","data":{data}}}').json["id"]
    text = client.get(f"/job/{job_id}").content.decode()
    return text.partition('"data":')[2].partition(',"priority"')[0]


@pytest.mark.parametrize(
    "data",
    [
        '{"b":1,"a":2,"10":3,"9":4}',
        "12345678901234567890123",
        "9" * 400,
        "-0",
        "-0.0",
        "1.10",
        "1E+2",
        "0.1e-7",
        "123456789.123456789123456789",
        '"\\u00e9é\\/\\b"',
        '"\\ud83d\\ude80🚀"',
        '"\\\\u0000"',
        '"\u2028\u2029\ufeff\uffff"',
        '{ "spaces" : [ 1 , 2 ] }',
        "[\n\t1\r\n]",
        '{"__proto__":{"x":1},"constructor":"c"}',
        '{"a":1,"a":2}',
        "[" * 400 + "]" * 400,
        "0",
        "false",
        '""',
        "[]",
        '"a string"',
        '"通知"',
    ],
)
def test_data_comes_back_byte_for_byte(client: Client, data: str) -> None:
    assert sent_back(client, data) == data


@pytest.mark.parametrize("body", ['{"type":"email"}', '{"type":"email","data":null}'])
def test_no_data_is_an_empty_object(client: Client, body: str) -> None:
    client.post(body)

    assert client.get("/job/1").json["data"] == {}


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (codecs.BOM_UTF8 + '{"type":"é"}'.encode(), {}),
        ('{"type":"é"}'.encode("utf-16"), {"Content-Type": "application/json; charset=utf-16"}),
        ('{"type":"é"}'.encode(), {"Content-Type": "APPLICATION/JSON; charset=UTF-8"}),
        ('{"type":"é"}'.encode(), {"Content-Type": 'application/json;charset="utf-8";x=y'}),
        (gzip.compress('{"type":"é"}'.encode()), {"Content-Encoding": "gzip"}),
        (zlib.compress('{"type":"é"}'.encode()), {"Content-Encoding": "Deflate"}),
        ('{"type":"é"}'.encode(), {"Content-Encoding": "identity"}),
    ],
    ids=["BOM", "utf-16", "upper case", "quoted", "gzip", "deflate", "identity"],
)
@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_may_be_encoded(
    client: Client, body: bytes, headers: dict[str, str], *, chunked: bool
) -> None:
    answer = client.send("POST", "/job", body, JSON | headers, chunked=chunked)

    assert answer.json == {"message": "job 1 created", "id": 1}
    assert client.get("/job/types").json == ["é"]


@pytest.mark.parametrize(
    "type_", ["a/b", " ", "50%", "通知", "a..b", "stats", "inactive", "\t", "?"]
)
def test_a_type_may_be_any_text(client: Client, type_: str) -> None:
    client.post({"type": type_})
    escaped = "".join(f"%{byte:02X}" for byte in type_.encode())

    assert client.get("/job/types").json == [type_]
    assert client.get(f"/jobs/{escaped}/inactive/stats").json == {"count": 1}
    assert [job["type"] for job in client.get(f"/jobs/{escaped}/inactive/0..9").json] == [type_]


@pytest.mark.parametrize("body", ["", "{}", "[]", " { } ", "[\n]"])
@pytest.mark.parametrize("target", ["/job", "/job/", "/job?", "/job?atomic=true"])
def test_a_post_of_nothing_has_no_content(crowd: Client, target: str, body: str) -> None:
    with crowd.unchanged():
        answer = crowd.post(body, target)

    assert (answer.status, answer.media_type, answer.content) == (204, None, b"")


def test_an_array_is_answered_in_order_and_the_refused_refuse_only_themselves(
    client: Client,
) -> None:
    answer = client.post(
        [{"type": "a"}, {"data": 1}, {"type": "b"}, 5, {"type": "c", "options": {"attempts": -1}}]
    )

    assert answer.status == 400
    assert answer.json == [
        {"message": "job created", "id": 1},
        {"error": "Must provide job type"},
        {"message": "job created", "id": 2},
        {"error": "Must provide job type"},
        {"error": "attempts: expected an integer from 1 to 9007199254740991, got -1"},
    ]
    assert client.get("/job/types").json == ["a", "b"]


def test_an_atomic_array_is_created_whole_or_not_at_all(client: Client) -> None:
    with client.unchanged():
        refused = client.post([{"type": "a"}, {"data": 1}], "/job?atomic=true")
    created = client.post([{"type": "a"}, {"type": "b"}], "/job?atomic=true")
    loose = client.post([{"type": "c"}, {}], "/job?atomic=false")

    assert refused.status == 400
    assert [list(item) for item in refused.json] == [["error"], ["error"]]
    assert refused.json[1] == {"error": "Must provide job type"}
    assert (created.status, [item["id"] for item in created.json]) == (200, [1, 2])
    assert (loose.status, loose.json[0]["id"]) == (400, 3)


EXISTED: dict[str, Any] = {"message": "job 1 existed", "id": 1, "existed": True}
EMAIL: dict[str, Any] = {"type": "email", "data": {"to": "a"}, "options": {"delay": 5}}


@pytest.mark.parametrize("removed", [False, True])
def test_a_repeated_request_is_told_that_its_job_existed(client: Client, *, removed: bool) -> None:
    first = client.post(EMAIL, Idempotency_Key="order 7")
    if removed:
        client.delete("/job/1")
    with client.unchanged():
        second = client.post(EMAIL, Idempotency_Key="order 7")
    other = client.post(EMAIL, Idempotency_Key="order 8")

    assert (first.status, first.json) == (200, {"message": "job 1 created", "id": 1})
    assert (second.status, second.json) == (200, EXISTED)
    assert other.json["id"] == 2


@pytest.mark.parametrize(
    "other",
    [
        EMAIL | {"type": "another"},
        EMAIL | {"data": {"to": "b"}},
        EMAIL | {"data": {}},
        EMAIL | {"options": {"delay": 6}},
        EMAIL | {"options": {"delay": 5, "priority": "high"}},
        EMAIL | {"options": {"delay": 5, "unique": "u"}},
        {"type": "email"},
        [EMAIL],
        [EMAIL, EMAIL],
    ],
)
def test_another_request_with_a_known_key_is_refused(client: Client, other: Any) -> None:
    client.post(EMAIL, Idempotency_Key="order 7")
    with client.unchanged():
        answers = [
            client.post(other, Idempotency_Key="order 7"),
            client.post(other, "/job?atomic=true", Idempotency_Key="order 7"),
        ]

    for answer in answers:
        assert (answer.status, answer.json) == (
            422,
            {
                "error": "Idempotency-Key 'order 7' came with another request before, which "
                "created job 1; repeat that request exactly, or use a new key for a new one"
            },
        )


def test_erased_data_is_not_compared(client: Client) -> None:
    client.post(EMAIL, Idempotency_Key="k")
    client.system.ledger.execute(Erase(job_id=1), actor="test")

    same = client.post(EMAIL, Idempotency_Key="k")
    other_data = client.post(EMAIL | {"data": 1}, Idempotency_Key="k")
    other_type = client.post(EMAIL | {"type": "sms"}, Idempotency_Key="k")

    assert [answer.status for answer in (same, other_data, other_type)] == [200, 200, 422]


@pytest.mark.parametrize("atomic", ["", "?atomic=true"])
def test_an_idempotency_key_covers_each_job_of_an_array(client: Client, atomic: str) -> None:
    jobs = [{"type": "email"}, {"type": "sms"}, {"type": "email"}]
    first = client.post(jobs, f"/job{atomic}", Idempotency_Key="order 7")
    client.delete("/job/2")
    with client.unchanged():
        second = client.post(jobs, f"/job{atomic}", Idempotency_Key="order 7")

    assert [item["id"] for item in first.json] == [1, 2, 3]
    assert (second.status, second.json) == (
        200,
        [{"message": "job existed", "id": job_id, "existed": True} for job_id in (1, 2, 3)],
    )


def test_an_array_with_a_refused_job_can_be_repeated(client: Client) -> None:
    jobs: list[Any] = [{}, {"type": "email"}]
    first = client.post(jobs, Idempotency_Key="k")
    with client.unchanged():
        second = client.post(jobs, Idempotency_Key="k")

    assert (first.status, second.status) == (400, 400)
    assert [item.get("id") for item in first.json] == [None, 1]
    assert [item.get("existed") for item in second.json] == [None, True]


@pytest.mark.parametrize(
    "other",
    [
        {"type": "email"},
        [{"type": "email"}],
        [{"type": "email"}, {"type": "email"}, {"type": "email"}],
        [{"type": "email"}, {"type": "sms"}],
        [{"type": "email"}, {}],
    ],
)
def test_another_array_with_a_known_key_creates_nothing(client: Client, other: Any) -> None:
    client.post([{}, {"type": "email"}], Idempotency_Key="k")
    with client.unchanged():
        answer = client.post(other, Idempotency_Key="k")

    assert answer.status in ({422} if other != [{"type": "email"}, {}] else {422, 400})
    assert "job 1" in answer.json["error"]


def test_keys_that_look_like_places_or_options_are_others(client: Client) -> None:
    client.post([{"type": "email"}, {"type": "email"}], Idempotency_Key="a")
    ids = [
        client.post({"type": "email"}, Idempotency_Key="a[1]").json["id"],
        client.post({"type": "email"}, Idempotency_Key="a 1").json["id"],
        *(
            client.post({"type": "email", "options": {"unique": unique}}).json["id"]
            for unique in (
                "a",
                "a[1]",
                "a\n1",
                "Idempotency-Key: a",
                "Idempotency-Key: a\n1",
                "unique: Idempotency-Key: a",
                "unique: a",
            )
        ),
    ]

    assert ids == list(range(3, 12))


def test_a_job_that_is_unique_by_both_is_found_by_either(client: Client) -> None:
    unique = {"type": "email", "options": {"unique": "u"}}
    client.post(unique, Idempotency_Key="k")
    with client.unchanged():
        answers = [
            client.post(unique, Idempotency_Key="k"),
            client.post(unique, Idempotency_Key="another"),
            client.post({"type": "sms", "options": {"unique": "u"}}),
        ]

    assert [answer.json for answer in answers] == [EXISTED] * 3


@pytest.mark.parametrize("removed", [False, True])
def test_a_unique_job_is_created_once(client: Client, *, removed: bool) -> None:
    job = {"type": "email", "options": {"unique": "ä"}}
    first = client.post(job)
    if removed:
        client.delete("/job/1")
    with client.unchanged():
        second = client.post(job)
        other = client.post(job | {"type": "sms"})
        array = client.post([job, job])

    assert first.json == {"message": "job 1 created", "id": 1}
    assert [second.json, other.json] == [EXISTED, EXISTED]
    assert [item["id"] for item in array.json] == [1, 1]


def test_a_key_that_is_new_in_an_array_is_unique_there_too(client: Client) -> None:
    job = {"type": "email", "options": {"unique": "k"}}
    answer = client.post([job, {"type": "email"}, job], "/job?atomic=true")

    assert [item["id"] for item in answer.json] == [1, 2, 1]


def test_what_an_atomic_array_did_not_keep_has_left_its_key_free(client: Client) -> None:
    job = {"type": "email", "options": {"unique": "k"}}
    client.post([job, {}], "/job?atomic=true", Idempotency_Key="i")
    answer = client.post([job, {"type": "b"}], "/job?atomic=true", Idempotency_Key="i")

    assert [item["id"] for item in answer.json] == [1, 2]


def test_every_write_names_its_actor_and_the_request_is_its_cause(client: Client) -> None:
    client.post({"type": "email"}, X_Request_ID="r-1")
    client.post([{"type": "email"}], X_Request_ID="r-2")
    client.put("/job/1/state/failed", X_Request_ID="r-3")
    client.put("/job/1/priority/high", X_Request_ID="r-4")
    client.get("/inactive/1", X_Request_ID="r-5")
    client.delete("/job/1", X_Request_ID="r-6")
    client.post({"type": "email"})
    recorded = rows(client.system, "SELECT actor, cause FROM ledger_events ORDER BY position")

    causes = [f"request r-{number}" for number in range(1, 7)]
    assert recorded == [{"actor": "anonymous", "cause": cause} for cause in [*causes, None]]


@pytest.mark.parametrize("given", ["x" * 5_000, "\x01\x7f", "é\xad", " ", ""])
def test_an_odd_request_id_does_no_harm(client: Client, given: str) -> None:
    answer = client.post({"type": "email"}, X_Request_ID=given)
    (event,) = client.get("/job/1/events").json

    assert answer.status == 200
    assert event["cause"] is None or len(event["cause"]) < 256


def test_a_write_that_changes_nothing_records_nothing(client: Client) -> None:
    job_in(client.system, "inactive")
    client.put("/job/1/priority/5")
    with client.unchanged():
        answers = [
            client.put("/job/1/state/inactive"),
            client.put("/job/1/priority/5"),
            client.get("/inactive/1"),
        ]

    assert [answer.status for answer in answers] == [200, 200, 200]


def test_options_may_be_decimal_text_and_null_is_not_given(client: Client) -> None:
    options: dict[str, Any] = {
        "attempts": "5",
        "priority": "-7",
        "delay": "60000",
        "ttl": "1000",
        "backoff": None,
        "searchKeys": None,
        "removeOnComplete": None,
        "unique": None,
    }
    client.post({"type": "email", "data": None, "options": options})
    job = client.get("/job/1").json

    shown = {key: job[key] for key in ("priority", "state", "delay", "ttl", "attempts")}
    assert shown == {
        "priority": -7,
        "state": "delayed",
        "delay": "60000",
        "ttl": "1000",
        "attempts": {"made": 0, "remaining": 5, "max": 5},
    }


def test_options_are_understood_as_published_clients_send_them(client: Client) -> None:
    forms: dict[str, Any] = {"delay": 1500.5, "removeOnComplete": "true", "attempts": 0}
    answer = client.post(
        [
            {"type": "email", "options": []},
            {"type": "email", "options": {"delay": 0, "ttl": "", "priority": False}},
            {"type": "email", "options": forms},
        ]
    )
    client.post({"type": "email", "options": []})
    shown = client.get("/jobs/0..9").json

    assert (answer.status, [item["id"] for item in answer.json]) == (200, [1, 2, 3])
    assert [job.get("delay") for job in shown] == [None, None, "1501", None]
    assert client.get("/job/3/events").json[0]["body"]["remove_on_complete"] is True

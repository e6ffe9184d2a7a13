"""Ask for what cannot be, and require an answer in JSON and a ledger that has not moved."""

import gzip
import json
import re
import zlib
from typing import Any

import falcon
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.contract.bad_input import (
    BAD_BODIES,
    BAD_DATA,
    BAD_HEADERS,
    BAD_OPTIONS,
    BAD_PATHS,
    BAD_RANGES,
    JSON,
    Bad,
    shown,
)
from tests.contract.client import JSON_TYPE, LARGEST_BODY_BYTES, Answer, Client


def assert_refused(answer: Answer, status: int, error: str) -> None:
    """Require that status, and ``{"error": …}`` with a text that matches."""
    assert (answer.status, answer.media_type) == (status, JSON_TYPE), answer
    assert list(answer.json) == ["error"]
    assert re.search(error, answer.json["error"]), answer.json["error"]


@pytest.mark.parametrize(
    "bad", [*BAD_BODIES, *BAD_DATA, *BAD_OPTIONS, *BAD_HEADERS, *BAD_PATHS, *BAD_RANGES], ids=shown
)
def test_bad_input_is_refused_by_name_and_changes_nothing(crowd: Client, bad: Bad) -> None:
    with crowd.unchanged():
        answer = crowd.send(bad.method, bad.target, bad.body, bad.headers)

    assert_refused(answer, bad.status, bad.error)


@pytest.mark.parametrize(
    "bad", [b for b in (*BAD_BODIES, *BAD_DATA, *BAD_OPTIONS) if b.body.strip()], ids=shown
)
def test_a_bad_job_in_an_array_changes_nothing_either(crowd: Client, bad: Bad) -> None:
    with crowd.unchanged():
        answer = crowd.post(b"[" + bad.body + b"]")

    # One error in its place, or one for an array that is no JSON.
    items = answer.json if isinstance(answer.json, list) else [answer.json]
    assert (answer.status, answer.media_type) == (400, JSON_TYPE)
    assert [list(item) for item in items] == [["error"]]


def padded(size: int) -> bytes:
    """Return a job of that many bytes."""
    return b'{"type":"email","data":"' + b"x" * (size - 26) + b'"}'


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_of_one_mebibyte_is_taken(client: Client, *, chunked: bool) -> None:
    answer = client.send("POST", "/job", padded(LARGEST_BODY_BYTES), JSON, chunked=chunked)

    assert (answer.status, answer.json["id"]) == (200, 1)


@pytest.mark.parametrize(
    ("body", "chunked", "encoding"),
    [
        (padded(LARGEST_BODY_BYTES + 1), False, "identity"),
        (padded(LARGEST_BODY_BYTES + 1), True, "identity"),
        (padded(30_000_000), True, "identity"),
        (gzip.compress(padded(LARGEST_BODY_BYTES + 1)), False, "gzip"),
        (gzip.compress(b"[" * 300_000_000, 1), False, "gzip"),
        (gzip.compress(b"[" * 300_000_000, 1), True, "gzip"),
        (zlib.compress(padded(LARGEST_BODY_BYTES + 1)), False, "deflate"),
    ],
    ids=["length", "chunked", "much", "gzip", "bomb", "chunked bomb", "deflate"],
)
def test_a_larger_body_is_refused(
    crowd: Client, body: bytes, encoding: str, *, chunked: bool
) -> None:
    with crowd.unchanged():
        headers = JSON | {"Content-Encoding": encoding}
        answer = crowd.send("POST", "/job", body, headers, chunked=chunked)

    assert_refused(answer, 413, f"^body: expected at most {LARGEST_BODY_BYTES} bytes")


def test_a_body_that_says_it_is_too_large_is_not_read(crowd: Client) -> None:
    with crowd.unchanged():
        answer = crowd.post(b"{}", Content_Length="99999999999999999999")

    assert_refused(answer, 413, "^body: expected at most ")


def test_405_says_in_allow_what_is_known(crowd: Client) -> None:
    allowed = {
        target: crowd.ask("PATCH", target).headers["allow"]
        for target in ("/stats", "/job", "/job/1", "/job/1/state/failed", "/inactive/1")
    }

    assert {target: sorted(methods.split(", ")) for target, methods in allowed.items()} == {
        "/stats": ["GET", "HEAD", "OPTIONS"],
        "/job": ["OPTIONS", "POST"],
        "/job/1": ["DELETE", "GET", "HEAD", "OPTIONS"],
        "/job/1/state/failed": ["OPTIONS", "PUT"],
        "/inactive/1": ["GET", "HEAD", "OPTIONS", "POST"],
    }


@pytest.mark.parametrize("prefix", ["", "inactive/", "email/inactive/"])
@pytest.mark.parametrize(
    "range_", ["0..10000", "0..100000", "0..99999999999999999999", "-99999..-1", "0...500"]
)
def test_a_range_beyond_a_short_list_shows_the_list(
    client: Client, prefix: str, range_: str
) -> None:
    client.post([{"type": "email"}] * 3)

    shown = [client.get(f"/jobs/{prefix}{range_}{order}").json for order in ("", "/desc")]

    assert [[job["id"] for job in jobs] for jobs in shown] == [["1", "2", "3"], ["3", "2", "1"]]
    assert client.get(f"/jobs/failed/{range_}").json == []


@pytest.mark.parametrize("range_", ["0..3", "1..99999", "-4..-1", "-99999..-2", "0..-1", "0....9"])
def test_a_range_of_more_jobs_than_a_page_is_refused(client: Client, range_: str) -> None:
    narrow = Client(client.system, largest_page=3)
    client.post([{"type": "email"}] * 5)
    first, last = (int(rank) for rank in re.split(r"\.\.+", range_))
    jobs = len(range(5)[slice(first, (last + 1) or None)])

    answer = narrow.get(f"/jobs/{range_}")

    assert_refused(answer, 400, rf"^range: expected at most 3 jobs, such as \d\.\.\d, got {jobs}$")


def test_a_range_of_mixed_signs_is_as_wide_as_the_list_makes_it(client: Client) -> None:
    narrow = Client(client.system, largest_page=3)
    client.post([{"type": "email"}] * 5)
    widths = {range_: narrow.get(f"/jobs/{range_}") for range_ in ("0..-1", "-4..3", "-3..4")}
    rest = {
        range_: narrow.get(f"/jobs/{range_}") for range_ in ("2..-1", "-99..1", "0..-4", "9..-1")
    }

    assert {range_: answer.status for range_, answer in widths.items()} == {
        "0..-1": 400,
        "-4..3": 200,
        "-3..4": 200,
    }
    assert {range_: [job["id"] for job in a.json] for range_, a in rest.items()} == {
        "2..-1": ["3", "4", "5"],
        "-99..1": ["1", "2"],
        "0..-4": ["1", "2"],
        "9..-1": [],
    }


# Methods that WSGI servers let through; the app must know what to do with any.
METHODS = st.sampled_from([*falcon.HTTP_METHODS, "QUERY", "get", "X"])
# Some of which are routes: chance finds none.
WORDS = "job jobs stats types search log events state priority inactive health live desc JOB"
PARTS = st.sampled_from(
    [*WORDS.split(), "1", "6", "99", "0..3", "-1..1", "failed", "email", ""]
) | st.text(st.characters(codec="latin-1", exclude_characters="?"), max_size=8)
PATHS = st.lists(PARTS, min_size=1, max_size=6).map(lambda parts: "/" + "/".join(parts))
QUERIES = st.sampled_from(["", "?", "?limit=1", "?after=x", "?sort=priority", "?atomic=true&&=%"])
JSONS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
OPTIONS = st.dictionaries(
    st.sampled_from(["attempts", "priority", "delay", "ttl", "backoff", "searchKeys", "unique"])
    | st.text(),
    st.integers(-3, 3) | st.sampled_from(["5", "high", "x"]) | JSONS,
    max_size=2,
)
JOBS = st.fixed_dictionaries(
    {}, optional={"type": st.just("email") | JSONS, "data": JSONS, "options": OPTIONS | JSONS}
)


def assert_sound(answer: Answer, *, moved: bool) -> None:
    """Require a well-formed answer, and that only a success has moved the ledger."""
    assert answer.status < 500
    if answer.status >= 400:
        assert answer.media_type == JSON_TYPE
    if answer.status >= 400 and answer.content:
        items = answer.json if isinstance(answer.json, list) else [answer.json]
        accepted = [item for item in items if "error" not in item]
        assert not moved or accepted
    else:
        assert not moved or answer.status == 200


def test_no_body_is_too_odd_to_be_answered(rabble: Client) -> None:
    send_odd_bodies(rabble, examples=60)


def test_no_array_is_too_odd_to_be_answered(rabble: Client) -> None:
    send_odd_arrays(rabble, examples=60)


def test_no_request_is_too_odd_to_be_answered(rabble: Client) -> None:
    send_odd_requests(rabble, examples=60)


def send_odd_bodies(client: Client, *, examples: int) -> None:
    """Send random bodies, and require sound answers; tests/soak sends more."""

    @settings(max_examples=examples)
    @given(
        body=st.binary()
        | JOBS.map(json.dumps).map(str.encode)
        | JSONS.map(json.dumps).map(str.encode)
    )
    def send(body: bytes) -> None:
        before = client.position
        answer = client.post(body)

        assert_sound(answer, moved=client.position > before)

    send()


def send_odd_arrays(client: Client, *, examples: int) -> None:
    """Send random arrays, and require sound answers; tests/soak sends more."""

    @settings(max_examples=examples)
    @given(jobs=st.lists(JOBS | JSONS, max_size=3))
    def send(jobs: list[Any]) -> None:
        before, newest = client.position, client.newest
        answer = client.post(json.dumps(jobs))
        ids = {item["id"] for item in answer.json if "id" in item} if answer.content else set()

        assert_sound(answer, moved=client.position > before)
        # One that is unique by a key that was used before is answered with the old job.
        assert client.position == before + sum(job_id > newest for job_id in ids)

    send()


def send_odd_requests(client: Client, *, examples: int) -> None:
    """Send random requests, and require sound answers; tests/soak sends more."""

    @settings(max_examples=examples)
    @given(method=METHODS, path=PATHS, query=QUERIES, body=st.sampled_from([b"", b"{", b"{}"]))
    def send(method: str, path: str, query: str, body: bytes) -> None:
        before = client.position
        answer = client.send(method, path + query, body, JSON)

        moved = client.position > before
        assert_sound(answer, moved=moved)
        assert not moved or method in {"GET", "POST", "PUT", "DELETE"}

    send()

"""When a request is whole, however its bytes arrive."""

from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.api.server.request_arrival import ArrivalLimits, IncompleteRequest, RequestArrival

LIMITS: Final = ArrivalLimits(line=100, head=400, body=1_000)
GET: Final = b"GET /stats HTTP/1.1\r\nHost: localhost\r\n\r\n"
POSTED: Final = b"POST /job HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nabcde"
CHUNKED: Final = (
    b"POST /job HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"3\r\nabc\r\nA;x=y\r\n0123456789\r\n0\r\n\r\n"
)
TRAILED: Final = CHUNKED[:-2] + b"A: b\r\nC: d\r\n\r\n"
WHOLE: Final = (GET, b"\r\n" + GET, b"GET / HTTP/1.0\r\n\r\n", POSTED, CHUNKED, TRAILED)


def read(arrival: RequestArrival) -> bytes:
    """Return all that a parser reads."""
    got = b""
    try:
        while True:
            got += arrival.read(7)
    except IncompleteRequest:
        return got


@pytest.mark.parametrize("request_", WHOLE)
@pytest.mark.parametrize("step", [1, 2, 3, 1_000])
def test_a_request_is_whole_with_its_last_byte(request_: bytes, step: int) -> None:
    arrival = RequestArrival(LIMITS)
    early = []
    for at in range(0, len(request_), step):
        early.append(arrival.is_complete)
        arrival.add(request_[at : at + step])

    assert not any(early)
    assert (arrival.is_complete, arrival.is_last, arrival.rest) == (True, False, b"")
    assert read(arrival) == request_
    assert arrival.is_read


@given(st.lists(st.sampled_from(WHOLE), min_size=1, max_size=5), st.integers(1, 60))
def test_requests_that_follow_each_other_are_told_apart(requests: list[bytes], step: int) -> None:
    sent = b"".join(requests)
    arrival = RequestArrival(LIMITS)
    got = []
    for at in range(0, len(sent), step):
        arrival.add(sent[at : at + step])
        while arrival.is_complete:
            got.append(read(arrival))
            arrival = RequestArrival(LIMITS, arrival.rest)

    assert got == requests


@pytest.mark.parametrize(
    "sent",
    [
        b"GET / HTTP/1.1\nHost: a\n\n",
        b"GET /" + b"a" * 200,
        b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 100,
        POSTED.replace(b": 5", b": 1001"),
        POSTED.replace(b": 5", b": " + b"9" * 90),
        POSTED.replace(b": 5", b": +5"),
        POSTED.replace(b": 5", b": 5\r\nContent-Length: 5"),
        POSTED.replace(b": 5", b": 5\r\nTransfer-Encoding: chunked"),
        POSTED.replace(b"Content-Length: 5", b"Transfer-Encoding: gzip"),
        POSTED.replace(b"Host: localhost", b"Expect: tea"),
        CHUNKED.replace(b"3\r\n", b"zz\r\n"),
        CHUNKED.replace(b"3\r\n", b"2\r\n"),
        CHUNKED.replace(b"3\r\n", b"\r\n"),
        CHUNKED.replace(b"3\r\nabc", b"FFFFFF\r\n" + b"a" * 3_100),
        CHUNKED.replace(b"3\r\n", b"3;" + b"a" * 9_000),
        TRAILED[:-2] + b"A: b\r\n" * 100,
    ],
)
@pytest.mark.parametrize("step", [1, 10_000])
def test_what_will_be_refused_is_handed_over_at_once(sent: bytes, step: int) -> None:
    arrival = RequestArrival(LIMITS)
    for at in range(0, len(sent), step):
        if arrival.is_complete:
            break
        arrival.add(sent[at : at + step])

    assert (arrival.is_complete, arrival.is_last) == (True, True)


def test_a_body_in_chunks_that_is_too_large_is_handed_over_with_what_the_app_reads_of_it() -> None:
    arrival = RequestArrival(LIMITS)
    arrival.add(CHUNKED.partition(b"\r\n\r\n")[0] + b"\r\n\r\n")
    for _ in range(20):
        arrival.add(b"100\r\n" + b"a" * 256 + b"\r\n")

    # The app reads one byte more than it allows, and gunicorn up to 1 KiB more than that.
    assert (arrival.is_complete, arrival.is_last) == (True, True)
    assert read(arrival).count(b"a") > LIMITS.body + 1 + 1_024


def test_a_request_whose_client_leaves_is_handed_over_as_far_as_it_has_come() -> None:
    arrival = RequestArrival(LIMITS, POSTED[:-2])
    arrival.cut()

    assert (arrival.is_complete, arrival.is_last) == (True, True)
    assert read(arrival) == POSTED[:-2]


@pytest.mark.parametrize(
    ("head", "awaits"),
    [
        (b"POST / HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n", True),
        (b"POST / HTTP/1.1\r\nExpect: 100-Continue\r\nTransfer-Encoding: chunked\r\n\r\n", True),
        (b"POST / HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n", False),
        (b"POST / HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\na", False),
        (b"POST / HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 0\r\n\r\n", False),
        (b"POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\n", False),
    ],
)
def test_a_client_that_waits_to_be_asked_for_its_body_is_recognised(
    head: bytes, *, awaits: bool
) -> None:
    assert RequestArrival(LIMITS, head).awaits_continue == awaits


def test_bytes_one_by_one_cost_the_same_at_the_end_as_at_the_beginning() -> None:
    limits = ArrivalLimits(line=100, head=10_000_000, body=0)
    arrival = RequestArrival(limits, b"GET / HTTP/1.1\r\n")
    for _ in range(300_000):
        arrival.add(b"a")

    assert not arrival.is_complete

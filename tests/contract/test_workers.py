"""Work over HTTP: claim, report, end; what comes too late, and what cannot be."""

import json
import socket
import subprocess
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import falcon
import pytest
from falcon import testing

from ledger.api.http.long_poll import LongPolls
from ledger.processes.composition import System
from ledger.rules.commands import LARGEST_INTEGER, LARGEST_REPORT, Pause, Resume
from ledger.worker.sweeper import Sweeper
from tests.builders import START_MS, Clock, carry_out, job_in, rows
from tests.contract.bad_input import IDS_THAT_ARE_NONE, JSON, NO_JOB
from tests.contract.client import LARGEST_BODY_BYTES, LEASE_MS, Answer, Client
from tests.contract.test_bad_input import assert_refused
from tests.integration.servers import tool, wait_until

# Longer than any of these tests may take: an answer that comes was not waited out.
WAIT_S: Final = 60
SOON_S: Final = 30
# The least that each word needs.
WORDS: Final[Mapping[str, Mapping[str, Any]]] = {
    "progress": {"progress": 40},
    "log": {"line": "hello"},
    "complete": {},
    "fail": {"error": "broken"},
    "return": {"reason": "no time"},
}


def claim(client: Client, *types: str, worker: str = "w1", **asked: Any) -> Any:
    """Return the jobs that a worker gets."""
    body = {"types": list(types) or ["email"], "worker": worker} | asked
    answer = client.post(body, "/jobs/claim")
    assert answer.status == 200, answer
    return answer.json


def say(client: Client, word: str, job_id: int | str, attempt: int, **said: Any) -> Answer:
    """Say a word about an attempt."""
    body = {"attempt": attempt, **(said or WORDS[word])}
    return client.post(body, f"/job/{job_id}/{word}")


@pytest.fixture
def clock(system: System) -> Clock:
    """Return a clock that tells the ledger its time."""
    clock = Clock()
    system.ledger.clock = clock
    return clock


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    """Yield threads that ask while the test does something else."""
    with ThreadPoolExecutor(max_workers=16) as pool:
        yield pool


def wait_for_waiters(system: System, number: int = 1) -> None:
    """Return as soon as that many requests wait for news."""
    wait_until(
        lambda: len(system.commit_notifier._subscribers) == number, f"{number} requests wait"
    )


# --- claiming


def test_a_claimed_job_is_the_job_as_it_is_shown_with_its_attempt(client: Client) -> None:
    client.post({"type": "email", "data": {"to": "tj"}, "options": {"ttl": 60_000, "attempts": 3}})

    claimed = claim(client)
    shown = client.get("/job/1").json

    assert claimed == [shown | {"attempt": 1}]
    assert (shown["state"], shown["workerId"]) == ("active", "w1")
    assert list(claimed[0])[-2:] == ["attempts", "attempt"]


def test_the_data_of_a_claimed_job_is_what_was_posted_byte_for_byte(client: Client) -> None:
    data = '{ "b":12345678901234567890123,"a":1.10,"é":"\\u00e9\\/" }'
    client.post(f'{{"type":"email","data":{data}}}')

    answer = client.post({"types": ["email"], "worker": "w1"}, "/jobs/claim")

    assert answer.content.decode().partition('"data":')[2].startswith(data + ',"priority"')


def test_nothing_to_do_is_an_empty_array(client: Client) -> None:
    client.post({"type": "video"})

    assert claim(client, "email") == []


def test_jobs_are_claimed_by_priority_then_age_up_to_the_limit(client: Client) -> None:
    for type_, priority in (("a", 0), ("b", 0), ("a", "high"), ("c", "critical"), ("a", 0)):
        client.post({"type": type_, "options": {"priority": priority}})

    first = claim(client, "a", "b")
    rest = claim(client, "a", "b", "a", limit=1000)

    assert [job["id"] for job in first] == ["3"]
    assert [job["id"] for job in rest] == ["1", "2", "5"]


def test_workers_that_claim_at_once_never_get_the_same_job(
    client: Client, pool: ThreadPoolExecutor
) -> None:
    client.post([{"type": "email"}] * 120)

    def work(name: str) -> list[str]:
        mine = []
        while jobs := claim(client, worker=name, limit=3):
            mine += [job["id"] for job in jobs]
        return mine

    held = list(pool.map(work, [f"w{number}" for number in range(8)]))

    assert sorted(int(job_id) for mine in held for job_id in mine) == list(range(1, 121))
    assert {worker["name"]: worker["jobs"] for worker in client.get("/workers").json} == {
        f"w{number}": len(mine) for number, mine in enumerate(held)
    }


def test_a_job_of_a_paused_type_is_not_claimed(client: Client) -> None:
    job_in(client.system, "inactive", type="email")
    job_in(client.system, "inactive", type="video")
    carry_out(client.system, Pause(type="email"))

    assert [job["id"] for job in claim(client, "email", "video", limit=9)] == ["2"]


def test_a_job_that_is_removed_before_it_is_handed_out_is_no_work(client: Client) -> None:
    client.post([{"type": "email"}] * 2)
    ledger = client.system.ledger
    begin = ledger.claim

    def begin_and_lose_one(*given: Any, **named: Any) -> Any:
        claimed = begin(*given, **named)
        client.delete("/job/1")
        return claimed

    ledger.claim = begin_and_lose_one  # type: ignore[method-assign]

    assert [job["id"] for job in claim(client, limit=2)] == ["2"]


@pytest.mark.parametrize("target", ["/jobs/claim/", "/JOBS/Claim", "/jobs/claim?"])
def test_the_path_of_a_claim_may_be_spelt_as_others(client: Client, target: str) -> None:
    client.post({"type": "email"})

    answer = client.post({"types": ["email"], "worker": "w1"}, target)

    assert [job["id"] for job in answer.json] == ["1"]


def test_a_type_may_be_called_claim_and_keeps_its_case(client: Client) -> None:
    client.post([{"type": "claim"}, {"type": "Claim"}])

    lists = [client.get(f"/jobs/{type_}/inactive/0..9").json for type_ in ("claim", "Claim")]

    assert [[job["id"] for job in jobs] for jobs in lists] == [["1"], ["2"]]


# --- waiting


def test_a_wait_ends_when_another_process_creates_a_job(
    client: Client, pool: ThreadPoolExecutor
) -> None:
    url = client.system.database.engine.url.render_as_string(hide_password=False)

    waiting = pool.submit(claim, client, wait=WAIT_S)
    wait_for_waiters(client.system)
    subprocess.run([tool("ledger"), "--database", url, "create", "email"], check=True)
    claimed = waiting.result(timeout=SOON_S)

    assert [job["id"] for job in claimed] == ["1"]


def test_a_wait_ends_when_a_paused_type_is_resumed(
    client: Client, pool: ThreadPoolExecutor
) -> None:
    job_in(client.system, "inactive")
    carry_out(client.system, Pause(type="email"))

    waiting = pool.submit(claim, client, wait=WAIT_S)
    wait_for_waiters(client.system)
    carry_out(client.system, Resume(type="email"))
    claimed = waiting.result(timeout=SOON_S)

    assert [job["id"] for job in claimed] == ["1"]


def test_a_wait_that_is_over_is_answered_with_nothing(client: Client) -> None:
    assert claim(client, wait=0.01) == []


def test_of_those_who_wait_for_one_job_one_gets_it(
    client: Client, pool: ThreadPoolExecutor
) -> None:
    waiting = [pool.submit(claim, client, worker=f"w{n}", wait=WAIT_S) for n in range(4)]
    wait_for_waiters(client.system, 4)
    client.post([{"type": "email"}] * 3)
    client.post({"type": "email"})
    claimed = [future.result(timeout=SOON_S) for future in waiting]

    assert sorted(job["id"] for jobs in claimed for job in jobs) == ["1", "2", "3", "4"]
    assert [len(jobs) for jobs in claimed] == [1, 1, 1, 1]


def test_only_so_many_may_wait_and_others_are_answered_at_once(
    system: System, pool: ThreadPoolExecutor
) -> None:
    client = Client(system, most_waiting=1)

    first = pool.submit(claim, client, wait=WAIT_S)
    wait_for_waiters(system)
    second = pool.submit(claim, client, worker="w2", wait=WAIT_S).result(timeout=SOON_S)
    client.post({"type": "email"})
    waited = first.result(timeout=SOON_S)
    third = pool.submit(claim, client, worker="w3", wait=WAIT_S)
    wait_for_waiters(system)
    client.post({"type": "email"})

    assert second == []
    assert [job["id"] for job in waited] == ["1"]
    assert [job["id"] for job in third.result(timeout=SOON_S)] == ["2"]


def request_over(connection: socket.socket) -> falcon.Request:
    """Return a request as gunicorn hands it over."""
    request = testing.create_req()
    request.env["gunicorn.socket"] = connection
    return request


def test_nothing_is_claimed_for_a_client_that_is_gone(system: System) -> None:
    ours, theirs = socket.socketpair()
    looks: list[int] = []

    def look() -> list[str]:
        looks.append(len(looks))
        theirs.close()
        return []

    with ours, theirs:
        found = LongPolls(system.commit_notifier, most=1).wait(request_over(ours), look, WAIT_S)

    # At once, as it was there; never after it was gone.
    assert (found, looks) == ([], [0])


def test_a_client_that_stays_is_waited_for(system: System, pool: ThreadPoolExecutor) -> None:
    ours, theirs = socket.socketpair()
    client = Client(system)
    polls = LongPolls(system.commit_notifier, most=1)

    with ours, theirs:
        waiting = pool.submit(polls.wait, request_over(ours), lambda: claim(client), WAIT_S)
        wait_for_waiters(system)
        client.post({"type": "email"})
        claimed = waiting.result(timeout=SOON_S)

    assert [job["id"] for job in claimed] == ["1"]


# --- what workers say


def test_the_words_of_an_attempt_make_the_job_what_it_is(client: Client, clock: Clock) -> None:
    client.post({"type": "email"})
    claim(client)
    clock.now_ms += 5
    answers = [
        say(client, "progress", 1, 1, progress=40, data={"page": 2}),
        say(client, "log", 1, 1, line="one"),
        say(client, "log", 1, 1, lines=["two", "three"]),
        say(client, "complete", 1, 1, result={"sent": True}),
    ]
    job = client.get("/job/1").json

    assert [answer.json for answer in answers] == [
        {"message": "job 1 progressed"},
        {"message": "job 1 logged"},
        {"message": "job 1 logged"},
        {"message": "job 1 completed"},
    ]
    assert client.get("/job/1/log").json == ["one", "two", "three"]
    assert job == {
        "id": "1",
        "type": "email",
        "data": {},
        "result": {"sent": True},
        "priority": 0,
        "progress": "100",
        "progress_data": {"page": 2},
        "state": "complete",
        "created_at": str(START_MS),
        "promote_at": str(START_MS),
        "updated_at": str(START_MS + 5),
        "started_at": str(START_MS),
        "duration": "5",
        "workerId": "w1",
        "attempts": {"made": 1, "remaining": 0, "max": 1},
    }


CONTENTS = (
    "12345678901234567890123",
    '{ "b" : 1 ,"a":[ 1.10,1E+2 ],"a":0 }',
    '"\\u00e9é\\/🚀"',
    "0",
    "false",
    '""',
)


@pytest.mark.parametrize("text", CONTENTS)
def test_a_result_and_progress_data_come_back_byte_for_byte(client: Client, text: str) -> None:
    client.post({"type": "email"})
    claim(client)
    client.post(f'{{"attempt":1,"progress":1,"data":{text}}}', "/job/1/progress")
    client.post(f'{{"attempt":1,"result":{text}}}', "/job/1/complete")

    shown = client.get("/job/1").content.decode()

    assert f'"result":{text},"priority"' in shown
    assert f'"progress_data":{text},"state"' in shown


@pytest.mark.parametrize("text", ['"\\u00e9é\\/🚀"', '""', '"a\\nb"'])
def test_an_error_and_a_line_are_kept_byte_for_byte(client: Client, text: str) -> None:
    client.post({"type": "email"})
    claim(client)
    client.post(f'{{"attempt":1,"line":{text}}}', "/job/1/log")
    client.post(f'{{"attempt":1,"lines":[ {text} , {text} ]}}', "/job/1/log")
    client.post(f'{{"attempt":1,"error":{text}}}', "/job/1/fail")

    kept = rows(
        client.system, "SELECT content FROM ledger_events WHERE position > 2 ORDER BY position"
    )

    assert [row["content"] for row in kept] == [text] * 4
    assert f'"error":{text},"created_at"' in client.get("/job/1").content.decode()


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ({"progress": 0}, "0"),
        ({"progress": 100}, "100"),
        ({"progress": 40.0}, "40"),
        ({"done": 1, "total": 3}, "33"),
        ({"done": 0, "total": 0.5}, "0"),
        ({"done": 7, "total": 2}, "100"),
        ({"done": 0, "total": 0}, "0"),
        ({"done": 1, "total": 5e-324}, "100"),
        ({"done": LARGEST_INTEGER, "total": LARGEST_INTEGER}, "100"),
    ],
)
def test_progress_is_per_cent_or_done_of_a_total(
    client: Client, said: dict[str, float], shown: str
) -> None:
    client.post({"type": "email"})
    claim(client)

    answer = say(client, "progress", 1, 1, **said)

    assert (answer.status, client.get("/job/1").json["progress"]) == (200, shown)


def test_null_is_not_given(client: Client) -> None:
    client.post([{"type": "email"}] * 2)
    claim(client, limit=None, wait=None)
    claim(client)
    say(client, "progress", 1, 1, progress=1, data=None, worker=None, done=None)
    say(client, "complete", 1, 1, result=None)
    say(client, "fail", 2, 1, error="e", retry_after=None, final=None)
    jobs = client.get("/jobs/0..1").json

    assert [job["state"] for job in jobs] == ["complete", "failed"]
    assert {"result", "progress_data"} & set(jobs[0]) == set()


@pytest.mark.parametrize(
    ("said", "state", "delay"),
    [
        ({}, "delayed", "2000"),
        ({"retry_after": 0}, "inactive", None),
        ({"retry_after": 500}, "delayed", "500"),
        ({"final": False}, "delayed", "2000"),
        ({"final": True}, "failed", None),
        ({"final": True, "retry_after": 500}, "failed", None),
    ],
)
def test_a_failure_may_say_when_to_try_again_and_whether(
    client: Client, said: dict[str, Any], state: str, delay: str | None
) -> None:
    options = {"attempts": 2, "backoff": {"type": "fixed", "delay": 2000}}
    client.post({"type": "email", "options": options})
    claim(client)

    answer = say(client, "fail", 1, 1, error="no route\nat line 7", **said)
    job = client.get("/job/1").json

    assert answer.json == {"message": "job 1 failed"}
    assert (job["state"], job.get("delay"), job["error"]) == (state, delay, "no route\nat line 7")
    assert job["attempts"] == {"made": 1, "remaining": 1, "max": 2}
    assert client.get("/job/1/log").json == ["no route"]


def test_a_job_that_is_given_back_waits_again_and_no_try_is_used_up(client: Client) -> None:
    client.post({"type": "email"})
    claim(client)

    answer = say(client, "return", 1, 1, reason="shutting down", worker="w1")
    job = client.get("/job/1").json
    again = claim(client, worker="w2")
    returned = client.get("/job/1/events").json[2]

    assert answer.json == {"message": "job 1 returned"}
    assert (job["state"], job["attempts"]["made"]) == ("inactive", 0)
    assert [(one["id"], one["attempt"]) for one in again] == [("1", 2)]
    assert returned["body"] == {"attempt": 1, "reason": "shutting down"}


def test_the_ledger_names_the_worker_and_the_request(client: Client) -> None:
    client.post({"type": "email"})
    body = {"types": ["email"], "worker": "é w"}
    client.post(body, "/jobs/claim", X_Request_ID="r-1")
    client.post({"attempt": 1, "line": "x", "worker": "é w"}, "/job/1/log", X_Request_ID="r-2")
    client.post({"attempt": 1}, "/job/1/complete")

    recorded = rows(client.system, "SELECT kind, actor, cause FROM ledger_events ORDER BY position")

    assert [tuple(row.values()) for row in recorded[1:]] == [
        ("started", "worker:é w", "request r-1"),
        ("logged", "worker:é w", "request r-2"),
        ("completed", "anonymous", None),
    ]


# --- what comes too late, and of what is not there


@pytest.mark.parametrize("word", WORDS)
@pytest.mark.parametrize(
    ("ending", "error"),
    [
        ("complete", "^job 1: attempt 1 is over; the job is complete; stop working on it"),
        ("fail", "^job 1: attempt 1 is over; the job is failed; stop working on it"),
        ("return", "^job 1: attempt 1 is over; the job is inactive; stop working on it"),
    ],
)
def test_a_word_after_the_end_is_refused(
    client: Client, ending: str, word: str, error: str
) -> None:
    client.post({"type": "email"})
    claim(client)
    say(client, ending, 1, 1)

    with client.unchanged():
        answer = say(client, word, 1, 1)

    assert_refused(answer, 409, error)


@pytest.mark.parametrize("word", WORDS)
def test_the_word_of_a_lost_worker_does_not_count_for_the_next_one(
    client: Client, clock: Clock, word: str
) -> None:
    client.post({"type": "email", "options": {"attempts": 2}})
    claim(client)
    clock.now_ms += LEASE_MS + 1
    Sweeper(client.system.ledger, client.system.jobs).sweep()
    claim(client, worker="w2")

    with client.unchanged():
        late = say(client, word, 1, 1)
        early = say(client, word, 1, 3)
    counts = say(client, word, 1, 2)

    assert_refused(late, 409, "^job 1: attempt 1 is over; the job is active in attempt 2; stop")
    assert_refused(early, 409, "^job 1: attempt 3 never started; the latest is 2")
    assert counts.status == 200


@pytest.mark.parametrize("word", WORDS)
@pytest.mark.parametrize("job_id", ["6", *IDS_THAT_ARE_NONE])
def test_a_word_about_no_job_is_not_found(crowd: Client, word: str, job_id: str) -> None:
    # Of the crowd, 6 was removed.
    with crowd.unchanged():
        answer = say(crowd, word, job_id, 1)

    assert_refused(answer, 404, NO_JOB)


def test_only_an_active_job_hears_its_worker(crowd: Client) -> None:
    with crowd.unchanged():
        answer = say(crowd, "complete", 1, 1)

    assert_refused(answer, 409, "^job 1 is inactive; only an active job can be completed")


def test_lines_are_logged_together_or_not_at_all(client: Client) -> None:
    client.post({"type": "email"})
    claim(client)
    say(client, "complete", 1, 1)

    with client.unchanged():
        answer = say(client, "log", 1, 1, lines=["one", "two"])

    assert_refused(answer, 409, "attempt 1 is over")


# --- bad input


TOO_LONG: Final = "x" * 241
BAD_OBJECTS = (
    ("", "^body: expected an object with "),
    ("[]", "^body: expected an object with "),
    ("5", "^body: expected an object with "),
    ("null", "^body: expected an object with "),
    ('"attempt"', "^body: expected an object with "),
    ("x", "^body: expected JSON, got: "),
    ("{", "^body: expected JSON, got: "),
    ('{"attempt":1,}', "^body: expected JSON, got: "),
    ('{"attempt":1} {}', "^body: expected JSON, got: "),
    ('{"attempt":NaN}', "^body: expected JSON, got: "),
    ('{"a\\u0000":1}', "^unknown field "),
    ('{"Attempt":1}', "^unknown field 'Attempt'; expected one of "),
)
NO_TYPES: Final[tuple[Any, ...]] = (
    "email",
    5,
    {},
    [],
    [5],
    [None],
    [""],
    ["x" * 256],
    [["a"]],
    ["a"] * 101,
)
NO_NAMES: Final[tuple[Any, ...]] = ("", TOO_LONG, 5, True, ["w"], {})
NO_LIMITS: Final[tuple[Any, ...]] = (0, -1, 1001, 2.5, "5", True, [], 10**30)
NO_WAITS: Final[tuple[Any, ...]] = (-1, 60.5, 61, "5", True, [], 10**400)
BAD_CLAIMS: tuple[tuple[Any, str], ...] = (
    *BAD_OBJECTS,
    ("{}", "^types: expected an array of 1 to 100 types, got None"),
    ({"worker": "w"}, "^types: expected an array of 1 to 100 types, got None"),
    *(({"worker": "w", "types": types}, "^types: expected ") for types in NO_TYPES),
    ('{"worker":"w","types":["a\\u0000"]}', r"^types: expected JSON without U\+0000"),
    *(
        ({"types": ["email"], "worker": worker}, "^worker: expected ")
        for worker in (None, *NO_NAMES)
    ),
    ('{"types":["email"],"worker":"\\u0000"}', r"^worker: expected JSON without U\+0000"),
    *(
        ({"types": ["email"], "worker": "w", "limit": limit}, "^limit: expected an integer from 1 ")
        for limit in NO_LIMITS
    ),
    ('{"types":["email"],"worker":"w","limit":1e999}', "^limit: expected JSON"),
    *(
        ({"types": ["email"], "worker": "w", "wait": wait}, "^wait: expected a number from 0 to 60")
        for wait in NO_WAITS
    ),
    (
        {"types": ["email"], "worker": "w", "ttl": 5},
        "^unknown field 'ttl'; expected one of types",
    ),
)


def written(body: Any) -> str:
    """Return a body as it is sent."""
    return body if isinstance(body, str) else json.dumps(body)


def shown(value: Any) -> str:
    """Return the name of a test."""
    return written(value)[:60]


@pytest.mark.parametrize(("body", "error"), BAD_CLAIMS, ids=shown)
def test_a_bad_claim_is_refused_by_name_and_begins_nothing(
    crowd: Client, body: Any, error: str
) -> None:
    with crowd.unchanged():
        answer = crowd.post(written(body), "/jobs/claim")

    assert_refused(answer, 400, error)


BAD_WORDS = (
    *((word, body, error) for word in WORDS for body, error in BAD_OBJECTS),
    *(
        (word, dict(said) | {"attempt": attempt}, "^attempt: expected an integer from 0 to ")
        for word, said in WORDS.items()
        for attempt in (None, -1, 1.5, "1", True, [1], 2**53)
    ),
    *(
        (word, dict(said) | {"attempt": 1, "worker": worker}, "^worker: expected ")
        for word, said in WORDS.items()
        for worker in NO_NAMES
    ),
    *(
        (
            word,
            dict(said) | {"attempt": 1, "bogus": 1},
            "^unknown field 'bogus'; expected one of attempt",
        )
        for word, said in WORDS.items()
    ),
    *(
        ("progress", {"attempt": 1} | said, error)
        for said, error in (
            ({}, "^progress: expected an integer from 0 to 100, got None"),
            ({"progress": -1}, "^progress: expected an integer from 0 to 100"),
            ({"progress": 101}, "^progress: expected an integer from 0 to 100"),
            ({"progress": 1.5}, "^progress: expected an integer from 0 to 100"),
            ({"progress": "40"}, "^progress: expected an integer from 0 to 100"),
            ({"progress": True}, "^progress: expected an integer from 0 to 100"),
            ({"progress": 1, "done": 1}, "^progress: expected progress, or done and total"),
            ({"progress": 1, "total": 1}, "^progress: expected progress, or done and total"),
            ({"done": 1}, "^total: expected a number"),
            ({"total": 1}, "^done: expected a number"),
            (
                {"done": 1, "total": 0},
                "^progress: expected finite numbers, and a total greater than 0",
            ),
            ({"done": 1, "total": -1}, "^total: expected a number"),
            ({"done": -1, "total": 1}, "^done: expected a number"),
            ({"done": "1", "total": 1}, "^done: expected a number"),
            ({"done": True, "total": 1}, "^done: expected a number"),
            ({"done": 10**400, "total": 1}, "^done: expected a number"),
        )
    ),
    ("progress", '{"attempt":1,"progress":1,"data":1e999}', "^data: expected JSON, got: Number"),
    ("progress", '{"attempt":1,"progress":1,"data":"\\u0000"}', r"^data: .* without U\+0000"),
    ("progress", '{"attempt":1,"progress":1,"data":"\\ud800"}', "expected JSON"),
    *(
        ("log", {"attempt": 1} | said, error)
        for said, error in (
            ({}, "^line: expected a string, got None"),
            ({"line": 5}, "^line: expected a string"),
            ({"line": ["a"]}, "^line: expected a string"),
            ({"line": "a", "lines": ["a"]}, "^lines: expected line or lines, got both"),
            ({"lines": "a"}, "^lines: expected an array of 1 to 1000 strings, got 'a'"),
            ({"lines": ["a", None]}, "^lines: expected a string, got None"),
            ({"lines": ["a", 5]}, "^lines: expected a string, got 5"),
            ({"lines": []}, "^lines: expected an array of 1 to 1000 strings, got an array of 0"),
            ({"lines": ["a"] * 1001}, "^lines: .* of 1 to 1000 strings, got an array of 1001"),
        )
    ),
    ("log", '{"attempt":1,"line":"\\u0000"}', r"^line: expected JSON without U\+0000"),
    ("log", '{"attempt":1,"lines":["\\u0000"]}', r"^lines: expected JSON without U\+0000"),
    ("complete", '{"attempt":1,"result":-1e999}', "^result: expected JSON, got: Number"),
    ("complete", '{"attempt":1,"result":"\\u0000"}', r"^result: expected JSON without U\+0000"),
    ("complete", '{"attempt":1,"result":01}', "expected JSON"),
    ("complete", '{"attempt":1,"result":' + "[" * 90_000 + "]" * 90_000 + "}", "expected JSON"),
    *(
        ("fail", {"attempt": 1} | said, error)
        for said, error in (
            ({}, "^error: expected a string, got None"),
            ({"error": None}, "^error: expected a string, got None"),
            ({"error": {"message": "x"}}, "^error: expected a string"),
            ({"error": "x", "retry_after": -1}, "^retry_after: expected an integer from 0 to"),
            ({"error": "x", "retry_after": 2**53}, "^retry_after: expected an integer from 0 to"),
            ({"error": "x", "retry_after": "5"}, "^retry_after: expected an integer from 0 to"),
            ({"error": "x", "retry_after": True}, "^retry_after: expected an integer from 0 to"),
            ({"error": "x", "final": 1}, "^final: expected true or false"),
            ({"error": "x", "final": "yes"}, "^final: expected true or false"),
            (
                {"error": "x", "retryAfter": 5},
                "^unknown field 'retryAfter'; expected one of attempt, ",
            ),
        )
    ),
    *(
        ("return", {"attempt": 1} | said, "^reason: expected 1 to 1000 characters")
        for said in ({}, {"reason": None}, {"reason": ""}, {"reason": 5}, {"reason": "x" * 1001})
    ),
)


@pytest.mark.parametrize(("word", "body", "error"), BAD_WORDS, ids=shown)
def test_a_bad_word_is_refused_by_name_and_changes_nothing(
    crowd: Client, word: str, body: Any, error: str
) -> None:
    # Of the crowd, 3 is active in its first attempt.
    with crowd.unchanged():
        answer = crowd.post(written(body), f"/job/3/{word}")

    assert_refused(answer, 400, error)


TAKERS = ("/jobs/claim", *(f"/job/3/{word}" for word in WORDS))


@pytest.mark.parametrize("target", TAKERS)
@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_that_is_too_large_is_refused(crowd: Client, target: str, *, chunked: bool) -> None:
    body = b'{"attempt":1,"result":"' + b"x" * LARGEST_BODY_BYTES + b'"}'

    with crowd.unchanged():
        answer = crowd.send("POST", target, body, JSON, chunked=chunked)

    assert_refused(answer, 413, f"^body: expected at most {LARGEST_BODY_BYTES} bytes")


@pytest.mark.parametrize("target", TAKERS)
@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded"])
def test_a_body_that_is_not_json_is_refused(crowd: Client, target: str, content_type: str) -> None:
    with crowd.unchanged():
        answer = crowd.post({"attempt": 1}, target, Content_Type=content_type)

    assert_refused(answer, 415, "^Content-Type: expected application/json")


def test_the_largest_result_is_taken(client: Client) -> None:
    client.post({"type": "email"})
    claim(client)
    body = b'{"attempt":1,"result":"' + b"x" * (LARGEST_BODY_BYTES - 25) + b'"}'

    answer = client.send("POST", "/job/1/complete", body, JSON)

    assert (len(body), answer.status) == (LARGEST_BODY_BYTES, 200)
    assert len(client.get("/job/1").json["result"]) == LARGEST_BODY_BYTES - 25


# --- signs of life


def test_a_heartbeat_is_answered_with_the_lease_and_what_the_worker_holds(client: Client) -> None:
    client.post([{"type": "email"}] * 4)
    claim(client, limit=2)
    claim(client, worker="w2")
    say(client, "return", 1, 1)
    claim(client)

    beats = [client.post("", f"/workers/{name}/heartbeat") for name in ("w1", "w2", "w3")]

    assert [beat.json for beat in beats] == [
        {
            "name": "w1",
            "lease_ms": LEASE_MS,
            "jobs": [{"id": "1", "attempt": 2}, {"id": "2", "attempt": 1}],
        },
        {"name": "w2", "lease_ms": LEASE_MS, "jobs": [{"id": "3", "attempt": 1}]},
        {"name": "w3", "lease_ms": LEASE_MS, "jobs": []},
    ]


def test_the_workers_are_listed_with_what_they_told_and_hold(client: Client, clock: Clock) -> None:
    client.post([{"type": "email"}] * 3)
    nobody = client.get("/workers").json
    claim(client, "email", "video", worker="b", limit=2)
    clock.now_ms += 10_000
    client.post("", "/workers/b/heartbeat")
    client.post("", "/workers/a%2F%20é/heartbeat".replace("é", "%C3%A9"))

    assert nobody == []
    assert client.get("/workers").json == [
        {
            "name": "a/ é",
            "types": {},
            "started_at": str(START_MS + 10_000),
            "seen_at": str(START_MS + 10_000),
            "lease_ms": LEASE_MS,
            "jobs": 0,
        },
        {
            "name": "b",
            "types": {"email": 2, "video": 2},
            "started_at": str(START_MS),
            "seen_at": str(START_MS + 10_000),
            "lease_ms": LEASE_MS,
            "jobs": 2,
        },
    ]


def test_a_worker_that_beats_keeps_its_job_and_one_that_is_silent_loses_it(
    client: Client, clock: Clock
) -> None:
    sweeper = Sweeper(client.system.ledger, client.system.jobs)
    client.post([{"type": "email"}] * 2)
    claim(client, worker="w1")
    claim(client, worker="w2")
    for _ in range(3):
        clock.now_ms += LEASE_MS // 2
        client.post("", "/workers/w1/heartbeat")
        sweeper.sweep()
    jobs = client.get("/jobs/0..1").json

    assert [job["state"] for job in jobs] == ["active", "failed"]
    assert jobs[1]["error"] == f"worker w2 was lost: silent for {LEASE_MS * 3 // 2} ms"


def test_a_job_that_comes_after_a_long_wait_is_not_lost_at_once(
    client: Client, clock: Clock
) -> None:
    claim(client)
    clock.now_ms += 2 * LEASE_MS
    client.post({"type": "email"})
    claim(client)
    Sweeper(client.system.ledger, client.system.jobs).sweep()

    assert client.get("/job/1").json["state"] == "active"


def test_a_sign_of_life_is_not_repeated_a_moment_later_unless_it_says_more(
    client: Client, clock: Clock
) -> None:
    claim(client)
    clock.now_ms += 1
    claim(client)
    seen = [client.get("/workers").json[0]["seen_at"]]
    claim(client, "video")
    seen.append(client.get("/workers").json[0]["seen_at"])

    assert seen == [str(START_MS), str(START_MS + 1)]


def test_a_worker_that_leaves_gives_back_what_it_holds(client: Client) -> None:
    client.post([{"type": "email"}] * 3)
    claim(client, limit=2)
    claim(client, worker="w2")

    first, second = client.delete("/workers/w1"), client.delete("/workers/w1")
    jobs = client.get("/jobs/0..2").json
    returned = client.get("/job/1/events").json[-1]

    assert (first.json, second.json) == ({"message": "worker w1 left"},) * 2
    assert [job["state"] for job in jobs] == ["inactive", "inactive", "active"]
    assert [worker["name"] for worker in client.get("/workers").json] == ["w2"]
    assert (returned["actor"], returned["body"]["reason"]) == ("worker:w1", "worker w1 left")


@pytest.mark.parametrize(("method", "suffix"), [("POST", "/heartbeat"), ("DELETE", "")])
@pytest.mark.parametrize(
    ("name", "error"),
    [
        (TOO_LONG, "^worker: expected 1 to 240 characters"),
        ("%00", "^path: expected text without NUL"),
        ("%FF", "^path: expected percent-encoded UTF-8"),
    ],
    ids=["long", "NUL", "bytes"],
)
def test_a_name_that_no_worker_can_have_is_refused(
    crowd: Client, method: str, suffix: str, name: str, error: str
) -> None:
    answer = crowd.ask(method, f"/workers/{name}{suffix}")

    assert_refused(answer, 400, error)
    assert crowd.get("/workers").json == []


# --- what is too large


@pytest.mark.parametrize(
    ("word", "field", "said", "name"),
    [
        ("progress", "data", {"progress": 40}, "progress data"),
        ("log", "line", {}, "line"),
        ("complete", "result", {}, "result"),
        ("fail", "error", {}, "error"),
    ],
)
def test_a_text_of_a_report_has_a_largest_size(
    system: System, word: str, field: str, said: dict[str, Any], name: str
) -> None:
    """However large a body the operator allows."""
    client = Client(system, largest_body_bytes=2 * LARGEST_REPORT)
    job_in(system, "active")
    text = "x" * (LARGEST_REPORT - 2)

    too_large = say(client, word, 1, 1, **said, **{field: f"{text}x"})
    fits = say(client, word, 1, 1, **said, **{field: text})

    assert (too_large.status, fits.status) == (400, 200)
    assert too_large.json == {
        "error": f"{name}: expected at most {LARGEST_REPORT} characters, got {LARGEST_REPORT + 1}"
    }

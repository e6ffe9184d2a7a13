"""Invalid input of every kind in the contract, and the refusal that each must get."""

import gzip
import json
from collections.abc import Mapping
from typing import NamedTuple

JSON = {"Content-Type": "application/json"}
NO_JOB = "doesnt exist$"
IDS_THAT_ARE_NONE = (
    "0",
    "007",
    "-1",
    "+1",
    "1.0",
    "1e0",
    "0x1",
    "%201",
    "1%20",
    "%EF%BC%91",
    "%D9%A1",
    "abc",
    "null",
    "99",
    "9007199254740993",
    "99999999999999999999",
    "9" * 5_000,
)


class Bad(NamedTuple):
    """A request, and the refusal that it must get."""

    target: str
    status: int
    error: str
    body: bytes = b""
    method: str = "GET"
    headers: Mapping[str, str] = {}


def posted(text: str | bytes, error: str, status: int = 400) -> Bad:
    """Return a POST to ``/job`` with the body *text*."""
    raw = text.encode() if isinstance(text, str) else text
    return Bad("/job", status, error, raw, "POST", JSON)


def with_option(name: str, value: str) -> Bad:
    """Return a POST of a job with one option, which the refusal must name."""
    return posted(f'{{"type":"email","options":{{"{name}":{value}}}}}', rf"^{name}\b.*: expected ")


def with_data(text: str | bytes, error: str) -> Bad:
    raw = text.encode() if isinstance(text, str) else text
    return posted(b'{"type":"email","data":' + raw + b"}", error)


def put(target: str, status: int, error: str) -> Bad:
    return Bad(target, status, error, method="PUT")


def shown(bad: Bad) -> str:
    """Return the name of a test."""
    return f"{bad.method} {bad.target[:40]} {bad.body[:60]!r} {dict(bad.headers)}"[:120]


BAD_BODIES = (
    *(
        posted(text, "^body: expected JSON, got: ")
        for text in (
            '{"type":"email"',
            '{"type":"email",}',
            "{'type':'email'}",
            '{"type":"email"} {"type":"email"}',
            '{"type":"email"}]',
            '{"type":NaN}',
            '{"type":undefined}',
            '[{"type":"email"},]',
            "[",
            "{",
            "\0",
            "type=email",
            b" ",
        )
    ),
    posted(b"\xff\xfe", "^body: expected UTF-8, got: "),
    *(
        posted(text, "^body: expected a job, or an array of jobs")
        for text in ("null", "true", "false", "5", "-0.5", '"email"')
    ),
    *(
        posted(text, "^Must provide job type")
        for text in (
            '{"data":{}}',
            '{"type":""}',
            '{"type":null}',
            '{"type":0}',
            '{"type":5}',
            '{"type":true}',
            '{"type":["email"]}',
            '{"type":{"a":1}}',
            '{"Type":"email"}',
        )
    ),
    posted('{"Type":"email"}', "unknown field 'Type'; .*; did you mean type\\?$"),
    posted(
        '{"type":"email","option":{"delay":5}}',
        "^unknown field 'option'; expected one of type, data, options; did you mean options\\?$",
    ),
    *(
        posted(f'{{"type":"email",{field}}}', "^unknown field '[a-z_]*'; expected one of type, ")
        for field in ('"id":77', '"state":"failed"', '"x":null', '"":1', '"__proto__":{}')
    ),
    posted(json.dumps({"type": "x" * 256}), "^Must provide job type: expected 1 to 255 characters"),
    posted('{"type":"a\\u0000b"}', "U\\+0000|NUL"),
    posted('{"type":"\\ud800"}', "^body: expected JSON, got: "),
    posted(b'{"type":"\xff"}', "^body: expected JSON, got: "),
)
BAD_DATA = (
    with_data("NaN", "^body: expected JSON"),
    with_data("Infinity", "^body: expected JSON"),
    with_data("01", "^body: expected JSON"),
    with_data("1e999", "^data: expected JSON, got: Number out of range"),
    with_data('{"a":[-1e999]}', "^data: expected JSON, got: Number out of range"),
    with_data('"\\ud800"', "^(data|body): expected JSON"),
    with_data('"\\udc00\\ud800"', "^(data|body): expected JSON"),
    with_data('{"\\ud83d":1}', "^(data|body): expected JSON"),
    with_data('"\\u0000"', r"^data: expected JSON without U\+0000"),
    with_data('"\\\\\\u0000"', r"^data: expected JSON without U\+0000"),
    with_data('{"\\u0000":1}', r"^data: expected JSON without U\+0000"),
    with_data('"\0"', "expected JSON"),
    with_data('"\n"', "expected JSON"),
    with_data(b'"\xff"', "^(data|body): expected (UTF-8|JSON), got: "),
    with_data(b'"\xed\xa0\x80"', "^(data|body): expected (UTF-8|JSON), got: "),
    with_data(b'"\xc0\x80"', "^(data|body): expected (UTF-8|JSON), got: "),
    with_data("[" * 100_000, "^body: expected JSON"),
    with_data("[" * 100_000 + "]" * 100_000, "expected JSON"),
    with_data('{"a":' * 50_000 + "1" + "}" * 50_000, "expected JSON"),
)
NO_INTEGERS = ("-1", "-0.5", '"0"', '"abc"', '"3x"', '" 5"', "true", "[4]", "{}", "1e18")
BAD_OPTIONS = (
    *(with_option("attempts", value) for value in (*NO_INTEGERS, "2.5")),
    *(with_option("delay", value) for value in (*NO_INTEGERS, '"2030-01-01T00:00:00Z"', '"1.5"')),
    *(with_option("ttl", value) for value in NO_INTEGERS),
    *(
        with_option("priority", value)
        for value in ('"HIGH"', '"bogus"', '"toString"', "2.5", "true", "{}", "[1]", '"1e3"')
    ),
    with_option("priority", "9007199254740992"),
    with_option("priority", '"-99999999999999999999"'),
    *(
        with_option("backoff", value)
        for value in (
            '"process.exit()"',
            '"1+1"',
            "5",
            "[1]",
            "{}",
            '{"type":"bogus","delay":5}',
            '{"type":{},"delay":5}',
            '{"type":[],"delay":5}',
            '{"type":"fixed","delay":[]}',
            '{"type":"fixed"}',
            '{"type":"fixed","delay":-1}',
            '{"type":"fixed","delay":"x"}',
            '{"type":"fixed","delay":5,"bogus":1}',
            '{"type":"exponential","delay":5,"maxDelay":0}',
        )
    ),
    *(with_option("searchKeys", value) for value in ("5", "true", "{}", "[1]", "[null]", "[[]]")),
    *(with_option("removeOnComplete", value) for value in ('"yes"', '"TRUE"', "2", "-1", "[]")),
    *(with_option("unique", value) for value in ("5", "true", '""', "[]", f'"{"k" * 256}"')),
    *(
        posted(f'{{"type":"email","options":{{"{name}":1}}}}', f"^unknown option '{name}'")
        for name in ("bogus", "Priority", "max_attempts", "__proto__", "state")
    ),
    *(
        posted(f'{{"type":"email","options":{value}}}', "^options: expected an object")
        for value in ('"str"', "5", "0", "[0]", "[[]]", "true", "false", '""')
    ),
    posted('{"type":"email","options":{"attempts":1e999}}', "expected JSON"),
    posted('{"type":"email","options":{"searchKeys":"\\u0000"}}', r"NUL|U\+0000"),
)
BAD_HEADERS = (
    *(
        Bad("/job", 415, "^Content-Type: expected application/json", b'{"type":"email"}', "POST", h)
        for h in (
            {},
            {"Content-Type": "text/plain"},
            {"Content-Type": "application/x-www-form-urlencoded"},
            {"Content-Type": "application/vnd.api+json"},
            {"Content-Type": "application/jsonp"},
            {"Content-Type": "multipart/form-data; boundary=x"},
            {"Content-Type": "é/x"},
            {"Content-Type": ";;;"},
        )
    ),
    *(
        Bad(
            "/job",
            415,
            "^charset: expected utf-8",
            b'{"type":"email"}',
            "POST",
            {"Content-Type": f"application/json; charset={charset}"},
        )
        for charset in ("iso-8859-1", "latin1", "bogus", "base64", "idna", "utf-7", "'", "x" * 999)
    ),
    *(
        Bad(
            "/job",
            415,
            "^Content-Encoding: expected gzip or deflate",
            b'{"type":"email"}',
            "POST",
            JSON | {"Content-Encoding": encoding},
        )
        for encoding in ("bogus", "br", "gzip, gzip", "zstd")
    ),
    Bad("/job", 400, "^body: expected gzip", b"{}{}", "POST", JSON | {"Content-Encoding": "gzip"}),
    Bad(
        "/job",
        400,
        "^body: expected gzip, got only its beginning",
        gzip.compress(b'{"type":"email"}', mtime=0)[:-9],
        "POST",
        JSON | {"Content-Encoding": "gzip"},
    ),
    Bad(
        "/job",
        400,
        "^body: expected utf-16",
        b'{"type":"email"}x',
        "POST",
        {"Content-Type": "application/json; charset=utf-16"},
    ),
    *(
        Bad("/job", 400, "^Idempotency-Key: expected ", b'{"type":"email"}', "POST", JSON | h)
        for h in ({"Idempotency-Key": "k" * 256}, {"Idempotency-Key": "schlüssel"})
    ),
    *(
        Bad(target, 406, "^this API answers application/json only", body, method, h)
        for method, target, body in (
            ("GET", "/stats", b""),
            ("GET", "/inactive/4", b""),
            ("GET", "/nowhere", b""),
            ("DELETE", "/job/1", b""),
            ("PUT", "/job/1/state/failed", b""),
            ("POST", "/job", b'{"type":"email"}'),
        )
        for h in (
            {"Accept": "text/html"} | JSON,
            {"Accept": "application/json;q=0"},
            {"Accept": "application/vnd.api+json"},
            {"Accept": "bogus"},
        )
    ),
)
BAD_PATHS = (
    *(
        Bad(target, 400, "^path: expected (percent-encoded UTF-8|text without NUL)", method=method)
        for method, target in (
            ("GET", "/jobs/50%/inactive/0..5"),
            ("GET", "/jobs/%zz/inactive/0..5"),
            ("GET", "/jobs/%E0%A4%A/inactive/0..5"),
            ("GET", "/jobs/%FF/inactive/0..5"),
            ("GET", "/jobs/%ED%A0%80/inactive/stats"),
            ("GET", "/jobs/a%00b/inactive/0..5"),
            ("GET", "/jobs/a%00b/inactive/stats"),
            ("GET", "/job/%00"),
            ("DELETE", "/job/1%00"),
            ("PUT", "/job/1/state/%FF"),
            ("PUT", "/job/1/priority/%"),
            ("GET", "/inactive/4%"),
        )
    ),
    *(
        Bad(target, 404, "^no such route: ", method=method)
        for method, target in (
            ("GET", "/nowhere"),
            ("GET", "/api/stats"),
            ("GET", "//stats"),
            ("DELETE", "//job/1"),
            ("GET", "/stats/x"),
            ("GET", "/stats//"),
            ("POST", "/jobs"),
            ("GET", "/jobs"),
            ("GET", "/jobs/"),
            ("GET", "/jobs/0"),
            ("GET", "/jobs/0-3"),
            ("GET", "/jobs/email"),
            ("GET", "/jobs/email/stats"),
            ("GET", "/jobs/a/b/inactive/0..5/asc"),
            ("GET", "/jobs/0..3/asc/extra"),
            ("GET", "/jobs/email/inactive/stats/x"),
            ("PUT", "/job/1/state"),
            ("PUT", "/job/1/state/"),
            ("PUT", "/job/1/priority/"),
            ("GET", "/inactive/1/2"),
            ("GET", "/" + "a" * 9_000),
        )
    ),
    *(
        Bad(target, 405, f"does not allow {method}, only ", method=method)
        for method, target in (
            ("GET", "/job"),
            ("PUT", "/job"),
            ("DELETE", "/job"),
            ("HEAD", "/job"),
            ("POST", "/stats"),
            ("PUT", "/stats"),
            ("DELETE", "/stats"),
            ("PATCH", "/stats"),
            ("POST", "/job/1"),
            ("PUT", "/job/1"),
            ("PATCH", "/job/1"),
            ("DELETE", "/job/types"),
            ("POST", "/job/search"),
            ("DELETE", "/job/1/log"),
            ("DELETE", "/job/1/events"),
            ("POST", "/job/1/state/failed"),
            ("GET", "/job/1/state/failed"),
            ("POST", "/job/1/priority/5"),
            ("PUT", "/inactive/1"),
            ("DELETE", "/inactive/1"),
            ("POST", "/jobs/0..3"),
            ("DELETE", "/jobs/0..3"),
            ("POST", "/openapi.json"),
            ("TRACE", "/stats"),
            ("CONNECT", "/stats"),
        )
        if method != "HEAD"
    ),
    *(
        Bad(target.format(id=job_id), 404, NO_JOB, method=method)
        for job_id in IDS_THAT_ARE_NONE
        for method, target in (
            ("GET", "/job/{id}"),
            ("GET", "/job/{id}/log"),
            ("GET", "/job/{id}/events"),
            ("DELETE", "/job/{id}"),
            ("PUT", "/job/{id}/state/failed"),
            ("PUT", "/job/{id}/priority/high"),
            ("GET", "/inactive/{id}"),
            ("POST", "/inactive/{id}"),
        )
    ),
    *(
        Bad(target, 404, NO_JOB, method=method)
        for method, target in (
            ("GET", "/job//log"),
            ("GET", "/job/6"),
            ("GET", "/job/6/log"),
            ("DELETE", "/job/6"),
            ("PUT", "/job/6/state/inactive"),
            ("PUT", "/job/6/priority/1"),
            ("GET", "/inactive/6"),
        )
    ),
    *(
        put(f"/job/1/state/{state}", 400, "^state: expected one of inactive, complete, active, ")
        for state in ("bogus", "ACTIVE", "removed", "absent", "not%20a%20state", "email:inactive")
    ),
    *(
        put(
            f"/job/1/priority/{number}",
            400,
            "^priority: expected an integer or one of low, ",
        )
        for number in ("bogus", "HIGH", "5abc", "2.9", "1e3", "0x10", "-", "NaN", "+5")
    ),
    put(
        f"/job/1/priority/{'9' * 20}",
        400,
        "^priority: expected an integer from -9007199254740991 to 9007199254740991, or one of low",
    ),
    put("/job/99/priority/bogus", 400, "^priority: expected "),
)
BAD_RANGES = (
    *(
        Bad(f"/jobs/{prefix}{range_}", 400, r"^range: expected FROM\.\.TO, two integers")
        for prefix in ("", "failed/", "email/failed/")
        for range_ in (
            "a..b",
            "abc..3",
            "0..abc",
            "..3",
            "0..",
            "..",
            "0..3..5",
            "0...3...5",
            "1.5..3.5",
            "1e1..12",
            "+1..3",
            "%201..3",
            "1x..3",
            "--1..3",
            "%D9%A0..3",
            "0..3%0A",
        )
    ),
    *(
        Bad(f"/jobs/{path}", 400, "^state: expected one of inactive, complete, active, failed, del")
        for path in (
            "bogus/0..3",
            "email/0..3",
            "INACTIVE/0..3",
            "email/bogus/0..3",
            "email/bogus/stats",
            "email/0..2/stats",
            "email/bogus/0..3/desc",
        )
    ),
    *(
        Bad(f"/jobs/{path}/{order}", 400, "^order: expected asc or desc")
        for path in ("0..3", "failed/0..3", "email/failed/0..3")
        for order in ("DESC", "ASC", "bogus", "0")
    ),
    *(
        Bad(target, 400, error)
        for target, error in (
            ("/jobs/0..3?sort=age", "^sort: expected priority"),
            ("/jobs/0..3?sort=priority&sort=priority", "^sort: expected priority"),
            ("/job/1/events?after=-1", "^after: expected an integer from 0 to 9+, got"),
            ("/job/1/events?after=x", "^after: expected an integer from 0 to 9+, got"),
            ("/job/1/events?after=1&after=2", "^after: expected an integer from 0 to 9+, got"),
            ("/job/1/events?limit=1.5", "^limit: expected an integer from 0 to 9+, got"),
            (
                "/job/1/events?limit=9999999999999999",
                "^limit: expected an integer from 0 to 9+, got",
            ),
            ("/job/1/events?limit=%00", "^limit: expected an integer from 0 to 9+, got"),
        )
    ),
    *(
        Bad(f"/job?atomic={value}", 400, "^atomic: expected true or false", b"[{}]", "POST", JSON)
        for value in ("yes", "1", "TRUE", "true&atomic=true")
    ),
)

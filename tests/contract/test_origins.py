"""Who may ask: known hosts only, and for what changes something no page of another origin."""

import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Final

import falcon.inspect
import pytest

from ledger.api.operation import Operation
from ledger.api.operations import OPERATIONS
from ledger.database.migration import migrate
from ledger.processes.composition import System
from tests.builders import Clock, job_in, open_system, rows
from tests.contract.client import HOST, JSON_TYPE, LEASE_MS, PORT, Client
from tests.contract.examples import filled, named, perform

NAMED: Final = "https://dashboard.example.org"
READING: Final = ("GET", "HEAD", "OPTIONS")

CHANGES: Final = [operation for operation in OPERATIONS if operation.changes]
READS: Final = [operation for operation in OPERATIONS if not operation.changes]

FORGED_HOSTS: Final = (
    "rebind.evil.test",
    "evil.test:3000",
    "localhost.evil.test",
    "127.0.0.1.evil.test:3000",
    "localhost@evil.test",
    "localhost, evil.test",
    "localhost evil.test",
    "localhost:http",
    "192.168.1.7:3000",
    "[::1",
    "",
)
KNOWN_HOSTS: Final = (
    "localhost",
    "LOCALHOST.:3000",
    "127.0.0.1",
    "127.8.9.10:80",
    "[::1]:3000",
    "ledger.lan:8080",
)
FOREIGN: Final[tuple[Mapping[str, str], ...]] = (
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site"},
    {"Sec-Fetch-Site": "elsewhere"},
    {"Sec-Fetch-Site": ""},
    {"Sec-Fetch-Site": "same-origin, cross-site"},
    {"Sec-Fetch-Site": "cross-site", "Origin": f"http://{HOST}:{PORT}"},
    {"Origin": "http://evil.test"},
    {"Origin": "null"},
    {"Origin": ""},
    {"Origin": f"http://{HOST}:{PORT + 1}"},
    {"Origin": f"http://{HOST}"},
    {"Origin": f"http://localhost:{PORT}"},
    {"Origin": f"http://{HOST}:{PORT}, http://evil.test"},
    {"Origin": f"{NAMED}.evil.test"},
)
OURS: Final[tuple[Mapping[str, str], ...]] = (
    {"Sec-Fetch-Site": "same-origin"},
    {"Sec-Fetch-Site": "same-origin", "Origin": f"http://{HOST}:{PORT}"},
    {"Sec-Fetch-Site": " None "},
    {"Origin": f"http://{HOST}:{PORT}"},
    {"Origin": f"https://{HOST}:{PORT}"},
    {"Sec-Fetch-Site": "cross-site", "Origin": NAMED},
    {"Origin": NAMED},
)


def shown(headers: Mapping[str, str]) -> str:
    return " ".join(f"{name}={value}" for name, value in headers.items())


def recorded(system: System) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return what happened, and the workers, whose signs of life are no events."""
    return (
        rows(system, "SELECT job_id, version, kind, body FROM ledger_events ORDER BY position"),
        rows(system, "SELECT * FROM ledger_workers ORDER BY name"),
    )


@contextmanager
def untouched(client: Client) -> Iterator[None]:
    """Require that what happens inside records nothing, and keeps no worker."""
    before = recorded(client.system)
    yield
    assert recorded(client.system) == before


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the file of a ledger with an active job, one that waits, and a worker."""
    path = tmp_path_factory.mktemp("prepared") / "ledger.db"
    with closing(open_system(f"sqlite:///{path}", Clock())) as system:
        migrate(system.database)
        job_in(system, "active")
        job_in(system, "inactive")
        Client(system).ask("POST", "/workers/w1/heartbeat")
    return path


def performed(
    prepared: Path, copy: Path, operation: Operation, headers: Mapping[str, str]
) -> tuple[Any, ...]:
    """Return status and body of an answer over a copy of that ledger, and what was recorded."""
    shutil.copy(prepared, copy)
    clock = Clock()
    # A heartbeat a moment after the last one is not written.
    clock.advance(LEASE_MS / 2_000)
    with closing(open_system(f"sqlite:///{copy}", clock)) as system:
        answer = perform(Client(system, cors_origins=(NAMED,)), operation, headers)
        return answer.status, answer.content, recorded(system)


# --- the table of operations


def test_every_responder_that_may_change_something_is_an_operation_that_does(
    crowd: Client,
) -> None:
    responders = {
        (shape(route.path), method.method)
        for route in falcon.inspect.inspect_routes(crowd.app)
        for method in route.methods
        if not method.internal and method.method not in READING
    }

    assert responders == {
        (shape(each.path), each.method) for each in CHANGES if each.method not in READING
    }


def shape(path: str) -> str:
    """Return *path* without the names of its parameters, which a route may call otherwise."""
    return re.sub(r"\{\w+\}", "{}", path)


@pytest.mark.parametrize("operation", CHANGES, ids=named)
def test_an_operation_that_changes_something_does(
    prepared: Path, tmp_path: Path, operation: Operation
) -> None:
    with closing(open_system(f"sqlite:///{prepared}")) as system:
        before = recorded(system)

    status, _, after = performed(prepared, tmp_path / "ledger.db", operation, {})

    assert status == 200
    assert after != before


@pytest.mark.parametrize("operation", READS, ids=named)
def test_an_operation_that_reads_changes_nothing(crowd: Client, operation: Operation) -> None:
    with untouched(crowd):
        answer = perform(crowd, operation)

    assert answer.status == 200


# --- hosts


@pytest.mark.parametrize("operation", OPERATIONS, ids=named)
def test_a_forged_host_is_refused_everywhere(crowd: Client, operation: Operation) -> None:
    with untouched(crowd):
        answers = {host: perform(crowd, operation, {"Host": host}) for host in FORGED_HOSTS}

    assert {host: (each.status, each.media_type) for host, each in answers.items()} == (
        dict.fromkeys(FORGED_HOSTS, (421, JSON_TYPE))
    )
    assert {host: each.json for host, each in answers.items()} == {
        host: {
            "error": "Host: expected localhost, a loopback address, or the host that the server "
            f"listens on, got {host!r}; clients may use other names once LEDGER_HOSTS lists them"
        }
        for host in FORGED_HOSTS
    }


@pytest.mark.parametrize(
    ("method", "target"),
    [
        ("OPTIONS", "/job"),
        ("HEAD", "/stats"),
        ("HEAD", "/inactive/1"),
        ("PATCH", "/job"),
        ("BREW", "/job"),
        ("GET", "/no/such/route"),
        ("GET", "//stats"),
        ("GET", "/job/%zz"),
    ],
)
def test_a_forged_host_is_refused_where_nothing_is(crowd: Client, method: str, target: str) -> None:
    answer = crowd.ask(method, target, Host="evil.test", Accept="text/html")

    assert answer.status == 421


@pytest.mark.parametrize("operation", READS, ids=named)
def test_a_known_host_is_answered_like_any(
    crowd: Client, operation: Operation, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = Client(crowd.system, hosts=("ledger.lan",))
    # How late something is does not change meanwhile.
    monkeypatch.setattr(crowd.system.ledger, "clock", Clock())

    answers = {host: perform(client, operation, {"Host": host}) for host in KNOWN_HOSTS}

    expected = (200, perform(crowd, operation).content)
    assert {host: (each.status, each.content) for host, each in answers.items()} == (
        dict.fromkeys(KNOWN_HOSTS, expected)
    )


@pytest.mark.parametrize("operation", READS, ids=named)
def test_a_client_of_http_1_0_needs_no_host(crowd: Client, operation: Operation) -> None:
    answer = crowd.send(operation.method, filled(operation.path), http_version="1.0")

    assert answer.status == 200


def test_no_page_is_its_own_where_no_host_is_named(crowd: Client) -> None:
    with untouched(crowd):
        answer = crowd.send(
            "DELETE", "/job/1", headers={"Origin": "http://localhost"}, http_version="1.0"
        )

    assert answer.status == 403


@pytest.mark.parametrize(
    "target",
    [
        "http://evil.test/stats",
        "http://evil.test:3000/stats",
        "http://localhost@evil.test/stats",
        "http://localhost:3000@evil.test/stats",
        "http://evil.test?x=http://localhost/stats",
        "http:///stats",
        "http://",
    ],
)
def test_a_target_of_another_host_is_refused_whatever_the_header_says(
    crowd: Client, target: str
) -> None:
    answer = crowd.get(target)

    assert answer.status == 421
    assert answer.json["error"].startswith("request target: expected localhost, ")


def test_the_refusal_of_a_host_does_not_tell_the_names_that_are_known(crowd: Client) -> None:
    client = Client(crowd.system, hosts=("secret-name.lan",))

    answer = client.get("/stats", Host="evil.test")

    assert answer.status == 421
    assert b"secret-name" not in answer.content


@pytest.mark.parametrize("header", ["X_Forwarded_Host", "X_Host", "X_Original_Host", "Forwarded"])
def test_what_a_client_says_of_another_host_plays_no_part(crowd: Client, header: str) -> None:
    value = "host=localhost" if header == "Forwarded" else "localhost"

    answer = crowd.get("/stats", **{"Host": "evil.test", header: value})

    assert answer.status == 421


def test_a_thousand_hosts_later_hosts_are_still_checked(crowd: Client) -> None:
    statuses = {crowd.get("/health/live", Host=f"127.0.0.1:{port}").status for port in range(1_100)}

    assert statuses == {200}
    assert crowd.get("/health/live", Host="127.0.0.1:2000").status == 200
    assert crowd.get("/health/live", Host="evil.test").status == 421


# --- changes


@pytest.mark.parametrize("operation", CHANGES, ids=named)
def test_a_page_of_another_origin_changes_nothing(crowd: Client, operation: Operation) -> None:
    client = Client(crowd.system, cors_origins=(NAMED,))

    with untouched(crowd):
        answers = {shown(headers): perform(client, operation, headers) for headers in FOREIGN}

    assert {page: (each.status, each.media_type) for page, each in answers.items()} == (
        dict.fromkeys(map(shown, FOREIGN), (403, JSON_TYPE))
    )
    for headers in FOREIGN:
        name = "Sec-Fetch-Site" if "Sec-Fetch-Site" in headers else "Origin"
        assert re.fullmatch(
            rf"{name}: expected .+ for a request that changes something, got "
            rf"{re.escape(repr(headers[name]))}; pages of other origins may change something once "
            "LEDGER_CORS_ORIGINS lists their origin",
            answers[shown(headers)].json["error"],
        )


@pytest.mark.parametrize("operation", CHANGES, ids=named)
def test_pages_of_ours_and_named_ones_get_the_same_as_programs(
    prepared: Path, tmp_path: Path, operation: Operation
) -> None:
    program = performed(prepared, tmp_path / "program.db", operation, {})
    pages = {
        shown(headers): performed(prepared, tmp_path / f"page-{number}.db", operation, headers)
        for number, headers in enumerate(OURS)
    }

    assert pages == dict.fromkeys(map(shown, OURS), program)
    assert program[0] == 200


@pytest.mark.parametrize("operation", READS, ids=named)
def test_what_only_reads_is_left_to_the_browser(crowd: Client, operation: Operation) -> None:
    with untouched(crowd):
        answers = {shown(headers): perform(crowd, operation, headers) for headers in FOREIGN}

    assert {page: each.status for page, each in answers.items()} == (
        dict.fromkeys(map(shown, FOREIGN), 200)
    )
    names = {name for each in answers.values() for name in each.headers}
    assert not [name for name in names if name.startswith("access-control")]


@pytest.mark.parametrize(
    "target",
    [
        "/inactive/2",
        "/INACTIVE/2",
        "/inactive/2/",
        "/Inactive/%32?x",
        "/inactive/2#x",
        "http://localhost/inactive/2",
    ],
)
def test_no_spelling_of_a_get_that_changes_something_slips_by(crowd: Client, target: str) -> None:
    with untouched(crowd):
        answer = crowd.get(target, Sec_Fetch_Site="cross-site")

    assert answer.status == 403


@pytest.mark.parametrize("host", ["0.0.0.0:3000", "[::]:3000"])
def test_a_get_that_changes_something_is_not_for_the_address_of_every_machine(
    crowd: Client, host: str
) -> None:
    client = Client(crowd.system, hosts=("0.0.0.0",))

    with untouched(crowd):
        answers = [client.get(target, Host=host) for target in ("/inactive/2", "/job/2")]

    assert [answer.status for answer in answers] == [403, 200]
    assert answers[0].json == {
        "error": "Host: expected a name or an address of the server for a GET that changes "
        f"something, got {host!r}; use localhost, or send a POST"
    }


@pytest.mark.parametrize(
    "target", ["/%69nactive/2", "//inactive/2", "/./inactive/2", "/inactive//2"]
)
def test_what_is_no_spelling_of_it_is_no_route(crowd: Client, target: str) -> None:
    with untouched(crowd):
        answer = crowd.get(target, Sec_Fetch_Site="cross-site")

    assert answer.status == 404


@pytest.mark.parametrize("method", ["HEAD", "OPTIONS"])
@pytest.mark.parametrize("operation", OPERATIONS, ids=named)
def test_head_and_options_change_nothing_even_with_a_body(
    crowd: Client, operation: Operation, method: str
) -> None:
    with untouched(crowd):
        crowd.send(
            method,
            filled(operation.path),
            '{"type": "email"}',
            {"Content-Type": "application/json", "Sec-Fetch-Site": "cross-site"},
        )


@pytest.mark.parametrize("header", ["X_HTTP_Method_Override", "X_HTTP_Method", "X_Method_Override"])
def test_no_header_makes_a_read_a_change(crowd: Client, header: str) -> None:
    with untouched(crowd):
        crowd.get("/job/2", Sec_Fetch_Site="cross-site", **{header: "DELETE"})
        crowd.get("/job/2?_method=DELETE", Sec_Fetch_Site="cross-site")


@pytest.mark.parametrize("method", ["PATCH", "CONNECT", "BREW", "TRACE"])
def test_a_method_that_nobody_knows_is_taken_for_a_change(crowd: Client, method: str) -> None:
    assert crowd.ask(method, "/stats", Sec_Fetch_Site="cross-site").status == 403


def test_a_named_origin_is_asked_before_and_may_change_something(client: Client) -> None:
    page = {"Origin": NAMED, "Sec_Fetch_Site": "cross-site"}
    open_ = Client(client.system, cors_origins=(NAMED,))

    asked = open_.ask("OPTIONS", "/job", Access_Control_Request_Method="POST", **page)
    answer = open_.post({"type": "email"}, **page)

    assert (asked.status, asked.headers["access-control-allow-origin"]) == (200, NAMED)
    assert (answer.status, answer.json["id"]) == (200, 1)
    assert answer.headers["access-control-allow-origin"] == NAMED


def test_a_named_origin_may_not_forge_a_host(crowd: Client) -> None:
    client = Client(crowd.system, cors_origins=(NAMED,))

    with untouched(crowd):
        answer = client.post({"type": "email"}, Origin=NAMED, Host="evil.test")

    assert answer.status == 421


def test_answers_vary_by_origin_where_they_depend_on_it(crowd: Client) -> None:
    open_ = Client(crowd.system, cors_origins=(NAMED,))
    tag = open_.get("/stats").headers["etag"]

    answers = [
        open_.get("/stats"),
        open_.get("/stats", Origin=NAMED),
        open_.get("/stats", Origin="https://evil.test"),
        open_.get("/stats", If_None_Match=tag),
        open_.get("/job/99"),
        open_.get("/nowhere"),
        open_.ask("OPTIONS", "/job", Origin=NAMED, Access_Control_Request_Method="POST"),
        open_.post({"type": "email"}, Origin="https://evil.test"),
    ]

    assert [answer.status for answer in answers] == [200, 200, 200, 304, 404, 404, 200, 403]
    assert [answer.headers.get("vary") for answer in answers] == ["Origin"] * len(answers)
    assert "vary" not in crowd.get("/stats", Origin=NAMED).headers

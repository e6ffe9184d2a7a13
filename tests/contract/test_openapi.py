"""Hold the description against the routes, and the app against its description."""

import inspect
import json
from collections.abc import Collection
from typing import Any, Final, get_type_hints

import falcon.inspect
import pytest
import schemathesis
from schemathesis.config import SchemathesisConfig
from schemathesis.engine import events, from_schema
from schemathesis.specs.openapi.definitions import OPENAPI_31_VALIDATOR

from ledger.api.operation import Operation, Tag
from ledger.api.operations import OPERATIONS
from ledger.errors import Unavailable
from ledger.projections.search.search import DEFAULT_LIMIT
from tests.contract.client import Client
from tests.contract.examples import filled, named, perform

# HEAD, which is GET without its body, is no operation of the description.
IMPLIED: Final = frozenset({"HEAD"})
KEY_REUSED: Final = 422
# What schemathesis does: it tries all limits of each parameter, random values, and sequences.
PHASES: Final = ("examples", "coverage", "fuzzing", "stateful")


def documented(client: Client) -> dict[str, Any]:
    description: dict[str, Any] = client.get("/openapi.json").json
    return description


def routes(client: Client) -> set[tuple[str, str]]:
    """Return template and method of each responder of the app."""
    return {
        (route.path, method.method)
        for route in falcon.inspect.inspect_routes(client.app)
        for method in route.methods
        if not method.internal and method.method not in IMPLIED
    }


def described(client: Client, operation: Operation) -> dict[str, Any]:
    """Return what the description says of an operation."""
    one: dict[str, Any] = documented(client)["paths"][operation.path][operation.method.lower()]
    return one


def test_the_description_is_openapi_3_1(crowd: Client) -> None:
    errors = [error.message for error in OPENAPI_31_VALIDATOR.iter_errors(documented(crowd))]

    assert errors == []


def test_the_description_holds_the_operations_and_no_others(crowd: Client) -> None:
    operations = {
        (path, method.upper())
        for path, methods in documented(crowd)["paths"].items()
        for method in methods
    }

    assert operations == {(operation.path, operation.method) for operation in OPERATIONS}
    assert len(operations) == len(OPERATIONS)


@pytest.mark.parametrize("operation", OPERATIONS, ids=named)
def test_a_responder_takes_what_its_row_declares(operation: Operation) -> None:
    named = [
        parameter.argument
        for parameter in (*operation.in_path, *operation.query, *operation.headers)
    ]
    given = {*named, *(() if operation.body is None else ("body",))}
    taken = {
        parameter.name: parameter.default is not parameter.empty
        for parameter in inspect.signature(operation.responder).parameters.values()
        if parameter.kind is parameter.KEYWORD_ONLY
    }

    assert given <= taken.keys()
    assert {name for name, is_optional in taken.items() if not is_optional} <= given
    if operation.body is not None and isinstance(operation.body.type, type):
        assert get_type_hints(operation.responder)["body"] is operation.body.type


def test_every_public_method_of_a_resource_is_the_responder_of_a_row(crowd: Client) -> None:
    rows = {operation.responder for operation in OPERATIONS}
    rows |= {operation.head for operation in OPERATIONS if operation.head is not None}
    modules = {inspect.getmodule(responder) for responder in rows}
    methods = {
        method
        for module in modules
        for _, resource in inspect.getmembers(module, inspect.isclass)
        if resource.__module__ == getattr(module, "__name__", "")
        for name, method in inspect.getmembers(resource, inspect.isfunction)
        if not name.startswith("_")
    }

    assert methods == rows


@pytest.mark.parametrize("operation", OPERATIONS, ids=named)
def test_the_words_of_a_path_may_be_in_any_case(crowd: Client, operation: Operation) -> None:
    parts = operation.path.split("/")
    shouted = "/".join(part if "{" in part else part.upper() for part in parts)

    normal, upper = (crowd.ask("OPTIONS", filled(path)) for path in (operation.path, shouted))

    assert (upper.status, upper.headers["allow"]) == (200, normal.headers["allow"])
    assert operation.method in normal.headers["allow"].split(", ")


def test_every_responder_is_described(crowd: Client) -> None:
    answered = {
        (crowd.app._router.find(filled(operation.path))[3], operation.method)  # type: ignore[index]
        for operation in OPERATIONS
    }

    assert routes(crowd) == answered


def test_every_reference_of_the_description_leads_somewhere(crowd: Client) -> None:
    description = documented(crowd)
    names = {f"#/components/schemas/{name}" for name in description["components"]["schemas"]}

    assert set(references(description)) == names


def references(value: Any) -> list[str]:
    """Return every reference below *value*."""
    if isinstance(value, list):
        return [reference for item in value for reference in references(item)]
    if isinstance(value, dict):
        own = [value["$ref"]] if "$ref" in value else []
        return own + references(list(value.values()))
    return []


READS: Final = [
    operation
    for operation in OPERATIONS
    if operation.method == "GET" and not operation.path.startswith("/inactive/")
]


@pytest.mark.parametrize("operation", READS, ids=named)
def test_an_answer_has_the_tag_that_is_described(crowd: Client, operation: Operation) -> None:
    responses = described(crowd, operation)["responses"]
    query = "?from=0&to=60000" if operation.tag is Tag.FOR_FIXED_TIMES else ""

    answer = crowd.get(filled(operation.path) + query)

    assert answer.status == 200
    assert ("etag" in answer.headers) is ("ETag" in responses["200"].get("headers", {}))
    if "etag" in answer.headers:
        again = crowd.get(filled(operation.path) + query, If_None_Match=answer.headers["etag"])
        assert (again.status, again.headers["etag"]) == (304, answer.headers["etag"])
        assert again.content == b""
    assert ("304" in responses) is ("etag" in answer.headers)


@pytest.mark.parametrize("operation", OPERATIONS, ids=named)
def test_without_a_database_it_answers_as_described(
    crowd: Client, operation: Operation, monkeypatch: pytest.MonkeyPatch
) -> None:
    responses = described(crowd, operation)["responses"]

    def away(*_: object) -> None:
        raise Unavailable("it is away", retry_after_s=7)

    for way in ("read", "write", "snapshot"):
        monkeypatch.setattr(crowd.system.database, way, away)

    answer = perform(crowd, operation)

    if "503" in responses:
        assert (answer.status, answer.headers["retry-after"]) == (503, "7")
        assert "Retry-After" in responses["503"]["headers"]
    else:
        assert answer.status == 200


def test_what_a_search_answers_without_a_limit_is_described(crowd: Client) -> None:
    search = documented(crowd)["paths"]["/job/search"]["get"]
    [limit] = [one for one in search["parameters"] if one["name"] == "limit"]

    assert limit["schema"]["default"] == DEFAULT_LIMIT


def test_what_no_operation_answers_is_told_above_them(crowd: Client) -> None:
    about = documented(crowd)["info"]["description"]

    assert {word for word in ("304", "404", "405", "Allow", "HEAD") if word not in about} == set()


def holds_nul(body: object) -> bool:
    """Return whether a body contains U+0000, which JSON Schema cannot forbid."""
    return r"\u0000" in json.dumps(body, default=str)


def test_schemathesis_finds_no_difference_between_app_and_description(rabble: Client) -> None:
    compare_with_schemathesis(rabble, examples=3, fewest_checks=60, phases=("fuzzing",))


def compare_with_schemathesis(
    client: Client, *, examples: int, fewest_checks: int, phases: Collection[str] = PHASES
) -> None:
    """Compare the app with its description, and require that many checks of each kind.

    tests/soak does it with more examples, and in all phases.
    """
    config = SchemathesisConfig.from_dict(
        {
            "seed": 1,
            "generation": {"max-examples": examples, "deterministic": True},
            "phases": {phase: {"enabled": phase in phases} for phase in PHASES},
            "continue-on-failure": True,
            "cache": {"enabled": False},
        }
    )
    schema = schemathesis.openapi.from_wsgi("/openapi.json", client.app, config=config)

    failures: set[str] = set()
    checked: dict[str, int] = {}
    for event in from_schema(schema).execute():
        if isinstance(event, events.NonFatalError):
            failures.add(f"{event.label}: {event.value}")
        if isinstance(event, events.FatalError):
            raise event.exception
        if isinstance(event, events.ScenarioFinished):
            for case_id, checks in event.recorder.checks.items():
                case = event.recorder.cases[case_id].value
                request = case.as_curl_command()
                answer = event.recorder.find_response(case_id=case_id)
                key_reused = answer is not None and answer.status_code == KEY_REUSED
                for check in checks:
                    checked[check.name] = checked.get(check.name, 0) + 1
                    # A range of time may end before it begins, or be too wide.  An
                    # `Idempotency-Key` may have come with another request before (422).
                    is_beyond_schemas = check.name == "positive_data_acceptance" and (
                        "/activity?" in request or holds_nul(case.body) or key_reused
                    )
                    if check.failure_info is not None and not is_beyond_schemas:
                        failure = check.failure_info.failure
                        failures.add(f"{check.name}: {failure.message}\n{request}")

    assert failures == set()
    assert min(checked.values()) > fewest_checks, checked

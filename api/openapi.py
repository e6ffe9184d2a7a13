"""The OpenAPI 3.1 description of the API, made from the rows of ``operations``."""

from collections.abc import Iterator, Mapping
from functools import cache
from importlib.metadata import version
from typing import Any, Final, get_args

import msgspec
from msgspec import Struct
from msgspec.json import schema_components

from ledger.api.http import links
from ledger.api.http.parameters import Parameter
from ledger.api.operation import Operation, Tag
from ledger.api.operations import OPERATIONS
from ledger.api.schemas import HAND_WRITTEN, REFERENCE, Error, Schema

_IF_NONE_MATCH: Final = {
    "name": "If-None-Match",
    "in": "header",
    "schema": {"type": "string", "examples": ['W/"12-9f86d081884c7d65"']},
    "description": "The ETag of an earlier answer; 304 if nothing has happened since.",
}
_REASONS: Final = {
    200: "Done.",
    204: "The request contains no job.",
    400: "The input is invalid; the text says what was expected.",
    403: "A web page of another origin sent a request that changes something.",
    404: "The job or the list does not exist.",
    406: "`Accept` excludes JSON.",
    409: "The attempt is over, or the state of the job forbids the change.",
    413: "The body is too large.",
    415: "The headers do not declare JSON in a supported charset and encoding.",
    421: "`Host` names another server; the text says what was expected.",
    422: "The `Idempotency-Key` came with another request before.",
    500: "The stored history is inconsistent, or the server has an error; its log has the details.",
    503: "The database is unavailable or overloaded, or its tables belong to another version.",
}
_ABOUT: Final = (
    "A job queue whose database is its own audit trail, with Kue's JSON API. Errors are "
    '`{"error": "…"}` and say what was expected. Reads carry the position of the ledger as their '
    "ETag; a request with this value as If-None-Match is answered with 304 until something has "
    "happened. An unknown path is answered with 404. A method that a path does not have is "
    "answered with 405, and Allow lists the methods of the path. HEAD works wherever GET does, "
    "OPTIONS everywhere; neither changes anything. Host must be localhost, a loopback address, "
    "the address that the server listens on, or a configured name; other requests are answered "
    "with 421. A request that changes something is refused with 403 if Sec-Fetch-Site or, "
    "without that, Origin shows that a web page of another origin sent it. Programs send neither "
    "header."
)
_WHEN: Final[Mapping[Tag, str]] = {
    Tag.ALWAYS: "The position of the ledger, which is the version of all reads, and the first 16 "
    "digits of its chain value.",
    Tag.FOR_FIXED_TIMES: "The position up to which events are counted; only if both `from` and "
    "`to` are given.",
}
_RETRY_AFTER: Final[Schema] = {
    "schema": {"type": "integer", "minimum": 1},
    "description": "Seconds to wait before the next try. Absent if `ledger migrate` must be run "
    "first.",
}


@cache
def encoded() -> bytes:
    """Return the OpenAPI document as JSON, encoded once for all apps of a process."""
    return msgspec.json.encode(document())


def document() -> Schema:
    """Return the OpenAPI document."""
    schemas, components = _schemas()
    paths: dict[str, Schema] = {}
    for operation in OPERATIONS:
        methods = paths.setdefault(operation.path, {})
        methods[operation.method.lower()] = _describe(operation, schemas)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Ledger",
            "version": version("ledger-queue"),
            "description": _ABOUT,
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "paths": paths,
        "components": {"schemas": components},
    }


def _schemas() -> tuple[Mapping[Any, Schema], Schema]:
    """Return the schema of each type in requests and answers, and the components they use."""
    types = {answer for each in OPERATIONS for answer in each.answers.values() if answer}
    types |= {each.body.type for each in OPERATIONS if each.body is not None} | {Error}
    listed = list(types)
    schemas, components = schema_components(listed, ref_template=REFERENCE)
    for type_ in listed:
        for struct in _structs(type_):
            component = components[struct.__name__]
            component |= getattr(struct, "also", {})
            for field in component["properties"].values():
                # A default of null only repeats that the field is optional.
                if field.get("default", "") is None:
                    del field["default"]
    components |= HAND_WRITTEN
    return dict(zip(listed, schemas, strict=True)), dict(sorted(components.items()))


def _structs(type_: Any) -> Iterator[type[Struct]]:  # noqa: ANN401 - msgspec describes any type
    """Yield the Structs of a type, which is one, a union or an array."""
    if isinstance(type_, type) and issubclass(type_, Struct):
        yield type_
    for part in get_args(type_):
        yield from _structs(part)


def _describe(operation: Operation, schemas: Mapping[Any, Schema]) -> Schema:
    described: Schema = {
        "summary": operation.summary,
        "operationId": _identifier(operation),
        "parameters": [
            *(_parameter(each, "path") | {"required": True} for each in operation.in_path),
            *(_parameter(each, "query") for each in operation.query),
            *(_parameter(each, "header") for each in operation.headers),
            *(() if operation.tag is Tag.NEVER else (_IF_NONE_MATCH,)),
        ],
        "responses": _responses(operation, schemas),
    }
    if operation.body is not None:
        described["requestBody"] = {
            "required": operation.body.required,
            "content": {"application/json": {"schema": schemas[operation.body.type]}},
        }
    return described


def _parameter(parameter: Parameter, place: str) -> Schema:
    described: Schema = {"name": parameter.name, "in": place, "schema": parameter.schema}
    return described | ({"description": parameter.description} if parameter.description else {})


def _responses(operation: Operation, schemas: Mapping[Any, Schema]) -> dict[str, Schema]:
    refuses = {406, 421, *operation.refuses}
    if operation.in_path or operation.query or operation.headers or operation.body is not None:
        refuses.add(400)
    if operation.body is not None:
        refuses |= {413, 415}
    if operation.changes:
        refuses.add(403)
    if operation.asks_database:
        refuses |= {500, 503}
    types: dict[int, Any] = dict.fromkeys(refuses, Error) | dict(operation.answers)
    responses = {
        str(status): _response(_REASONS[status], None if type_ is None else schemas[type_])
        for status, type_ in sorted(types.items())
    }
    if operation.can_be_cut:
        responses["200"]["headers"] = {"Link": links.NEXT}
    if operation.tag is not Tag.NEVER:
        responses["200"].setdefault("headers", {})["ETag"] = _etag(operation.tag)
        responses["304"] = {
            "description": "Nothing has happened since the answer with that ETag.",
            "headers": {"ETag": _etag(operation.tag) | {"required": True}},
        }
    if operation.asks_database:
        responses["503"]["headers"] = {"Retry-After": _RETRY_AFTER}
    return responses


def _response(description: str, schema: Schema | None) -> Schema:
    if schema is None:
        return {"description": description}
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def _etag(tag: Tag) -> Schema:
    return {
        "required": tag is Tag.ALWAYS,
        "schema": {"type": "string", "pattern": '^W/"[0-9]+-[0-9a-f]{16}"$'},
        "description": _WHEN[tag],
    }


def _identifier(operation: Operation) -> str:
    words = [word.strip("{}") for word in operation.path.split("/") if word]
    return "_".join([operation.method.lower(), *words]).replace(".", "_")

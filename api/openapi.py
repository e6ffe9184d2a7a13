"""The description of the API in OpenAPI 3.1: ``operations``, checked against the routes."""

from collections.abc import Mapping
from importlib.metadata import version
from typing import Final

import falcon

from ledger.api.http import json_out
from ledger.api.http.etag import answer
from ledger.api.operations import OPERATIONS, Operation, Tag
from ledger.api.schemas import COMPONENTS, NAME, Schema
from ledger.queue.kue_options import PRIORITIES
from ledger.rules.job import LIVE_STATES

_RANGE: Final[Schema] = {
    "type": "string",
    "pattern": r"^-?[0-9]{1,15}\.\.-?[0-9]{1,15}$",
    "examples": ["0..9", "-5..-1"],
    "description": "Inclusive ranks from 0 on; negative ones count from the end.",
}
_PARAMETERS: Final[Mapping[str, Schema]] = {
    "id": {"type": "string", "examples": ["3"], "description": "A job's id."},
    "type": {
        "type": "string",
        "minLength": 1,
        "pattern": "^[^\\u0000]+$",
        "description": "A job's type, percent-encoded.",
    },
    "state": {"enum": list(LIVE_STATES)},
    "name": NAME,
    "range": _RANGE,
    "order": {"enum": ["asc", "desc"], "description": "desc reverses the whole list."},
    "priority": {
        "anyOf": [
            {"enum": list(PRIORITIES)},
            {"type": "string", "pattern": "^(0|-?[1-9][0-9]{0,14})$"},
        ],
        "description": "A number, the lower the sooner, or a name.",
    },
}
_IF_NONE_MATCH: Final = {
    "name": "If-None-Match",
    "in": "header",
    "schema": {"type": "string", "examples": ['W/"12"']},
    "description": "An ETag that was answered before; 304 if nothing has happened since.",
}
_REASONS: Final = {
    400: "The input is bad; the text says what was expected.",
    403: "It changes something, and a web page of another origin asked for it.",
    404: "There is no such job, or no such list.",
    406: "The client does not take JSON.",
    409: "The attempt is over, or the job's state forbids it.",
    413: "The body is too large.",
    415: "The body is not said to be JSON in a known charset and encoding.",
    421: "The host that was asked for is not the server's; the text says what was expected.",
    500: "The stored history contradicts itself, or the server has a fault; its log says more.",
    503: "The database is away or overloaded, or its tables are not those of this version.",
}
_ABOUT: Final = (
    "A job queue whose database is its own audit trail, with Kue's JSON API. Errors are "
    '`{"error": "…"}` and say what was expected. Reads carry the ledger\'s position as their '
    "ETag; whoever sends it back as If-None-Match gets 304 until something has happened. A path "
    "that there is not is answered with 404, a method that a path does not know with 405 and, in "
    "Allow, those that it knows. HEAD works where GET does, OPTIONS everywhere; neither changes "
    "anything. A request whose Host is neither localhost, a loopback address, nor what the server "
    "listens on or is told to answer to, is answered with 421. What changes something is refused "
    "with 403 if Sec-Fetch-Site or, without that, Origin tells that a web page of another origin "
    "asks for it; programs send neither."
)
_WHEN: Final[Mapping[Tag, str]] = {
    Tag.ALWAYS: "The ledger's position: the version of all that there is to read.",
    Tag.FOR_FIXED_TIMES: "How far it was counted; only where `from` and `to` were given.",
}
_RETRY_AFTER: Final[Schema] = {
    "schema": {"type": "integer", "minimum": 1},
    "description": "Seconds until another try makes sense. Not where somebody has to run "
    "`ledger migrate` first.",
}


def document() -> Schema:
    """Return the OpenAPI document."""
    paths: dict[str, Schema] = {}
    for operation in OPERATIONS:
        paths.setdefault(operation.path, {})[operation.method.lower()] = _describe(operation)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Ledger",
            "version": version("ledger-queue"),
            "description": _ABOUT,
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "paths": paths,
        "components": {"schemas": COMPONENTS},
    }


def _describe(operation: Operation) -> Schema:
    in_path = [part[1:-1] for part in operation.path.split("/") if part.startswith("{")]
    described: Schema = {
        "summary": operation.summary,
        "operationId": _identifier(operation),
        "parameters": [
            {"name": name, "in": "path", "required": True, "schema": _PARAMETERS[name]}
            for name in in_path
        ]
        + list(operation.query)
        + ([] if operation.tag is Tag.NEVER else [_IF_NONE_MATCH]),
        "responses": _responses(operation),
    }
    if operation.takes is not None:
        described["requestBody"] = {
            "required": True,
            "content": {
                "application/json": {
                    "schema": {"$ref": f"#/components/schemas/{operation.takes}"},
                }
            },
        }
    if operation.takes_jobs:
        one = {"$ref": "#/components/schemas/PostedJob"}
        described["requestBody"] = {
            "required": False,
            "content": {
                "application/json": {
                    "schema": {
                        "anyOf": [
                            one,
                            {"type": "array", "items": one},
                            {"type": "object", "maxProperties": 0},
                        ]
                    },
                }
            },
        }
        described["responses"]["200"] = _either(_success(operation), "CreatedMany")
        described["responses"]["400"] = _either(described["responses"]["400"], "CreatedMany")
        described["responses"]["204"] = {"description": "Nothing was asked for."}
    return described


def _responses(operation: Operation) -> dict[str, Schema]:
    refuses = [*((400,) if operation.has_input else ()), 406, 421, *operation.refuses]
    if operation.changes:
        refuses.append(403)
    if operation.asks_database:
        refuses += [500, 503]
    responses = {"200": _success(operation)}
    if operation.tag is not Tag.NEVER:
        responses["200"]["headers"] = {"ETag": _etag(operation.tag)}
        responses["304"] = {
            "description": "Nothing has happened since the answer with that ETag.",
            "headers": {"ETag": _etag(operation.tag) | {"required": True}},
        }
    responses |= {str(status): _json(_REASONS[status], "Error") for status in refuses}
    if operation.asks_database:
        responses["503"]["headers"] = {"Retry-After": _RETRY_AFTER}
    return responses


def _etag(tag: Tag) -> Schema:
    return {
        "required": tag is Tag.ALWAYS,
        "schema": {"type": "string", "pattern": '^W/"[0-9]+"$'},
        "description": _WHEN[tag],
    }


def _identifier(operation: Operation) -> str:
    words = [word.strip("{}") for word in operation.path.split("/") if word]
    return "_".join([operation.method.lower(), *words]).replace(".", "_")


def _success(operation: Operation) -> Schema:
    if operation.answers is None:
        return {"description": "Done.", "content": {"application/json": {"schema": {}}}}
    return _json("Done.", operation.answers)


def _json(description: str, schema: str) -> Schema:
    reference = {"$ref": f"#/components/schemas/{schema}"}
    return {"description": description, "content": {"application/json": {"schema": reference}}}


def _either(response: Schema, schema: str) -> Schema:
    content = response["content"]["application/json"]
    either = {"anyOf": [content["schema"], {"$ref": f"#/components/schemas/{schema}"}]}
    return response | {"content": {"application/json": {"schema": either}}}


class OpenApi:
    """The resource ``GET /openapi.json``."""

    def __init__(self) -> None:
        self._document: bytes = json_out.encode(document())

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        answer(resp, self._document)

    on_head = on_get

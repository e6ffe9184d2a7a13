"""Describe the API in OpenAPI 3.1: one entry an operation, checked against the routes.

``OPERATIONS`` is what the document, the README's table of routes and the tests are
made from.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Final

import falcon

from api import wire
from api.reading import answer
from api.schemas import COMPONENTS, NAME, Schema
from ledger.job import LIVE_STATES
from ledger.options import PRIORITIES
from projections.search.search import LONGEST_QUERY

RANGE: Final[Schema] = {
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
    "range": RANGE,
    "order": {"enum": ["asc", "desc"], "description": "desc reverses the whole list."},
    "priority": {
        "anyOf": [
            {"enum": list(PRIORITIES)},
            {"type": "string", "pattern": "^(0|-?[1-9][0-9]{0,14})$"},
        ],
        "description": "A number, the lower the sooner, or a name.",
    },
}
_SORT: Final = {
    "name": "sort",
    "in": "query",
    "schema": {"enum": ["priority"]},
    "description": "Order by priority, then age: as the jobs will run. Else by age.",
}
_ATOMIC: Final = {
    "name": "atomic",
    "in": "query",
    "schema": {"enum": ["true", "false"]},
    "description": "Of an array: all jobs or none.",
}
_QUERY: Final = {
    "name": "q",
    "in": "query",
    "schema": {"type": "string", "maxLength": LONGEST_QUERY},
    "description": "Plain words; no character is an operator.",
}
_OFFSET: Final = {
    "name": "offset",
    "in": "query",
    "schema": {"type": "integer", "minimum": 0, "maximum": 10**15 - 1},
    "description": "How many of the newest to skip.",
}
_IDEMPOTENCY_KEY: Final = {
    "name": "Idempotency-Key",
    "in": "header",
    "schema": {"type": "string", "pattern": "^[!-~]([ -~]{0,238}[!-~])?$"},
    "description": "A second request with this key creates nothing and gets the first's answer.",
}
_AFTER: Final = {
    "name": "after",
    "in": "query",
    "schema": {"type": "integer", "minimum": 0, "maximum": 10**15 - 1},
    "description": "Only events with a greater version.",
}
_LIMIT: Final = {
    "name": "limit",
    "in": "query",
    "schema": {"type": "integer", "minimum": 0, "maximum": 10**15 - 1},
    "description": "At most so many; never more than the server's largest page.",
}
_MOMENT: Final[Schema] = {
    "anyOf": [
        {"type": "string", "format": "date-time"},
        {"type": "string", "pattern": "^[0-9]{1,15}$"},
    ]
}
_ACTIVITY: Final = (
    {
        "name": "from",
        "in": "query",
        "schema": _MOMENT,
        "description": "Beginning, RFC 3339 or UTC milliseconds; an hour before `to` if not given.",
    },
    {
        "name": "to",
        "in": "query",
        "schema": _MOMENT,
        "description": "End, which is not in it; now if not given. At most as many minutes "
        "behind `from` as the server's largest page.",
    },
    {
        "name": "type",
        "in": "query",
        "schema": {"type": "string", "pattern": "^[^\\u0000]*$"},
        "description": "Of jobs of this type; of all together if not given.",
    },
)


# What an operation with a body refuses for it.
_OF_BODIES: Final = (413, 415)


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """Describe one method of one path.

    Attributes:
        answers: Name of the schema of its 200; None if that has no body.
        refuses: Statuses it can answer beside those that every operation can.
        query: Parameters that are not in the path.
        takes_jobs: Whether a job, or an array of them, is its body.
        takes: Name of the schema of its body, if it needs one.
    """

    method: str
    path: str
    summary: str
    answers: str | None
    refuses: Sequence[int] = ()
    query: Sequence[Schema] = field(default_factory=tuple)
    takes_jobs: bool = False
    takes: str | None = None


OPERATIONS: Final = (
    Operation(
        method="GET",
        path="/stats",
        summary="Count the jobs by state, and add up the time workers worked",
        answers="Stats",
    ),
    Operation(
        method="GET",
        path="/activity",
        summary="Count what was created, started, completed, failed, by minute; a second behind",
        answers="Minutes",
        query=_ACTIVITY,
    ),
    Operation(
        method="GET",
        path="/job/types",
        summary="List the types that have jobs",
        answers="Texts",
    ),
    Operation(
        method="GET",
        path="/job/search",
        summary="Find jobs that have all the words of q in their data, the newest first",
        answers="Texts",
        query=(_QUERY, _LIMIT, _OFFSET),
    ),
    Operation(
        method="POST",
        path="/job",
        summary="Create a job, or an array of jobs",
        answers="Created",
        refuses=(413, 415),
        query=(_ATOMIC, _IDEMPOTENCY_KEY),
        takes_jobs=True,
    ),
    Operation(
        method="GET",
        path="/job/{id}",
        summary="Show a job",
        answers="Job",
        refuses=(404,),
    ),
    Operation(
        method="DELETE",
        path="/job/{id}",
        summary="Remove a job from every view; its history stays",
        answers="Message",
        refuses=(404,),
    ),
    Operation(
        method="GET",
        path="/job/{id}/log",
        summary="Show what a job logged, and the first line of each failure",
        answers="Texts",
        refuses=(404,),
    ),
    Operation(
        method="GET",
        path="/job/{id}/events",
        summary="Show all that ever happened to a job, also after its removal",
        answers="Events",
        refuses=(404,),
        query=(_AFTER, _LIMIT),
    ),
    Operation(
        method="PUT",
        path="/job/{id}/state/{state}",
        summary="Move a job to a state by hand",
        answers="Message",
        refuses=(404,),
    ),
    Operation(
        method="PUT",
        path="/job/{id}/priority/{priority}",
        summary="Change a job's priority",
        answers="Message",
        refuses=(404,),
    ),
    Operation(
        method="GET",
        path="/inactive/{id}",
        summary="Queue a job again (Kue's UI does it so)",
        answers="Message",
        refuses=(404,),
    ),
    Operation(
        method="POST",
        path="/inactive/{id}",
        summary="Queue a job again",
        answers="Message",
        refuses=(404,),
    ),
    *(
        Operation(
            method="GET",
            path=f"/jobs{prefix}/{{range}}{suffix}",
            summary=f"List {what}, oldest first{order}",
            answers="Jobs",
            refuses=(404,),
            query=(_SORT,),
        )
        for prefix, what in (
            ("", "all jobs"),
            ("/{state}", "the jobs in a state"),
            ("/{type}/{state}", "the jobs of a type in a state"),
        )
        for suffix, order in (("", ""), ("/{order}", " or, with desc, newest first"))
    ),
    Operation(
        method="GET",
        path="/jobs/{type}/{state}/stats",
        summary="Count the jobs of a type in a state",
        answers="Count",
    ),
    Operation(
        method="POST",
        path="/jobs/claim",
        summary="Give a worker jobs to do; waits for them if asked to",
        answers="ClaimedJobs",
        refuses=_OF_BODIES,
        takes="Claim",
    ),
    *(
        Operation(
            method="POST",
            path=f"/job/{{id}}/{word}",
            summary=summary,
            answers="Message",
            refuses=(404, 409, *_OF_BODIES),
            takes=schema,
        )
        for word, summary, schema in (
            ("progress", "Report how far an attempt is; its ttl begins anew", "Progress"),
            ("log", "Write to the job's log", "Log"),
            ("complete", "Report that an attempt succeeded", "Complete"),
            ("fail", "Report that an attempt failed; it is tried again if tries are left", "Fail"),
            ("return", "Give a job back unfinished, which uses up no try", "Return"),
        )
    ),
    Operation(
        method="POST",
        path="/workers/{name}/heartbeat",
        summary="Say that a worker lives, and hear which jobs it holds",
        answers="Heartbeat",
    ),
    Operation(
        method="DELETE",
        path="/workers/{name}",
        summary="Say that a worker ends; what it holds is given back",
        answers="Message",
    ),
    Operation(
        method="GET",
        path="/workers",
        summary="List the workers, and how many jobs each holds",
        answers="Workers",
    ),
    Operation(
        method="GET",
        path="/health/live",
        summary="Tell that the process answers",
        answers="Status",
    ),
    Operation(
        method="GET",
        path="/health/ready",
        summary="Tell whether the database answers and has our tables",
        answers="Status",
    ),
    Operation(
        method="GET",
        path="/openapi.json",
        summary="Show this description",
        answers=None,
    ),
)

_REASONS: Final = {
    400: "The input is bad; the text says what was expected.",
    404: "There is no such job, or no such list.",
    406: "The client does not take JSON.",
    409: "The attempt is over, or the job's state forbids it.",
    413: "The body is too large.",
    415: "The body is not said to be JSON in a known charset and encoding.",
    503: "The database is away or overloaded; see Retry-After.",
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
            "description": "A job queue whose database is its own audit trail, with Kue's JSON "
            "API. Reads carry the ledger's position as their ETag.",
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
        + list(operation.query),
        "responses": {"200": _success(operation)}
        | {
            str(status): _json(_REASONS[status], "Error")
            for status in (400, 406, *operation.refuses, 503)
        },
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
    """Answer ``GET /openapi.json``."""

    def __init__(self) -> None:
        self._document: bytes = wire.encode(document())

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        answer(resp, self._document)

    on_head = on_get

"""Describe, in JSON Schema, what goes over the wire."""

from typing import Any, Final

from ledger.commands import LARGEST_INTEGER, LONGEST_KEY, LONGEST_TYPE
from ledger.events import EVENTS
from ledger.job import LIVE_STATES
from ledger.options import PRIORITIES

Schema = dict[str, Any]

MILLISECONDS: Final[Schema] = {
    "type": "string",
    "pattern": "^[0-9]+$",
    "description": "Milliseconds, as decimal text; a moment counts from 1970-01-01 UTC.",
}
# Text that every database holds: no NUL; surrogates cannot come in JSON.
_TEXT: Final = "^[^\\u0000]*$"


def _integer(least: int) -> Schema:
    return {
        "anyOf": [
            {"type": "integer", "minimum": least, "maximum": LARGEST_INTEGER},
            {"type": "string", "pattern": "^[1-9][0-9]{0,14}$"},
            {"type": "null"},
        ]
    }


def _object(required: list[str], properties: Schema, **more: Any) -> Schema:  # noqa: ANN401 - JSON
    return {"type": "object", "required": required, "properties": properties, **more}


_GIVEN: Final = {"type": ["integer", "string"]}

OPTIONS: Final = _object(
    [],
    {
        "attempts": _integer(1) | {"description": "How often the job may run."},
        "priority": {
            "anyOf": [
                {"enum": list(PRIORITIES)},
                {"type": "integer", "minimum": -LARGEST_INTEGER, "maximum": LARGEST_INTEGER},
                {"type": "string", "pattern": "^-?[1-9][0-9]{0,14}$"},
                {"type": "null"},
            ],
            "description": "The lower, the sooner: "
            + ", ".join(f"{name} {number}" for name, number in PRIORITIES.items()),
        },
        "delay": _integer(1) | {"description": "Milliseconds to wait before the first run."},
        "ttl": _integer(1) | {"description": "Milliseconds an attempt may go without progress."},
        "backoff": {
            "anyOf": [
                {"type": "boolean"},
                {"type": "null"},
                _object(
                    ["type"],
                    {
                        "type": {"enum": ["fixed", "exponential"]},
                        "delay": _integer(1),
                        "maxDelay": _integer(1),
                    },
                    additionalProperties=False,
                ),
            ],
            "description": "Wait between tries: true repeats `delay`.",
        },
        "searchKeys": {
            "anyOf": [
                {"type": "string", "pattern": _TEXT},
                {"type": "array", "items": {"type": "string", "pattern": _TEXT}},
                {"type": "null"},
            ],
            "description": "Paths into `data` to index, as `a.b`; [] indexes nothing.",
        },
        "removeOnComplete": {"type": ["boolean", "null"]},
        "unique": {
            "type": ["string", "null"],
            "minLength": 1,
            "maxLength": LONGEST_KEY,
            "pattern": _TEXT,
            "description": "A second job with this key is not created; the first one answers.",
        },
    },
    additionalProperties=False,
    anyOf=[
        {"required": ["delay"], "properties": {"delay": _GIVEN}},
        {
            "properties": {
                "backoff": {
                    "anyOf": [
                        {"type": ["boolean", "null"]},
                        {"required": ["delay"], "properties": {"delay": _GIVEN}},
                    ]
                }
            }
        },
    ],
)

POSTED_JOB: Final = _object(
    ["type"],
    {
        "type": {"type": "string", "minLength": 1, "maxLength": LONGEST_TYPE, "pattern": _TEXT},
        "data": {"description": "Any JSON but U+0000 and numbers out of range; kept exactly."},
        "options": {"anyOf": [{"$ref": "#/components/schemas/Options"}, {"type": "null"}]},
    },
)

JOB: Final = _object(
    [
        "id",
        "type",
        "data",
        "priority",
        "progress",
        "state",
        "created_at",
        "promote_at",
        "updated_at",
        "attempts",
    ],
    {
        "id": {"type": "string", "pattern": "^[1-9][0-9]*$"},
        "type": {"type": "string"},
        "data": {"description": "As it was posted; {} if nothing was, or it was erased."},
        "result": {"description": "What the worker returned."},
        "priority": {"type": "integer"},
        "progress": {
            "anyOf": [{"const": 0}, {"type": "string", "pattern": "^[0-9]{1,3}$"}],
            "description": "Per cent: 0 until first set, then text.",
        },
        "progress_data": {"description": "What the worker gave with its progress."},
        "state": {"enum": list(LIVE_STATES)},
        "error": {"type": "string"},
        "created_at": MILLISECONDS,
        "promote_at": MILLISECONDS,
        "updated_at": MILLISECONDS,
        "failed_at": MILLISECONDS,
        "started_at": MILLISECONDS,
        "duration": MILLISECONDS,
        "delay": MILLISECONDS,
        "workerId": {"type": "string"},
        "ttl": MILLISECONDS,
        "attempts": _object(
            ["made", "remaining", "max"],
            {name: {"type": "integer", "minimum": 0} for name in ("made", "remaining", "max")},
        ),
    },
    additionalProperties=False,
)

_HEX: Final = {"type": ["string", "null"], "pattern": "^[0-9a-f]*$"}

EVENT: Final = _object(
    [
        "position",
        "job_id",
        "version",
        "kind",
        "schema",
        "at",
        "at_ms",
        "actor",
        "cause",
        "body",
        "content",
        "salt",
        "digest",
        "chain",
    ],
    {
        "position": {"type": "integer", "minimum": 1, "description": "Place in the ledger."},
        "job_id": {"type": "string"},
        "version": {"type": "integer", "minimum": 1, "description": "Place in the job's history."},
        "kind": {"enum": [event.kind for event in EVENTS]},
        "schema": {"type": "integer", "minimum": 1},
        "at": {"type": "string", "format": "date-time"},
        "at_ms": {"type": "integer"},
        "actor": {"type": "string", "description": "Who."},
        "cause": {"type": ["string", "null"], "description": "Why."},
        "body": {"type": "object", "description": "What the rules need to replay."},
        "content": {"description": "What users put in; null if nothing, or erased."},
        "salt": _HEX,
        "digest": _HEX,
        "chain": _HEX,
    },
    additionalProperties=False,
)

CREATED: Final = _object(
    ["message", "id"], {"message": {"type": "string"}, "id": {"type": "integer", "minimum": 1}}
)
MESSAGE: Final = _object(["message"], {"message": {"type": "string"}})
ERROR: Final = _object(
    ["error"],
    {"error": {"type": "string", "description": "What was wrong, and what was expected."}},
)
STATS: Final = _object(
    names := [*(f"{state}Count" for state in LIVE_STATES), "workTime"],
    {name: {"type": "integer", "minimum": 0} for name in names},
    additionalProperties=False,
)

COMPONENTS: Final[Schema] = {
    "Options": OPTIONS,
    "PostedJob": POSTED_JOB,
    "Job": JOB,
    "Jobs": {"type": "array", "items": {"$ref": "#/components/schemas/Job"}},
    "Event": EVENT,
    "Events": {"type": "array", "items": {"$ref": "#/components/schemas/Event"}},
    "Created": CREATED,
    "Message": MESSAGE,
    "Error": ERROR,
    "Stats": STATS,
    "Count": _object(["count"], {"count": {"type": "integer", "minimum": 0}}),
    "Texts": {"type": "array", "items": {"type": "string"}},
    "Status": _object(["status"], {"status": {"type": "string"}}),
    "CreatedMany": {
        "type": "array",
        "items": {
            "anyOf": [
                {"$ref": "#/components/schemas/Created"},
                {"$ref": "#/components/schemas/Error"},
            ]
        },
    },
}

"""JSON Schemas of the bodies of requests and answers."""

from typing import Any, Final

from ledger.api.limits import (
    LONGEST_REASON,
    LONGEST_WAIT_S,
    MOST_CLAIMED,
    MOST_LINES,
    MOST_TYPES,
)
from ledger.queue.kue_options import PRIORITIES
from ledger.rules.commands import (
    COMPLETE_PERCENT,
    LARGEST_INTEGER,
    LONGEST_KEY,
    LONGEST_TYPE,
    LONGEST_WORKER,
)
from ledger.rules.events import EVENTS
from ledger.rules.job import LIVE_STATES

Schema = dict[str, Any]

MILLISECONDS: Final[Schema] = {
    "type": "string",
    "pattern": "^[0-9]+$",
    "description": "Milliseconds, as decimal text; a moment counts from 1970-01-01 UTC.",
}
# Text that every database can store: without NUL; surrogates cannot occur in JSON.
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
                {"type": "string", "pattern": "^(0|-?[1-9][0-9]{0,14})$"},
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

NAME: Final = {
    "type": "string",
    "minLength": 1,
    "maxLength": LONGEST_WORKER,
    "pattern": "^[^\\u0000]+$",
    "description": "A worker's name, which no other has.",
}
_ATTEMPT: Final = {
    "type": "integer",
    "minimum": 1,
    "maximum": LARGEST_INTEGER,
    "description": "For which attempt this counts: the number that came with the claim.",
}
_NUMBER: Final = {"type": "number", "minimum": 0, "maximum": LARGEST_INTEGER}
_LINE: Final = {"type": "string", "pattern": _TEXT}

CLAIMED_JOB: Final = JOB | {
    "required": [*JOB["required"], "attempt"],
    "properties": JOB["properties"] | {"attempt": _ATTEMPT},
}
CLAIM: Final = _object(
    ["types", "worker"],
    {
        "types": {
            "type": "array",
            "minItems": 1,
            "maxItems": MOST_TYPES,
            "items": {
                "type": "string",
                "minLength": 1,
                "maxLength": LONGEST_TYPE,
                "pattern": _TEXT,
            },
            "description": "Which jobs the worker can do.",
        },
        "worker": NAME,
        "limit": {
            "type": ["integer", "null"],
            "minimum": 1,
            "maximum": MOST_CLAIMED,
            "description": "At most so many jobs; 1 if not given.",
        },
        "wait": {
            "type": ["number", "null"],
            "minimum": 0,
            "maximum": LONGEST_WAIT_S,
            "description": "Seconds to wait for a job; 0 if not given. The answer may come "
            "sooner and empty: the server lets only so many wait.",
        },
    },
    additionalProperties=False,
)


def _word(required: list[str], properties: Schema, **more: Any) -> Schema:  # noqa: ANN401 - JSON
    """Return the schema of a worker's report on an attempt."""
    said_by = {"anyOf": [NAME, {"type": "null"}]}
    return _object(
        ["attempt", *required],
        {"attempt": _ATTEMPT, "worker": said_by} | properties,
        additionalProperties=False,
        **more,
    )


WORDS: Final[Schema] = {
    "Progress": _word(
        [],
        {
            "progress": {"type": "integer", "minimum": 0, "maximum": COMPLETE_PERCENT},
            "done": _NUMBER,
            "total": _NUMBER | {"exclusiveMinimum": 0},
            "data": {"description": "Any JSON, shown as `progress_data`; kept exactly."},
        },
        oneOf=[
            {"required": ["progress"], "properties": {"done": False, "total": False}},
            {"required": ["done", "total"], "properties": {"progress": False}},
        ],
    ),
    "Log": _word(
        [],
        {
            "line": _LINE,
            "lines": {"type": "array", "minItems": 1, "maxItems": MOST_LINES, "items": _LINE},
        },
        oneOf=[{"required": ["line"]}, {"required": ["lines"]}],
    ),
    "Complete": _word([], {"result": {"description": "Any JSON; kept exactly. null is none."}}),
    "Fail": _word(
        ["error"],
        {
            "error": _LINE | {"description": "Its first line goes to the job's log."},
            "retry_after": {
                "type": ["integer", "null"],
                "minimum": 0,
                "maximum": LARGEST_INTEGER,
                "description": "Milliseconds until the next try, whatever its backoff says.",
            },
            "final": {
                "type": ["boolean", "null"],
                "description": "true: do not try again, whatever tries are left.",
            },
        },
    ),
    "Return": _word(["reason"], {"reason": _LINE | {"minLength": 1, "maxLength": LONGEST_REASON}}),
}
HEARTBEAT: Final = _object(
    ["name", "lease_ms", "jobs"],
    {
        "name": {"type": "string"},
        "lease_ms": {"type": "integer", "description": "How long the worker may be silent."},
        "jobs": {
            "type": "array",
            "items": _object(
                ["id", "attempt"],
                {"id": JOB["properties"]["id"], "attempt": _ATTEMPT},
                additionalProperties=False,
            ),
            "description": "What the ledger says it holds; give back what it does not know.",
        },
    },
    additionalProperties=False,
)
WORKER: Final = _object(
    ["name", "types", "started_at", "seen_at", "lease_ms", "jobs"],
    {
        "name": {"type": "string"},
        "types": {
            "type": "object",
            "additionalProperties": {"type": "integer"},
            "description": "Which jobs it takes, and how many of each at once.",
        },
        "started_at": MILLISECONDS,
        "seen_at": MILLISECONDS,
        "lease_ms": {"type": "integer", "description": "How long it may be silent."},
        "jobs": {"type": "integer", "minimum": 0, "description": "How many it holds."},
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

_COUNTED: Final = {"type": "integer", "minimum": 0}
MINUTE: Final = _object(
    ["at", "at_ms", "created", "started", "completed", "failed", "work_ms"],
    {
        "at": {"type": "string", "format": "date-time", "description": "Its beginning."},
        "at_ms": _COUNTED,
        "created": _COUNTED | {"description": "Jobs that were created."},
        "started": _COUNTED | {"description": "Attempts that workers began."},
        "completed": _COUNTED | {"description": "Attempts that succeeded."},
        "failed": _COUNTED | {"description": "Attempts that failed, the last of a job or not."},
        "work_ms": _COUNTED | {"description": "How long those took that succeeded."},
    },
    additionalProperties=False,
)

COMPONENTS: Final[Schema] = {
    "Options": OPTIONS,
    "PostedJob": POSTED_JOB,
    "Job": JOB,
    "Jobs": {"type": "array", "items": {"$ref": "#/components/schemas/Job"}},
    "Claim": CLAIM,
    "ClaimedJobs": {"type": "array", "items": CLAIMED_JOB},
    **WORDS,
    "Heartbeat": HEARTBEAT,
    "Workers": {"type": "array", "items": WORKER},
    "Event": EVENT,
    "Events": {"type": "array", "items": {"$ref": "#/components/schemas/Event"}},
    "Created": CREATED,
    "Message": MESSAGE,
    "Error": ERROR,
    "Stats": STATS,
    "Minutes": {"type": "array", "items": MINUTE},
    "Count": _object(["count"], {"count": {"type": "integer", "minimum": 0}}),
    "Texts": {"type": "array", "items": {"type": "string"}},
    "Status": _object(
        ["status"],
        {
            "status": {"type": "string"},
            "position": {"type": "integer", "minimum": 0},
            "stopped": {
                "type": "object",
                "additionalProperties": {"type": "string"},
                "description": "Read models of this server that cannot go on, and why: an "
                "event cannot be applied, their tables are of another version, or their class "
                "cannot be imported. All else is served, so the status stays 200.",
            },
        },
    ),
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

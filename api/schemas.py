"""The JSON of answers: Structs, and JSON Schema where no Struct exists.

An answer is encoded from its Struct, and its schema in the OpenAPI description is made from
the same Struct.  Two schemas are written by hand: that of Kue's job, which is stored as JSON,
and that of Kue's options, which ``kue_options`` reads.
"""

from typing import Annotated, Any, Final

from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from ledger.queue.kue_options import PRIORITIES
from ledger.rules.commands import LARGEST_INTEGER, LONGEST_KEY, LONGEST_WORKER
from ledger.rules.events import EVENTS
from ledger.rules.job import LIVE_STATES

Schema = dict[str, Any]

REFERENCE: Final = "#/components/schemas/{name}"
# Text that every database can store: no NUL; JSON in UTF-8 has no lone surrogates.
TEXT: Final = "^[^\\u0000]*$"
# A decimal integer that JSON readers keep exactly.
DECIMAL: Final = "^(0|-?[1-9][0-9]{0,14})$"
MILLISECONDS: Final[Schema] = {
    "type": "string",
    "pattern": "^[0-9]+$",
    "description": "Milliseconds as decimal text; a point in time counts from 1970-01-01 UTC.",
}

Milliseconds = Annotated[str, Meta(extra_json_schema=MILLISECONDS)]
Natural = Annotated[int, Meta(ge=0)]
Positive = Annotated[int, Meta(ge=1)]
JobId = Annotated[str, Meta(extra_json_schema={"pattern": "^[1-9][0-9]*$"})]
Moment = Annotated[
    str,
    Meta(
        description="A time in UTC; the year has a sign and six digits if it is after 9999.",
        extra_json_schema={"format": "date-time"},
    ),
]
Hexadecimal = Annotated[str, Meta(extra_json_schema={"pattern": "^[0-9a-f]*$"})]
WorkerName = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=LONGEST_WORKER,
        description="The worker's name, which must be unique.",
        extra_json_schema={"pattern": TEXT},
    ),
]
AttemptNumber = Annotated[
    int,
    Meta(
        ge=0,
        le=LARGEST_INTEGER,
        description="The number of the attempt, from the answer to the claim.",
        extra_json_schema={"exclusiveMinimum": 0},  # 0 is refused later, as an attempt that is over
    ),
]


def _referring(*names: str) -> Meta:
    references: list[Schema] = [{"$ref": REFERENCE.format(name=name)} for name in names]
    return Meta(extra_json_schema=references[0] if len(names) == 1 else {"anyOf": references})


# JSON that is answered as it is stored, or formatted by hand for speed.
Job = Annotated[Raw, _referring("Job")]
ClaimedJob = Annotated[Raw, _referring("ClaimedJob")]
CreatedOrError = Annotated[Raw, _referring("Created", "Error")]


class Answer(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The JSON object of an answer."""


class Error(Answer, frozen=True, kw_only=True):
    """The answer to a refused request."""

    error: Annotated[str, Meta(description="What was expected, what was found, what to do.")]


class Message(Answer, frozen=True, kw_only=True):
    """The answer to a change."""

    message: str


class Created(Answer, frozen=True, kw_only=True):
    """The answer for a created job."""

    message: str
    id: Positive
    existed: (
        Annotated[
            bool,
            Meta(
                description="true if an earlier request created the job, which may have been "
                "removed since; otherwise absent.",
                extra_json_schema={"const": True},
            ),
        ]
        | UnsetType
    ) = UNSET


class Count(Answer, frozen=True, kw_only=True):
    """The number of jobs of a type in a state."""

    count: Natural


class Stats(Answer, frozen=True, kw_only=True, rename="camel"):
    """The number of jobs in each state, and the working time, in Kue's order."""

    inactive_count: Natural
    complete_count: Natural
    active_count: Natural
    failed_count: Natural
    delayed_count: Natural
    work_time: Annotated[int, Meta(ge=0, description="Milliseconds.")]


class Minute(Answer, frozen=True, kw_only=True):
    """A minute in which something happened."""

    at: Annotated[Moment, Meta(description="Start of the minute.")]
    at_ms: Natural
    created: Annotated[int, Meta(ge=0, description="Number of jobs that were created.")]
    started: Annotated[int, Meta(ge=0, description="Number of attempts that started.")]
    completed: Annotated[int, Meta(ge=0, description="Number of attempts that succeeded.")]
    failed: Annotated[
        int,
        Meta(ge=0, description="Number of attempts that failed, including those tried again."),
    ]
    work_ms: Annotated[
        int, Meta(ge=0, description="Total duration of the successful attempts, in milliseconds.")
    ]


class Event(Answer, frozen=True, kw_only=True):
    """An event, with the fields that a check of the hash chain needs."""

    position: Annotated[int, Meta(ge=1, description="Number of the event in the ledger.")]
    job_id: str
    version: Annotated[int, Meta(ge=1, description="Number of the event in the job's history.")]
    kind: Annotated[str, Meta(extra_json_schema={"enum": [event.kind for event in EVENTS]})]
    schema: Positive
    at: Moment
    at_ms: int
    actor: Annotated[str, Meta(description="Who caused the event, such as worker:NAME.")]
    cause: Annotated[str | None, Meta(description="The request or command that caused the event.")]
    body: Annotated[
        Raw,
        Meta(
            description="The data that the rules need to replay the event.",
            extra_json_schema={"type": "object"},
        ),
    ]
    content: Annotated[
        Raw,
        Meta(description="Data, result, error or log line; null if there is none or it is erased."),
    ]
    salt: Hexadecimal | None
    digest: Hexadecimal | None
    chain: Hexadecimal | None


class HeldAttempt(Answer, frozen=True, kw_only=True):
    """An attempt that a worker holds."""

    id: JobId
    attempt: AttemptNumber


class Heartbeat(Answer, frozen=True, kw_only=True):
    """The answer to a heartbeat."""

    name: str
    lease_ms: Annotated[
        int, Meta(description="Milliseconds after which a silent worker is considered lost.")
    ]
    jobs: Annotated[
        list[HeldAttempt],
        Meta(
            description="Attempts that the worker holds, according to the ledger. The worker "
            "should return jobs that it does not know."
        ),
    ]


class Worker(Answer, frozen=True, kw_only=True):
    """A worker that has sent a heartbeat recently."""

    name: str
    types: Annotated[
        dict[str, int], Meta(description="Number of jobs that it runs at once, by type.")
    ]
    started_at: Milliseconds
    seen_at: Milliseconds
    lease_ms: Annotated[
        int, Meta(description="Milliseconds after which a silent worker is considered lost.")
    ]
    jobs: Annotated[int, Meta(ge=0, description="Number of jobs that it holds.")]


class LateWork(Answer, frozen=True, kw_only=True):
    """Work in the background that should have been done."""

    ms: Annotated[
        int, Meta(ge=0, description="How long ago the oldest of it should have been done.")
    ]
    reason: Annotated[
        str, Meta(description="What it is, and whether there is a process that does such work.")
    ]


class Status(Answer, frozen=True, kw_only=True):
    """The state of the server."""

    status: str
    position: Natural | UnsetType = UNSET
    stopped: (
        Annotated[
            dict[str, str],
            Meta(
                description="Read models of this server that cannot continue, with the reason: an "
                "event cannot be applied, their tables belong to another version, or their class "
                "cannot be imported. Everything else is served, so the status stays 200."
            ),
        ]
        | UnsetType
    ) = UNSET
    late: (
        Annotated[
            dict[str, LateWork],
            Meta(
                description="Read models that have lacked an event for more than 10 s, and "
                "`sweeper` if a delay, a ttl or a lease has been over for so long without effect. "
                "Everything else is served, so the status stays 200."
            ),
        ]
        | UnsetType
    ) = UNSET


def _object(required: list[str], properties: Schema, **more: Any) -> Schema:  # noqa: ANN401 - JSON
    return {"type": "object", "required": required, "properties": properties, **more}


# An option with one of these values is not given, as in Kue.
_NOT_GIVEN: Final[Schema] = {"enum": [None, 0, "", False]}
_DIGITS: Final[Schema] = {"type": "string", "pattern": "^[1-9][0-9]{0,14}$"}
_INTEGER: Final[Schema] = {"type": "integer", "minimum": 1, "maximum": LARGEST_INTEGER}
# Milliseconds, which are rounded; less than half of one would be none.
_WAIT: Final[Schema] = {"type": "number", "minimum": 0.5, "maximum": LARGEST_INTEGER}
_GIVEN: Final[Schema] = {"anyOf": [_WAIT, _DIGITS]}


def _option(number: Schema, description: str) -> Schema:
    """Return the schema of an option that is a number."""
    return {"anyOf": [number, _DIGITS, _NOT_GIVEN], "description": description}


_PART_OF_BACKOFF: Final[Schema] = {"anyOf": [_WAIT, _DIGITS, {"type": "null"}]}
_JOB: Final = _object(
    [
        *("id", "type", "data", "priority", "progress", "state"),
        *("created_at", "promote_at", "updated_at", "attempts"),
    ],
    {
        "id": {"type": "string", "pattern": "^[1-9][0-9]*$"},
        "type": {"type": "string"},
        "data": {"description": "The data as posted; {} if there is none or it is erased."},
        "result": {"description": "The result that the worker reported."},
        "priority": {"type": "integer"},
        "progress": {
            "anyOf": [{"const": 0}, {"type": "string", "pattern": "^[0-9]{1,3}$"}],
            "description": "Per cent: the number 0 until it is set, then text.",
        },
        "progress_data": {"description": "The data that the worker reported with its progress."},
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
_CLAIMED_JOB: Final = _JOB | {
    "required": [*_JOB["required"], "attempt"],
    "properties": _JOB["properties"]
    | {
        "attempt": {
            "type": "integer",
            "minimum": 1,
            "maximum": LARGEST_INTEGER,
            "description": "The number of the attempt, which the worker's reports must contain.",
        }
    },
}
_OPTIONS: Final = _object(
    [],
    {
        "attempts": _option(_INTEGER, "Maximum number of attempts."),
        "priority": {
            "anyOf": [
                {"enum": list(PRIORITIES)},
                {"type": "integer", "minimum": -LARGEST_INTEGER, "maximum": LARGEST_INTEGER},
                {"type": "string", "pattern": DECIMAL},
                _NOT_GIVEN,
            ],
            "description": "Jobs with a lower number run sooner: "
            + ", ".join(f"{name} {number}" for name, number in PRIORITIES.items()),
        },
        "delay": _option(_WAIT, "Milliseconds until the job may run."),
        "ttl": _option(_WAIT, "Milliseconds that an attempt may run without reporting progress."),
        "backoff": {
            "anyOf": [
                {"const": True},
                _NOT_GIVEN,
                _object(
                    ["type"],
                    {
                        "type": {"enum": ["fixed", "exponential"]},
                        "delay": _PART_OF_BACKOFF,
                        "maxDelay": _PART_OF_BACKOFF,
                    },
                    additionalProperties=False,
                ),
            ],
            "description": "Delay after a failed attempt; true repeats `delay`.",
        },
        "searchKeys": {
            "anyOf": [
                {"type": "string", "pattern": TEXT},
                {"type": "array", "items": {"type": "string", "pattern": TEXT}},
                _NOT_GIVEN,
            ],
            "description": "Paths into `data` to index, such as `a.b`; [] indexes nothing.",
        },
        "removeOnComplete": {
            "enum": [True, 1, "1", "true", False, 0, "0", "false", "", None],
        },
        "unique": {
            "type": ["string", "null"],
            "minLength": 1,
            "maxLength": LONGEST_KEY,
            "pattern": TEXT,
            "description": "No second job with this key is created; the answer names the first.",
        },
    },
    additionalProperties=False,
    anyOf=[
        {"required": ["delay"], "properties": {"delay": _GIVEN}},
        {
            "properties": {
                "backoff": {
                    "anyOf": [
                        {"const": True},
                        _NOT_GIVEN,
                        {"required": ["delay"], "properties": {"delay": _GIVEN}},
                    ]
                }
            }
        },
    ],
)
# Schemas of JSON that no Struct describes.
HAND_WRITTEN: Final[Schema] = {"Job": _JOB, "ClaimedJob": _CLAIMED_JOB, "Options": _OPTIONS}

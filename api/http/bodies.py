"""The JSON objects of requests: their fields, with bounds and meanings.

``json_body`` reads them, and ``openapi`` describes them, from the same annotations.
``Meta.extra["expected"]`` replaces the text that an error derives from the type and its bounds.

User content is stored as it was posted, so its fields stay unparsed JSON: ``Raw``.  A field
that is null counts as not given.
"""

from typing import Annotated, Any, ClassVar

from msgspec import Meta, Raw, Struct, field

from ledger.api.http.json_body import NULL, JsonBody, require
from ledger.api.schemas import REFERENCE, TEXT, AttemptNumber, Schema, WorkerName
from ledger.errors import InvalidInput
from ledger.rules.commands import (
    COMPLETE_PERCENT,
    LARGEST_INTEGER,
    LARGEST_REPORT,
    LONGEST_TYPE,
    percent,
)

# For texts that are stored as written, the characters as written count, with quotes and escapes.
_AT_MOST = f"At most {LARGEST_REPORT:,} characters of JSON."
_EACH_AT_MOST = f"Each has at most {LARGEST_REPORT:,} characters of JSON."

# A JSON string that is kept as it was written, including its escapes.
Line = Annotated[
    Raw,
    Meta(
        extra_json_schema={"type": "string", "pattern": TEXT},
        extra={"expected": "a string", "is_string": True},
    ),
]
# Each line is an event, and all of them are one commit.
Lines = Annotated[
    list[Line],
    Meta(min_length=1, max_length=1_000, extra={"items": "strings"}),
]
JobType = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=LONGEST_TYPE,
        extra_json_schema={"pattern": TEXT},
        extra={"expected": f"types of 1 to {LONGEST_TYPE} characters"},
    ),
]
Percent = Annotated[
    int,
    Meta(ge=0, le=COMPLETE_PERCENT, extra={"expected": f"an integer from 0 to {COMPLETE_PERCENT}"}),
]
Amount = Annotated[float, Meta(ge=0, le=LARGEST_INTEGER)]


def _absent() -> Raw:
    return Raw(NULL)


def json_of(given: Raw) -> str | None:
    """Return the JSON of a field, byte for byte, None if it was not given."""
    return None if (json := bytes(given)) == NULL else json.decode()


class PostedJob(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A job as it is posted.

    An unknown field is refused, unlike in Kue: a job whose ``options`` are misspelt as
    ``option`` would be created without them.
    """

    # The type is required, but the error for its absence has Kue's text.
    also: ClassVar[Schema] = {"required": ["type"]}

    type: Annotated[
        Any,
        Meta(
            extra_json_schema={
                "type": "string",
                "minLength": 1,
                "maxLength": LONGEST_TYPE,
                "pattern": TEXT,
            }
        ),
    ] = None
    data: Annotated[
        Raw,
        Meta(description="Any JSON except U+0000 and numbers out of range; stored byte for byte."),
    ] = field(default_factory=lambda: Raw(b"{}"))
    options: Annotated[
        Any,
        Meta(
            extra_json_schema={
                "anyOf": [
                    {"$ref": REFERENCE.format(name="Options")},
                    {"type": "null"},
                    {"type": "array", "maxItems": 0},
                ]
            }
        ),
    ] = None


class LenientlyPostedJob(PostedJob, frozen=True, kw_only=True, forbid_unknown_fields=False):
    """A job as it is posted if ``LEDGER_KUE_LENIENT`` is on: unknown fields are ignored."""


class ClaimRequest(JsonBody, frozen=True, kw_only=True):
    """A worker's request for jobs."""

    types: Annotated[
        list[JobType],
        Meta(
            min_length=1,
            max_length=100,
            description="The types of jobs that the worker can run.",
            extra={"items": "types"},
        ),
    ]
    worker: WorkerName
    limit: (
        Annotated[
            int, Meta(ge=1, le=1_000, description="Maximum number of jobs; the default is 1.")
        ]
        | None
    ) = None
    wait: (
        Annotated[
            float,
            Meta(
                ge=0,
                le=60,
                description="Seconds to wait for a job; the default is 0. An empty answer may "
                "come earlier, because only half of the server's threads may wait.",
            ),
        ]
        | None
    ) = None


class AttemptReport(JsonBody, frozen=True, kw_only=True):
    """The fields that all reports on an attempt have."""

    attempt: AttemptNumber
    worker: WorkerName | None = None


class ProgressReport(AttemptReport, frozen=True, kw_only=True):
    """The progress of an attempt: per cent, or a part of a total."""

    also: ClassVar[Schema] = {
        "oneOf": [
            {
                "required": ["progress"],
                "properties": {
                    "progress": {"type": "integer"},
                    "done": {"type": "null"},
                    "total": {"type": "null"},
                },
            },
            {
                "required": ["done", "total"],
                "properties": {
                    "progress": {"type": "null"},
                    "done": {"type": "number"},
                    "total": {"type": "number"},
                },
            },
        ]
    }

    progress: Percent | None = None
    done: Amount | None = None
    total: Annotated[Amount, Meta(extra_json_schema={"exclusiveMinimum": 0})] | None = None
    data: Annotated[
        Raw,
        Meta(description=f"Any JSON, shown as `progress_data`; stored byte for byte. {_AT_MOST}"),
    ] = field(default_factory=_absent)

    def check(self) -> None:
        if self.done is None and self.total is None:
            require(self, "progress")
        elif self.progress is not None:
            raise InvalidInput(
                "progress", "progress: expected progress, or done and total, got both"
            )
        else:
            require(self, "done")
            require(self, "total")

    @property
    def percent(self) -> int:
        """The progress in whole per cent.

        Raises:
            InvalidInput: The total is 0, and `done` is not.
        """
        if self.done is not None and self.total is not None:
            return percent(self.done, self.total)
        return self.progress or 0


class LogReport(AttemptReport, frozen=True, kw_only=True):
    """A line, or several lines, for the log of a job."""

    also: ClassVar[Schema] = {
        "oneOf": [
            {"required": ["line"], "properties": {"lines": {"type": "null"}}},
            {"required": ["lines"], "properties": {"lines": {"type": "array"}, "line": False}},
        ]
    }

    line: Annotated[Line, Meta(description=_AT_MOST)] = field(default_factory=_absent)
    lines: Annotated[Lines, Meta(description=_EACH_AT_MOST)] | None = None

    def check(self) -> None:
        if self.lines is None:
            require(self, "line")
        elif json_of(self.line) is not None:
            raise InvalidInput("lines", "lines: expected line or lines, got both")


class CompleteReport(AttemptReport, frozen=True, kw_only=True):
    """The success of an attempt."""

    result: Annotated[
        Raw,
        Meta(description=f"Any JSON, stored byte for byte; null stores no result. {_AT_MOST}"),
    ] = field(default_factory=_absent)


class FailReport(AttemptReport, frozen=True, kw_only=True):
    """The failure of an attempt."""

    error: Annotated[
        Line, Meta(description=f"Its first line is added to the log of the job. {_AT_MOST}")
    ]
    retry_after: (
        Annotated[
            int,
            Meta(
                ge=0,
                le=LARGEST_INTEGER,
                description="Milliseconds until the next attempt; replaces the backoff.",
            ),
        ]
        | None
    ) = None
    final: (
        Annotated[bool, Meta(description="true fails the job, regardless of the attempts left.")]
        | None
    ) = None


class ReturnReport(AttemptReport, frozen=True, kw_only=True):
    """The return of an unfinished job to the queue."""

    # Unlike content, the reason is permanent: it cannot be erased.
    reason: Annotated[
        str, Meta(min_length=1, max_length=1_000, extra_json_schema={"pattern": TEXT})
    ]

"""The operations of the HTTP API: one entry per method of a path.

``openapi``, the table in docs/http.md and the tests are made from ``OPERATIONS``.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Final

from ledger.api.schemas import Schema
from ledger.projections.search.search import DEFAULT_LIMIT, LONGEST_QUERY

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
    "description": "At most so many; never more than the server's largest page, which is what "
    "is answered without it.",
}
_SEARCH_LIMIT: Final = _LIMIT | {
    "schema": {"type": "integer", "minimum": 0, "maximum": 10**15 - 1, "default": DEFAULT_LIMIT},
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


# Methods that change nothing, except a GET with `changing_get`.
READING_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS"})
# The statuses with which an operation may refuse a body.
_OF_BODIES: Final = (413, 415)


class Tag(Enum):
    """The condition under which a read has the ledger's position as its ETag and can answer 304."""

    NEVER = auto()
    FOR_FIXED_TIMES = auto()
    ALWAYS = auto()


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One method of one path.

    Attributes:
        answers: Name of the schema of its answer 200; None if that has no body.
        refuses: Statuses that it can answer, besides those of every operation.
        query: Parameters that are not in the path.
        takes_jobs: Whether its body is a job, or an array of jobs.
        takes: Name of the schema of its body; None if it needs none.
        tag: When its answer has an ETag.
        asks_database: Whether it needs the database.
        changing_get: Whether it changes something although it is a GET.
    """

    method: str
    path: str
    summary: str
    answers: str | None
    refuses: Sequence[int] = ()
    query: Sequence[Schema] = field(default_factory=tuple)
    takes_jobs: bool = False
    takes: str | None = None
    tag: Tag = Tag.NEVER
    asks_database: bool = True
    changing_get: bool = False

    @property
    def changes(self) -> bool:
        """Return whether it changes something, which only some pages may do: see ``origins``."""
        return self.changing_get or self.method not in READING_METHODS

    @property
    def has_input(self) -> bool:
        """Return whether a request has input that can be invalid."""
        given = "{" in self.path or self.query or self.takes_jobs or self.takes
        return bool(given)


OPERATIONS: Final = (
    Operation(
        method="GET",
        path="/stats",
        summary="Count the jobs in each state, and sum the working time",
        answers="Stats",
        tag=Tag.ALWAYS,
    ),
    Operation(
        method="GET",
        path="/activity",
        summary="Count jobs created, started, completed and failed in each minute; a second behind",
        answers="Minutes",
        query=_ACTIVITY,
        tag=Tag.FOR_FIXED_TIMES,
    ),
    Operation(
        method="GET",
        path="/job/types",
        summary="List the types that have jobs",
        answers="Texts",
        tag=Tag.ALWAYS,
    ),
    Operation(
        method="GET",
        path="/job/search",
        summary="Find jobs whose data contains all words of q, newest first",
        answers="Texts",
        query=(_QUERY, _SEARCH_LIMIT, _OFFSET),
        tag=Tag.ALWAYS,
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
        tag=Tag.ALWAYS,
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
        summary="Show the log of a job, with the first line of each failure",
        answers="Texts",
        refuses=(404,),
        tag=Tag.ALWAYS,
    ),
    Operation(
        method="GET",
        path="/job/{id}/events",
        summary="Show all events of a job, also after its removal",
        answers="Events",
        refuses=(404,),
        query=(_AFTER, _LIMIT),
        tag=Tag.ALWAYS,
    ),
    Operation(
        method="PUT",
        path="/job/{id}/state/{state}",
        summary="Move a job to a state",
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
        summary="Queue a job again; a GET for Kue's own pages",
        answers="Message",
        refuses=(404,),
        changing_get=True,
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
            tag=Tag.ALWAYS,
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
        tag=Tag.ALWAYS,
    ),
    Operation(
        method="POST",
        path="/jobs/claim",
        summary="Give jobs to a worker; wait for jobs if requested",
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
            ("progress", "Report the progress of an attempt; restarts its ttl", "Progress"),
            ("log", "Add lines to the log of a job", "Log"),
            ("complete", "Report that an attempt succeeded", "Complete"),
            ("fail", "Report that an attempt failed; retries the job if attempts are left", "Fail"),
            ("return", "Return an unfinished job to the queue; uses up no attempt", "Return"),
        )
    ),
    Operation(
        method="POST",
        path="/workers/{name}/heartbeat",
        summary="Send a heartbeat, and receive the attempts that the worker holds",
        answers="Heartbeat",
    ),
    Operation(
        method="DELETE",
        path="/workers/{name}",
        summary="Report that a worker ends; its jobs return to the queue",
        answers="Message",
    ),
    Operation(
        method="GET",
        path="/workers",
        summary="List the workers, with the number of their jobs",
        answers="Workers",
    ),
    Operation(
        method="GET",
        path="/health/live",
        summary="Report that the process answers",
        answers="Status",
        asks_database=False,
    ),
    Operation(
        method="GET",
        path="/health/ready",
        summary="Report whether the database answers and has the tables of this version",
        answers="Status",
    ),
    Operation(
        method="GET",
        path="/openapi.json",
        summary="Return this description",
        answers=None,
        asks_database=False,
    ),
)

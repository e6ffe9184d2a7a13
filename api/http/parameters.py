"""The parameters of routes: how each is parsed, and how the OpenAPI description shows it.

``read`` receives the text that was sent, or a list if a query parameter was sent twice.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any, Final

import msgspec

from ledger.api.schemas import DECIMAL, TEXT, Schema, WorkerName
from ledger.errors import InvalidInput, JobNotFound
from ledger.projections.search.search import DEFAULT_LIMIT, LONGEST_QUERY
from ledger.queue import kue_options
from ledger.rules.commands import LARGEST_INTEGER, LONGEST_KEY, worker_name
from ledger.rules.job import LIVE_STATES, State


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Parameter:
    """A parameter of a route.

    Attributes:
        name: Its name in requests.
        argument: The name of the responder's argument.
        read: Parses what was sent; raises ``InvalidInput`` or ``JobNotFound`` if it is invalid.
        schema: Its JSON Schema.
        description: Its meaning.
        default: Its value if it is not given.
        tells_routes_apart: Text that only this parameter contains, where paths of the same form
            differ in the order of their parameters; empty if there is no such text.
    """

    name: str
    argument: str
    read: Callable[[Any], Any]
    schema: Schema
    description: str = ""
    default: Any = None
    tells_routes_apart: str = ""

    def value(self, sent: str | list[str] | None) -> Any:  # noqa: ANN401 - of its own type
        """Parse what was sent; return the default if nothing was sent."""
        return self.default if sent is None else self.read(sent)


def matching(
    name: str,
    pattern: str,
    expected: str,
    description: str,
    *,
    convert: Callable[[str], Any] = str,
    schema: Schema | None = None,
    default: Any = None,  # noqa: ANN401 - of any type
    argument: str = "",
    tells_routes_apart: str = "",
) -> Parameter:
    """Return a parameter whose text matches a pattern; *schema* replaces the pattern's schema."""
    matches = re.compile(pattern, re.ASCII).fullmatch

    def read(value: Any) -> Any:  # noqa: ANN401 - text, or a list of it
        if not isinstance(value, str) or not matches(value):
            raise InvalidInput.expected(name, expected, value)
        return convert(value)

    return Parameter(
        name=name,
        argument=argument or name,
        read=read,
        schema=schema or {"type": "string", "pattern": f"^{pattern}$"},
        description=description,
        default=default,
        tells_routes_apart=tells_routes_apart,
    )


def natural(name: str, description: str, *, default: int | None = None) -> Parameter:
    """Return a parameter that is an integer, 0 or more."""
    most = 10**15 - 1
    schema: Schema = {"type": "integer", "minimum": 0, "maximum": most}
    return matching(
        name,
        f"[0-9]{{1,{len(str(most))}}}",
        f"an integer from 0 to {most}",
        description,
        convert=int,
        schema=schema if not default else schema | {"default": default},
        default=default,
    )


def choice(
    name: str,
    values: Mapping[str, Any],
    expected: str,
    description: str = "",
    *,
    default: Any = None,  # noqa: ANN401 - of any type
    argument: str = "",
) -> Parameter:
    """Return a parameter that is one of several words; *values* maps each to its value."""

    def read(value: Any) -> Any:  # noqa: ANN401 - text, or a list of it
        if not isinstance(value, str) or value not in values:
            raise InvalidInput.expected(name, expected, value)
        return values[value]

    return Parameter(
        name=name,
        argument=argument or name,
        read=read,
        schema={"enum": list(values)},
        description=description,
        default=default,
    )


# --- in paths


def _job_id(text: str) -> int:
    if not _JOB_ID.fullmatch(text) or int(text) > LARGEST_INTEGER:
        raise JobNotFound(text)
    return int(text)


def _ranks(text: str) -> tuple[int, int]:
    first, last = (
        max(-LARGEST_INTEGER, min(int(rank), LARGEST_INTEGER)) for rank in _DOTS.split(text)
    )
    return first, last


# Published clients of Kue send three, as its parseInt allows.
_DOTS: Final = re.compile(r"\.{2,}")
_JOB_ID: Final = re.compile(r"[1-9][0-9]{0,18}", re.ASCII)
JOB_ID: Final = Parameter(
    name="id",
    argument="job_id",
    read=_job_id,
    schema={"type": "string", "examples": ["3"]},
    description="A job's id.",
)
IN_PATHS: Final[Mapping[str, Parameter]] = {
    parameter.name: parameter
    for parameter in (
        JOB_ID,
        Parameter(
            name="type",
            argument="type_",
            read=str,
            schema={
                "type": "string",
                "minLength": 1,
                "pattern": "^[^\\u0000]+$",
            },
            description="A job's type, percent-encoded.",
        ),
        choice(
            "state",
            {state: State(state) for state in LIVE_STATES},
            f"one of {', '.join(LIVE_STATES)}",
        ),
        matching(
            "range",
            r"-?[0-9]{1,20}\.{2,}-?[0-9]{1,20}",
            "FROM..TO, two integers",
            "Inclusive ranks, from 0; negative ranks count from the end, and ranks beyond the list "
            "are left out.",
            convert=_ranks,
            schema={
                "type": "string",
                "pattern": r"^-?[0-9]{1,15}\.\.-?[0-9]{1,15}$",
                "examples": ["0..9", "-5..-1"],
            },
            argument="ranks",
            tells_routes_apart="..",
        ),
        choice(
            "order",
            {"asc": False, "desc": True},
            "asc or desc",
            "desc reverses the whole list.",
            argument="descending",
        ),
        Parameter(
            name="priority",
            argument="priority",
            read=partial(kue_options.priority, "priority"),
            schema={
                "anyOf": [
                    {"enum": list(kue_options.PRIORITIES)},
                    {"type": "string", "pattern": DECIMAL},
                ]
            },
            description="A number or a name; jobs with a lower number run sooner.",
        ),
        Parameter(
            name="name",
            argument="name",
            read=worker_name,
            schema=msgspec.json.schema(WorkerName),
        ),
    )
}

# --- in queries


def _one_text(name: str, value: str | list[str]) -> str:
    if isinstance(value, list):
        raise InvalidInput.expected(name, "one value", value)
    if "\0" in value:
        raise InvalidInput.expected(name, "text without NUL", value)
    return value


def _words(value: str | list[str]) -> str:
    if isinstance(value, list):
        raise InvalidInput("q", "q: expected one text, got several; separate words by spaces")
    return value


_MILLISECONDS: Final = re.compile("[0-9]{1,15}", re.ASCII)
# RFC 3339, whose times have a zone; Python alone would accept much more.
_MOMENT: Final = re.compile(
    r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d{1,9})?([Zz]|[+-]\d\d:\d\d)", re.ASCII
)
_EXPECTED_MOMENT: Final = (
    "UTC milliseconds, or an RFC 3339 time, 1970 or later, such as 2026-11-22T14:00:00Z; "
    "write + as %2B"
)


def _moment(name: str, value: str | list[str]) -> int:
    text = _one_text(name, value)
    if _MILLISECONDS.fullmatch(text) and int(text) <= LARGEST_INTEGER:
        return int(text)
    try:
        at = datetime.fromisoformat(text.upper()) if _MOMENT.fullmatch(text) else None
        at_ms = int(at.timestamp() * 1000) if at else -1
    except (ValueError, OverflowError):
        at_ms = -1
    if at_ms < 0:
        raise InvalidInput.expected(name, _EXPECTED_MOMENT, text)
    return at_ms


def _moment_parameter(name: str, description: str) -> Parameter:
    return Parameter(
        name=name,
        argument=f"{name}_ms",
        read=partial(_moment, name),
        schema={
            "anyOf": [
                {"type": "string", "format": "date-time"},
                {"type": "string", "pattern": "^[0-9]{1,15}$"},
            ]
        },
        description=description,
    )


def _name_before(description: str) -> Parameter:
    return Parameter(
        name="after",
        argument="after",
        read=partial(_one_text, "after"),
        schema={"type": "string", "pattern": TEXT},
        description=f"{description} The `Link` header of a long answer contains it.",
        default="",
    )


SORT: Final = choice(
    "sort",
    {"priority": True},
    "priority",
    "Sort by priority, then age: the order in which jobs run. The default is age.",
    default=False,
    argument="by_priority",
)
ATOMIC: Final = choice(
    "atomic",
    {"true": True, "false": False},
    "true or false",
    "Create all jobs of an array or none.",
    default=False,
)
WORDS: Final = Parameter(
    name="q",
    argument="query",
    read=_words,
    schema={"type": "string", "maxLength": LONGEST_QUERY},
    description="Plain words; no character is an operator.",
    default="",
)
SEARCH_LIMIT: Final = natural(
    "limit",
    "Maximum number of ids; `LEDGER_LARGEST_PAGE` limits it further.",
    default=DEFAULT_LIMIT,
)
OFFSET: Final = natural("offset", "Number of the newest ids to skip.", default=0)
AFTER: Final = natural("after", "Return only events with a greater version.", default=0)
AFTER_TYPE: Final = _name_before("Return only types that follow this one.")
AFTER_WORKER: Final = _name_before("Return only workers whose names follow this one.")
BEFORE: Final = natural(
    "before",
    "Return only lines of events with a smaller version. The `Link` header of a log that is too "
    "long for one answer contains it.",
)
LIMIT: Final = natural(
    "limit", "Maximum number of events; the default and the limit is `LEDGER_LARGEST_PAGE`."
)
FROM: Final = _moment_parameter(
    "from", "Start, an RFC 3339 time or UTC milliseconds; the default is an hour before `to`."
)
TO: Final = _moment_parameter(
    "to",
    "End, exclusive; the default is now. At most `LEDGER_LARGEST_PAGE` minutes after `from`.",
)
OF_TYPE: Final = Parameter(
    name="type",
    argument="type_",
    read=partial(_one_text, "type"),
    schema={"type": "string", "pattern": TEXT},
    description="Count only jobs of this type; the default is all types together.",
)

# --- in headers

IDEMPOTENCY_KEY: Final = matching(
    "Idempotency-Key",
    rf"[!-~]([ -~]{{0,{LONGEST_KEY - 2}}}[!-~])?",
    f"1 to {LONGEST_KEY} printable ASCII characters",
    "The same request with the same key creates nothing; the answer names the job of the first. "
    "Another request with that key is refused with 422.",
    argument="key",
)

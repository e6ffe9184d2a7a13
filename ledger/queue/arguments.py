"""Conversion of the arguments of Python calls to Kue's options, or their refusal."""

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from itertools import islice
from typing import Any, Final, overload

from ledger.errors import InvalidInput
from ledger.queue import kue_options
from ledger.rules import json_text
from ledger.rules.commands import LARGEST_INTEGER, Create

# Any value that JSON can represent.
Json = Any
Milliseconds = int | timedelta

# Longer lists must be read in several pages.
LARGEST_PAGE: Final = 10_000
# They are created in one transaction, and all other writers wait for about a second.
MOST_CREATED: Final = 5_000
_KUES_NAMES: Final = {"search_keys": "searchKeys", "remove_on_complete": "removeOnComplete"}
_OPTIONS: Final = (
    "priority",
    "attempts",
    "delay",
    "ttl",
    "backoff",
    "search_keys",
    "remove_on_complete",
    "unique",
)


def create_command(type_: object, data: Json, given: Mapping[str, Any]) -> Create:
    """Return the command that creates a job.

    Args:
        type_: The job's type.
        data: Any value that JSON can represent; None is {}.
        given: The arguments of ``Queue.create``; None counts as not given.

    Raises:
        InvalidInput: A value is invalid.
    """
    text = "{}" if data is None else json_text.of("data", data)
    kues: dict[str, Any] = {}
    run_at_ms = None
    for name, value in given.items():
        if name == "delay" and isinstance(value, datetime):
            # The ledger's clock says how far away that is, not this machine's.
            run_at_ms = _time_ms(value)
        elif value is not None:
            kues[_KUES_NAMES.get(name, name)] = _kues(name, value)
    return kue_options.create_command(type_, text, kues, run_at_ms=run_at_ms)


def create_commands(jobs: Iterable[Mapping[str, Any]]) -> list[Create]:
    """Return the commands that create *jobs*, each given by the arguments of ``Queue.create``.

    Raises:
        InvalidInput: One of the jobs is invalid; the message says which.  Or there are more than
            ``MOST_CREATED``.
    """
    # An iterator may be endless.
    found = [_create_of(place, job) for place, job in enumerate(islice(jobs, MOST_CREATED + 1))]
    if len(found) > MOST_CREATED:
        raise InvalidInput(
            "jobs",
            f"jobs: expected at most {MOST_CREATED:,} in one call, got more; all of them are "
            "created in one transaction, so call create_many several times, with a part of the "
            "jobs each",
        )
    return found


def _create_of(place: int, job: Mapping[str, Any]) -> Create:
    if not isinstance(job, Mapping):
        expected = f"jobs[{place}]: expected a mapping of arguments for create, got {job!r}"
        raise InvalidInput("jobs", expected)
    known = {"type", "data", *_OPTIONS}
    if not job.keys() <= known:
        unknown = ", ".join(sorted(map(repr, job.keys() - known)))
        raise InvalidInput(
            "jobs",
            f"jobs[{place}]: unknown arguments {unknown}; known arguments are {sorted(known)}",
        )
    given = {name: job[name] for name in _OPTIONS if name in job}
    try:
        return create_command(job.get("type"), job.get("data"), given)
    except InvalidInput as error:
        raise InvalidInput(error.field, f"jobs[{place}]: {error}") from error


def _kues(name: str, value: Any) -> Any:  # noqa: ANN401 - any option's
    if isinstance(value, timedelta):
        return milliseconds(name, value)
    if isinstance(value, tuple):
        return list(value)
    if isinstance(value, Mapping):
        return {key: _kues(f"{name}.{key}", item) for key, item in value.items()}
    return value


def _time_ms(at: datetime) -> int:
    """Return *at* in UTC milliseconds; 0 if it is before 1970, which is past as well."""
    if at.tzinfo is None:
        raise InvalidInput.expected("delay", "an aware datetime, such as datetime.now(UTC)", at)
    return max(0, round(at.timestamp() * 1000))


@overload
def milliseconds(name: str, value: Milliseconds) -> int: ...
@overload
def milliseconds(name: str, value: None) -> None: ...
def milliseconds(name: str, value: Milliseconds | None) -> int | None:
    """Return *value* in milliseconds, rounded up.

    Raises:
        InvalidInput: *value* is neither an integer nor a timedelta.
    """
    if isinstance(value, timedelta):
        return -(-value // timedelta(milliseconds=1))
    if value is None or (isinstance(value, int) and not isinstance(value, bool)):
        return value
    raise InvalidInput.expected(name, "milliseconds, or a timedelta", value)


def check_page(limit: int, offset: int) -> None:
    """Refuse an empty page, or one longer than ``LARGEST_PAGE``.

    Raises:
        InvalidInput: *limit* or *offset* is out of range.
    """
    if not isinstance(limit, int) or not 1 <= limit <= LARGEST_PAGE:
        raise InvalidInput.expected("limit", f"an integer from 1 to {LARGEST_PAGE}", limit)
    if not isinstance(offset, int) or not 0 <= offset <= LARGEST_INTEGER:
        raise InvalidInput.expected("offset", "an integer, 0 or greater", offset)

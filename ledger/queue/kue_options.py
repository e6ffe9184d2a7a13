"""The options of a job, by Kue's names.

Values that Kue silently misreads (attempts -1, priority "HIGH", delay true) and unknown
options are refused, with the option's name and what was expected.  A string for ``backoff``
must be refused: Kue evaluates it as code.

An option that is null counts as not given.  Over HTTP more does, because published clients of
Kue send it: see ``as_given``.
"""

import re
from collections.abc import Callable, Mapping
from math import floor
from typing import Any, Final

from ledger.errors import InvalidInput
from ledger.rules.commands import LARGEST_INTEGER, LONGEST_TYPE, Create, integer
from ledger.rules.events import Backoff

# Source: Kue 0.11.6, README, "Job Priority".
PRIORITIES: Final[Mapping[str, int]] = {
    "low": 10,
    "normal": 0,
    "medium": -5,
    "high": -10,
    "critical": -15,
}

# More digits are out of range, and Python refuses to parse thousands of them.
_DECIMAL: Final = re.compile(r"-?[0-9]{1,16}", re.ASCII)
_DIGITS: Final = re.compile(r"-?[0-9]+", re.ASCII)


def create_command(
    type_: object, data: str, options: object, *, run_at_ms: int | None = None
) -> Create:
    """Return the command that creates a job with Kue's *options*.

    Args:
        type_: The job's type.
        data: The job's data, JSON text that has been checked.
        options: The client's options, a JSON object or null.
        run_at_ms: When the job may run, UTC milliseconds, in place of the option ``delay``.

    Raises:
        InvalidInput: An option is unknown or its value is invalid.
    """
    if not type_:
        raise InvalidInput("type", "Must provide job type")
    if not isinstance(type_, str) or len(type_) > LONGEST_TYPE:
        expected = f"1 to {LONGEST_TYPE} characters"
        raise InvalidInput.expected("Must provide job type", expected, type_)
    if options is None:
        options = {}
    if not isinstance(options, dict):
        raise InvalidInput.expected("options", "an object", options)
    fields: dict[str, Any] = {}
    for name, value in options.items():
        reader = _READERS.get(name)
        if reader is None:
            raise InvalidInput.unknown("option", name, tuple(_READERS))
        if value is not None:
            field, read = reader
            fields[field] = read(name, value)
    return Create(type=type_, data=data, run_at_ms=run_at_ms, **_with_delay(fields))


def as_given(options: object, *, lenient: bool = False) -> object:
    """Return the options that a client of Kue means, for ``create_command``.

    ``[]`` is no options: it is the empty array of PHP, whose JSON cannot say ``{}``.  An option
    that is 0, "", or false is not given, as in Kue, which asks ``if (options.delay)``.  Times
    may have fractions of a millisecond, as a random wait has, and a form sends
    ``removeOnComplete`` as a number or as text.

    ``unique`` is not Kue's: if an empty key were ignored, the job would be created twice.

    Args:
        options: What was sent, any JSON.
        lenient: Whether to ignore unknown options.
    """
    if not isinstance(options, dict):
        return None if options == [] else options
    given = {}
    for name, value in options.items():
        if name not in _READERS:
            if not lenient:
                given[name] = value
            continue
        meant = value
        if (meaning := _MEANT.get(name)) is not None:
            meant = meaning(value)
        if meant or name == "unique" or isinstance(meant, list | dict):
            given[name] = meant
    return given


def _whole(value: object) -> object:
    """Return a wait in whole milliseconds, as ``Math.round`` of JavaScript."""
    return floor(value + 0.5) if isinstance(value, float) and value > 0 else value


def _switch(value: object) -> object:
    # Not by equality alone: True equals 1, and a list cannot be looked up.
    return _SWITCHES.get(value, value) if isinstance(value, int | str) else value


def _with_whole_waits(value: object) -> object:
    if not isinstance(value, dict):
        return value
    return {
        name: _whole(wait) if name in {"delay", "maxDelay"} else wait
        for name, wait in value.items()
    }


_SWITCHES: Final[Mapping[object, bool]] = {
    1: True,
    0: False,
    "1": True,
    "0": False,
    "true": True,
    "false": False,
}
_MEANT: Final[Mapping[str, Callable[[object], object]]] = {
    "delay": _whole,
    "ttl": _whole,
    "backoff": _with_whole_waits,
    "removeOnComplete": _switch,
}


def priority(name: str, value: object) -> int:
    """Return a priority as a number; *value* is a number, its digits as text, or a name.

    Raises:
        InvalidInput: *value* is not a priority.
    """
    if isinstance(value, str) and value in PRIORITIES:
        return PRIORITIES[value]
    number = _number(value)
    if number is None or abs(number) > LARGEST_INTEGER:
        expected = f"an integer or one of {', '.join(PRIORITIES)}"
        if _DIGITS.fullmatch(str(value)):
            bounds = f"from -{LARGEST_INTEGER} to {LARGEST_INTEGER}"
            expected = f"an integer {bounds}, or one of {', '.join(PRIORITIES)}"
        raise InvalidInput.expected(name, expected, value)
    return number


def _number(value: object) -> int | None:
    """Return *value*, an integer or the text of one, as an integer, or None if it is not."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return value
    # In JSON, 5, 5.0 and 5e0 are the same number.
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, str) and _DECIMAL.fullmatch(value):
        return int(value)
    return None


def _positive(name: str, value: object) -> int:
    number = _number(value)
    return integer(name, value if number is None else number, least=1)


def _boolean(name: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise InvalidInput.expected(name, "true or false", value)
    return value


def _text(name: str, value: object) -> str:
    if not isinstance(value, str):
        raise InvalidInput.expected(name, "text", value)
    return value


def _paths(name: str, value: object) -> tuple[str, ...]:
    paths = [value] if isinstance(value, str) else value
    if not isinstance(paths, list) or not all(isinstance(path, str) for path in paths):
        raise InvalidInput.expected(name, "a path such as a.b, or a list of them", value)
    return tuple(paths)


def _backoff(name: str, value: object) -> Backoff | None:
    if isinstance(value, bool):
        return Backoff(type="repeat") if value else None
    known = {"type", "delay", "maxDelay"}
    if not isinstance(value, dict) or not value.keys() <= known:
        raise InvalidInput.expected(name, _EXPECTED_BACKOFF, value)
    kind = value.get("type")
    if kind not in ("fixed", "exponential"):
        raise InvalidInput.expected(f"{name}.type", "fixed or exponential", kind)
    delay, longest = value.get("delay"), value.get("maxDelay")
    return Backoff(
        type=kind,
        delay_ms=0 if delay is None else _positive(f"{name}.delay", delay),
        max_delay_ms=None if longest is None else _positive(f"{name}.maxDelay", longest),
    )


_EXPECTED_BACKOFF: Final = (
    'true, or {"type": "fixed" or "exponential", "delay": ms, "maxDelay": ms}'
)


def _with_delay(fields: dict[str, Any]) -> dict[str, Any]:
    """Set the delay of a backoff that has none to the job's delay, as Kue does."""
    backoff = fields.get("backoff")
    if backoff is not None and backoff.type != "repeat" and not backoff.delay_ms:
        delay_ms = fields.get("delay_ms")
        if delay_ms is None:
            raise InvalidInput(
                "backoff.delay",
                "backoff.delay: expected milliseconds, because the job has no delay to use instead",
            )
        fields["backoff"] = Backoff(
            type=backoff.type, delay_ms=delay_ms, max_delay_ms=backoff.max_delay_ms
        )
    return fields


_READERS: Final[Mapping[str, tuple[str, Callable[[str, object], Any]]]] = {
    "attempts": ("attempts", _positive),
    "priority": ("priority", priority),
    "delay": ("delay_ms", _positive),
    "ttl": ("ttl_ms", _positive),
    "backoff": ("backoff", _backoff),
    "searchKeys": ("search_keys", _paths),
    "removeOnComplete": ("remove_on_complete", _boolean),
    "unique": ("unique", _text),
}

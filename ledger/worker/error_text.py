"""The text of an exception that a handler raised, whatever that exception is.

An exception is an object of the application: its methods and attributes may raise, return
anything, or never come to an end.  So it is described in up to three ways, each of which trusts
it less:

1. As Python does, with the exceptions that caused it.  This reads attributes that a class can
   define again, so it is only done for classes that do not, and for a limited number of
   exceptions.
2. By its own message and traceback, read from where Python keeps them.
3. By the name of its class.
"""

import re
import traceback
from collections.abc import Callable
from types import TracebackType
from typing import Final

from ledger.rules import json_text
from ledger.rules.commands import LONGEST_ERROR, LONGEST_ERROR_LINE

# An exception with more causes or notes is described without its causes; of more frames, only the
# innermost are shown.  All this is far more than fits in the text.
_MOST_EXCEPTIONS: Final = 1_000
_MOST_NOTES: Final = 1_000
_MOST_FRAMES: Final = 2_000
# Python marks a range of columns with as many characters.
_LARGEST_COLUMN: Final = 1_000_000
# What a traceback is made of, and the classes whose definitions are Python's own.
_ATTRIBUTES: Final = frozenset(
    {
        "__cause__",
        "__context__",
        "__getattribute__",
        "__suppress_context__",
        "__traceback__",
    }
)
_ATTRIBUTES_OF_GROUP: Final = _ATTRIBUTES | {"exceptions"}
_PYTHONS_OWN: Final = (object, BaseException, BaseExceptionGroup)
# Python's own descriptors: a class can override its instances' attributes, and a metaclass those
# of its classes.
_TRACEBACK: Final = BaseException.__dict__["__traceback__"]
_NAME: Final = type.__dict__["__qualname__"]
_MODULE: Final = type.__dict__["__module__"]
_MRO: Final = type.__dict__["__mro__"]
_NAMESPACE: Final = type.__dict__["__dict__"]
_MODULES_NOT_SHOWN: Final = {"__main__", "builtins"}
_LOCATION: Final = ("lineno", "offset", "end_lineno", "end_offset")
# Any separator that str.splitlines knows ends it.
_LINE: Final = re.compile("[^\\n\\r\\v\\f\\x1c-\\x1e\\x85\\u2028\\u2029]*")
_NO_DESCRIPTION: Final = "an error that cannot be described"


def described(error: BaseException) -> str:
    """Return an error as the ledger stores it: a JSON string of its message and traceback.

    It has at most ``LONGEST_ERROR`` characters, and its first line ``LONGEST_ERROR_LINE``; what is
    too long is cut in the middle.  Nothing that the error does makes this raise.
    """
    ways: tuple[Callable[[BaseException], tuple[str, str]], ...] = (_as_python, _alone, _by_name)
    for way in ways:
        try:
            return _joined(*way(error))
        except BaseException:  # noqa: BLE001, S112 - the error's own methods may raise anything
            continue
    return json_text.string(_NO_DESCRIPTION)


def cut(text: str, most: int) -> str:
    """Return *text*, or if it is too long, its beginning and end and how much was left out."""
    if len(text) <= most:
        return text
    # The number of digits decides how much is left out, so assume the most there can be.
    room = most - len(_left_out(len(text)))
    head = room - room // 2
    return text[:head] + _left_out(len(text) - room) + text[len(text) - room // 2 :]


def _left_out(number: int) -> str:
    return f" [… {number} characters left out …] "


def _joined(message: str, traced: str) -> str:
    first_line = _LINE.match(json_text.escaped(message).strip())
    first = cut(first_line.group() if first_line else "", LONGEST_ERROR_LINE)
    text = f"{first or 'an error without a name'}\n{json_text.escaped(traced)}"
    return json_text.string(cut(text, LONGEST_ERROR))


# --- as Python describes it


def _as_python(error: BaseException) -> tuple[str, str]:
    """Return the message, and the traceback with those of the causes.

    Raises:
        TypeError: The error is not plain enough for this.
    """
    if not _is_plain(error):
        raise TypeError
    described = traceback.TracebackException.from_exception(
        error, limit=-_MOST_FRAMES, compact=True
    )
    if issubclass(type(error), SyntaxError):
        # Python prints the location of a syntax error before its message.
        message = f"{_name(error)}: {error.msg}"  # type: ignore[attr-defined]
    else:
        message = "".join(described.format_exception_only())
    return message, "".join(described.format())


def _is_plain(error: BaseException) -> bool:
    """Return whether the error and those that led to it are few, and are what they seem."""
    seen = {id(error)}
    errors = [error]
    # The list grows while it is iterated over.
    for each in errors:
        is_group = issubclass(type(each), BaseExceptionGroup)
        if _redefines(type(each), _ATTRIBUTES_OF_GROUP if is_group else _ATTRIBUTES):
            return False
        if not _has_plain_texts(each):
            return False
        linked: list[BaseException | None] = [each.__cause__, each.__context__]
        if is_group:
            linked += each.exceptions  # type: ignore[attr-defined]
        for one in linked:
            if one is not None and id(one) not in seen:
                seen.add(id(one))
                errors.append(one)
        if len(errors) > _MOST_EXCEPTIONS:
            return False
    return True


def _redefines(class_: type, names: frozenset[str]) -> bool:
    return any(
        not names.isdisjoint(_NAMESPACE.__get__(each))
        for each in _MRO.__get__(class_)
        # Not with ==, which a metaclass can define.
        if not any(each is own for own in _PYTHONS_OWN)
    )


def _has_plain_texts(error: BaseException) -> bool:
    notes = getattr(error, "__notes__", None)
    if notes is not None and (type(notes) is not list or len(notes) > _MOST_NOTES):
        return False
    if not issubclass(type(error), SyntaxError):
        return True
    columns = [getattr(error, name) for name in _LOCATION]
    return all(
        column is None or (type(column) is int and column <= _LARGEST_COLUMN) for column in columns
    )


# --- by what is its own


def _alone(error: BaseException) -> tuple[str, str]:
    """Return the message, and the traceback without those of the causes."""
    try:
        # str() may return an instance of a subclass; this is a plain string.
        text = str.__str__(str(error))
    except BaseException:  # noqa: BLE001 - as in described
        text = "its message cannot be shown, because __str__ failed"
    message = f"{_name(error)}: {text}"
    frames: TracebackType | None = _TRACEBACK.__get__(error)
    lines = traceback.format_tb(frames, limit=-_MOST_FRAMES)
    return message, "".join(("Traceback (most recent call last):\n", *lines, message, "\n"))


def _by_name(error: BaseException) -> tuple[str, str]:
    message = f"{_name(error)}: its message and traceback cannot be shown"
    return message, message


def _name(error: BaseException) -> str:
    """Return the name of the error's class, with its module as Python shows it."""
    class_ = type(error)
    name = str.__str__(_NAME.__get__(class_))
    module = _MODULE.__get__(class_)
    if type(module) is not str or module in _MODULES_NOT_SHOWN:
        return name
    return f"{module}.{name}"

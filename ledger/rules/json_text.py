"""Validation of user content: JSON text, stored exactly as it was posted.

Content is never parsed and serialized again: a number keeps its digits, an object its
order, a string its escapes.  So it is validated once, on input, against values that JSON
cannot represent exactly or a database cannot store.
"""

import json
from io import StringIO
from typing import Any, Final

import msgspec

from ledger.errors import InvalidInput

_ESCAPED_NUL: Final = b"\\u0000"
_ENCODER: Final = json.JSONEncoder(allow_nan=False, ensure_ascii=False, separators=(",", ":"))
# Up to these sizes a value is encoded at once: see _bounded.
_FEW_VALUES: Final = 100_000
_FEW_CHARACTERS: Final = 1024 * 1024
_LARGEST_INTEGER: Final = 2**64


def text(field: str, raw: bytes) -> str:
    """Return *raw* as JSON text, byte for byte.

    Args:
        field: The name of the content, for the error.
        raw: One JSON value in UTF-8.

    Raises:
        InvalidInput: It is not JSON, or contains a number out of range (1e999), a lone
            surrogate, or U+0000, which PostgreSQL cannot store.
    """
    parse(field, raw)
    return raw.decode()


def parse(field: str, raw: bytes) -> Any:  # noqa: ANN401 - JSON is any of its types
    """Return the value of *raw*, validated as ``text`` does.

    Raises:
        InvalidInput: As ``text``.
    """
    if _has_escaped_nul(raw):
        raise InvalidInput(
            field, f"{field}: expected JSON without U+0000, got JSON that contains it"
        )
    try:
        return msgspec.json.decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise _refusal(field, raw, error) from error
    except RecursionError as error:
        raise InvalidInput(
            field, f"{field}: expected JSON, got JSON that is nested too deeply"
        ) from error


def _has_escaped_nul(raw: bytes) -> bool:
    """Return whether *raw* has U+0000 as an escape: u0000 after an odd number of backslashes.

    Most content has no u0000, which ``find`` sees at once.  A regular expression took 17
    microseconds for a job of 200 bytes, and 82 ms for a megabyte.
    """
    start = 0
    while (found := raw.find(_ESCAPED_NUL, start)) >= 0:
        # Backslashes before it do not reach beyond the last one found, which ends in 0.
        before = raw[start:found]
        if (len(before) - len(before.rstrip(b"\\"))) % 2 == 0:
            return True
        start = found + len(_ESCAPED_NUL)
    return False


def _refusal(field: str, raw: bytes, error: Exception) -> InvalidInput:
    """Return the error for *raw*, which may not even be text: msgspec's error is of either kind."""
    try:
        raw.decode()
    except UnicodeDecodeError as not_text:
        return InvalidInput(field, f"{field}: expected UTF-8, got: {not_text}")
    return InvalidInput(field, f"{field}: expected JSON, got: {error}")


def of(field: str, value: Any, *, most: int | None = None) -> str:  # noqa: ANN401 - as parse
    """Return *value* as JSON text.

    Args:
        field: The name of the content, for the error.
        value: What to encode.
        most: How many characters the text may have; None if its size does not matter.

    Raises:
        InvalidInput: JSON cannot represent it: NaN, a date, an instance of a custom class, a list
            that contains itself; or the text would be too long.
    """
    try:
        written = _ENCODER.encode(value) if most is None else _bounded(field, value, most)
        return text(field, written.encode())
    except (TypeError, ValueError, RuntimeError) as error:
        # RuntimeError: nested too deeply, or changed by another thread meanwhile.
        raise InvalidInput(
            field, f"{field}: expected a value that JSON can represent: {error}"
        ) from error


def _bounded(field: str, value: Any, most: int) -> str:  # noqa: ANN401 - as parse
    """Return *value* as JSON text; stop as soon as it has more than *most* characters.

    The encoder in C encodes a value in one call and does not release the interpreter until it
    is done: 3.8 s for 40 million zeros, measured.  If the value's class overrides methods, it
    may never be done.  The encoder in Python yields the text in parts, but takes three to six
    times as long, so it is used only where a value is large or not plain.
    """
    if type(value) is str and len(value) > most:
        raise _too_long(field, most)
    parts = (_ENCODER.encode(value),) if _is_small(value) else _ENCODER.iterencode(value)
    length = 0
    written = StringIO()
    for part in parts:
        length += len(part)
        if length > most:
            raise _too_long(field, most)
        written.write(part)
    return written.getvalue()


def _is_small(value: Any) -> bool:  # noqa: ANN401 - as parse
    """Return whether *value* consists of a limited number of plain values of limited size."""
    characters = 0
    values = [value]
    # The list grows while it is iterated over.
    for each in values:
        kind = type(each)
        if kind is str:
            characters += len(each)
        elif kind is int:
            if not -_LARGEST_INTEGER < each < _LARGEST_INTEGER:
                return False
        elif kind is dict or kind is list or kind is tuple:
            if len(values) + 2 * len(each) > _FEW_VALUES:
                return False
            values += each
            if kind is dict:
                values += each.values()
        elif not (kind is bool or kind is float or each is None):
            return False
    return characters <= _FEW_CHARACTERS


def _too_long(field: str, most: int) -> InvalidInput:
    return InvalidInput(field, f"{field}: expected at most {most} characters of JSON, got more")


def string(value: str) -> str:
    """Return *value* as a JSON string, with NUL and lone surrogates as visible escapes."""
    return msgspec.json.encode(escaped(value)).decode()


def escaped(value: str) -> str:
    """Return *value* with NUL and lone surrogates as visible escapes; no database can store them.

    Raises:
        TypeError: It is not a string.
    """
    # A subclass's own replace could return anything; str's returns a plain string.
    plain = str.replace(value, "\0", "\\0")
    return plain.encode("utf-8", "backslashreplace").decode()


def log_line(kind: str, text: str) -> str:
    """Return the log line of an event of *kind* whose content is *text*.

    The line of a failure is the first line of its error, as in Kue.
    """
    line = str(msgspec.json.decode(text))
    return line.split("\n", 1)[0] if kind == "failed" else line

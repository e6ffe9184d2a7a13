"""Check what users put in: JSON text, kept exactly as it was posted.

Content is never parsed and written again: a number keeps its digits, an object
its order, a string its escapes.  So it is checked once, on its way in, for what
JSON cannot say exactly or a database cannot hold.
"""

import json
import re
from typing import Any

import msgspec

from ledger.errors import InvalidInput

# An escaped NUL: an odd number of backslashes before u0000.
_ESCAPED_NUL = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")


def text(field: str, raw: bytes) -> str:
    """Return *raw* as JSON text, byte for byte.

    Args:
        field: What the content is, for the error.
        raw: One JSON value in UTF-8.

    Raises:
        InvalidInput: It is not JSON, or holds a number out of range (1e999), a
            lone surrogate, or U+0000, which PostgreSQL cannot hold.
    """
    parse(field, raw)
    return raw.decode()


def parse(field: str, raw: bytes) -> Any:  # noqa: ANN401 - JSON is any of its types
    """Return the value of *raw*, which is checked as ``text`` checks it.

    Raises:
        InvalidInput: As ``text``.
    """
    if _ESCAPED_NUL.search(raw):
        raise InvalidInput(field, f"{field}: expected JSON without U+0000, got one")
    try:
        return msgspec.json.decode(raw)
    except msgspec.MsgspecError as error:
        raise InvalidInput(field, f"{field}: expected JSON, got: {error}") from error
    except UnicodeDecodeError as error:
        raise InvalidInput(field, f"{field}: expected UTF-8, got: {error}") from error
    except RecursionError as error:
        raise InvalidInput(field, f"{field}: expected JSON, got one nested too deeply") from error


def of(field: str, value: Any) -> str:  # noqa: ANN401 - as parse
    """Return *value* as JSON text.

    Raises:
        InvalidInput: JSON cannot say it: NaN, a date, an object of one's own.
    """
    try:
        written = json.dumps(value, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
        return text(field, written.encode())
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidInput(field, f"{field}: expected what JSON can say: {error}") from error


def string(value: str) -> str:
    """Return *value* as a JSON string; what no database can hold is written as an escape."""
    written = value.replace("\0", "\\0").encode("utf-8", "backslashreplace").decode()
    return msgspec.json.encode(written).decode()


def log_line(kind: str, text: str) -> str:
    """Return the line of a log that an event of *kind* is.

    A failure's is the first of its error, as in Kue.
    """
    line = str(msgspec.json.decode(text))
    return line.split("\n", 1)[0] if kind == "failed" else line

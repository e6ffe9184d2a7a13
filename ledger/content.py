"""Check what users put in: JSON text, kept exactly as it was posted.

Content is never parsed and written again: a number keeps its digits, an object
its order, a string its escapes.  So it is checked once, on its way in, for what
JSON cannot say exactly or a database cannot hold.
"""

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

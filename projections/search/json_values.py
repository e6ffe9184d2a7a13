"""The text to index in a job's data: all values, or those that its search keys name.

JSON is read token by token, not parsed into objects: data may be nested more deeply than a
parser can go in a thread whose stack is half full, and such a job must not stop the index.
Keys are not indexed; otherwise ``title`` would find every e-mail.
"""

import re
from collections.abc import Iterator, Sequence
from typing import Final

import msgspec

# Of longer paths only the beginning counts, and of more paths only the first: the path of each
# value is compared with each of them.
LONGEST_PATH: Final = 500
MOST_PATHS: Final = 100

_STRING: Final = r'"(?:[^"\\]|\\.)*+"'
# A string followed by a colon is a key.
_VALUES: Final = re.compile(rf"{_STRING}\s*+:|({_STRING}|-?\d[\d.eE+-]*|true|false)")
_TOKENS: Final = re.compile(rf"({_STRING})|(-?\d[\d.eE+-]*|true|false)|([{{}}\[\]:])")


def text(data: str, search_keys: Sequence[str] | None) -> str:
    """Return the text to index.

    Args:
        data: A job's data, JSON text.
        search_keys: Paths into the data, such as ``to`` and ``user.name``; arrays are not part
            of a path.  All values below a path are indexed.  None means all values, an empty
            sequence none.
    """
    if search_keys is None:
        return "\n".join(_plain(value) for value in _VALUES.findall(data) if value)
    if not search_keys:
        return ""
    wanted = tuple(f"{key}."[:LONGEST_PATH] for key in search_keys[:MOST_PATHS])
    return "\n".join(_plain(value) for path, value in _with_paths(data) if path.startswith(wanted))


def _with_paths(data: str) -> Iterator[tuple[str, str]]:
    """Yield the path of each value, with a dot after each key, and the value."""
    # For each open object and array, its path, and whether it is itself in an object.
    opened: list[tuple[str, bool]] = []
    path, in_object, is_key = "", False, False
    for token in _TOKENS.finditer(data):
        string, literal, sign = token.groups()
        if sign == ":":
            is_key = False
        elif sign in ("{", "["):
            opened.append((path, in_object))
            in_object = is_key = sign == "{"
        elif sign:
            path, in_object = opened.pop() if opened else ("", False)
            is_key = in_object
        elif is_key:
            path = f"{opened[-1][0]}{_plain(string or '')}."[:LONGEST_PATH]
        else:
            yield path, string or literal
            is_key = in_object


def _plain(value: str) -> str:
    """Return the text of a JSON string; return any other value as it is written."""
    if not value.startswith('"'):
        return value
    if "\\" not in value:
        return value[1:-1]
    try:
        return str(msgspec.json.decode(value))
    except msgspec.DecodeError:
        # No posted job contains such a string; index it as it is written.
        return value[1:-1]

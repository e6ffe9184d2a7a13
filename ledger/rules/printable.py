"""Text that is safe to print on a terminal, whoever wrote it.

Job data, errors and names come from strangers.  Printed raw, a control character (ESC, or CSI,
which is U+009B) can repaint a terminal, and a mark of bidirectional text can make a line read
as another one.  Python's ``isprintable`` knows all of these: it is false for every control and
format character, for line and paragraph separators, and for what Unicode has not assigned.

It is also false for what people write: the spaces of Japanese and French, and the joiners within
Persian and Indic words and within emoji.  A space is shown as it is; a joiner only within such a
word, as it would make two ASCII names look the same.
"""

import re
from typing import Final

# Unicode's spaces but the ASCII one, which is printable.
_SPACES: Final = "\u00a0\u1680\u2000-\u200a\u202f\u205f\u3000"
# All that may be unprintable, so that ASCII text is not looked at by the character.
_DOUBTFUL: Final = re.compile(
    rf"""
    (?! [{_SPACES}] )
    (?! (?<= [^\0-\u00ff\u2000-\u206f] ) [\u200c\u200d] [^\0-\u00ff\u2000-\u206f] )
    [^\ -~]
    """,
    re.VERBOSE,
)
_LARGEST_UNIT: Final = 0xFFFF


def plain(value: object) -> str:
    """Return text with escapes for unprintable characters; None is empty."""
    text = "" if value is None else str(value)
    if text.isprintable():
        return text
    return _DOUBTFUL.sub(_escaped, text)


def plain_lines(value: object) -> str:
    """Return text of several lines, each of them plain."""
    return "\n".join(map(plain, str(value).split("\n")))


def plain_json(json: str) -> str:
    """Return the same JSON on one line, with escapes for unprintable characters in its strings."""
    if json.isprintable():
        return json
    return _DOUBTFUL.sub(_escaped_json, json)


def _escaped(found: re.Match[str]) -> str:
    character = found[0]
    return character if character.isprintable() else repr(character)[1:-1]


def _escaped_json(found: re.Match[str]) -> str:
    character = found[0]
    if character in "\t\r\n":
        # In a string they are escaped, so these are whitespace between tokens.
        return " "
    if character.isprintable():
        return character
    code = ord(character)
    if code <= _LARGEST_UNIT:
        return f"\\u{code:04x}"
    code -= _LARGEST_UNIT + 1
    return f"\\u{0xD800 + (code >> 10):04x}\\u{0xDC00 + (code & 0x3FF):04x}"

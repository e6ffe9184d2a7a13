"""Descriptions of tables on SQLite, whose catalog is the text of the CREATE statements.

The text is split into tokens, so that spaces, quotes, comments and the case of keywords do
not matter, and at the commas of a table's definition, so that a difference is reported for
the column or constraint that contains it.

Source: https://www.sqlite.org/schematab.html
"""

import re
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from sqlalchemy import Connection, Table, create_engine, text

from ledger.log.append_only import sqlite_triggers
from ledger.log.catalog.description import Description, Kind, Part
from ledger.log.schema import events

_TOKENS: Final = re.compile(
    r"""
    (?P<space>\s+|--[^\n]*|/\*.*?(?:\*/|$))
    | (?P<text>[xX]?'(?:[^']|'')*')
    | "(?P<quoted>(?:[^"]|"")*)" | `(?P<ticked>(?:[^`]|``)*)` | \[(?P<bracketed>[^]]*)\]
    | (?P<word>[^\W\d][\w$]*)
    | (?P<other>\.?\d[\w.]* | \|\| | [<>=!]=? | .)
    """,
    re.VERBOSE | re.DOTALL,
)
_SELECT_ALL: Final = text("SELECT type, name, sql FROM sqlite_master WHERE sql IS NOT NULL")


class _Token(NamedTuple):
    """A token of a statement: a word, a name, a literal or a sign.

    Attributes:
        is_keyword: Whether it may be a keyword: it is a word without quotes.
    """

    text: str
    is_keyword: bool = False


def describe(connection: Connection, tables: Sequence[Table]) -> tuple[Description, Description]:
    """Return the expected and the present description of *tables*."""
    # A separate database, in memory: temporary tables would hide the live ones.
    engine = create_engine("sqlite://")
    with engine.begin() as expected:
        for table in tables:
            table.create(expected)
        if events in tables:
            for statement in sqlite_triggers():
                expected.execute(text(statement))
        names = {table.name for table in tables}
        described = _describe(expected, names), _describe(connection, names)
    engine.dispose()
    return described


def _describe(connection: Connection, tables: set[str]) -> Description:
    parts: dict[Part, str] = {}
    for type_, name, sql in connection.execute(_SELECT_ALL):
        tokens = _tokens(sql)
        if type_ == "trigger":
            # Not from the column `tbl_name`, which anyone who can write the catalog can forge.
            table = _behind_on(tokens)
            parts[Part(table, Kind.TRIGGER, name)] = _joined(tokens)
        elif type_ == "index":
            table = _behind_on(tokens)
            is_unique = _Token("unique", is_keyword=True) in tokens[:2]
            kind = Kind.UNIQUE_INDEX if is_unique else Kind.INDEX
            parts[Part(table, kind, name)] = _joined(tokens)
        elif type_ == "table" and _Token("virtual", is_keyword=True) not in tokens[:2]:
            table = name.lower()
            parts[Part(table, Kind.TABLE, table)] = "a table"
            parts.update(_items(table, tokens))
        else:
            table = name.lower()
            parts[Part(table, Kind.TABLE, table)] = f"a {type_}"
    return {part: definition for part, definition in parts.items() if part.table in tables}


def _items(table: str, tokens: Sequence[_Token]) -> Iterator[tuple[Part, str]]:
    """Yield the columns and constraints of a ``CREATE TABLE`` statement."""
    signs = [token.text for token in tokens]
    if "(" not in signs:
        return
    start = depth = 0
    for place, sign in enumerate(signs):
        if sign == "(":
            depth += 1
            start = place + 1 if depth == 1 and not start else start
        elif sign == ")":
            depth -= 1
        if start and ((depth == 1 and sign == ",") or (depth == 0 and sign == ")")):
            yield _item(table, tokens[start:place])
            start = place + 1
            if depth == 0:
                break
    options = _joined(tokens[start:])
    if options:
        # Such as WITHOUT ROWID.
        yield Part(table, Kind.CONSTRAINT, "options"), options


_UNNAMED: Final = frozenset({"primary", "unique", "check", "foreign"})


def _item(table: str, tokens: Sequence[_Token]) -> tuple[Part, str]:
    first = tokens[0] if tokens else _Token("")
    if first.is_keyword and first.text == "constraint" and len(tokens) > 1:
        return Part(table, Kind.CONSTRAINT, tokens[1].text), _joined(tokens[2:])
    if first.is_keyword and first.text in _UNNAMED:
        return Part(table, Kind.CONSTRAINT, _joined(tokens)), _joined(tokens)
    return Part(table, Kind.COLUMN, first.text), _joined(tokens[1:]) or "no type"


def _tokens(sql: str) -> list[_Token]:
    tokens = []
    for found in _TOKENS.finditer(sql):
        kind, said = str(found.lastgroup), found[0]
        if kind == "word":
            tokens.append(_Token(said.lower(), is_keyword=True))
        elif kind in {"quoted", "ticked", "bracketed"}:
            tokens.append(_Token(found[kind].lower()))
        elif kind != "space":
            tokens.append(_Token(said))
    return tokens


def _behind_on(tokens: Sequence[_Token]) -> str:
    """Return the table that a trigger or an index belongs to."""
    on = _Token("on", is_keyword=True)
    place = tokens.index(on) if on in tokens else len(tokens)
    match [token.text for token in tokens[place + 1 : place + 4]]:
        case [_, ".", table]:
            return table
        case [table, *_]:
            return table
    return ""


def _joined(tokens: Sequence[_Token]) -> str:
    return " ".join(token.text for token in tokens)

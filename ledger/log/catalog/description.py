"""Descriptions of a database's tables, and the differences between two of them."""

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Final, NamedTuple


class Kind(StrEnum):
    """A kind of part that a table can have."""

    TABLE = "table"
    COLUMN = "column"
    CONSTRAINT = "constraint"
    INDEX = "index"
    UNIQUE_INDEX = "unique index"
    TRIGGER = "trigger"
    FUNCTION = "function"
    RULE = "rule"
    POLICY = "policy"
    SETTING = "setting"


class Part(NamedTuple):
    """The key of one definition in a description."""

    table: str
    kind: Kind
    name: str

    def __str__(self) -> str:
        if self.kind is Kind.TABLE:
            return f"table {self.table}"
        if self.kind is Kind.SETTING:
            return f"setting {self.name}"
        return f"{self.kind} {self.name} of {self.table}"


# Definitions, worded so that equal definitions are equal text.
Description = Mapping[Part, str]


class Deviation(NamedTuple):
    """A part of a table that is missing, altered or surplus."""

    part: Part
    expected: str
    found: str


NOTHING: Final = "none"
# Of longer definitions, only the text around the first difference is shown.
_LONGEST_TOLD: Final = 240
_CONTEXT: Final = 40


def compare(expected: Description, found: Description, tables: Sequence[str]) -> list[Deviation]:
    """Return the parts that differ, in the order of *tables*.

    A table that is missing, or is not a table, is one deviation: its parts are not listed.
    """
    deviations = []
    gone = set()
    for part in sorted(expected.keys() | found.keys(), key=lambda part: _place(part, tables)):
        if part.table in gone:
            continue
        wanted, there = expected.get(part), found.get(part)
        if wanted == there or (wanted is None and part.kind is Kind.INDEX):
            continue
        if part.kind is Kind.TABLE:
            gone.add(part.table)
        deviations.append(Deviation(part, *_told(wanted or NOTHING, there or NOTHING)))
    return deviations


_KINDS: Final = tuple(Kind)


def _place(part: Part, tables: Sequence[str]) -> tuple[int, int, str]:
    table = tables.index(part.table) if part.table in tables else len(tables)
    return table, _KINDS.index(part.kind), part.name


def _told(expected: str, found: str) -> tuple[str, str]:
    """Return both definitions, long ones cut to the text around their first difference."""
    if max(len(expected), len(found)) <= _LONGEST_TOLD:
        return expected, found
    both = zip(expected, found, strict=False)
    alike = next(
        (place for place, (one, other) in enumerate(both) if one != other),
        min(len(expected), len(found)),
    )
    start = max(0, alike - _CONTEXT)
    return _cut(expected, start), _cut(found, start)


def _cut(text: str, start: int) -> str:
    end = start + _LONGEST_TOLD
    before = "…" if start and len(text) > start else ""
    return f"{before}{text[start:end] or text[-_CONTEXT:]}{'…' if len(text) > end else ''}"

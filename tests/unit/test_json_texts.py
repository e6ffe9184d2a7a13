"""Rows on their way to PostgreSQL: texts that it takes, however much the rows hold."""

import json
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.database.fast_sql import BYTES_A_JSON, json_texts
from ledger.rules.commands import LARGEST_CONTENT

# What PostgreSQL can hold in one value.
_LARGEST_VALUE: Final = 2**30 - 1
# Of a character: UTF-8, or a backslash before one that has to be escaped.
_BYTES_A_CHARACTER: Final = 4


@given(st.lists(st.fixed_dictionaries({"a": st.text(max_size=30)})), st.integers(1, 120))
def test_no_text_is_larger_than_allowed_unless_it_has_one_row(
    rows: list[dict[str, Any]], most: int
) -> None:
    texts = [*json_texts(rows, most=most)]

    parsed = [json.loads(text) for text in texts]
    assert [row for text in parsed for row in text] == rows
    assert all(
        len(text) <= most or len(of) == 1 or not rows
        for text, of in zip(texts, parsed, strict=True)
    )


@pytest.mark.parametrize(("most", "expected"), [(25, 1), (24, 2), (17, 2), (16, 3), (1, 3)])
def test_texts_are_as_large_as_allowed(most: int, expected: int) -> None:
    rows = [{"a": 1}, {"a": 2}, {"a": 3}]

    assert len([*json_texts(rows, most=most)]) == expected


def test_rows_that_fit_are_one_text() -> None:
    assert [*json_texts([{"a": 1}, {"a": 2}], most=BYTES_A_JSON)] == [b'[{"a":1},{"a":2}]']


def test_postgresql_holds_the_largest_text() -> None:
    """A second row never joins one that fills a text, so these are the two largest."""
    assert BYTES_A_JSON < _LARGEST_VALUE
    assert LARGEST_CONTENT * _BYTES_A_CHARACTER < _LARGEST_VALUE // 2

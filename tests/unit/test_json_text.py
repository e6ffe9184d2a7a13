"""What users put in is kept byte for byte, or refused on its way in."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.errors import InvalidInput
from ledger.rules import json_text

ACCEPTED = (
    b"null",
    b" \n{ }\t",
    b'{"b": 1, "a": 2}',
    b'{"a": 1, "a": 2}',
    b"1.50",
    b"-0",
    b"1e-999",
    b"1e308",
    b"12345678901234567890123456789012345678901234567890",
    b"[" * 200 + b"]" * 200,
    '"é 😀"'.encode(),
    b'"\\u00e9 \\ud83d\\ude00"',
    b'"\\u0001"',
    # A backslash that is escaped, and then plain text.
    b'"\\\\u0000"',
    b'"\\\\\\\\u0000"',
    b'{"\\\\u0000": 1}',
)
REFUSED = {
    "nothing": b"",
    "no JSON": b"{a: 1}",
    "two values": b"1 2",
    "a rest": b'{"a": 1',
    "a trailing comma": b"[1,]",
    "a byte order mark": b"\xef\xbb\xbf1",
    "NaN": b"NaN",
    "Infinity": b"-Infinity",
    "a number out of range": b"1e999",
    "a number out of range within": b'{"a": [-1e999]}',
    "a high surrogate alone": b'"\\ud800"',
    "a high surrogate before text": b'"\\ud800abcdef"',
    "a low surrogate alone": b'"\\udc00"',
    "surrogates in the wrong order": b'"\\ude00\\ud83d"',
    "a surrogate in UTF-8": b'"\xed\xa0\x80"',
    "an escaped NUL": b'"\\u0000"',
    "an escaped NUL behind an escaped backslash": b'"\\\\\\u0000"',
    "an escaped NUL in a key": b'{"a\\u0000b": 1}',
    "a NUL": b'"\x00"',
    "a control character": b'"\x01"',
    "invalid UTF-8": b'"\xff"',
    "overlong UTF-8": b'"\xc0\x80"',
    "half a character": b'"\xc3"',
    "Latin-1": '"ü"'.encode("latin-1"),
    "deep nesting": b"[" * 100_000 + b"]" * 100_000,
    "deep nesting of objects": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
}


@pytest.mark.parametrize("raw", ACCEPTED)
def test_json_is_kept_byte_for_byte(raw: bytes) -> None:
    assert json_text.text("data", raw).encode() == raw


@pytest.mark.parametrize("raw", REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_kept_exactly_is_refused(raw: bytes) -> None:
    with pytest.raises(InvalidInput, match=r"^data: expected ") as refusal:
        json_text.text("data", raw)

    assert refusal.value.field == "data"


def test_a_refusal_says_what_came() -> None:
    with pytest.raises(InvalidInput) as refusal:
        json_text.text("data", b'"\\u0000"')

    assert str(refusal.value) == "data: expected JSON without U+0000, got JSON that contains it"


@given(st.lists(st.sampled_from(("\\", "\\\\", "u0000", "\\u0000", "u0001", "a", '\\"'))))
def test_a_nul_is_found_after_any_number_of_backslashes(parts: list[str]) -> None:
    raw = '"' + "".join(parts) + '"'
    try:
        is_accepted = "\0" not in json.loads(raw)
    except ValueError:
        is_accepted = False

    if is_accepted:
        assert json_text.text("data", raw.encode()) == raw
    else:
        with pytest.raises(InvalidInput):
            json_text.text("data", raw.encode())


def test_backslashes_without_end_take_no_time() -> None:
    raw = b'"' + b"\\\\" * 500_000 + b'u0000"'

    assert json_text.text("data", raw) == raw.decode()


def test_what_is_parsed_is_what_json_says() -> None:
    parsed = json_text.parse(
        "data", b'{"a": [1, 2.5, true, null, "\\u00fc"], "n": 12345678901234567}'
    )

    assert parsed == {"a": [1, 2.5, True, None, "ü"], "n": 12_345_678_901_234_567}


@pytest.mark.parametrize("raw", [b'"\xff"', b'"\xed\xa0\x80"', b'{"a\xc3": 1}', b"{a \xff}"])
def test_bytes_that_are_not_text_are_told_as_such_by_every_msgspec(raw: bytes) -> None:
    with pytest.raises(InvalidInput, match=r"^data: expected UTF-8, got: 'utf-8' codec"):
        json_text.text("data", raw)

"""Read bodies into Structs; each refusal names the field, what was expected and what came."""

import json
from typing import Annotated, Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Meta, Raw

from ledger.api.http import bodies
from ledger.api.http.json_body import NULL, BodyReader, JsonBody, expectation, fields_of
from ledger.api.operations import OPERATIONS
from ledger.errors import InvalidInput


class Example(JsonBody, frozen=True, kw_only=True):
    """A body with a field of each type."""

    number: Annotated[int, Meta(ge=1, le=9)]
    text: Annotated[str, Meta(min_length=1, max_length=3)] | None = None
    size: Annotated[float, Meta(ge=0, le=1.5)] | None = None
    flag: bool | None = None
    names: (
        Annotated[
            list[Annotated[str, Meta(min_length=1, max_length=3)]],
            Meta(min_length=1, max_length=2, extra={"items": "names"}),
        ]
        | None
    ) = None
    data: Raw = msgspec.field(default_factory=lambda: Raw(NULL))
    line: bodies.Line = msgspec.field(default_factory=lambda: Raw(NULL))
    lines: bodies.Lines | None = None


reader = BodyReader(Example)


def outcome(read: Any, raw: bytes) -> Any:
    """Return the JSON of each field that a body has, or the refusal."""
    try:
        body = read(raw)
    except InvalidInput as error:
        return (error.field, str(error))
    return msgspec.json.decode(msgspec.json.encode(body))


def test_a_field_that_is_kept_is_not_parsed() -> None:
    body = reader.read(b'{"number":1,"data": { "a" : 1.10 },"line":"\\u00e9\\/"}')

    assert (bytes(body.data), bytes(body.line)) == (b'{ "a" : 1.10 }', b'"\\u00e9\\/"')
    assert bodies.json_of(body.data) == '{ "a" : 1.10 }'


@pytest.mark.parametrize(
    ("raw", "number"),
    [
        ('{"number":3}', 3),
        ('{"number":3.0}', 3),
        ('{"number":0,"number":3}', 3),
        ('{"number":3,"text":null,"size":null,"flag":null,"names":null,"data":null}', 3),
        (' {"number" : 3, "line":"a\\\\u0000"} ', 3),
    ],
)
def test_what_says_the_same_is_read_as_the_same(raw: str, number: int) -> None:
    assert reader.read(raw.encode()).number == number


@pytest.mark.parametrize(
    ("raw", "error"),
    [
        ("", "body: expected an object with number, text, size, "),
        ("[]", "body: expected an object with number, text, size, "),
        ("x", "body: expected JSON, got: "),
        ('{"number":1,}', "body: expected JSON, got: "),
        ('{"number":1} {}', "body: expected JSON, got: "),
        ('{"bogus":1}', "unknown field 'bogus'; expected one of number, text, size, "),
        ("{}", "number: expected an integer from 1 to 9, got None"),
        ('{"number":null}', "number: expected an integer from 1 to 9, got None"),
        ('{"number":0}', "number: expected an integer from 1 to 9, got 0"),
        ('{"number":true}', "number: expected an integer from 1 to 9, got True"),
        ('{"number":1.5}', "number: expected an integer from 1 to 9, got 1.5"),
        ('{"number":1e999}', "number: expected JSON, got: Number out of range"),
        ('{"number":1,"text":""}', "text: expected 1 to 3 characters, got ''"),
        (
            '{"number":1,"text":"\\u0000"}',
            "text: expected JSON without U+0000, got JSON that contains it",
        ),
        ('{"number":1,"size":2}', "size: expected a number from 0 to 1.5, got 2"),
        ('{"number":1,"flag":1}', "flag: expected true or false, got 1"),
        ('{"number":1,"names":{}}', "names: expected an array of 1 to 2 names, got {}"),
        ('{"number":1,"names":[]}', "names: expected an array of 1 to 2 names, got an array of 0"),
        ('{"number":1,"names":["a",5]}', "names: expected 1 to 3 characters, got 5"),
        ('{"number":1,"data":[1e999]}', "data: expected JSON, got: Number out of range"),
        (
            '{"number":1,"data":"\\u0000"}',
            "data: expected JSON without U+0000, got JSON that contains it",
        ),
        ('{"number":1,"line":5}', "line: expected a string, got 5"),
        ('{"number":1,"lines":["a",null]}', "lines: expected a string, got None"),
    ],
)
def test_a_refusal_says_field_expectation_and_value(raw: str, error: str) -> None:
    with pytest.raises(InvalidInput) as refusal:
        reader.read(raw.encode())

    assert str(refusal.value).startswith(error)


VALUES = st.sampled_from(
    [
        *(None, True, 0, 1, 9, 10, 1.0, 1.5, -0.5, 10**30, "", "a", "abcd", "\0"),
        *([], {}, {"a": 1}, ["a"], ["a", None], ["a", 5], ["a", "b", "c"], [""]),
    ]
)


@settings(max_examples=500)
@given(st.dictionaries(st.sampled_from([*Example.__struct_fields__, "bogus"]), VALUES))
def test_what_is_read_at_once_is_what_is_read_field_by_field(given: dict[str, Any]) -> None:
    raw = json.dumps(given).encode()

    assert outcome(reader.read, raw) == outcome(reader._explained, raw)


def test_every_field_of_every_body_has_words_for_what_was_expected() -> None:
    structs = [each.body.type for each in OPERATIONS if each.body and each.body.required]
    words = {
        field.name: expectation(field.type)
        for struct in structs
        for field in fields_of(struct)
        if field.name not in {"data", "result"}  # any JSON
    }

    assert words == {
        "types": "an array of 1 to 100 types",
        "worker": "1 to 240 characters",
        "limit": "an integer from 1 to 1000",
        "wait": "a number from 0 to 60",
        "attempt": "an integer from 0 to 9007199254740991",
        "progress": "an integer from 0 to 100",
        "done": "a number from 0 to 9.0072e+15",
        "total": "a number from 0 to 9.0072e+15",
        "line": "a string",
        "lines": "an array of 1 to 1000 strings",
        "error": "a string",
        "retry_after": "an integer from 0 to 9007199254740991",
        "final": "true or false",
        "reason": "1 to 1000 characters",
    }

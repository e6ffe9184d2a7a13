"""Words are what people would look for, whatever their script, case, accents and signs."""

import json
import time

import pytest

from ledger.projections.search.json_values import text
from ledger.projections.search.words import LONGEST_TEXT, LONGEST_WORD, asked, in_ascii, words
from tests.search_reference import words_asked, words_of


def found(data: object, query: str) -> bool:
    """Return whether *query* finds a job with *data*."""
    needed = asked(query)
    return bool(needed) and set(needed) <= words(text(json.dumps(data), None)).keys()


@pytest.mark.parametrize(
    ("data", "query"),
    [
        ({"title": "welcome email for tj"}, "welcome email"),
        ({"title": "welcome email for tj"}, "email for tj"),
        ({"title": "Welcome"}, "wELCOME"),
        ({"title": "welcomed accounts"}, "welcome account"),
        ({"to": "tj@learnboost.com"}, "tj@learnboost.com"),
        ({"to": "tj@learnboost.com"}, "learnboost"),
        ({"to": "tj@learnboost.com"}, "TJ@LearnBoost"),
        ({"url": "https://example.org/a/b?c=42#top"}, "https://example.org/a/b?c=42#top"),
        ({"url": "https://example.org/a/b?c=42#top"}, "example.org"),
        ({"deep": [{"er": [["value"]]}]}, "value"),
        ({"id": 12345678901234567890}, "12345678901234567890"),
        ({"price": 99.95}, "99.95"),
        ({"price": -7}, "7"),
        ({"paid": True}, "true"),
        ({"id": "test:inserts:data"}, "test:inserts:data"),
        ({"id": "user_id-4711"}, "user id 4711"),
        ({"id": "a3f8c0ffee"}, "a3f8c0ffee"),
        ({"name": "Résumé"}, "resume"),
        ({"name": "resume"}, "RÉSUMÉ"),
        ({"name": "Łódź"}, "lodz"),
        ({"name": "Straße"}, "STRASSE"),
        ({"name": "x\u0302 naïve"}, "x naive"),
        ({"name": "ＡＢＣ１２"}, "abc12"),
        ({"name": "ﬁne"}, "fine"),
        ({"name": "Ⅳ"}, "iv"),
        ({"name": "ΆΛΦΑ"}, "αλφα"),
        ({"name": "Ёлка"}, "ёлка"),
        ({"name": "हिन्दी में"}, "हिन्दी"),
        ({"name": "注册欢迎张三"}, "欢迎"),
        ({"name": "注册欢迎张三"}, "张三"),
        ({"name": "注册欢迎张三"}, "张"),
        ({"name": "注册欢迎张三"}, "注册欢迎张三"),
        ({"name": "張三ABC李四"}, "abc"),
        ({"name": "ようこそ"}, "こそ"),
        ({"name": "ﾖｳｺｿ"}, "ヨウ"),
        ({"name": "환영합니다"}, "영합"),
        ({"name": "ยินดีต้อนรับ"}, "ต้อนรับ"),
        ({"name": "the who"}, "the who"),
        ({"text": 'say "no"\nor \\ not'}, "say no or not"),
        ({"text": "x"}, "*** x ((("),
        ({"title": "welcome tj"}, "welcome NOT tj"),
    ],
)
def test_what_is_there_is_found(data: object, query: str) -> None:
    assert found(data, query)


@pytest.mark.parametrize(
    ("data", "query"),
    [
        ({"title": "welcome"}, "titl"),
        ({"title": "welcome"}, "title"),
        ({"title": "welcome"}, "wel"),
        ({"title": "welcome"}, "welcome home"),
        ({"title": "welcome"}, ""),
        ({"title": "welcome"}, " *()\"'&|!:~^?[]{}\\"),
        ({"title": "welcome"}, "wel*"),
        ({"id": "abc123"}, "abc"),
        ({"name": "张三"}, "三张"),
        ({"name": "張"}, "张三"),
        ({"nothing": None}, "null"),
        ({"name": "smith"}, "smyth"),
    ],
)
def test_what_is_not_there_is_not_found(data: object, query: str) -> None:
    assert not found(data, query)


def test_stop_words_are_asked_for_only_if_nothing_else_is() -> None:
    assert asked("the email for tj") == ("email", "tj")
    assert asked("the who") == ("who",)
    assert asked("to be") == ("to", "be")


def test_of_a_long_word_and_of_a_long_text_only_the_beginning_counts() -> None:
    assert list(words("1" * 1000)) == ["1" * LONGEST_WORD]
    assert list(words("x " * LONGEST_TEXT + "y")) == ["x"]


@pytest.mark.parametrize(
    ("search_keys", "expected"),
    [
        (None, {"tj", "7", "ann", "bob", "deep", "dot", "true"}),
        ([], set()),
        (["to"], {"tj"}),
        (["user.name"], {"ann"}),
        (["user"], {"ann", "7"}),
        (["all.name"], {"bob"}),
        (["all"], {"bob", "deep", "true"}),
        (["a.b"], {"dot"}),
        (["us", "user.nam", "none", "name"], set()),
        (["to", "all.x"], {"tj", "deep", "true"}),
    ],
)
def test_search_keys_are_paths_to_what_is_indexed(
    search_keys: list[str] | None, expected: set[str]
) -> None:
    data = {
        "to": "tj",
        "user": {"name": "ann", "age": 7},
        "all": [{"name": "bob"}, {"x": [["deep"], True]}],
        "a.b": "dot",
    }

    assert set(words(text(json.dumps(data), search_keys))) == expected


@pytest.mark.parametrize("data", ['"tj"', "7", '["tj"]', "null", "{}", '{"a": null}'])
def test_search_keys_of_data_that_is_no_object_name_nothing(data: str) -> None:
    assert text(data, ["a"]) == ""


@pytest.mark.parametrize(
    "data",
    [
        "[" * 300_000,
        '{"a":' * 100_000 + '"x"' + "}" * 100_000,
        '"' + "\\" * 500_001,
        '"' * 300_001,
        "-1" * 300_000,
        "{" * 100_000 + "}" * 200_000,
    ],
    ids=["arrays", "objects", "backslashes", "quotes", "numbers", "closed"],
)
@pytest.mark.parametrize("search_keys", [None, ["a"]])
def test_no_data_takes_long(data: str, search_keys: list[str] | None) -> None:
    start_s = time.process_time()
    words(text(data, search_keys))

    assert time.process_time() - start_s < 5


def test_words_in_ascii_are_as_many_tokens_and_differ_as_the_words_do() -> None:
    some = ["abc", "12", "é", "e9", "c3a9", "张三", "三"]

    tokens = in_ascii(some).split()

    assert len(set(tokens)) == len(some)
    assert all(token.isascii() for token in tokens)


def test_a_character_in_fifty_is_what_plain_python_takes_it_for() -> None:
    assert misread_characters(step=50) == []


def misread_characters(*, step: int) -> list[str]:
    """Return the characters that plain Python takes for something else; tests/soak tries all."""
    # All of the first planes but the Han and Hangul in them, of which some will do.
    ranges = ((1, 0x3400), (0x4DB0, 0x4E10), (0xA000, 0xAC10), (0xD790, 0xD800), (0xE000, 0x20010))
    different = []
    for number in [number for first, last in ranges for number in range(first, last)][::step]:
        character = chr(number)
        text = f"{character} a{character}b 漢{character}字 {character}{character}"
        if set(words(text)) != words_of(text) or set(asked(text)) != words_asked(text):
            different.append(hex(number))
    return different

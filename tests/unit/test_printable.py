"""What may come from strangers is printed without what a terminal would obey."""

import json
import logging
import sys
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.processes.log_format import Lines, PlainFormatter, say
from ledger.rules.printable import plain, plain_json, plain_lines

# C0, DEL, C1, marks and overrides of bidirectional text, separators, a tag.
HOSTILE = "\x1b\x07\x7f\x85\x9b\u061c\u200e\u200f\u202a\u202e\u2066\u2069\u2028\u2029\U000e0041"
texts = st.text(st.characters() | st.sampled_from(HOSTILE))


@pytest.mark.parametrize("character", HOSTILE)
def test_a_hostile_character_is_escaped(character: str) -> None:
    assert plain("\ud800") == "\\ud800"
    assert plain(f"a{character}b") == f"a{repr(character)[1:-1]}b"
    written = plain_json(json.dumps(f"é{character}", ensure_ascii=False))
    assert (written[:2], character in written) == ('"é', False)


# What people write, although Python calls it unprintable: the spaces of French and Japanese, the
# joiners within a family of emoji, a Persian and a Sinhalese word.
WRITTEN = (
    *("5\u00a0€, 10\u202f%", "東京\u3000通知", "\U0001f468\u200d\U0001f469\u200d\U0001f467"),
    *("\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645", "\u0dc1\u0dca\u200d\u0dbb\u0dd3"),
)


@pytest.mark.parametrize("text", ["", "plain", "naïve café", "通知", "🚀", "ａ", *WRITTEN])
def test_what_is_printable_stays(text: str) -> None:
    assert (plain(text), plain_lines(text), plain_json(text)) == (text, text, text)


@pytest.mark.parametrize("joiner", ["\u200c", "\u200d"])
@pytest.mark.parametrize(
    "text", ["a{}b", "{}", "通{}", "{}通", "通{0}{0}知", "通{}\x1b", "通{}\u202e"]
)
def test_a_joiner_that_joins_nothing_is_escaped(text: str, joiner: str) -> None:
    assert joiner not in plain(text.format(joiner))
    assert joiner not in plain_json(json.dumps(text.format(joiner), ensure_ascii=False))


def test_nothing_is_an_empty_text() -> None:
    assert plain(None) == ""


def test_lines_stay_lines() -> None:
    assert plain_lines("a\x1b\n\r\nb") == "a\\x1b\n\\r\nb"


def without_written(text: str) -> str:
    """Return *text* without what Python calls unprintable, and is shown as it is."""
    return "".join(c for c in text if c not in "\u200c\u200d" and unicodedata.category(c) != "Zs")


@given(texts)
def test_plain_text_is_printable(text: str) -> None:
    assert without_written(plain(text)).isprintable()


@given(
    st.recursive(
        st.none() | st.integers() | texts,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
        max_leaves=5,
    ),
    st.sampled_from([None, 2, "\t", "\r\n"]),
)
def test_plain_json_is_printable_and_means_the_same(
    value: object, indent: int | str | None
) -> None:
    written = plain_json(json.dumps(value, ensure_ascii=False, indent=indent))

    assert without_written(written).isprintable()
    assert json.loads(written) == value


def test_every_character_that_a_terminal_may_obey_is_unprintable() -> None:
    obeyed = [
        chr(code)
        for code in range(sys.maxunicode + 1)
        if unicodedata.category(chr(code)) in {"Cc", "Cf", "Zl", "Zp", "Cs"}
    ]

    assert [c for c in obeyed if c.isprintable()] == []
    assert set(HOSTILE) <= set(obeyed)


# --- logs


def logged(formatter: logging.Formatter, message: object, error: Exception | None = None) -> str:
    exc_info = None if error is None else (type(error), error, None)
    record = logging.LogRecord("ledger", logging.WARNING, "", 0, message, None, exc_info)
    return formatter.format(record)


@pytest.mark.parametrize("as_json", [False, True])
@pytest.mark.parametrize("fact", [HOSTILE, f"a b {HOSTILE}", HOSTILE.replace("\u2028", "")])
def test_a_line_of_the_log_is_printable(
    caplog: pytest.LogCaptureFixture, fact: str, *, as_json: bool
) -> None:
    with caplog.at_level(logging.INFO, "ledger.work"):
        say("attempt failed", type=fact, reason=fact, job=7)
    (record,) = caplog.records

    line = Lines(as_json=as_json).format(record)

    assert line.isprintable()
    assert record.getMessage().isprintable()
    if as_json:
        assert json.loads(line)["reason"] == fact


@pytest.mark.parametrize("as_json", [False, True])
def test_the_text_of_an_exception_is_printable_in_the_log(*, as_json: bool) -> None:
    line = logged(Lines(as_json=as_json), HOSTILE, ValueError(HOSTILE))
    lines = logged(PlainFormatter("%(message)s"), HOSTILE, ValueError(HOSTILE))

    assert line.isprintable()
    assert all(one.isprintable() for one in lines.split("\n"))
    assert "ValueError" in line
    assert "ValueError" in lines


def test_a_value_without_spaces_needs_no_quotes() -> None:
    record = logging.LogRecord("ledger", logging.INFO, "", 0, "ärger=é", None, None)

    assert 'event="ärger=é"' in Lines(as_json=False).format(record)
    record.msg = "ärger"
    assert "event=ärger" in Lines(as_json=False).format(record)

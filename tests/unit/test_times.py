"""Times are shown exactly, also after the year 9999."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.log.times import as_datetime, iso_text

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("at_ms", "text"),
    [
        (0, "1970-01-01T00:00:00.000Z"),
        (1_795_381_155_139, "2026-11-22T20:59:15.139Z"),
        (253_402_300_799_999, "9999-12-31T23:59:59.999Z"),
        (253_402_300_800_000, "+010000-01-01T00:00:00.000Z"),
        # As JavaScript shows its last Date.
        (8_640_000_000_000_000, "+275760-09-13T00:00:00.000Z"),
        (2**53 - 1, "+287396-10-12T08:59:00.991Z"),
        (-62_135_596_800_000, "0001-01-01T00:00:00.000Z"),
        (-62_135_596_800_001, "+000000-12-31T23:59:59.999Z"),
        (-(2**53), "-283457-03-21T15:00:59.008Z"),
    ],
)
def test_a_time_is_shown_to_the_millisecond(at_ms: int, text: str) -> None:
    assert iso_text(at_ms) == text


def test_a_time_is_shown_with_another_separator_and_unit() -> None:
    assert iso_text(0, separator=" ", timespec="seconds") == "1970-01-01 00:00:00Z"
    assert iso_text(2**53, separator=" ", timespec="seconds") == "+287396-10-12 08:59:00Z"


@given(st.integers(0, 253_402_300_799_999), st.integers(1, 1_000))
def test_the_calendar_repeats_itself_every_400_years(at_ms: int, cycles: int) -> None:
    text = iso_text(at_ms)
    later = iso_text(at_ms + cycles * 146_097 * 86_400_000)

    assert datetime.fromisoformat(text) == EPOCH + timedelta(milliseconds=at_ms)
    assert later[-20:] == text[-20:]
    assert int(later[:-20]) == int(text[:-20]) + cycles * 400


@given(st.integers(0, 2**62))
def test_any_time_has_a_datetime(at_ms: int) -> None:
    at = as_datetime(at_ms)

    assert at == min(at, datetime.max.replace(tzinfo=UTC))
    assert (at.year == 9999) or at == EPOCH + timedelta(milliseconds=at_ms)

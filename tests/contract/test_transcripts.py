"""Replay what Kue was asked, and compare each answer with Kue's, or with the table of mends."""

from collections.abc import Iterator
from typing import Any

import pytest

from ledger.processes.composition import System
from tests.contract.mended import MENDED, Answer, numbers
from tests.contract.transcripts import Record, Said, records, replay

SECTIONS = tuple(dict.fromkeys(record.section for record in records()))
MENDS: dict[int, list[Answer]] = {}
for mend in MENDED:
    for number in numbers(mend.where):
        MENDS.setdefault(number, []).append(mend.answer)


def expected(record: Record) -> Said:
    """Return Kue's answer, as the table mends it."""
    said = record.kue
    for answer in MENDS.get(record.number, ()):
        said = answer(said, record)
    return said


def keys(value: Any) -> Iterator[str]:
    """Yield the keys of a JSON value in the order in which they were sent."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield key
            yield from keys(item)
    if isinstance(value, list):
        for item in value:
            yield from keys(item)


@pytest.mark.parametrize("section", SECTIONS)
def test_every_answer_is_kues_unless_the_table_mends_it(section: str, system: System) -> None:
    different = {}
    replayed = []
    for record, said in replay(section, system):
        replayed.append(record.number)
        wanted = expected(record)
        if said != wanted or list(keys(said.body)) != list(keys(wanted.body)):
            different[record.number] = {"wanted": wanted, "got": said}

    assert different == {}
    assert replayed == [record.number for record in records() if record.section == section]


def test_every_record_is_in_a_section_that_is_replayed() -> None:
    recorded = [record.number for record in records()]

    assert len(recorded) == 740
    assert sorted(set(recorded)) == recorded
    assert {record.section for record in records()} == set(SECTIONS)


def test_every_row_of_the_table_changes_every_answer_it_names() -> None:
    by_number = {record.number: record for record in records()}
    stale = []
    so_far = {number: record.kue for number, record in by_number.items()}
    for mend in MENDED:
        for number in numbers(mend.where):
            before = so_far[number]
            so_far[number] = mend.answer(before, by_number[number])
            if so_far[number] == before:
                stale.append((number, mend.ours))

    assert stale == []


def test_every_mended_answer_differs_from_kues() -> None:
    by_number = {record.number: record for record in records()}

    assert [n for n in MENDS if expected(by_number[n]) == by_number[n].kue] == []


def test_every_row_of_the_table_says_what_and_why() -> None:
    silent = [mend for mend in MENDED if not (mend.kue and mend.ours and mend.why.endswith("."))]

    assert silent == []

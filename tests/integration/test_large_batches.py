"""Batches with more content than PostgreSQL takes in one parameter."""

from collections.abc import Iterator
from contextlib import closing
from typing import Final

import pytest
from sqlalchemy import Column, Integer, MetaData, Table, Text, bindparam, insert, update

from ledger.database.fast_sql import Rows
from ledger.database.migration import migrate
from ledger.processes.composition import System
from ledger.rules.commands import LARGEST_CONTENT, Create
from tests.builders import open_system, rows, verified

SMALL: Final = Create(type="email", data='""')

things = Table("things", MetaData(), Column("id", Integer, primary_key=True), Column("of", Text))


@pytest.fixture
def postgres(postgres_url: str) -> Iterator[System]:
    with closing(open_system(postgres_url)) as opened:
        migrate(opened.database)
        yield opened


@pytest.mark.parametrize("bytes_a_json", [1, 100, 1_000, 1_000_000])
def test_rows_arrive_in_however_many_texts(postgres: System, bytes_a_json: int) -> None:
    new = Rows(insert(things), ("id", "of"), bytes_a_json=bytes_a_json)
    changed = Rows(
        update(things).where(things.c.id == bindparam("id_")).values(of=bindparam("of_")),
        ("of_", "id_"),
        bytes_a_json=bytes_a_json,
    )
    with postgres.database.write() as tx:
        things.create(tx)
        with postgres.database.unanswered(tx):
            new.execute(tx, [(number, "x" * number) for number in range(100)])
            changed.execute(tx, [("y" * number, number) for number in range(0, 100, 2)])

    found = rows(postgres, "SELECT id, of FROM things ORDER BY id")
    assert found == [
        {"id": number, "of": ("x" if number % 2 else "y") * number} for number in range(100)
    ]


def test_a_small_job_is_recorded_beside_the_largest(postgres: System) -> None:
    large = Create(type="large", data=f'"{"x" * (LARGEST_CONTENT - 2)}"')

    postgres.ledger.execute_all([SMALL, large, SMALL], actor="tests")

    lengths = rows(postgres, "SELECT length(content) AS n FROM ledger_events ORDER BY position")
    assert [row["n"] for row in lengths] == [2, LARGEST_CONTENT, 2]
    assert verified(postgres).differences == []

"""Definitions of tables are compared by what they mean, and told so that one sees it."""

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest
from sqlalchemy import Connection, MetaData, NullPool, Table, create_engine, text

from ledger.log.catalog import deviations
from ledger.log.catalog.description import Kind, Part, compare
from ledger.log.schema import events

WORKERS = """CREATE TABLE ledger_workers (
    name TEXT NOT NULL,
    types TEXT NOT NULL,
    started_at_ms INTEGER NOT NULL,
    seen_at_ms INTEGER NOT NULL,
    lease_ms INTEGER NOT NULL,
    PRIMARY KEY (name)
)"""


@contextmanager
def database(*statements: str) -> Iterator[Connection]:
    engine = create_engine("sqlite://", poolclass=NullPool)
    with engine.connect() as connection:
        for statement in statements:
            connection.execute(text(statement))
        yield connection
    engine.dispose()


def found(
    *statements: str, tables: Sequence[str] = ("ledger_workers",)
) -> list[tuple[str, str, str]]:
    """Return what deviates in a database that *statements* made."""
    with database(*statements) as connection:
        metadata = MetaData()
        for name in tables:
            events.metadata.tables[name].to_metadata(metadata)
        expected: list[Table] = [metadata.tables[name] for name in tables]
        return [
            (str(each.part), each.expected, each.found) for each in deviations(connection, expected)
        ]


@pytest.mark.parametrize(
    "statement",
    [
        WORKERS,
        WORKERS.replace("\n", "").replace("    ", " "),
        WORKERS.replace("CREATE TABLE ledger_workers", 'create table "ledger_workers"').replace(
            "TEXT", "text"
        ),
        WORKERS.replace("name TEXT", "[name] TEXT /* who */").replace("lease_ms", "`lease_ms`"),
        WORKERS.replace("types TEXT NOT NULL,", "types TEXT -- what it does\n NOT NULL,"),
    ],
)
def test_spaces_quotes_case_and_comments_do_not_matter(statement: str) -> None:
    assert found(statement) == []


@pytest.mark.parametrize(
    ("statement", "part", "expected", "actual"),
    [
        (
            WORKERS.replace("types TEXT NOT NULL", "types TEXT"),
            "column types of ledger_workers",
            "text not null",
            "text",
        ),
        (
            WORKERS.replace("types TEXT", "types TEXT COLLATE NOCASE"),
            "column types of ledger_workers",
            "text not null",
            "text collate nocase not null",
        ),
        (
            WORKERS.replace("PRIMARY KEY (name)", "PRIMARY KEY (name), CHECK (lease_ms > 0)"),
            "constraint check ( lease_ms > 0 ) of ledger_workers",
            "none",
            "check ( lease_ms > 0 )",
        ),
        (
            WORKERS.replace("PRIMARY KEY (name)", "PRIMARY KEY (name) ON CONFLICT REPLACE"),
            "constraint primary key ( name ) of ledger_workers",
            "primary key ( name )",
            "none",
        ),
        (
            f"{WORKERS} WITHOUT ROWID",
            "constraint options of ledger_workers",
            "none",
            "without rowid",
        ),
        ("CREATE VIEW ledger_workers AS SELECT 1", "table ledger_workers", "a table", "a view"),
        ("CREATE TABLE other (id INTEGER)", "table ledger_workers", "a table", "none"),
    ],
)
def test_a_difference_is_named_where_it_is(
    statement: str, part: str, expected: str, actual: str
) -> None:
    assert (part, expected, actual) in found(statement)


def test_a_text_that_differs_only_in_its_case_differs() -> None:
    made = [
        "CREATE TABLE ledger_jobs (kind TEXT, CONSTRAINT one CHECK (kind IN ('Logged')))",
        (
            "CREATE TRIGGER planted BEFORE DELETE ON ledger_workers BEGIN SELECT 'It''s; (on "
            "events)'; END"
        ),
    ]

    (planted,) = found(WORKERS, *made)

    assert planted == (
        "trigger planted of ledger_workers",
        "none",
        (
            "create trigger planted before delete on ledger_workers begin select 'It''s; (on "
            "events)' ; end"
        ),
    )


@pytest.mark.parametrize(
    "on",
    [
        "ledger_workers",
        '"ledger_workers"',
        "LEDGER_WORKERS",
        "[Ledger_Workers]",
        "main.ledger_workers",
    ],
)
def test_a_trigger_is_found_however_its_table_is_written(on: str) -> None:
    planted = f'CREATE TRIGGER "on" AFTER INSERT ON {on} BEGIN SELECT 1; END'

    assert [part for part, *_ in found(WORKERS, planted)] == ["trigger on of ledger_workers"]


def test_a_trigger_of_an_application_on_a_table_of_its_own_is_its_own_affair() -> None:
    of_application = (
        "CREATE TABLE users (id INTEGER)",
        "CREATE TRIGGER users_guard AFTER INSERT ON users BEGIN DELETE FROM ledger_workers; END",
    )

    assert found(WORKERS, *of_application) == []


def test_what_is_built_for_the_comparison_is_not_in_the_database() -> None:
    with database(WORKERS) as connection:
        deviations(connection, [events])
        driver = connection.connection.driver_connection
        assert isinstance(driver, sqlite3.Connection)
        names = driver.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()

    assert names == [("ledger_workers",)]


def test_long_definitions_are_told_from_where_they_part() -> None:
    part = Part("events", Kind.FUNCTION, "guard")
    same = "x" * 500

    ((_, expected, actual),) = compare(
        {part: f"{same} IF allowed"}, {part: f"{same} IF true"}, ["events"]
    )

    assert expected == f"…{'x' * 36} IF allowed"
    assert actual == f"…{'x' * 36} IF true"


def test_an_index_may_be_added_unless_it_is_unique() -> None:
    made = (
        WORKERS,
        "CREATE INDEX mine ON ledger_workers (lease_ms)",
        "CREATE UNIQUE INDEX only ON ledger_workers (lease_ms)",
    )

    assert [part for part, *_ in found(*made)] == ["unique index only of ledger_workers"]

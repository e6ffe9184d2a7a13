"""Whatever an insider with SQL does is named by ``ledger verify``, or listed in the docs."""

import re
from collections.abc import Mapping
from itertools import zip_longest
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import pytest
from sqlalchemy import Column, Table, select, update
from sqlalchemy.engine import make_url

from ledger.database.migration import migrate
from ledger.log import store
from ledger.processes.composition import System
from ledger.projections.rebuild.rebuild import rebuild
from tests.builders import open_system, rows, silently, tamper, verified
from tests.conftest import ENGINES
from tests.documents import ROOT
from tests.insider import BOTH, FORGED, NAMED, Deed, Insider, fill
from tests.integration.shell import REFUSED, Shell

AUDIT: Final = (ROOT / "docs" / "audit.md").read_text()


@pytest.fixture
def filled(system: System) -> System:
    """Return a ledger of fourteen events, all followed."""
    fill(system)
    return system


@pytest.fixture
def insider(database_url: str) -> Insider:
    return Insider(database_url)


def do(deed: Deed, insider: Insider, system: System) -> None:
    """Do what is to be done on this engine."""
    getattr(insider, deed.how)(deed.on(system.database.engine.dialect.name))


@pytest.mark.parametrize(
    ("database_url", "deed"),
    [
        pytest.param(engine, deed, id=f"{engine}-{deed.name}")
        for deed in NAMED
        for engine, dialect in zip(ENGINES, BOTH, strict=True)
        if deed.on(dialect)
    ],
    indirect=["database_url"],
)
def test_a_deed_is_named(
    filled: System, insider: Insider, database_url: str, tmp_path: Path, deed: Deed
) -> None:
    do(deed, insider, filled)
    try:
        # In a session of its own, which sees what holds for new ones.
        result = Shell(database_url, tmp_path / "search")("verify")
    finally:
        insider.define(deed.undone)

    assert result.exit_code == REFUSED, result.output
    named = re.findall(r"^  (\S.*)$", result.stderr, re.MULTILINE)
    for name in deed.names:
        assert any(each == name or each.startswith(f"{name} ") for each in named), result.stderr


def test_with_no_deed_done_nothing_is_named(filled: System) -> None:
    assert verified(filled).differences == []


@pytest.mark.parametrize("deed", FORGED, ids=lambda deed: deed.name)
def test_a_forgery_is_seen_by_who_kept_the_head(
    filled: System, insider: Insider, database_url: str, tmp_path: Path, deed: Deed
) -> None:
    with filled.database.read() as connection:
        kept = store.read_head(connection)
    do(deed, insider, filled)
    system = open_system(database_url, search_directory=tmp_path / "search")
    try:
        rebuild(system.database, list(system.models.values()), silently)
        report = verified(system)
        with system.database.read() as connection:
            chain = store.read_chain(connection, kept.position)
    finally:
        system.close()

    assert report.differences == []
    assert chain != kept.chain


def test_the_docs_list_the_forgeries() -> None:
    listed = re.search(r"<!-- forged -->\n(.*?)<!-- /forged -->", AUDIT, re.DOTALL)

    assert listed is not None
    assert re.findall(r"^\* (.*)\.$", listed[1], re.MULTILINE) == [deed.name for deed in FORGED]


LIVING = ("ledger_workers", "ledger_failures", "ledger_rebuilds")


def test_what_is_no_history_is_not_judged_and_the_docs_say_so(filled: System) -> None:
    tamper(
        filled,
        "INSERT INTO ledger_workers VALUES ('ghost', '{}', 1, 1, 1)",
        "INSERT INTO ledger_failures VALUES ('ghost', 1, 'none', 1)",
        "INSERT INTO ledger_rebuilds VALUES ('ghost', 1, 'none', 1)",
    )

    assert verified(filled).differences == []
    _, _, unseen = AUDIT.partition("## What nothing shows")
    assert [name for name in LIVING if f"`{name}`" in unseen] == [*LIVING]


# --- every column of every read model


def test_a_change_of_any_column_of_a_read_model_is_named(filled: System) -> None:
    """One column of each table is changed at a time."""
    tables = [table for live, _ in filled.compared for table in live.tables]
    unnamed = []
    number = 0
    for columns in zip_longest(*(table.columns for table in tables)):
        changed = [
            (table, column, _row(filled, table))
            for table, column in zip(tables, columns, strict=True)
            if column is not None
        ]
        for table, column, row in changed:
            _change(filled, table, row, column)
        places = [each.where for each in verified(filled).differences]
        for table, column, row in changed:
            _restore(filled, table, row, column)
            number += 1
            if not any(place.startswith(f"{table.name} ") for place in places):
                unnamed.append(f"{table.name}.{column.name}: {places}")

    assert unnamed == []
    assert number == sum(len(table.columns) for table in tables)
    assert verified(filled).differences == []


Row = Mapping[str, Any]


def _row(system: System, table: Table) -> Row:
    """Return a row that stands for something: a count of nothing may be there or not."""
    counts = {"jobs", "created"} & set(table.columns.keys())
    wanted = select(table).order_by(*table.primary_key)
    for name in counts:
        wanted = wanted.where(table.c[name] > 0)
    with system.database.read() as connection:
        row = connection.execute(wanted.limit(1)).mappings().one()
    return dict(row)


def _change(system: System, table: Table, row: Row, column: Column[Any]) -> None:
    _set(system, table, row, {column.name: _other(column, row[column.name])})


def _restore(system: System, table: Table, row: Row, column: Column[Any]) -> None:
    changed = {**row, column.name: _other(column, row[column.name])}
    _set(system, table, changed, {column.name: row[column.name]})


def _set(system: System, table: Table, row: Row, values: Row) -> None:
    key = [table.c[each.name] == row[each.name] for each in table.primary_key]
    with system.database.write() as tx:
        assert tx.execute(update(table).where(*key).values(values)).rowcount == 1


def _other(column: Column[Any], value: object) -> object:
    """Return another value that the column's type and constraints allow."""
    if column.name == "state":
        # A state in which no job is.
        return "delayed"
    if column.name == "made":
        return 0 if value else 1
    if isinstance(value, int):
        # Far from the keys that are there.
        return value + 1_000
    if value is None:
        return 7 if column.type.python_type is int else "planted"
    return f"{value}x"


def test_an_index_of_ones_own_is_no_difference(filled: System, insider: Insider) -> None:
    insider.define(("CREATE INDEX my_own ON ledger_jobs (updated_at_ms)",))

    assert verified(filled).differences == []


def test_verifying_leaves_the_tables_as_they_are(filled: System) -> None:
    """Those that are created for the comparison are gone, also for the next one."""
    reports = [verified(filled) for _ in range(2)]

    assert [report.differences for report in reports] == [[], []]
    assert rows(filled, "SELECT count(*) AS n FROM ledger_events") == [{"n": 14}]


def test_who_may_only_read_can_verify(postgres_url: str, tmp_path: Path) -> None:
    """And create temporary tables, which PostgreSQL lets everyone do."""
    system = open_system(postgres_url, search_directory=tmp_path / "search")
    migrate(system.database)
    fill(system)
    system.close()
    role = f"auditor_{uuid4().hex}"
    insider = Insider(postgres_url)
    insider.define(
        (f"CREATE ROLE {role} LOGIN", f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {role}")
    )
    try:
        url = make_url(postgres_url).set(username=role).render_as_string(hide_password=False)
        result = Shell(url, tmp_path / "search")("verify")
    finally:
        insider.define((f"DROP OWNED BY {role}", f"DROP ROLE {role}"))

    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.startswith("14 events verified; ")

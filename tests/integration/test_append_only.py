"""The database itself refuses to change history, but for erasure."""

import json
import sqlite3
from collections.abc import Iterator

import pytest
from sqlalchemy import exc, text

from ledger.database.sqlite import SqliteDatabase
from ledger.processes.composition import System
from ledger.projections.models.job_runs import JobList
from ledger.rules.commands import Complete, Create, Erase, Start
from tests.builders import carry_out, rows, verified

COLUMNS = {
    "position": "position + 100",
    "job_id": "job_id + 1",
    "version": "version + 100",
    "kind": "'failed'",
    "schema": "2",
    "at_ms": "at_ms + 1",
    "actor": "'mallory'",
    "cause": "'because'",
    "body": "'{}'",
    "digest": ":bytes",
    "chain": ":bytes",
}
REFUSED = (exc.IntegrityError, exc.ProgrammingError, exc.DatabaseError)


@pytest.fixture
def written(system: System) -> Iterator[System]:
    """Yield a ledger of three events, the first and the last with content, and see it unchanged."""
    carry_out(
        system,
        Create(type="email", data='{"to": "ann"}'),
        Start(job_id=1),
        Complete(job_id=1, attempt=1, result='"sent"'),
    )
    before = rows(system, "SELECT * FROM ledger_events ORDER BY position")
    yield system
    after = rows(system, "SELECT * FROM ledger_events ORDER BY position")
    erasable = {"content": None, "salt": None}
    assert [row | erasable for row in after] == [row | erasable for row in before]
    assert verified(system).differences == []


def attempt(system: System, statement: str) -> None:
    """Try to change history in a transaction of its own."""
    with system.database.engine.begin() as tx:
        parameters = {"bytes": bytes(32)} if ":bytes" in statement else {}
        tx.execute(text(statement), parameters)


def refusal(system: System, statement: str) -> str:
    """Return why the statement was refused, nothing if it was not."""
    try:
        attempt(system, statement)
    except REFUSED as error:
        return str(error.orig)
    return ""


def test_no_column_can_be_changed(written: System) -> None:
    refusals = [
        refusal(written, f"UPDATE ledger_events SET {column} = {value} WHERE position = 2")  # noqa: S608
        for column, value in COLUMNS.items()
    ]

    assert ["ledger_events is append-only" in text for text in refusals] == [True] * len(COLUMNS)


def test_erasing_while_changing_something_else_is_refused(written: System) -> None:
    refusals = [
        refusal(
            written,
            f"UPDATE ledger_events SET content = NULL, salt = NULL, {column} = {value} "  # noqa: S608
            "WHERE position = 1",
        )
        for column, value in COLUMNS.items()
    ]

    assert ["ledger_events is append-only" in text for text in refusals] == [True] * len(COLUMNS)


def test_content_can_only_be_erased_whole(written: System) -> None:
    changes = (
        "content = '{}'",
        "salt = :bytes",
        "content = NULL",
        "salt = NULL",
        "content = '{}', salt = :bytes",
    )

    refusals = [
        refusal(written, f"UPDATE ledger_events SET {change} WHERE position = 1")  # noqa: S608
        for change in changes
    ]

    assert all(
        "ledger_events is append-only" in text or "ledger_events_content_committed" in text
        for text in refusals
    )


def test_content_cannot_be_put_where_there_was_none(written: System) -> None:
    with pytest.raises(REFUSED, match="ledger_events is append-only"):
        attempt(written, "UPDATE ledger_events SET content = '1', salt = :bytes WHERE position = 2")


@pytest.mark.parametrize("where", ["", " WHERE position = 3"])
def test_nothing_can_be_deleted(written: System, where: str) -> None:
    with pytest.raises(REFUSED, match="ledger_events is append-only"):
        attempt(written, f"DELETE FROM ledger_events{where}")  # noqa: S608


def test_the_table_cannot_be_truncated(written: System) -> None:
    truncate = (
        "DELETE FROM ledger_events"
        if written.database.is_embedded
        else "TRUNCATE ledger_events CASCADE"
    )

    with pytest.raises(REFUSED, match="ledger_events is append-only"):
        attempt(written, truncate)


def test_an_event_cannot_be_replaced(written: System) -> None:
    """SQLite's REPLACE deletes the row in its way without firing a DELETE trigger."""
    columns = "position, job_id, version, kind, schema, at_ms, actor, body, chain"
    by_mallory = columns.replace("actor", "'mallory'")
    replace = {
        True: f"INSERT OR REPLACE INTO ledger_events ({columns}) "  # noqa: S608
        f"SELECT {by_mallory} FROM ledger_events WHERE position = 2",
        False: f"INSERT INTO ledger_events ({columns}) "  # noqa: S608
        f"SELECT {by_mallory} FROM ledger_events WHERE position = 2 "
        "ON CONFLICT (position) DO UPDATE SET actor = excluded.actor",
    }

    with pytest.raises(REFUSED, match="ledger_events is append-only"):
        attempt(written, replace[written.database.is_embedded])


def test_an_event_cannot_be_replaced_by_its_place_in_the_stream(written: System) -> None:
    columns = "position, job_id, version, kind, schema, at_ms, actor, body, chain"
    moved = columns.replace("position", "position + 10")
    replace = {
        True: f"INSERT OR REPLACE INTO ledger_events ({columns}) "  # noqa: S608
        f"SELECT {moved} FROM ledger_events WHERE position = 2",
        False: f"INSERT INTO ledger_events ({columns}) "  # noqa: S608
        f"SELECT {moved} FROM ledger_events WHERE position = 2 "
        "ON CONFLICT (job_id, version) DO UPDATE SET position = excluded.position",
    }

    with pytest.raises(REFUSED, match="ledger_events is append-only"):
        attempt(written, replace[written.database.is_embedded])


def test_content_can_be_erased_and_verify_tells_that_no_event_says_so(system: System) -> None:
    carry_out(
        system,
        Create(type="email", data='{"to": "ann"}'),
        Start(job_id=1),
        Complete(job_id=1, attempt=1, result='"sent"'),
    )

    for _ in range(2):
        attempt(system, "UPDATE ledger_events SET content = NULL, salt = NULL WHERE position = 1")
    unrecorded = verified(system)
    carry_out(system, Erase(job_id=1, versions=(1,)))
    recorded = verified(system)

    assert rows(
        system,
        "SELECT position, content, salt, digest IS NOT NULL AS committed FROM ledger_events "
        "WHERE position = 1",
    ) == [{"position": 1, "content": None, "salt": None, "committed": True}]
    assert [(each.where, each.found) for each in unrecorded.differences] == [
        ("event 1", "neither: its content is missing")
    ]
    assert (unrecorded.erased, recorded.differences, recorded.erased) == (0, [], 1)


def test_erasing_a_job_erases_it_in_every_view(system: System) -> None:
    carry_out(
        system,
        Create(type="email", data='{"to": "ann"}'),
        Start(job_id=1),
        Complete(job_id=1, attempt=1, result='"sent"'),
        Erase(job_id=1, reason="asked"),
    )
    with system.database.read() as connection:
        page = system.jobs.lists.page(connection, JobList(), 0, 9)

    (view,) = json.loads(page.json)
    assert (view["state"], view["data"], "result" in view) == ("complete", {}, False)
    report = verified(system)
    assert (report.differences, report.erased) == ([], 2)


def test_only_the_named_events_are_erased(system: System) -> None:
    carry_out(
        system,
        Create(type="email", data='{"to": "ann"}'),
        Start(job_id=1),
        Complete(job_id=1, attempt=1, result='"sent"'),
        Erase(job_id=1, versions=(3,)),
    )

    assert rows(system, "SELECT content FROM ledger_events ORDER BY position") == [
        {"content": '{"to": "ann"}'},
        {"content": None},
        {"content": None},
        {"content": None},
    ]


def test_the_guard_holds_for_any_program_on_the_file(written: System) -> None:
    """SQLite's triggers are in the file, not in our connection."""
    database = written.database
    if not isinstance(database, SqliteDatabase):
        with pytest.raises(REFUSED, match="ledger_events is append-only"):
            attempt(
                written, "WITH gone AS (DELETE FROM ledger_events RETURNING 1) SELECT * FROM gone"
            )
        return
    connection = sqlite3.connect(database.path)
    try:
        with pytest.raises(sqlite3.IntegrityError, match="ledger_events is append-only"):
            connection.execute("DELETE FROM ledger_events")
    finally:
        connection.close()


@pytest.mark.parametrize("database_url", ["postgres"], indirect=True)
def test_a_writer_s_own_operators_do_not_count(written: System) -> None:
    """The guard compares with PostgreSQL's operators, whatever the writer's search_path finds."""
    with written.database.write() as tx:
        tx.exec_driver_sql("CREATE SCHEMA evil")
        tx.exec_driver_sql(
            "CREATE FUNCTION evil.agree(text, text) RETURNS bool LANGUAGE sql AS 'SELECT true'"
        )
        tx.exec_driver_sql(
            "CREATE OPERATOR evil.= (LEFTARG = text, RIGHTARG = text, FUNCTION = evil.agree)"
        )

    def change() -> None:
        with written.database.write() as tx:
            tx.exec_driver_sql("SET LOCAL search_path = evil, pg_catalog, public")
            tx.exec_driver_sql(
                "UPDATE ledger_events SET content = NULL, salt = NULL, actor = 'mallory'"
            )

    with pytest.raises(exc.DatabaseError, match="ledger_events is append-only"):
        change()

    with written.database.write() as tx:
        tx.exec_driver_sql("DROP SCHEMA evil CASCADE")

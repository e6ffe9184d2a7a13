"""Versions in the database: of the rows of read models, and of who can read the events."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Final

import pytest
from sqlalchemy import Connection

from ledger.errors import SchemaMismatch
from ledger.log import store
from ledger.processes import composition
from ledger.processes.composition import System, prepare
from ledger.projections.model_versions import record_versions, require_versions
from ledger.projections.rebuild.build import set_checkpoint
from ledger.projections.rebuild.rebuild import rebuild
from ledger.rules.commands import Create
from ledger.rules.events import EVENTS, READER_VERSION
from tests.builders import carry_out, open_system, rows, silently, tamper, verified
from tests.integration.servers import wait_until
from tests.integration.shell import Shell

INLINE = ("jobs", "ledger_state", "state_counts", "unique_keys")
OURS: Final = {
    "jobs": "version 3",
    "ledger_state": "version 1",
    "state_counts": "version 1",
    "unique_keys": "version 1",
}
OF_ANOTHER: Final = (
    "the rows of state_counts are of another version than this Ledger writes; "
    "run `ledger rebuild state_counts`"
)


def recorded(system: System) -> dict[str, str]:
    found = rows(system, "SELECT name, fingerprint FROM ledger_checkpoints ORDER BY name")
    return {row["name"]: row["fingerprint"] for row in found if row["name"] in INLINE}


def test_what_is_prepared_has_the_version_of_each_model(system: System) -> None:
    tamper(system, "DELETE FROM ledger_checkpoints")

    prepare(system)

    assert recorded(system) == OURS


def test_a_version_that_is_stored_stays(system: System) -> None:
    tamper(
        system,
        "DELETE FROM ledger_checkpoints",
        "INSERT INTO ledger_checkpoints VALUES ('jobs', 0, 'version 0')",
    )

    record_versions(system.database, system.projections)

    assert recorded(system) == OURS | {"jobs": "version 0"}


def test_rows_of_another_version_are_refused_until_they_are_rebuilt(
    system: System, database_url: str
) -> None:
    shell = Shell(database_url)
    carry_out(system, Create(type="email"))
    prepare(system)
    tamper(
        system,
        "UPDATE ledger_checkpoints SET fingerprint = 'version 0' WHERE name = 'state_counts'",
    )

    with pytest.raises(SchemaMismatch) as refused:
        prepare(system)
    stats = shell("stats")
    created = shell("create", "email")
    # What asks history alone, or mends it, is not held up.
    events = shell.says("events")
    report = verified(system)
    rebuilt = shell.says("rebuild", "state_counts")

    assert str(refused.value) == OF_ANOTHER
    assert [(each.exit_code, each.stderr) for each in (stats, created)] == [
        (3, f"Error: {OF_ANOTHER}\n")
    ] * 2
    assert events.count("\n") == 1
    assert [each.where for each in report.differences] == ["state_counts"]
    assert rebuilt == "state_counts rebuilt from 1 events\n"
    require_versions(system.database, system.projections)
    assert verified(system).differences == []


def test_a_rebuild_stores_the_version_of_what_it_built(system: System) -> None:
    tamper(system, "DELETE FROM ledger_checkpoints")

    rebuild(system.database, [system.jobs], silently)

    assert recorded(system) == {"jobs": "version 3"}


# --- a process that runs on while a newer release rebuilds


REBUILT: Final = (
    "another version of Ledger than this process runs has rebuilt state_counts; restart the "
    "process with that version"
)


def of_a_newer_release(database_url: str, monkeypatch: pytest.MonkeyPatch) -> System:
    # Another process has read models of its own.
    composition._inline_projections.cache_clear()
    system = open_system(database_url)
    composition._inline_projections.cache_clear()
    monkeypatch.setattr(system.state_counts, "version", 2)
    return system


@pytest.mark.parametrize("has_written", [True, False])
def test_a_process_that_runs_on_writes_no_rows_of_the_version_before(
    system: System, database_url: str, monkeypatch: pytest.MonkeyPatch, *, has_written: bool
) -> None:
    prepare(system)
    with closing(of_a_newer_release(database_url, monkeypatch)) as newer:
        if has_written:
            carry_out(system, Create(type="email"))
        rebuild(newer.database, [newer.state_counts], silently)
        carry_out(newer, Create(type="email"))
        before = rows(newer, "SELECT * FROM ledger_head")

        refusals = []
        for _ in range(2):
            with pytest.raises(SchemaMismatch) as refused:
                system.ledger.execute(Create(type="email"), actor="test")
            refusals.append(str(refused.value))

        assert refusals == [REBUILT] * 2
        assert rows(newer, "SELECT * FROM ledger_head") == before
        assert verified(newer).differences == []


def test_a_process_that_waits_for_the_head_meanwhile_writes_none_either(
    system: System, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    carry_out(system, Create(type="email"))
    waiting = "SELECT pid FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
    with (
        closing(of_a_newer_release(database_url, monkeypatch)) as newer,
        ThreadPoolExecutor(1) as thread,
    ):
        with newer.database.write() as tx:
            store.lock_head(tx)
            appended = thread.submit(carry_out, system, Create(type="email"))
            if not system.database.is_embedded:
                wait_until(lambda: bool(rows(system, waiting)), "the append waits for the head")
            set_checkpoint(tx, newer.state_counts, 1)
            store.count_inline_rebuild(tx)

        with pytest.raises(SchemaMismatch) as refused:
            appended.result()

    assert str(refused.value) == REBUILT
    assert verified(system).position == 1


def test_a_rebuild_of_the_same_version_stops_nobody(system: System, database_url: str) -> None:
    carry_out(system, Create(type="email"))
    with closing(open_system(database_url)) as other:
        rebuild(other.database, other.projections, silently)

    carry_out(system, Create(type="email"))

    assert verified(system).differences == []
    inline = len(system.projections)
    assert rows(system, "SELECT inline_rebuilds FROM ledger_head") == [{"inline_rebuilds": inline}]


# The columns of each version's tables: a change of them is another version of the model.
COLUMNS: Final = {
    ("jobs", 3): {
        "ledger_jobs": (
            "id version state type priority max_attempts made attempt started_attempt delay_ms "
            "ttl_ms backoff backoff_delay_ms backoff_max_ms remove_on_complete worker progress "
            "created_at_ms promote_at_ms updated_at_ms failed_at_ms started_at_ms duration_ms "
            "due_at_ms data_position result_position error_position progress_position json_start "
            "json_priority json_state json_end"
        ),
        "ledger_job_runs": "type state priority_span id_span priority_run id_run jobs",
    },
    ("ledger_state", 1): {"ledger_state": "subject name state since_ms facts"},
    ("state_counts", 1): {"ledger_state_counts": "type state jobs work_ms"},
    ("unique_keys", 1): {"ledger_unique_keys": "key job_id"},
}


def test_a_model_with_other_columns_has_another_version(system: System) -> None:
    columns = {
        (model.name, model.version): {
            table.name: " ".join(table.columns.keys()) for table in model.tables
        }
        for model in system.projections
    }

    assert columns == COLUMNS


def test_every_event_can_be_read_by_this_version() -> None:
    assert {event.reader_version for event in EVENTS} <= set(range(1, READER_VERSION + 1))
    assert max(event.reader_version for event in EVENTS) == READER_VERSION


def test_a_newer_event_raises_what_a_reader_needs(
    system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    carry_out(system, Create(type="email"))
    before = rows(system, "SELECT reader_version FROM ledger_head")
    with monkeypatch.context() as newer:
        # As if this were the release that adds it.
        newer.setattr("ledger.rules.events.Created.reader_version", 2)
        newer.setattr("ledger.log.store.READER_VERSION", 2)
        carry_out(system, Create(type="email"))
        clean = verified(system).differences

    assert before == [{"reader_version": 1}]
    assert rows(system, "SELECT reader_version FROM ledger_head") == [{"reader_version": 2}]
    assert clean == []


@pytest.mark.parametrize("ask", [store.read_head, store.read_position, store.lock_head])
def test_an_older_process_stops_at_a_newer_ledger(
    system: System, ask: Callable[[Connection], object]
) -> None:
    tamper(system, "UPDATE ledger_head SET reader_version = 2")

    with (
        system.database.write() as tx,
        pytest.raises(SchemaMismatch, match=r"need reader version 2, .* has reader version 1"),
    ):
        ask(tx)
    with pytest.raises(SchemaMismatch, match=r"upgrade this one$"):
        system.ledger.execute(Create(type="email"), actor="test")


def test_a_reader_version_that_no_event_needs_is_a_difference(system: System) -> None:
    carry_out(system, Create(type="email"))
    tamper(system, "UPDATE ledger_head SET reader_version = 7")

    (difference,) = verified(system).differences

    assert (difference.where, difference.expected, difference.found) == (
        "head reader_version",
        "1",
        "7",
    )

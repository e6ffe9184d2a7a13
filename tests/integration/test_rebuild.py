"""Projections are disposable: whatever is in them, history brings them back."""

import random
from collections.abc import Sequence
from contextlib import closing
from typing import Any, Final

import pytest
from sqlalchemy import Connection

from ledger.errors import Corrupt, Stuck, Unavailable
from ledger.log import store
from ledger.log.history import read_recorded
from ledger.log.recorded import LEDGER_STREAM, AnyChange, Change, Recorded, of_jobs, of_ledger
from ledger.processes.composition import System
from ledger.projections.models.state_counts import StateCounts
from ledger.projections.rebuild.rebuild import drop, rebuild
from ledger.projections.replay import Replay, fold, replay
from ledger.rules.commands import (
    Command,
    Complete,
    Create,
    Erase,
    FailAttempt,
    Log,
    Move,
    Pause,
    Progress,
    Remove,
    Reprioritize,
    Resume,
    Return,
    Start,
)
from ledger.rules.events import Created, Event, Paused, Resumed
from tests.builders import (
    START_MS,
    batches_of,
    carry_out,
    open_system,
    rows,
    silently,
    tamper,
    verified,
)

TABLES = (
    "ledger_jobs",
    "ledger_job_runs",
    "ledger_state_counts",
    "ledger_unique_keys",
    "ledger_state",
)
# A rebuild takes small steps.
SMALL: Final = batches_of(50)


def contents(system: System) -> dict[str, list[dict[str, Any]]]:
    """Return the rows of all read models, without counts of nothing."""
    where = {
        "ledger_job_runs": "WHERE jobs != 0",
        "ledger_state_counts": "WHERE jobs != 0 OR work_ms != 0",
    }
    order = {
        "ledger_job_runs": "type, state, priority_span, id_span, priority_run, id_run",
        "ledger_state_counts": "type, state",
    }
    return {
        table: rows(
            system,
            f"SELECT * FROM {table} {where.get(table, '')} ORDER BY {order.get(table, '1')}",  # noqa: S608
        )
        for table in TABLES
    }


def busy(number: int) -> list[Command]:
    """Return the lives of many jobs, interwoven."""
    random_ = random.Random(number)
    commands: list[Command] = []
    for job_id in range(1, number + 1):
        unique = f"key {job_id}" if job_id % 3 == 0 else None
        commands.append(Create(type=f"type {job_id % 4}", data='"x"', unique=unique, attempts=3))
        other = random_.randint(1, job_id)
        commands += (
            Start(job_id=other),
            Progress(job_id=other, attempt=1, progress=40, data='"at"'),
            Log(job_id=other, attempt=1, line='"line"'),
        )
        commands += random_.choice(
            (
                (Complete(job_id=other, attempt=1, result="1"),),
                (FailAttempt(job_id=other, attempt=1, error='"x"'), Start(job_id=other)),
                (Return(job_id=other, attempt=1, reason="stopped"),),
                (Pause(type=f"type {other % 4}"), Pause(type="another")),
                (Resume(type=f"type {other % 4}"),),
                (Move(job_id=other, to="delayed"),),
                (Reprioritize(job_id=other, priority=7),),
                (Remove(job_id=random_.randint(1, job_id)),),
                (Erase(job_id=other),),
            )
        )
    return commands


@pytest.fixture
def filled(system: System) -> System:
    """Return a ledger of a few hundred events."""
    system.ledger.submit(busy(60), actor="test")
    return system


def changes_of(system: System, *, remembered: int | None = None, batch: int = 7) -> list[AnyChange]:
    with system.database.snapshot() as connection:
        through = store.read_position(connection)
        history = read_recorded(connection, through=through, batch=batch)
        if remembered is None:
            return [change for changes in Replay(connection, history) for change in changes]
        small = Replay(connection, history, remembered=remembered)
        return [change for changes in small for change in changes]


def test_rebuilding_what_is_right_changes_nothing(filled: System) -> None:
    before = contents(filled)

    done = rebuild(filled.database, filled.projections, silently)

    assert done == rows(filled, "SELECT count(*) AS n FROM ledger_events")[0]["n"]
    assert contents(filled) == before


def test_damage_is_mended(filled: System) -> None:
    before = contents(filled)
    tamper(
        filled,
        "DELETE FROM ledger_jobs WHERE id BETWEEN 10 AND 40",
        "UPDATE ledger_jobs SET priority = 99, json_end = 'nonsense'",
        "DELETE FROM ledger_job_runs",
        "UPDATE ledger_state_counts SET jobs = jobs + 5, work_ms = -1",
        "INSERT INTO ledger_state_counts (type, state, jobs, work_ms) VALUES ('x', 'active', 1, 0)",
        "DELETE FROM ledger_unique_keys",
        "UPDATE ledger_state SET since_ms = 1",
        "INSERT INTO ledger_state VALUES ('type', 'nobody''s', 'paused', 1, '{}')",
    )
    damaged = verified(filled).differences

    rebuild(filled.database, filled.projections, silently)

    assert damaged != []
    assert contents(filled) == before
    assert verified(filled).differences == []


def test_one_projection_is_rebuilt_and_the_others_are_left_alone(filled: System) -> None:
    tamper(
        filled, "UPDATE ledger_state_counts SET jobs = 99", "UPDATE ledger_jobs SET priority = 99"
    )

    rebuild(filled.database, [filled.state_counts], silently)

    found = {difference.where.split()[0] for difference in verified(filled).differences}
    assert found == {"ledger_jobs"}


def test_a_rebuilt_ledger_goes_on(filled: System) -> None:
    tamper(filled, "DELETE FROM ledger_jobs", "DELETE FROM ledger_unique_keys")
    rebuild(filled.database, filled.projections, silently)

    (again, new) = carry_out(filled, Create(type="x", unique="key 3"), Create(type="x"))

    assert (again.job_id, again.events) == (3, ())
    assert new.job_id == 61
    assert verified(filled).differences == []


def test_the_indexes_are_there_after_a_rebuild(filled: System) -> None:
    indexes = {
        True: "SELECT name FROM sqlite_master WHERE type = 'index' ORDER BY 1",
        False: "SELECT indexname AS name FROM pg_indexes WHERE schemaname = 'public' ORDER BY 1",
    }[filled.database.is_embedded]
    before = rows(filled, indexes)

    rebuild(filled.database, filled.projections, silently)

    assert rows(filled, indexes) == before


def test_a_rebuild_that_fails_half_way_changes_nothing(filled: System) -> None:
    before = contents(filled)

    class Breaking(StateCounts):
        def apply(self, tx: Connection, changes: Sequence[Change]) -> None:
            super().apply(tx, changes)
            if any(change.recorded.position == 130 for change in changes):
                raise ZeroDivisionError("no")

    models = [filled.jobs, Breaking(), filled.unique_keys]
    with pytest.raises(
        Stuck, match=r"state_counts stopped before event 130: ZeroDivisionError: no"
    ):
        rebuild(filled.database, models, silently, steps=SMALL)

    assert contents(filled) == before
    assert verified(filled).differences == []
    carry_out(filled, Create(type="x"))


def test_a_rebuild_that_is_interrupted_changes_nothing(filled: System) -> None:
    before = contents(filled)

    def interrupt(done: int, _total: int) -> None:
        if done >= 100:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        rebuild(filled.database, filled.projections, interrupt, steps=SMALL)

    assert contents(filled) == before
    carry_out(filled, Create(type="x"))
    assert verified(filled).differences == []


def test_a_history_that_contradicts_itself_is_not_built_upon(filled: System) -> None:
    before = contents(filled)
    tamper(filled, "DELETE FROM ledger_events WHERE position = 100")

    with pytest.raises(Corrupt, match="event 100 is missing") as stop:
        rebuild(filled.database, filled.projections, silently)

    assert stop.value.position == 100
    assert contents(filled) == before


@pytest.mark.parametrize(
    ("statement", "text_"),
    [
        ("UPDATE ledger_events SET kind = 'teleported' WHERE position = 9", "unknown kind"),
        ("UPDATE ledger_events SET schema = 9 WHERE position = 9", "unknown schema 9"),
        ("UPDATE ledger_events SET body = '{' WHERE position = 9", "cannot be read"),
        ("UPDATE ledger_events SET version = 99 WHERE position = 9", "has version 99 after"),
    ],
)
def test_an_event_that_stops_the_rebuild_is_named(
    filled: System, statement: str, text_: str
) -> None:
    tamper(filled, statement)

    with pytest.raises(Corrupt, match=f"event 9: .*{text_}") as stop:
        rebuild(filled.database, filled.projections, silently)

    assert stop.value.position == 9


def test_progress_is_told_from_the_beginning_to_the_end(filled: System) -> None:
    told: list[tuple[int, int]] = []

    total = rebuild(
        filled.database,
        filled.projections,
        lambda done, all_: told.append((done, all_)),
        steps=SMALL,
    )

    assert told == [*((done, total) for done in (*range(0, total, 50), total)), (total, total)]


def test_what_it_does_when_all_is_built_is_told(filled: System) -> None:
    told: list[str] = []
    busy: list[str] = []

    rebuild(filled.database, filled.projections, silently, phase=told.append)
    rebuild(filled.database, [filled.models["search"]], silently, phase=busy.append)

    assert told == ["Creating indexes", "Comparing with the live tables", "Swapping"]
    assert busy == ["Swapping"]


def test_an_empty_ledger_is_rebuilt(system: System) -> None:
    told: list[tuple[int, int]] = []

    done = rebuild(system.database, system.projections, lambda *step: told.append(step))

    assert (done, told) == (0, [(0, 0), (0, 0)])


def test_readers_see_the_old_rows_until_the_rebuild_is_done(
    filled: System, database_url: str
) -> None:
    reader = open_system(database_url)
    before = contents(reader)
    seen = []

    def look(_done: int, _total: int) -> None:
        seen.append(contents(reader))

    tamper(filled, "UPDATE ledger_jobs SET priority = priority")
    rebuild(filled.database, filled.projections, look)
    reader.close()

    assert seen == [before] * len(seen)
    assert seen


def test_a_writer_goes_on_all_along(filled: System, database_url: str) -> None:
    writer = open_system(database_url)
    written: list[int] = []

    def write(done: int, _total: int) -> None:
        outcome = writer.ledger.execute(Create(type="x", unique=f"{len(written)}"), actor="test")
        written.append(outcome.position)

    done = rebuild(filled.database, filled.projections, write, steps=SMALL)
    writer.close()

    # The last is told when all is done.
    assert len(written) > 5
    assert done == written[-2]
    assert verified(filled).differences == []


def test_what_a_running_rebuild_builds_is_not_dropped(filled: System, database_url: str) -> None:
    tamper(filled, "UPDATE ledger_jobs SET priority = 99")
    refused: list[str] = []

    def drop_beside(done: int, _total: int) -> None:
        if done == 100:
            with closing(open_system(database_url)) as other, pytest.raises(Unavailable) as refusal:
                drop(other.database, other.projections)
            refused.append(str(refusal.value))

    rebuild(filled.database, filled.projections, drop_beside, steps=SMALL)

    assert refused == ["another rebuild is running; try again when it has finished"]
    assert verified(filled).differences == []


# --- replay


@pytest.mark.parametrize("remembered", [1, 2, 10])
def test_a_short_memory_gives_the_same_changes(filled: System, remembered: int) -> None:
    assert changes_of(filled, remembered=remembered) == changes_of(filled)


def test_memory_is_bounded_by_what_may_be_remembered(filled: System) -> None:
    with filled.database.snapshot() as connection:
        through = store.read_position(connection)
        history = read_recorded(connection, through=through, batch=10)
        replay_ = Replay(connection, history, remembered=5)
        # A batch names no more jobs than it has events.
        most = max(len(replay_._memory._jobs) for _ in replay_)

    assert most <= 5 + 10


def test_batches_of_any_size_give_the_same_changes(filled: System) -> None:
    assert changes_of(filled, batch=1) == changes_of(filled, batch=10_000)


def test_replay_tells_what_the_live_batches_told(
    system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    live: list[Change] = []
    apply = system.state_counts.apply

    def noted(tx: Connection, changes: Sequence[Change]) -> None:
        live.extend(changes)
        apply(tx, changes)

    monkeypatch.setattr(system.state_counts, "apply", noted)
    for start in range(0, 200, 20):
        system.ledger.submit(busy(60)[start : start + 20], actor="test", cause="because")

    replayed = of_jobs(changes_of(system))

    # The rules of a removed job need only its version, so that is all that is loaded.
    assert [(each.recorded[:6], each.after.state) for each in replayed] == [
        (each.recorded[:6], each.after.state) for each in live
    ]
    assert [each.after for each in replayed if each.before.exists] == [
        each.after for each in live if each.before.exists
    ]


def test_the_past_is_a_replay_up_to_a_position(filled: System) -> None:
    changes = of_jobs(changes_of(filled))
    with filled.database.snapshot() as connection:
        half = of_jobs([each for part in replay(connection, through=100) for each in part])
        folded = fold(connection, 1, until_position=100)

    assert half == [each for each in changes if each.recorded.position <= 100]
    assert folded == [each.after for each in half if each.after.id == 1][-1]


def test_a_job_is_folded_from_its_own_events(filled: System) -> None:
    changes = of_jobs(changes_of(filled))
    newest = {change.after.id: change.after for change in changes}
    with filled.database.read() as connection:
        folded = {job_id: fold(connection, job_id) for job_id in newest}
        loaded = filled.jobs.load(connection, sorted(newest))
        by_version = [
            fold(connection, 1, until_version=version)
            for version in range(1, newest[1].version + 1)
        ]

    assert folded == newest
    assert dict(loaded) == {job_id: job for job_id, job in newest.items() if job.exists}
    assert by_version == [each.after for each in changes if each.after.id == 1]


def test_the_ledgers_own_stream_is_replayed_from_anywhere(filled: System) -> None:
    changes = of_ledger(changes_of(filled))
    middle = changes[len(changes) // 2].recorded.position - 1
    with filled.database.snapshot() as connection:
        through = store.read_position(connection)
        parts = list(replay(connection, after=middle, through=through))

    behind = of_ledger([each for part in parts for each in part])
    assert behind == changes[len(changes) // 2 :]
    assert [each.recorded.version for each in changes] == [*range(1, len(changes) + 1)]


@pytest.mark.parametrize(
    ("version", "event", "expected"),
    [
        (2, Paused(type="email"), "type 'email': event 'paused' is not allowed while it is paused"),
        (3, Resumed(type="email"), "the ledger's own stream has version 3 after 1"),
        (2, Created(type="email"), "'created' is not an event of the ledger's own stream"),
    ],
)
def test_what_cannot_have_happened_to_the_ledger_itself_is_named(
    system: System, version: int, event: Event, expected: str
) -> None:
    history = [
        Recorded(position, LEDGER_STREAM, number, START_MS, "test", None, happened)
        for position, number, happened in ((1, 1, Paused(type="email")), (2, version, event))
    ]
    with (
        system.database.snapshot() as connection,
        pytest.raises(Corrupt, match=expected) as stop,
    ):
        list(Replay(connection, [history]))

    assert stop.value.position == 2


def test_the_collector_runs_again_after_a_replay(filled: System) -> None:
    import gc  # noqa: PLC0415 - only to ask

    changes_of(filled)
    with filled.database.snapshot() as connection:
        next(iter(replay(connection, through=10)))

    assert gc.isenabled()


def test_rebuilding_needs_no_content(filled: System) -> None:
    filled.ledger.submit([Erase(job_id=job_id) for job_id in range(1, 61)], actor="test")
    before = contents(filled)

    rebuild(filled.database, filled.projections, silently)

    assert rows(filled, "SELECT 1 FROM ledger_events WHERE content IS NOT NULL") == []
    assert contents(filled) == before
    assert verified(filled).differences == []

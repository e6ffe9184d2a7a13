"""Whatever is changed behind the ledger's back, verify says where."""

from collections.abc import Sequence

import pytest
from sqlalchemy import Connection

from ledger.errors import Unavailable
from ledger.log.catalog import postgres as catalog
from ledger.processes.composition import System
from ledger.projections.rebuild.rebuild import rebuild
from ledger.projections.report import MOST_DIFFERENCES, Report
from ledger.projections.verify.verify import verify
from ledger.rules.commands import Complete, Create, FailAttempt, Log, Move, Progress, Remove, Start
from tests.builders import carry_out, relink, rows, silently, tamper, verified


@pytest.fixture
def kept(system: System) -> System:
    """Return a ledger of twelve events on three jobs, one of them removed."""
    carry_out(
        system,
        Create(type="email", data='{"to": "ann"}', unique="one"),
        Create(type="sms", priority=-5, attempts=3),
        Create(type="email"),
        Start(job_id=1, worker="w"),
        Progress(job_id=1, attempt=1, progress=50, data='"half"'),
        Log(job_id=1, attempt=1, line='"a line"'),
        Complete(job_id=1, attempt=1, result="[1]"),
        Start(job_id=2),
        FailAttempt(job_id=2, attempt=1, error='"broken"'),
        Remove(job_id=3),
        Move(job_id=2, to="failed"),
        Create(type="fax"),
    )
    return system


def places(system: System) -> list[str]:
    return [difference.where for difference in verified(system).differences]


def test_an_untouched_ledger_is_clean(kept: System) -> None:
    told: list[tuple[int, int]] = []
    shadows = kept.compared

    report = verify(
        kept.database,
        shadows,
        lambda done, total: told.append((done, total)),
        tables=kept.own_tables,
    )

    assert report.clean
    assert (report.position, report.erased, report.differences) == (12, 0, [])
    assert report.projections == ["jobs", "state_counts", "unique_keys", "ledger_state", "activity"]
    assert report.chain == rows(kept, "SELECT chain FROM ledger_head")[0]["chain"].hex()
    assert told[-1] == (12, 12)


def test_an_empty_ledger_is_clean(system: System) -> None:
    report = verified(system)

    assert (report.clean, report.position) == (True, 0)


def test_verifying_leaves_nothing_behind(kept: System) -> None:
    before = rows(kept, "SELECT * FROM ledger_jobs ORDER BY id")
    reports = [verified(kept) for _ in range(2)]

    assert [report.differences for report in reports] == [[], []]
    assert rows(kept, "SELECT * FROM ledger_jobs ORDER BY id") == before


# --- the envelope


@pytest.mark.parametrize(
    ("change", "position"),
    [
        ("actor = 'mallory'", 4),
        ("cause = ''", 4),
        ("""body = '{"attempt":1, "worker":"w"}'""", 4),
        ("""body = '{"type":"sms","attempts":3}'""", 2),
        ("at_ms = at_ms + 0, digest = NULL, content = NULL, salt = NULL", 6),
    ],
)
def test_a_changed_column_is_reported_where_it_is(kept: System, change: str, position: int) -> None:
    tamper(kept, f"UPDATE ledger_events SET {change} WHERE position = {position}")  # noqa: S608

    assert places(kept)[0] == f"event {position}"


def test_a_changed_actor_is_reported_once_and_at_its_place(kept: System) -> None:
    tamper(kept, "UPDATE ledger_events SET actor = 'mallory' WHERE position = 4")

    (difference,) = verified(kept).differences

    stored = rows(kept, "SELECT chain FROM ledger_events WHERE position = 4")[0]["chain"].hex()
    assert (difference.where, difference.found) == ("event 4", stored)
    assert difference.expected.startswith("the chain value ")


def test_a_body_that_nobody_can_read_is_reported_where_it_is(kept: System) -> None:
    tamper(kept, "UPDATE ledger_events SET body = '{' WHERE position = 8")

    differences = verified(kept).differences

    assert [difference.where for difference in differences] == ["event 8", "event 8"]
    assert "cannot be read" in differences[1].found


def test_a_kind_that_nobody_knows_is_reported_where_it_is(kept: System) -> None:
    tamper(kept, "UPDATE ledger_events SET kind = 'teleported' WHERE position = 8")

    assert places(kept) == ["event 8", "event 8"]


def test_a_time_that_runs_backwards_is_reported_where_it_is(kept: System) -> None:
    tamper(kept, "UPDATE ledger_events SET at_ms = 1 WHERE position = 6")

    assert places(kept)[:2] == ["event 6", "event 6"]


def test_changed_content_is_reported_where_it_is(kept: System) -> None:
    tamper(kept, "UPDATE ledger_events SET content = '[2]' WHERE position = 7")

    (difference,) = verified(kept).differences

    assert difference.where == "event 7"
    assert difference.expected.startswith("content with the digest ")


def test_two_events_that_were_swapped_are_reported(kept: System) -> None:
    """Two creations, whose streams do not betray them."""
    tamper(
        kept,
        "UPDATE ledger_events SET position = 100 WHERE position = 2",
        "UPDATE ledger_events SET position = 2 WHERE position = 3",
        "UPDATE ledger_events SET position = 3 WHERE position = 100",
    )

    assert {"event 2", "event 3"} <= set(places(kept))


def test_two_events_of_one_job_that_were_swapped_are_reported(kept: System) -> None:
    tamper(
        kept,
        "UPDATE ledger_events SET position = 100 WHERE position = 5",
        "UPDATE ledger_events SET position = 5 WHERE position = 6",
        "UPDATE ledger_events SET position = 6 WHERE position = 100",
    )

    assert places(kept)[0] == "event 5"


def test_an_event_that_is_missing_is_reported(kept: System) -> None:
    tamper(kept, "DELETE FROM ledger_events WHERE position = 6")

    differences = verified(kept).differences

    assert [difference.where for difference in differences] == ["event 6"]
    assert differences[0].found == "event 6 is missing"


def test_the_last_event_that_is_missing_is_reported(kept: System) -> None:
    tamper(kept, "DELETE FROM ledger_events WHERE position = 12")

    assert places(kept) == ["event 12"]


def test_all_events_that_are_missing_are_reported(kept: System) -> None:
    tamper(kept, "DELETE FROM ledger_events")

    assert places(kept) == ["event 1"]


def test_an_event_behind_the_head_is_reported(kept: System) -> None:
    tamper(
        kept,
        "INSERT INTO ledger_events (position, job_id, version, kind, schema, at_ms, "
        "actor, body, chain) "
        "SELECT 13, job_id, 2, 'removed', 1, at_ms, actor, '{}', chain FROM ledger_events "
        "WHERE position = 12",
    )

    assert places(kept)[:2] == ["event 13", "head"]


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ("chain = :bytes", ["head chain"]),
        ("last_job_id = 9", ["head last_job_id"]),
        ("at_ms = 1", ["head at_ms"]),
        ("position = 13", ["event 13"]),
        ("position = 11", ["head", "head position"]),
    ],
)
def test_a_changed_head_is_reported(kept: System, change: str, where: Sequence[str]) -> None:
    if ":bytes" in change:
        tamper(kept, f"UPDATE ledger_head SET {change}", bytes=b"x" * 32)  # noqa: S608
    else:
        tamper(kept, f"UPDATE ledger_head SET {change}")  # noqa: S608

    assert places(kept) == where


def test_history_written_anew_is_caught_by_the_rules(kept: System) -> None:
    """A chain can be computed anew by who owns the table; an impossible step stays one."""
    tamper(kept, "UPDATE ledger_events SET kind = 'promoted', body = '{}' WHERE position = 8")
    relink(kept)

    differences = verified(kept).differences

    assert [difference.where for difference in differences] == ["event 8"]
    assert "event 'promoted' cannot lead from inactive to inactive" in differences[0].found


# --- the projections


# What was done; where it must be reported, and as what if that is one text.
DAMAGE = (
    (
        "UPDATE ledger_jobs SET priority = 7 WHERE id = 2",
        "ledger_jobs id=2",
        "priority=-5",
        "priority=7",
    ),
    (
        "UPDATE ledger_jobs SET state = 'active', due_at_ms = 1 WHERE id = 1",
        "ledger_jobs id=1",
        "state='complete', due_at_ms=None",
        "state='active', due_at_ms=1",
    ),
    ("DELETE FROM ledger_jobs WHERE id = 4", "ledger_jobs id=4", None, "no row"),
    (
        "UPDATE ledger_state_counts SET jobs = 2 WHERE type = 'sms' AND state = 'failed'",
        "ledger_state_counts type=sms state=failed",
        "jobs=1",
        "jobs=2",
    ),
    (
        (
            "UPDATE ledger_state_counts SET work_ms = work_ms + 1 WHERE type = '' AND state "
            "= 'complete'"
        ),
        "ledger_state_counts type= state=complete",
        None,
        None,
    ),
    (
        "INSERT INTO ledger_state_counts (type, state, jobs, work_ms) VALUES ('x', 'active', 1, 0)",
        "ledger_state_counts type=x state=active",
        "no row",
        "type='x', state='active', jobs=1, work_ms=0",
    ),
    (
        "UPDATE ledger_job_runs SET jobs = 5 WHERE type = 'fax' AND id_span = 17",
        (
            "ledger_job_runs type=fax state=inactive "
            "priority_span=0 id_span=17 priority_run=0 id_run=0"
        ),
        "jobs=1",
        "jobs=5",
    ),
    (
        "UPDATE ledger_unique_keys SET job_id = 2 WHERE key = 'one'",
        "ledger_unique_keys key=one",
        "job_id=1",
        "job_id=2",
    ),
    (
        "DELETE FROM ledger_unique_keys",
        "ledger_unique_keys key=one",
        "key='one', job_id=1",
        "no row",
    ),
    (
        "INSERT INTO ledger_state VALUES ('type', 'sms', 'paused', 7, '{}')",
        "ledger_state subject=type name=sms",
        "no row",
        "subject='type', name='sms', state='paused', since_ms=7, facts='{}'",
    ),
)


def test_a_changed_read_model_is_reported_row_by_row(kept: System) -> None:
    reported = []
    for statement, *_ in DAMAGE:
        tamper(kept, statement)
        reported.append(verified(kept).differences)
        rebuild(kept.database, kept.projections, silently)

    assert [[difference.where for difference in differences] for differences in reported] == [
        [where] for _, where, *_ in DAMAGE
    ]
    for (difference,), (_, _, expected, found) in zip(reported, DAMAGE, strict=True):
        assert expected in {None, difference.expected}
        assert found in {None, difference.found}
    assert places(kept) == []


def test_a_count_of_nothing_may_stand_or_not(kept: System) -> None:
    tamper(
        kept,
        "INSERT INTO ledger_state_counts (type, state, jobs, work_ms) VALUES ('none', "
        "'active', 0, 0)",
        "DELETE FROM ledger_state_counts WHERE jobs = 0 AND work_ms = 0 AND type != 'none'",
        "DELETE FROM ledger_job_runs WHERE jobs = 0",
    )

    assert places(kept) == []


def test_a_ledger_that_differs_everywhere_says_so_briefly(system: System) -> None:
    system.ledger.submit([Create(type="email")] * 50, actor="test")
    tamper(
        system, "UPDATE ledger_jobs SET priority = 7", "UPDATE ledger_events SET actor = 'mallory'"
    )

    report = verified(system)

    assert len(report.differences) == MOST_DIFFERENCES
    assert not report.clean


def test_tampering_in_a_long_ledger_is_found_beyond_the_first_batch(system: System) -> None:
    def in_batches() -> Report:
        return verify(system.database, system.compared, silently, tables=(), batch=7)

    system.ledger.submit([Create(type="email")] * 50, actor="test")
    clean = in_batches()
    tamper(system, "UPDATE ledger_events SET actor = 'mallory' WHERE position IN (8, 43)")
    tampered = in_batches()

    assert clean.differences == []
    assert [difference.where for difference in tampered.differences] == ["event 8", "event 43"]
    assert tampered.position == 50


@pytest.mark.parametrize("database_url", ["postgres"], indirect=True)
def test_a_connection_that_is_lost_meanwhile_is_an_outage(
    system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lose(connection: Connection, _: object) -> None:
        connection.exec_driver_sql("SELECT pg_terminate_backend(pg_backend_pid())")

    with monkeypatch.context() as patch:
        patch.setattr(catalog, "_create", lose)
        with pytest.raises(Unavailable, match="terminating connection"):
            verified(system)

    assert verified(system).clean

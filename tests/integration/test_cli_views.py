"""`ledger activity`, and the flags of `ledger rebuild`."""

import json
from collections.abc import Sequence
from io import StringIO
from pathlib import Path
from typing import Final

import pytest
from rich.console import Console
from rich.progress import Progress

from ledger.cli.activity import sparkline
from ledger.cli.progress_bar import Advancing, CountColumn
from ledger.processes.composition import System
from ledger.projections.follower import catch_up
from ledger.projections.rebuild.build import Build
from ledger.rules.commands import Complete, Create, FailAttempt, Pause, Start
from tests.builders import START_MS, Clock, carry_out, tamper
from tests.contract.client import Client
from tests.integration.shell import NO_DATABASE, REFUSED, USAGE, Shell, table

MINUTE_MS: Final = 60_000
TERMINAL_WIDTH: Final = 80
TO: Final = "2023-11-14T22:16:00Z"


@pytest.fixture
def shell(system: System, database_url: str, tmp_path: Path) -> Shell:
    """Return the command line on a ledger in which something happened in two minutes."""
    clock = Clock()
    system.ledger.clock = clock
    carry_out(system, Create(type="email"), Create(type="video", attempts=2))
    clock.now_ms = START_MS + 2 * MINUTE_MS
    carry_out(
        system,
        Start(job_id=1),
        Complete(job_id=1, attempt=1),
        Start(job_id=2),
        FailAttempt(job_id=2, attempt=1, error='"x"'),
    )
    return Shell(database_url, tmp_path / "search")


# --- activity


def test_activity_is_drawn_up_to_the_head(shell: Shell, system: System) -> None:
    said = shell.says("activity", "--minutes", "5", "--to", TO)

    lines = [[cell.strip() for cell in line.split("│")] for line in said.splitlines()]
    drawn = {line[1]: line[2:5] for line in lines if len(line) > 4}
    assert drawn == {
        "created": ["█", "2", "2"],
        "started": ["█", "2", "2"],
        "completed": ["█", "1", "1"],
        "failed": ["█", "1", "1"],
    }
    assert said.startswith("5 minutes from 2023-11-14 22:12:00.000Z")
    assert said.endswith("work time: 0.0 s\n")
    assert system.activity.checkpoint() == 6


def test_activity_of_a_type_as_json(shell: Shell) -> None:
    minutes = json.loads(shell.says("activity", "--type", "video", "--to", TO, "--json"))

    assert [(each["at"], each["created"], each["failed"]) for each in minutes] == [
        ("2023-11-14T22:13:00.000Z", 1, 0),
        ("2023-11-14T22:15:00.000Z", 0, 1),
    ]


def test_many_minutes_share_a_bar(shell: Shell) -> None:
    said = shell.says("activity", "--minutes", "1440", "--to", TO)

    assert "per 36 minutes" in said
    assert max(map(len, said.splitlines())) <= TERMINAL_WIDTH


def test_activity_is_shown_where_another_process_keeps_it(shell: Shell, system: System) -> None:
    leadership = system.activity.leadership()
    assert leadership.held()

    minutes = json.loads(shell.says("activity", "--to", TO, "--json"))

    leadership.release()
    assert minutes == []
    assert system.activity.checkpoint() == 0


def test_activity_that_is_stuck_is_shown_with_a_warning(shell: Shell, system: System) -> None:
    catch_up(system.database, system.activity, through=2)
    tamper(system, "UPDATE ledger_events SET kind = 'teleported' WHERE position = 4")

    result = shell("activity", "--to", TO, "--json")

    assert result.exit_code == 0
    assert "Warning: activity stopped before event 4: " in result.stderr
    assert len(json.loads(result.stdout)) == 1


@pytest.mark.parametrize(
    "when",
    ["yesterday", "2026-11-22T14:00:00", "0001-01-01T00:00:00Z", "9999-12-31T23:59:59-14:00"],
)
def test_a_time_without_a_zone_is_refused(shell: Shell, when: str) -> None:
    code, complaint = shell.refusal("activity", "--to", when)

    assert (code, "--to: expected a time with a UTC offset" in complaint) == (REFUSED, True)


@pytest.mark.parametrize(
    ("heights", "line"),
    [
        ([], ""),
        ([0, 0], "  "),
        ([1], "█"),
        ([0, 1, 2, 3, 4, 5, 6, 7, 8], " ▁▂▃▄▅▆▇█"),
        ([1, 1_000], "▁█"),
    ],
)
def test_what_is_not_nothing_can_be_seen(heights: Sequence[int], line: str) -> None:
    assert sparkline(heights) == line


# --- rebuild


def test_a_begun_rebuild_is_told_of_and_thrown_away(shell: Shell, system: System) -> None:
    before = shell.says("rebuild", "--status")
    build = Build(system.database, [system.jobs, system.activity])
    build.begin()
    catch_up(system.database, build, through=3)

    status = shell.json("rebuild", "--status")
    shown = shell.says("rebuild", "--status")
    dropped = shell.says("rebuild", "--drop", "jobs")

    assert before == "no unfinished rebuilds\n"
    assert status == {"position": 6, "rebuilds": {"jobs": 3, "activity": 3}}
    assert table(shown)[:2] == [
        ["rebuild", "position", "head", "done"],
        ["jobs", "3", "6", "50%"],
    ]
    assert dropped == "discarded any unfinished rebuild of jobs\n"
    assert shell.json("rebuild", "--status")["rebuilds"] == {"activity": 3}


def test_a_terminal_shows_what_comes_when_all_is_built() -> None:
    bar = Progress("{task.description}", CountColumn())
    advancing = Advancing(bar, "Rebuilding")

    def drawn() -> list[str]:
        console = Console(width=TERMINAL_WIDTH, file=StringIO())
        console.print(bar)
        return [line.rstrip() for line in console.file.getvalue().splitlines()]  # type: ignore[attr-defined]

    begun = drawn()
    advancing(6, 6)
    advancing.phase("Comparing")
    comparing = drawn()
    advancing.phase("Swapping")
    advancing.phase("Swapping")
    swapping = drawn()
    advancing.phase("")

    assert begun == ["Rebuilding"]
    assert comparing == ["Rebuilding 6/6", "Comparing"]
    assert swapping == ["Rebuilding 6/6", "Swapping"]
    assert drawn() == ["Rebuilding 6/6"]


def test_a_rebuild_tells_what_it_did_as_json(shell: Shell, system: System) -> None:
    tamper(system, "UPDATE ledger_jobs SET priority = 9 WHERE id = 1")

    assert shell.json("rebuild", "jobs") == {
        "rebuilt": ["jobs"],
        "position": 6,
        "differences": [
            {"where": "ledger_jobs id=1", "expected": "priority=0", "found": "priority=9"}
        ],
    }


def test_a_second_rebuild_is_refused(shell: Shell, system: System) -> None:
    leadership = system.database.leadership("rebuild")
    assert leadership.held()

    code, complaint = shell.refusal("rebuild", "--all")

    leadership.release()
    assert (code, "another rebuild is running" in complaint) == (NO_DATABASE, True)


def test_dropping_needs_names(shell: Shell) -> None:
    assert shell.refusal("rebuild", "--drop")[0] == USAGE


# --- times that datetime cannot represent


@pytest.fixture
def far_ahead(system: System, database_url: str, tmp_path: Path) -> Shell:
    """Return the command line on a ledger whose clock was set to the year 287396."""
    system.ledger.clock = Clock(2**53 - 1)
    carry_out(
        system,
        Create(type="email", delay_ms=2**53 - 1),
        Create(type="email"),
        Start(job_id=2, worker="w"),
        FailAttempt(job_id=2, attempt=1, error='"x"'),
        Pause(type="email"),
    )
    return Shell(database_url, tmp_path / "search")


@pytest.mark.parametrize(
    ("command", "shown"),
    [
        (("events",), "+287396-10-12 08:59:00.991Z"),
        (("events", "--json"), '"at":"+287396-10-12T08:59:00.991Z"'),
        (("show", "1"), "+572823-07-25 17:58:01.982Z"),
        (("show", "2"), "+287396-10-12 08:59:00.991Z"),
        (("status",), "+287396-10-12 08:59:00.991Z"),
        (("status", "--json"), "+287396-10-12 08:59:00.991Z"),
        (("stats",), "email has been paused since +287396-10-12 08:59:00.991Z"),
        (("replay", "--at", "5", "--job", "1"), "+572823-07-25 17:58:01.982Z"),
        (("replay", "--at", "5"), "as of position 5"),
        (("jobs",), "email"),
        (("workers",), "no workers"),
        (("activity",), "60 minutes"),
        (("verify",), "5 events verified"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_any_time_is_shown(far_ahead: Shell, command: Sequence[str], shown: str) -> None:
    assert shown in far_ahead.says(*command)


def test_any_time_is_answered(far_ahead: Shell, system: System) -> None:
    client = Client(system)

    catch_up(system.database, system.activity)
    activity = client.get("/activity")
    event, *_ = client.get("/job/1/events").json

    assert event["at"] == "+287396-10-12T08:59:00.991Z"
    assert [minute["at"] for minute in activity.json] == ["+287396-10-12T08:59:00.000Z"]
    assert client.get("/job/1").json["promote_at"] == str(2 * (2**53 - 1))
    assert client.get("/health/ready").status == 200

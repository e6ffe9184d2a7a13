"""Whatever strangers have put into a ledger, no command prints what a terminal would obey."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import pytest

from ledger.cli import COMMANDS
from ledger.processes.composition import System
from ledger.queue import presence
from ledger.rules.commands import (
    Complete,
    Create,
    Erase,
    FailAttempt,
    Log,
    Pause,
    Progress,
    Remove,
    Return,
    Start,
)
from ledger.rules.events import RequestKey
from tests.builders import tamper
from tests.integration.shell import Shell
from tests.unit.test_printable import HOSTILE

TEXT: Final = json.dumps(HOSTILE, ensure_ascii=False)
TRACE: Final = json.dumps(f"{HOSTILE}\n  {HOSTILE}\n{HOSTILE}", ensure_ascii=False)


@pytest.fixture
def shell(system: System, database_url: str, tmp_path: Path) -> Shell:
    """Return the command line on a ledger in which every text is hostile."""
    worker = f"w{HOSTILE}"
    system.ledger.submit(
        [
            *(
                Create(
                    type=HOSTILE,
                    data=f'{{{TEXT}:[{TEXT},\t"word"]}}',
                    unique=f"{HOSTILE}{number}",
                    search_keys=None if number else (HOSTILE,),
                    request=RequestKey(key=f"{HOSTILE}{number}"),
                    attempts=2,
                )
                for number in range(5)
            ),
            Start(job_id=1, worker=worker),
            Progress(job_id=1, attempt=1, progress=5, data=TEXT),
            Log(job_id=1, attempt=1, line=TEXT),
            FailAttempt(job_id=1, attempt=1, error=TRACE),
            Start(job_id=1, worker=worker),
            FailAttempt(job_id=1, attempt=2, error=TRACE),
            Start(job_id=2, worker=worker),
            Complete(job_id=2, attempt=1, result=TEXT),
            Start(job_id=3, worker=worker),
            Return(job_id=3, attempt=1, reason=HOSTILE),
            Remove(job_id=4),
            Erase(job_id=4, reason=HOSTILE),
            Pause(type=HOSTILE),
        ],
        actor=f"actor {HOSTILE}",
        cause=f"cause {HOSTILE}",
    )
    with system.database.write() as tx:
        now_ms = system.ledger.time_ms(tx)
        presence.beat(tx, worker, {HOSTILE: 1}, now_ms=now_ms, lease_ms=60_000)
    return Shell(database_url, tmp_path / "search")


READS: Final = (
    *(("show", str(job_id)) for job_id in (1, 2, 3)),
    ("jobs",),
    ("jobs", "--type", HOSTILE),
    ("search", "word"),
    ("stats",),
    ("activity", "--type", HOSTILE),
    ("workers",),
    ("events",),
    ("events", "--job", "4"),
    ("replay", "--at", "9"),
    ("replay", "--at", "9", "--job", "1"),
    ("verify",),
    ("status",),
    ("rebuild", "--status"),
    ("rebuild", "--all"),
)
CHANGES: Final = (
    ("create", HOSTILE, TEXT, "--unique", HOSTILE),
    ("create", HOSTILE, TEXT, "--unique", HOSTILE, "--json"),
    ("resume", HOSTILE),
    ("resume", HOSTILE),
    ("pause", HOSTILE),
    ("pause", HOSTILE),
    ("restart", "1", "--json"),
    ("remove", "3"),
    ("erase", "3", "--reason", HOSTILE, "--yes"),
    ("sweep", "--once"),
    ("follow", "--once"),
    ("migrate",),
)
REFUSALS: Final = (
    ("show", "4"),
    ("show", HOSTILE),
    ("show", "1", HOSTILE),
    ("restart", "4", "99"),
    ("restart", "4", "--json"),
    ("jobs", "--state", HOSTILE),
    (f"--{HOSTILE}",),
    ("status", f"--{HOSTILE}"),
    (HOSTILE,),
    ("create", HOSTILE, HOSTILE),
    ("create", "x", "--priority", HOSTILE),
    ("create", "x", "--backoff", json.dumps({"type": HOSTILE}, ensure_ascii=False)),
    ("rebuild", HOSTILE),
    ("follow", HOSTILE),
    ("replay", "--at", HOSTILE),
    ("activity", "--to", HOSTILE),
    ("work", HOSTILE),
    ("work", f"{HOSTILE}:queue"),
    ("serve", "--bind", HOSTILE),
    ("serve", "--bind", f"unix:/nowhere/{HOSTILE}"),
    ("--database", f"mysql://{HOSTILE}", "status"),
    ("--database", f"sqlite:////nowhere/{HOSTILE}", "status"),
)


def raw(text: str) -> list[str]:
    """Return the lines that are not printable."""
    return [line for line in text.split("\n") if not line.isprintable()]


def assert_plain(shell: Shell, command: Sequence[str], *codes: int) -> None:
    """Require that a command ends with one of the codes, and prints nothing raw."""
    result = shell(*command)
    assert result.exit_code in codes, result.output
    assert raw(result.stdout) == []
    assert raw(result.stderr) == []


@pytest.mark.parametrize("command", READS, ids=" ".join)
def test_what_is_read_is_printed_plain(shell: Shell, command: Sequence[str]) -> None:
    assert_plain(shell, command, 0)
    result = shell(*command, "--json")

    assert (result.exit_code, raw(result.stdout), raw(result.stderr)) == (0, [], [])
    values = [json.loads(line) for line in result.stdout.splitlines()]
    counts = {"search", "stats", "activity", "verify", "rebuild", "replay"}
    assert "\u202e" in json.dumps(values, ensure_ascii=False) or command[0] in counts


def test_what_is_changed_is_reported_plain(shell: Shell) -> None:
    for command in CHANGES:
        assert_plain(shell, command, 0)


@pytest.mark.parametrize("command", REFUSALS, ids=" ".join)
def test_what_is_refused_is_quoted_plain(shell: Shell, command: Sequence[str]) -> None:
    assert_plain(shell, command, 1, 2, 3)


def test_every_command_is_tried() -> None:
    tried = {command[0] for command in (*READS, *CHANGES, *REFUSALS)}

    assert {command.name for command in COMMANDS} <= tried


def test_differences_are_reported_plain(shell: Shell, system: System) -> None:
    tamper(
        system,
        "UPDATE ledger_jobs SET type = :text, worker = :text WHERE id = 1",
        text=f"{HOSTILE} forged",
    )

    assert_plain(shell, ("verify",), 1)
    assert_plain(shell, ("verify", "--json"), 1)
    assert "forged" in shell("verify").stderr
    assert_plain(shell, ("rebuild", "jobs"), 0)


def test_a_variable_is_quoted_plain(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEDGER_BIND", HOSTILE)
    monkeypatch.setenv(f"LEDGER_LEASE{HOSTILE}", "1")

    assert_plain(shell, ("status",), 2)

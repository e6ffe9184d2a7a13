"""The `ledger` command: what it prints, what it does, how it ends."""

import getpass
import json
import re
import shutil
import signal
import subprocess
from contextlib import closing
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import pytest

from ledger.cli import COMMANDS, main, output
from ledger.cli.history import PAGE
from ledger.database.file_lock import FileLeadership
from ledger.database.migration import migrate
from ledger.processes.composition import System
from ledger.projections.search.whoosh.folders import Home
from ledger.rules.commands import (
    Complete,
    Create,
    FailAttempt,
    Log,
    Move,
    Progress,
    Remove,
    Reprioritize,
    Start,
)
from tests.builders import (
    START_MS,
    Clock,
    carry_out,
    job_in,
    open_system,
    rows,
    tamper,
    verified,
)
from tests.integration.servers import DEADLINE_S, surroundings, tool, wait_until
from tests.integration.shell import NO_DATABASE, REFUSED, USAGE, Shell, invoke, table

NOT_COMPARED: Final = (
    "it cannot be compared with a replay; run `ledger rebuild search` to build it again"
)
STATES: Final = ("inactive", "complete", "active", "failed", "delayed")


@pytest.fixture
def shell(system: System, database_url: str, tmp_path: Path) -> Shell:
    """Return the command line on a new ledger, on each engine in turn."""
    return Shell(database_url, tmp_path / "search")


@pytest.fixture
def quick(tmp_path: Path, sqlite_template: Path) -> Shell:
    """Return the command line on a new SQLite file."""
    path = shutil.copy(sqlite_template, tmp_path / "ledger.db")
    return Shell(f"sqlite:///{path}")


@pytest.fixture(scope="module")
def settled(tmp_path_factory: pytest.TempPathFactory) -> Shell:
    """Return the command line on a SQLite file with one job, which no test changes."""
    shell = Shell(f"sqlite:///{tmp_path_factory.mktemp('settled') / 'ledger.db'}")
    shell.says("migrate")
    shell.says("create", "email")
    return shell


# --- create, show, jobs, stats


def test_a_created_job_is_shown_in_every_detail(shell: Shell) -> None:
    said = shell.says(
        "create",
        "email",
        '{"to": "tj@learnboost.com", "n": 1.50}',
        *("--priority", "high"),
        *("--attempts", "5"),
        *("--delay", "2h"),
        *("--ttl", "90s"),
        *("--backoff", '{"type": "exponential", "delay": 2000}'),
        *("--search-key", "to"),
        *("--search-key", "from.name"),
        "--remove-on-complete",
        *("--unique", "order 7"),
    )
    job = shell.json("show", "1")
    (event,) = shell.json("events", "--job", "1")
    created_at_ms = int(job["created_at"])

    assert said == "job 1 created\n"
    assert job == {
        "id": "1",
        "type": "email",
        "data": {"to": "tj@learnboost.com", "n": 1.50},
        "priority": -10,
        "progress": 0,
        "state": "delayed",
        "created_at": str(created_at_ms),
        "promote_at": str(created_at_ms + 7_200_000),
        "updated_at": str(created_at_ms),
        "delay": "7200000",
        "ttl": "90000",
        "attempts": {"made": 0, "remaining": 5, "max": 5},
    }
    assert (event["actor"], event["cause"]) == (f"cli:{getpass.getuser()}", "ledger create")
    assert event["body"]["search_keys"] == ["to", "from.name"]
    assert event["body"]["remove_on_complete"] is True
    assert event["body"]["backoff"]["delay_ms"] == 2000


def test_a_key_that_was_used_creates_nothing(shell: Shell) -> None:
    first = shell.says("create", "email", "--unique", "one")
    again = shell.says("create", "email", "--unique", "one")
    as_json = shell.json("create", "email", "--unique", "one")

    assert first == "job 1 created\n"
    assert again == "job 1 was already created with this key\n"
    assert as_json == {"id": 1}
    assert shell.json("status")["position"] == 1


def test_data_comes_from_standard_input_too(quick: Shell) -> None:
    quick.says("create", "email", "-", stdin='\n{"to":\n  "ärger"}\n')

    assert quick.json("show", "1")["data"] == {"to": "ärger"}
    assert [event["content"] for event in quick.json("events")] == [{"to": "ärger"}]


def test_jobs_are_listed_by_state_type_rank_and_order(shell: Shell, system: System) -> None:
    for state in STATES:
        job_in(system, state, type="email")
    job_in(system, "inactive", type="sms", priority=-10)

    def listed(*arguments: str) -> list[int]:
        return [int(job["id"]) for job in shell.json("jobs", *arguments)]

    assert listed() == [6, 5, 4, 3, 2, 1]
    assert listed("--oldest") == [1, 2, 3, 4, 5, 6]
    assert listed("--limit", "2") == [6, 5]
    assert listed("--limit", "2", "--skip", "1") == [5, 4]
    assert listed("--skip", "6") == []
    assert listed("--state", "inactive") == [6, 1]
    assert listed("--state", "inactive", "--by-priority") == [6, 1]
    assert listed("--state", "inactive", "--type", "email") == [1]
    assert listed("--state", "failed", "--type", "sms") == []
    assert listed("--type", "email", "--limit", "3", "--skip", "1") == [4, 3, 2]
    assert listed("--type", "email", "--oldest") == [1, 2, 3, 4, 5]
    assert listed("--type", "sms", "--by-priority") == [6]
    assert listed("--type", "fax") == []
    assert [listed("--state", state) for state in STATES[1:]] == [[2], [3], [4], [5]]


def test_jobs_are_printed_as_a_table(quick: Shell) -> None:
    quick.says("create", "email", f'"{"x" * 100}"')
    quick.says("create", "\x1b[31mred", "--priority", "low", "--attempts", "3")

    heading, second, first = table(quick.says("jobs"))

    assert " ".join(heading) == "id type state prio % tries age data"
    assert [*second[:6], second[7]] == ["2", "\\x1b[31mred", "inactive", "10", "0", "0/3", "{}"]
    assert [*first[:6], first[7]] == ["1", "email", "inactive", "0", "0", "0/1", f'"{"x" * 100}"']
    assert re.fullmatch(r"\d+ s", first[6])


def test_what_is_not_there_is_said_and_no_empty_table(quick: Shell) -> None:
    assert quick.says("jobs") == "no matching jobs\n"
    assert quick.says("workers") == "no workers\n"
    assert quick.says("search", "nothing") == "no job contains all of these words\n"
    assert quick.says("events", "--job", "0") == ""


def test_the_examples_in_helps_stand_as_they_were_written(quick: Shell) -> None:
    for name in main.commands:
        assert "\\b" not in quick.says(name, "--help")
    assert "\n  ledger restart 7\n" in quick.says("restart", "--help")


def test_a_job_is_printed_with_its_log(quick: Shell) -> None:
    system = open_system(quick.url, Clock())
    clock = Clock()
    system.ledger.clock = clock
    carry_out(
        system,
        Create(type="email", data='{"a": 1}', attempts=2, ttl_ms=90_000),
        Start(job_id=1),
        Log(job_id=1, attempt=1, line='"to\\n1"'),
        FailAttempt(job_id=1, attempt=1, error='"cannot\\nat line 7"'),
    )
    clock.now_ms = START_MS + 60_000
    carry_out(
        system,
        Start(job_id=1),
        FailAttempt(job_id=1, attempt=2, error='"broken\\nat \\u001b line 9"'),
    )
    system.close()

    fields, log = quick.says("show", "1").split("error of attempt 2")
    values = dict(table(fields)[1:])

    assert values["state"] == "failed"
    assert values["data"] == '{"a": 1}'
    assert (values["ttl"], values["progress"]) == ("90000 ms", "0 %")
    assert values["created_at"] == "2023-11-14 22:13:20.000Z"
    assert log.splitlines()[:2] == [", at 2023-11-14 22:14:20.000Z:", "  at \\x1b line 9"]
    assert table(log) == [
        ["at", "attempt", "what", "line"],
        ["2023-11-14 22:13:20.000Z", "1", "logged", "to\\n1"],
        ["2023-11-14 22:13:20.000Z", "1", "failed", "cannot"],
        ["2023-11-14 22:14:20.000Z", "2", "failed", "broken"],
    ]


def test_the_time_that_a_job_took_is_printed_with_its_unit(quick: Shell) -> None:
    system = open_system(quick.url, Clock())
    job_in(system, "complete")
    system.close()

    values = dict(table(quick.says("show", "1"))[1:])

    assert values["duration"] == "0 ms"


def test_a_line_that_was_erased_is_told(quick: Shell) -> None:
    system = open_system(quick.url, Clock())
    job_in(system, "failed")
    system.close()
    quick.says("erase", "1", "--yes")

    assert table(quick.says("show", "1"))[-1][2:] == ["failed", "(erased)"]


def test_stats_count_by_type_and_state(shell: Shell, system: System) -> None:
    for state in STATES:
        job_in(system, state, type="email")
    job_in(system, "inactive", type="sms")

    assert shell.json("stats") == {
        "inactiveCount": 2,
        "completeCount": 1,
        "activeCount": 1,
        "failedCount": 1,
        "delayedCount": 1,
        "workTime": shell.json("stats")["workTime"],
    }
    assert table(shell.says("stats")) == [
        ["type", *STATES],
        ["email", "1", "1", "1", "1", "1"],
        ["sms", "1", "0", "0", "0", "0"],
        ["all types", "2", "1", "1", "1", "1"],
    ]


# --- events


def test_events_are_printed_a_line_each(quick: Shell) -> None:
    system = open_system(quick.url, Clock())
    job_in(system, "failed", data='{"to":\n"x"}')
    system.close()

    said = quick.says("events").replace("2023-11-14 22:13:20.000Z", "TIME")

    assert said.splitlines() == [
        '       1  TIME  job 1 v1  created       test  {"type":"email"} {"to":\\n"x"}',
        '       2  TIME  job 1 v2  started       test  {"attempt":1}',
        '       3  TIME  job 1 v3  failed        test  {"attempt":1,"next":"failed"} "broken"',
    ]


def test_events_are_chosen_by_job_place_and_number(shell: Shell, system: System) -> None:
    job_in(system, "complete")
    job_in(system, "removed")

    def kinds(*arguments: str) -> list[tuple[int, str]]:
        return [(event["position"], event["kind"]) for event in shell.json("events", *arguments)]

    everything = [
        (1, "created"),
        (2, "started"),
        (3, "completed"),
        (4, "created"),
        (5, "removed"),
    ]

    assert kinds() == everything
    assert kinds("--after", "3") == everything[3:]
    assert kinds("--after", "1", "--limit", "2") == everything[1:3]
    assert kinds("--job", "1") == everything[:3]
    assert kinds("--job", "1", "--after", "2") == everything[2:3]
    assert kinds("--job", "2") == everything[3:]
    assert kinds("--after", "5") == []


def test_a_page_of_events_is_followed_by_the_next(quick: Shell) -> None:
    number = 2 * PAGE + 1
    with closing(open_system(quick.url)) as system:
        system.ledger.submit([Create(type="email")] * number, actor="test")
    limited = quick.json("events", "--limit", f"{PAGE + 1}")

    assert [event["position"] for event in quick.json("events")] == [*range(1, number + 1)]
    assert [event["position"] for event in limited] == [*range(1, PAGE + 2)]


def test_following_shows_the_events_of_others_until_ctrl_c(
    system: System, database_url: str, tmp_path: Path
) -> None:
    job_in(system, "inactive", type="before")
    shown = tmp_path / "shown"
    with (
        shown.open("wb") as output,
        subprocess.Popen(
            [tool("ledger"), "events", "--follow"],
            env=surroundings(tmp_path, LEDGER_DATABASE_URL=database_url),
            stdout=output,
            stderr=subprocess.PIPE,
            text=True,
        ) as process,
    ):
        wait_until(lambda: "before" in shown.read_text(), "it shows what there was")
        job_in(system, "inactive", type="meanwhile")
        wait_until(lambda: "meanwhile" in shown.read_text(), "it shows what came")
        process.send_signal(signal.SIGINT)
        _, complaint = process.communicate(timeout=DEADLINE_S)

    assert len(shown.read_text().splitlines()) == 2
    assert (process.returncode, complaint.strip()) == (0, "")


# --- remove, erase


def test_a_removed_job_leaves_the_views_and_keeps_its_history(shell: Shell) -> None:
    for _ in range(3):
        shell.says("create", "email")

    said = shell.says("remove", "3", "1")

    assert said == "job 3 removed\njob 1 removed\n"
    assert [job["id"] for job in shell.json("jobs")] == ["2"]
    assert [event["kind"] for event in shell.json("events", "--job", "1")] == ["created", "removed"]
    assert shell.refusal("show", "1") == (
        REFUSED,
        "Error: job 1 was removed; see `ledger events --job 1`\n",
    )


def test_what_cannot_be_removed_is_told_and_the_others_are_removed(quick: Shell) -> None:
    quick.says("create", "email")

    result = quick("remove", "7", "1", "1")
    as_json = quick("remove", "1", "--json")

    assert result.exit_code == REFUSED
    assert result.stdout == "job 1 removed\n"
    assert result.stderr == 'Error: job "7" doesnt exist\nError: job "1" doesnt exist\n'
    assert as_json.exit_code == REFUSED
    assert json.loads(as_json.stdout) == {"error": 'job "1" doesnt exist'}


def test_erased_content_is_gone_and_the_ledger_still_verifies(shell: Shell) -> None:
    shell.says("create", "email", '{"name": "Ann"}', "--search-key", "name")

    said = shell.says("erase", "1", "--yes", "--reason", "asked by its owner")

    assert said == "content of job 1 erased\n"
    assert shell.json("show", "1")["data"] == {}
    assert [event["content"] for event in shell.json("events")] == [None, None]
    assert "content erased from 1 events\n" in shell.says("verify")


def test_erasing_one_event_leaves_the_others(quick: Shell) -> None:
    system = open_system(quick.url)
    job_in(system, "failed", data='{"name": "Ann"}')
    system.close()

    quick.says("erase", "1", "--yes", "--version", "3")

    assert [event["content"] for event in quick.json("events")] == [
        {"name": "Ann"},
        None,
        None,
        None,
    ]


def test_erasing_asks_first(quick: Shell) -> None:
    quick.says("create", "email", '{"name": "Ann"}')

    result = quick("erase", "1", stdin="n\n")

    assert result.exit_code == REFUSED
    assert "Erased content cannot be restored" in result.stdout
    assert quick.json("show", "1")["data"] == {"name": "Ann"}


# --- verify, rebuild


def test_a_sound_ledger_verifies(shell: Shell, system: System) -> None:
    for state in STATES:
        job_in(system, state)
    chain = shell.json("status")["chain"]

    assert shell.json("verify") == {
        "position": 10,
        "chain": chain,
        "erased": 0,
        "differences": [],
        "projections": ["jobs", "state_counts", "unique_keys", "ledger_state", "activity"],
        "not_compared": {"search": NOT_COMPARED},
    }
    assert shell.says("verify") == (
        "10 events verified; jobs, state_counts, unique_keys, ledger_state, activity match a "
        "full replay\n"
        f"not compared: search: {NOT_COMPARED}\n"
        f"content erased from 0 events\nchain {chain}\n"
    )


def test_an_empty_ledger_verifies(quick: Shell) -> None:
    assert quick.says("verify").splitlines()[0].startswith("0 events verified; ")


def test_a_damaged_ledger_is_reported_and_rebuilt(shell: Shell, system: System) -> None:
    job_in(system, "inactive")
    tamper(system, "UPDATE ledger_state_counts SET jobs = 5 WHERE type = 'email'")

    result = shell("verify")
    as_json = shell("verify", "--json")
    rebuilt = shell.says("rebuild", "state_counts")

    assert (result.exit_code, result.stdout) == (REFUSED, "")
    assert result.stderr == (
        "Verification failed (1 events read):\n"
        "  ledger_state_counts type=email state=inactive\n"
        "    expected jobs=1\n"
        "    found    jobs=5\n"
        "compared: jobs, state_counts, unique_keys, ledger_state, activity\n"
        f"not compared: search: {NOT_COMPARED}\n"
    )
    assert as_json.exit_code == REFUSED
    assert json.loads(as_json.stdout)["differences"] == [
        {
            "where": "ledger_state_counts type=email state=inactive",
            "expected": "jobs=1",
            "found": "jobs=5",
        }
    ]
    assert rebuilt == (
        "ledger_state_counts type=email state=inactive: was jobs=5; is jobs=1\n"
        "state_counts rebuilt from 1 events\n"
    )
    assert shell("verify").exit_code == 0


def test_a_rewritten_history_is_reported(quick: Shell) -> None:
    system = open_system(quick.url)
    job_in(system, "removed")
    tamper(system, "UPDATE ledger_events SET actor = 'nobody' WHERE position = 2")
    system.close()

    result = quick("verify")

    assert (result.exit_code, result.stdout) == (REFUSED, "")
    assert result.stderr.splitlines()[:2] == [
        "Verification failed (2 events read):",
        "  event 2",
    ]


@pytest.mark.parametrize(
    ("arguments", "rebuilt"),
    [
        (("--all",), "jobs, state_counts, unique_keys, ledger_state, search, activity"),
        (("jobs",), "jobs"),
        (("unique_keys", "jobs"), "jobs, unique_keys"),
    ],
)
def test_projections_are_rebuilt_by_name_or_all(
    shell: Shell, system: System, arguments: tuple[str, ...], rebuilt: str
) -> None:
    for state in STATES:
        job_in(system, state, unique=state)
    before = shell.json("jobs")
    tamper(system, "DELETE FROM ledger_jobs", "DELETE FROM ledger_unique_keys")

    said = shell.says("rebuild", *arguments)

    *mended, last = said.splitlines()
    assert last == f"{rebuilt} rebuilt from 10 events"
    assert {line.split()[0] for line in mended} <= {"ledger_jobs", "ledger_unique_keys"}
    assert shell.json("jobs") == before


# --- replay


def told(system: System, shell: Shell) -> dict[str, Any]:
    """Return what is said of the ledger, and of job 1, at this moment."""
    shown = shell("show", "1", "--json")
    job = json.loads(shown.stdout) if shown.exit_code == 0 else None
    return {
        "position": shell.json("status")["position"],
        "at_ms": system.ledger.clock and system.ledger.clock(),
        "stats": shell.json("stats"),
        "job": job,
    }


def test_a_replay_says_what_was_said_on_the_way(shell: Shell, system: System) -> None:
    clock = Clock()
    system.ledger.clock = clock
    moments = [told(system, shell)]
    for step in (
        Create(type="email", data='{"a": 1.50}', attempts=2),
        Create(type="sms", delay_ms=1_000),
        Start(job_id=1, worker="worker:host:1:1"),
        Progress(job_id=1, attempt=1, progress=40, data='{"at": 1}'),
        FailAttempt(job_id=1, attempt=1, error='"broken"'),
        Reprioritize(job_id=1, priority=-10),
        Start(job_id=1),
        Complete(job_id=1, attempt=2, result="0"),
        Move(job_id=2, to="failed"),
        Remove(job_id=1),
    ):
        clock.now_ms += 10
        carry_out(system, step)
        moments.append(told(system, shell))

    for moment in moments:
        position, job = moment["position"], moment["job"]
        expected = moment["stats"] | {"position": position}
        just_after = datetime.fromtimestamp((moment["at_ms"] + 9) / 1000, UTC).isoformat()

        assert shell.json("replay", "--at", str(position)) == expected
        assert shell.json("replay", "--at", just_after) == expected
        if job is None:
            missing = shell.refusal("replay", "--at", str(position), "--job", "1")
            complaint = (
                f"Error: job 1 did not exist at position {position}; `ledger events --job 1` "
                "shows its history\n"
            )
            assert missing == (REFUSED, complaint)
        else:
            assert shell.json("replay", "--at", str(position), "--job", "1") == job
            assert shell.json("replay", "--at", just_after, "--job", "1") == job
    assert len({moment["position"] for moment in moments}) == 11


def test_a_time_is_read_in_its_zone(quick: Shell) -> None:
    system = open_system(quick.url, Clock())
    job_in(system, "inactive")
    system.close()

    def position_at(at: str) -> int:
        return int(quick.json("replay", "--at", at)["position"])

    assert START_MS == 1_700_000_000_000
    assert position_at("2023-11-14T22:13:20Z") == 1
    assert position_at("2023-11-14T23:13:20+01:00") == 1
    assert position_at("2023-11-14T22:13:20+01:00") == 0
    assert position_at("2023-11-14T22:13:19.999Z") == 0
    assert position_at("0001-01-01T00:00:00Z") == 0
    assert position_at("9999-12-31T23:59:59Z") == 1


def test_a_replay_is_printed_as_a_table(quick: Shell) -> None:
    quick.says("create", "email")
    quick.says("create", "sms", "--delay", "1d")

    counts = quick.says("replay", "--at", "1")
    job = dict(table(quick.says("replay", "--at", "2", "--job", "2"))[1:])

    assert counts.splitlines()[0].strip() == "as of position 1"
    assert table(counts) == [
        ["type", *STATES],
        ["email", "1", "0", "0", "0", "0"],
        ["all types", "1", "0", "0", "0", "0"],
    ]
    assert (job["id"], job["state"], job["delay"]) == ("2", "delayed", "86400000 ms")


# --- searching


def test_search_prints_the_jobs_that_have_all_the_words(quick: Shell) -> None:
    for title in ("avi video", "video", "The AVI videos"):
        quick.says("create", "film", json.dumps({"title": title}))
    found = quick.says("search", "avi", "video")

    assert [line.split()[1] for line in found.splitlines() if "film" in line] == ["3", "1"]
    assert quick.json("search", "video") == ["3", "2", "1"]
    assert quick.json("search", "video", "--limit", "1", "--skip", "1") == ["2"]
    assert quick.json("search", "nothing of that") == []


def test_follow_once_says_how_far_each_has_come(quick: Shell) -> None:
    quick.says("create", "film", '"avi"')
    said = quick.says("follow", "--once")

    assert said.splitlines() == [
        "search caught up to event 1",
        "activity caught up to event 1",
    ]


def test_follow_once_leaves_it_to_another_process(quick: Shell, tmp_path: Path) -> None:
    other = FileLeadership(Home(tmp_path / "ledger.db-search").lock("indexer"))
    assert other.held()

    said = quick.says("follow", "--once", "search")
    assert said == "search is kept up to date by another process\n"
    other.release()


def test_search_cannot_be_followed_when_it_is_off(
    quick: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LEDGER_SEARCH", "off")

    code, complaint = quick.refusal("follow", "search")

    assert code == USAGE
    assert "NAME: expected activity, got 'search'; LEDGER_SEARCH is off" in complaint


# --- status, migrate, sweep


def test_status_says_where_and_how_far(shell: Shell, system: System) -> None:
    system.ledger.clock = Clock()
    for state in ("inactive", "removed"):
        job_in(system, state)
    (head,) = rows(system, "SELECT chain FROM ledger_head")
    system.ledger.clock = None
    with system.database.read() as connection:
        before = output.moment(system.ledger.time_ms(connection))

    status = shell.json("status")

    with system.database.read() as connection:
        after = output.moment(system.ledger.time_ms(connection))
    assert before <= status.pop("database_time") <= after
    assert list(status.pop("late")) == ["search", "activity"]
    assert status == {
        "database": system.database.shown_url,
        "position": 3,
        "chain": bytes(head["chain"]).hex(),
        "last_event": "2023-11-14 22:13:20.000Z",
        "jobs_created": 2,
        "jobs_now": 1,
        "paused": {},
        "projections": dict.fromkeys(
            ("jobs", "state_counts", "unique_keys", "ledger_state"),
            "up to date, updated with each event",
        )
        | dict.fromkeys(("search", "activity"), "at position 0, 3 events behind"),
    }
    assert ["position", "3"] in table(shell.says("status"))


def test_migrating_says_from_where_to_where(database_url: str) -> None:
    shell = Shell(database_url)
    missing = shell("status")

    first = shell.says("migrate")
    again = shell.says("migrate")

    assert missing.exit_code == NO_DATABASE
    assert "`ledger migrate`" in missing.stderr
    assert first.endswith(": created the tables of revision 0011\n")
    assert again.endswith(" is already at revision 0011\n")
    assert shell.json("status")["position"] == 0


def test_sweeping_once_does_what_is_due(shell: Shell, system: System) -> None:
    clock = Clock()
    system.ledger.clock = clock
    job_in(system, "delayed", delay_ms=1)
    job_in(system, "active", ttl_ms=1)
    job_in(system, "inactive")

    first = shell.says("sweep", "--once")
    again = shell.says("sweep", "--once")

    assert first == "2 jobs changed\n"
    assert again == "0 jobs changed\n"
    assert [job["state"] for job in shell.json("jobs", "--oldest")] == [
        "inactive",
        "failed",
        "inactive",
    ]


def test_sweeping_ends_on_ctrl_c(quick: Shell, tmp_path: Path) -> None:
    system = open_system(quick.url)
    job_id = job_in(system, "delayed", delay_ms=1)

    with subprocess.Popen(
        [tool("ledger"), "--database", quick.url, "sweep"],
        env=surroundings(tmp_path),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        wait_until(lambda: quick.json("show", str(job_id))["state"] == "inactive", "it sweeps")
        process.send_signal(signal.SIGINT)
        said, complaint = process.communicate(timeout=DEADLINE_S)
    system.close()

    assert (process.returncode, said, complaint) == (0, "", "stopped\n")


# --- what is refused, and how


@pytest.mark.parametrize(
    ("arguments", "code", "complaint"),
    [
        (("show", "7"), REFUSED, 'job "7" doesnt exist'),
        (("show", "seven"), USAGE, "expected an integer from 0 to 9007199254740991, got 'seven'"),
        (("show", "9" * 30), USAGE, "expected an integer from 0 to 9007199254740991, got '999"),
        (("show", "9" * 5_000), USAGE, "9…"),
        (("show",), USAGE, "Missing argument 'ID'"),
        (("events", "--job", "7"), REFUSED, 'job "7" doesnt exist'),
        (("events", "--after", "9" * 30), USAGE, "expected an integer from 0 to 9007199254740991"),
        (("erase", "7", "--yes"), REFUSED, 'job "7" doesnt exist'),
        (("erase", "1", "--yes", "--version", "9"), REFUSED, "versions from 1 to 1 of job 1"),
        (("create", ""), REFUSED, "Must provide job type"),
        (("create", "x" * 256), REFUSED, "Must provide job type"),
        (("create", "email", "{bad"), REFUSED, "data: expected JSON"),
        # msgspec 0.23 refuses these bytes itself, as invalid JSON.
        (("create", "email", '"\udcff"'), REFUSED, "data: expected UTF-8"),
        (("create", "email", '"\\ud800"'), REFUSED, "data: expected"),
        (("create", "email", "NaN"), REFUSED, "data: expected JSON"),
        (("create", "email", "--priority", "HIGH"), REFUSED, "priority: expected an integer or"),
        (("create", "email", "--priority", ""), REFUSED, "priority: expected an integer or"),
        (("create", "email", "--attempts", "0"), REFUSED, "attempts: expected an integer from 1"),
        (("create", "email", "--attempts", "many"), REFUSED, "attempts: expected an integer from"),
        (("create", "email", "--delay", "0"), REFUSED, "delay: expected an integer from 1"),
        (("create", "email", "--delay", "5y"), USAGE, "a duration such as 90s, 5m, 2h, 1d"),
        (
            ("create", "email", "--delay", "9" * 5_000),
            USAGE,
            "expected milliseconds, or a duration",
        ),
        (("create", "email", "--ttl", "0"), REFUSED, "ttl: expected an integer from 1"),
        (("create", "email", "--backoff", "\udcff"), USAGE, "expected text in UTF-8, got"),
        (("create", "email", "hello"), REFUSED, "a JSON string needs double quotes: '\"hello\"'"),
        (("create", "email", "-"), REFUSED, "data: expected JSON on standard input, got nothing"),
        (("create", "email", "--backoff", "1+1"), REFUSED, "backoff: expected JSON"),
        (("create", "email", "--backoff", '"1+1"'), REFUSED, "backoff: expected true, or"),
        (("create", "email", "--unique", ""), REFUSED, "unique: expected 1 to 255 characters"),
        (("jobs", "--state", "broken"), USAGE, "'broken' is not one of"),
        (("jobs", "--limit", "0"), USAGE, "expected an integer from 1 to 10000, got '0'"),
        (("jobs", "--type", "\udcff"), USAGE, "'--type': expected text in UTF-8, got"),
        (("activity", "--type", "\udcff"), USAGE, "'--type': expected text in UTF-8, got"),
        (("activity", "--minutes", "x"), USAGE, "expected an integer from 1 to 527040, got 'x'"),
        (("replay",), USAGE, "Missing option '--at'"),
        (("replay", "--at", "2"), REFUSED, "--at: expected a position from 0 to 1, got '2'"),
        (("replay", "--at", "0", "--job", "1"), REFUSED, "job 1 did not exist at position 0; "),
        (("replay", "--at", "9" * 5_000), REFUSED, "--at: expected a position"),
        (("replay", "--at", "yesterday"), REFUSED, "a time with a UTC offset"),
        (("replay", "--at", "2026-11-22T14:00:00"), REFUSED, "a time with a UTC offset"),
        (
            ("rebuild",),
            USAGE,
            "--all, or names from jobs, state_counts, unique_keys, ledger_state, search, activity",
        ),
        (("rebuild", "nothing"), USAGE, "got 'nothing'"),
        (("rebuild", "jobs", "--all"), USAGE, "activity; got 'jobs' --all"),
        (("rebuild", "--status", "jobs"), USAGE, "--status cannot be combined"),
        (("rebuild", "--status", "--drop"), USAGE, "--status cannot be combined"),
        (("remove",), USAGE, "Missing argument 'ID...'"),
        (("nonsense",), USAGE, "No such command 'nonsense'"),
        (("serve", "--processes", "0"), USAGE, "expected an integer from 1 to 1000, got '0'"),
        (("serve", "--bind", "nowhere.invalid:80"), REFUSED, "cannot listen on nowhere.invalid:80"),
        (("serve", "--bind", "unix:/no/where/s"), REFUSED, "a socket in /no/where: the directory"),
        (("serve", "--bind", "3000"), USAGE, "--bind: expected HOST:PORT or unix:PATH"),
    ],
)
def test_a_wrong_request_is_refused_and_changes_nothing(
    settled: Shell, arguments: tuple[str, ...], code: int, complaint: str
) -> None:
    refusal = settled.refusal(*arguments)

    assert refusal[0] == code
    assert "Error: " in refusal[1]
    assert complaint in refusal[1]
    assert settled.json("status")["position"] == 1


@pytest.mark.parametrize(
    ("url", "code", "complaint"),
    [
        ("nonsense", USAGE, "--database: expected sqlite:///PATH or postgresql"),
        ("mysql://host/name", USAGE, "--database: expected sqlite:///PATH or postgresql"),
        ("sqlite://", USAGE, "--database: expected sqlite:///PATH or postgresql"),
        ("postgresql://u@127.0.0.1:1/n", NO_DATABASE, "the database does not answer"),
        ("postgresql://u@127.0.0.1:1/n?bogus=1", NO_DATABASE, "cannot connect"),
    ],
)
@pytest.mark.parametrize("command", [("status",), ("create", "email"), ("verify",)])
def test_a_database_that_is_none_is_told_by_its_exit_code(
    url: str, code: int, complaint: str, command: tuple[str, ...]
) -> None:
    refusal = Shell(url).refusal(*command)

    assert refusal[0] == code
    assert complaint in refusal[1]


@pytest.mark.parametrize(
    "command", [("status",), ("jobs",), ("create", "email"), ("rebuild", "--all"), ("sweep",)]
)
def test_a_file_that_is_not_there_is_not_created(tmp_path: Path, command: tuple[str, ...]) -> None:
    path = tmp_path / "nothing.db"

    refusal = Shell(f"sqlite:///{path}").refusal(*command)

    assert refusal[0] == NO_DATABASE
    assert refusal[1] == (
        f"Error: there is no ledger at {path}; create one with `ledger migrate` or "
        "`ledger serve`, or name another with --database\n"
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", ["status", "migrate", "verify"])
def test_a_file_that_is_no_database_is_left_as_it_is(tmp_path: Path, command: str) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("remember the milk, and that this is not a database\n" * 200)
    before = path.read_bytes()

    code, complaint = Shell(f"sqlite:///{path}").refusal(command)

    assert code == NO_DATABASE
    assert f"{path} is not a SQLite database" in complaint
    assert path.read_bytes() == before


@pytest.mark.parametrize("command", ["status", "migrate", "verify", "search x"])
def test_what_sqlite_cannot_open_is_named_with_what_to_do(tmp_path: Path, command: str) -> None:
    code, complaint = Shell(f"sqlite:///{tmp_path}").refusal(*command.split())

    assert code == NO_DATABASE
    assert complaint == (
        f"Error: {tmp_path}: unable to open database file; it is a directory; a database must be a "
        "file\n"
    )


def test_a_database_of_somebody_else_is_left_as_it_is(system: System, database_url: str) -> None:
    migrate(system.database, to="base")
    with system.database.write() as tx:
        tx.exec_driver_sql("CREATE TABLE ledger_jobs (theirs INTEGER)")

    code, complaint = Shell(database_url).refusal("migrate")

    assert code == NO_DATABASE
    assert "a name that Ledger needs is taken" in complaint
    assert "give Ledger another database" in complaint
    assert rows(system, "SELECT theirs FROM ledger_jobs") == []


@pytest.mark.parametrize("command", ["jobs", "stats", "events", "verify", "show 1"])
def test_output_that_cannot_be_written_is_told(
    settled: Shell, tmp_path: Path, command: str
) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [tool("ledger"), "--database", settled.url, *command.split()],
            env=surroundings(tmp_path),
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )

    assert (done.returncode, done.stderr) == (
        REFUSED,
        "Error: cannot write the output: [Errno 28] No space left on device\n",
    )


def test_a_closed_output_is_no_error(settled: Shell, tmp_path: Path) -> None:
    done = subprocess.run(
        ["sh", "-c", 'exec "$@" >&-', "sh", tool("ledger"), "--database", settled.url, "stats"],
        env=surroundings(tmp_path),
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )

    assert (done.returncode, done.stderr) == (0, "")


def test_a_file_that_may_not_be_looked_at_is_told(
    quick: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    def shut(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "stat", shut)

    code, complaint = quick.refusal("status")

    assert code == NO_DATABASE
    assert "Permission denied; grant this user access, or name another" in complaint


# --- the executable


def test_the_executable_reads_its_database_from_the_environment(tmp_path: Path) -> None:
    def ledger(*arguments: str) -> tuple[int, str, str]:
        ended = subprocess.run(
            [tool("ledger"), *arguments],
            env=surroundings(tmp_path, LEDGER_DATABASE_URL="sqlite:///mine.db"),
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        return ended.returncode, ended.stdout, ended.stderr

    migrated = ledger("migrate")
    created = ledger("create", "email")
    missing = ledger("show", "2")
    elsewhere = ledger("--database", "sqlite:///other.db", "status")

    assert (migrated[0], migrated[2]) == (0, "")
    assert created == (0, "job 1 created\n", "")
    assert missing == (REFUSED, "", 'Error: job "2" doesnt exist\n')
    assert elsewhere[0] == NO_DATABASE
    assert (tmp_path / "mine.db").exists()


def test_help_names_every_command() -> None:
    said = invoke("--help").stdout

    assert [command.name for command in COMMANDS if f"\n  {command.name} " not in said] == []
    assert "LEDGER_DATABASE_URL" in said


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: str(command.name))
def test_every_command_explains_itself(command: Any) -> None:
    result = invoke(command.name, "-h")

    assert result.exit_code == 0
    assert result.stdout.startswith(f"Usage: ledger {command.name} ")


def test_the_list_says_of_each_command_what_its_own_help_says() -> None:
    loaded = [listed.load() for listed in COMMANDS]

    assert [(one.name, one.get_short_help_str(1_000)) for one in COMMANDS] == [
        (one.name, one.get_short_help_str(1_000)) for one in loaded
    ]


@pytest.mark.parametrize("name", ["ledger", "ledger-queue"])
def test_each_name_of_the_command_is_the_one_that_it_tells(name: str, tmp_path: Path) -> None:
    def said(*arguments: str) -> tuple[int, str, str]:
        done = subprocess.run(
            [tool(name), *arguments],
            env=surroundings(tmp_path),
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        return done.returncode, done.stdout, done.stderr

    assert said("--version") == (0, f"{name}, version {version('ledger-queue')}\n", "")
    assert said("--help")[1].startswith(f"Usage: {name} [OPTIONS] COMMAND ")
    assert said("create", "--help")[1].startswith(f"Usage: {name} create ")
    assert said("creat") == (
        USAGE,
        "",
        (
            f"Usage: {name} [OPTIONS] COMMAND [ARGS]...\n"
            f"Try '{name} --help' for help.\n\n"
            "Error: No such command 'creat'. Did you mean 'create'?\n"
        ),
    )


def test_a_shell_completes_commands_and_their_options(tmp_path: Path) -> None:
    def completed(line: str) -> list[str]:
        asks = {"_LEDGER_COMPLETE": "bash_complete", "COMP_WORDS": line}
        said = subprocess.run(
            [tool("ledger")],
            env=surroundings(tmp_path, **asks, COMP_CWORD=str(len(line.split()) - 1)),
            capture_output=True,
            text=True,
            check=True,
        )
        return [each.removeprefix("plain,") for each in said.stdout.split()]

    assert completed("ledger re") == ["rebuild", "remove", "replay", "restart", "resume"]
    assert completed("ledger create --prio") == ["--priority"]


def test_what_the_commands_did_verifies(shell: Shell, system: System) -> None:
    shell.says("create", "email", "--delay", "1")
    shell.says("create", "email", '{"a": 1}', "--unique", "one")
    shell.says("sweep", "--once")
    shell.says("erase", "2", "--yes")
    shell.says("remove", "1", "2")
    shell.says("rebuild", "--all")

    assert verified(system).differences == []


def test_a_variable_that_is_nearly_a_setting_is_warned_of_and_stops_nothing(
    tmp_path: Path,
) -> None:
    variables = {
        "LEDGER_DATABSE_URL": "sqlite:///elsewhere.db",
        "LEDGER_PORT": "tcp://10.0.0.1:80",
        "LEDGER_SERVICE_HOST": "10.0.0.1",
        "LEDGER_FILE": "~/finances",
    }

    done = subprocess.run(
        [tool("ledger"), "migrate"],
        env=surroundings(tmp_path, **variables),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )

    assert (done.returncode, done.stderr) == (
        0,
        "Warning: LEDGER_DATABSE_URL: no such setting; did you mean LEDGER_DATABASE_URL?\n",
    )
    assert (tmp_path / "ledger.db").exists()

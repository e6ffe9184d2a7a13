"""Activity is eventually right, whatever is killed when."""

import random
import signal
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import pytest

from ledger.errors import Overtaken, SchemaMismatch
from ledger.log.recorded import AnyChange
from ledger.processes.composition import System
from ledger.projections.follower import catch_up
from ledger.projections.following import Following
from ledger.projections.models.activity import Activity, Busy
from ledger.projections.replay import replay
from ledger.rules.commands import Create
from tests.builders import carry_out, open_system, rows, tamper, verified
from tests.integration.servers import surroundings
from tests.integration.test_catch_up import eventually, lives


def changes(system: System, after: int, through: int) -> list[AnyChange]:
    with system.database.snapshot() as connection:
        whole = replay(connection, after=after, through=through)
        return [change for some in whole for change in some]


def counted(system: System) -> dict[str, int]:
    names = ("created", "started", "completed", "failed")
    sums = ", ".join(f"sum({name}) AS {name}" for name in names)
    (row,) = rows(system, f"SELECT {sums} FROM ledger_activity")  # noqa: S608
    return {name: int(row[name] or 0) for name in names}


def position(system: System) -> int:
    return system.activity.checkpoint()


def test_it_counts_what_happened(system: System) -> None:
    system.ledger.submit(lives(30), actor="test")

    catch_up(system.database, system.activity, batch=7)

    assert counted(system) == {"created": 30, "started": 30, "completed": 30, "failed": 0}
    assert verified(system).differences == []
    with system.database.read() as connection:
        busy = system.activity.minutes(connection, from_ms=0, to_ms=1 << 52, type_="email")
    assert isinstance(busy, Busy)
    assert (busy.position, sum(minute.created for minute in busy.minutes)) == (150, 30)


def test_it_has_counted_nothing_at_first(system: System) -> None:
    with system.database.read() as connection:
        assert system.activity.minutes(connection, from_ms=0, to_ms=1 << 52) == Busy(0, [])
    assert position(system) == 0


def test_what_was_told_already_is_not_told_again(system: System) -> None:
    system.ledger.submit(lives(10), actor="test")
    catch_up(system.database, system.activity, through=20)
    before = counted(system)

    for after, through in ((0, 20), (10, 30), (25, 50)):
        with pytest.raises(Overtaken, match="advanced activity to position 20"):
            system.activity.follow(changes(system, after, through), through=through)

    assert counted(system) == before
    assert position(system) == 20


def test_it_is_verified_as_of_where_it_is(system: System) -> None:
    system.ledger.submit(lives(10), actor="test")
    catch_up(system.database, system.activity, through=23)
    behind = verified(system).differences
    tamper(system, "UPDATE ledger_activity SET created = created + 1")

    damaged = verified(system).differences

    assert behind == []
    assert [each.where.split()[0] for each in damaged] == ["ledger_activity"]


def test_tables_of_another_version_are_not_followed(system: System) -> None:
    system.ledger.submit(lives(10), actor="test")
    catch_up(system.database, system.activity)

    class Other(Activity):
        version = 2

    with pytest.raises(SchemaMismatch, match="run `ledger rebuild activity`"):
        Other(system.database).checkpoint()


def test_two_that_both_believe_they_lead_count_nothing_twice(
    system: System, database_url: str
) -> None:
    system.ledger.submit(lives(60), actor="test")

    def follow() -> None:
        with closing(open_system(database_url)) as own:
            while own.activity.checkpoint() < 300:
                try:
                    catch_up(own.database, own.activity, batch=3)
                except Overtaken:
                    continue

    threads = [threading.Thread(target=follow) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)

    assert position(system) == 300
    assert counted(system) == {"created": 60, "started": 60, "completed": 60, "failed": 0}
    assert verified(system).differences == []


# Follows for ever, a few events at a time, so that it is mostly in the middle of it.
FOLLOW: Final = """
import sys
from ledger.projections.models.activity import Activity
from ledger.projections.following import Following
from ledger.processes.composition import compose
from ledger.processes.settings import Settings

Activity.batch, Activity.pause_s = 3, 0.0
system = compose(Settings(database_url=sys.argv[1]))
print("follows", flush=True)
Following(system.database, system.activity, system.commit_notifier).run()
"""


def test_a_follower_that_is_killed_at_any_moment_counts_everything_once(
    system: System, database_url: str, tmp_path: Path
) -> None:
    kill_followers(system, database_url, tmp_path, kills=2)


def kill_followers(system: System, database_url: str, folder: Path, *, kills: int) -> None:
    """Kill a follower again and again in the middle of its work; tests/soak kills more."""
    random_ = random.Random(7)
    jobs = 0
    for _ in range(kills):
        system.ledger.submit(lives(40, start=jobs + 1), actor="test")
        jobs += 40
        goal = position(system) + random_.randint(1, 150)
        process = subprocess.Popen(
            [sys.executable, "-c", FOLLOW, database_url],
            env=surroundings(folder),
            cwd=folder,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        with process:
            eventually(lambda goal=goal: position(system) >= goal)  # type: ignore[misc]
            process.send_signal(signal.SIGKILL)
        assert verified(system).differences == []

    catch_up(system.database, system.activity)

    assert counted(system) == {"created": jobs, "started": jobs, "completed": jobs, "failed": 0}
    assert verified(system).differences == []


def test_it_is_followed_beside_the_writers(system: System) -> None:
    following = Following(system.database, system.activity, system.commit_notifier)
    following.start()
    try:
        for number in range(1, 4):
            carry_out(system, Create(type="email"))
            eventually(lambda number=number: counted(system)["created"] == number)  # type: ignore[misc]
    finally:
        following.stop()

    assert verified(system).differences == []


def test_a_rebuild_brings_it_to_the_head(system: System) -> None:
    system.ledger.submit(lives(10), actor="test")
    catch_up(system.database, system.activity, through=23)
    tamper(system, "UPDATE ledger_activity SET created = created + 100")

    replacement: Any = system.activity.replacement()
    catch_up(system.database, replacement)
    begun = system.activity.replacement_checkpoint()
    system.activity.swap()

    assert (begun, system.activity.replacement_checkpoint()) == (50, None)
    assert position(system) == 50
    assert counted(system)["created"] == 10
    assert verified(system).differences == []
    carry_out(system, Create(type="email"))
    catch_up(system.database, system.activity)
    assert verified(system).differences == []

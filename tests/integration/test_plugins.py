"""A read model of an application is found, followed, rebuilt, verified, told of like ours."""

import json
import sys
import textwrap
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import pytest
from sqlalchemy import BigInteger, Column, Connection, Text, insert, inspect, text, update

from ledger.database.contract import Database
from ledger.database.migration import migrate
from ledger.errors import SchemaMismatch
from ledger.log.recorded import Change
from ledger.processes.composition import System, compose
from ledger.processes.settings import Settings
from ledger.projections.follower import catch_up
from ledger.projections.following import Following
from ledger.projections.plugins import BrokenPlugIn
from ledger.projections.rebuild.rebuild import rebuild
from ledger.projections.table_follower import TableFollower
from ledger.projections.verify.verify import verify
from ledger.rules.commands import Complete, Create, Erase, Start
from ledger.rules.events import Created, Erased
from tests.builders import Clock, carry_out, rows, silently, tamper, verified
from tests.contract.client import Client
from tests.integration.shell import NO_DATABASE, Shell
from tests.integration.test_catch_up import eventually

PACKAGE: Final = Path(__file__).parents[1] / "projection_package"


def install(folder: Path, entry_points: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Make entry points visible as pip would, without it."""
    metadata = folder / "ledger_durations-1.0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: ledger-durations\nVersion: 1\n"
    )
    lines = [f"{name} = {value}" for name, value in entry_points.items()]
    (metadata / "entry_points.txt").write_text("\n".join(["[ledger.projections]", *lines]))
    monkeypatch.syspath_prepend(folder)
    monkeypatch.syspath_prepend(PACKAGE)


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let the package's entry points be there."""
    project = tomllib.loads((PACKAGE / "pyproject.toml").read_text())["project"]
    install(tmp_path / "site", project["entry-points"]["ledger.projections"], monkeypatch)
    yield
    sys.modules.pop("ledger_durations", None)


@pytest.fixture
def shell(system: System, database_url: str, tmp_path: Path, installed: None) -> Shell:
    """Return the command line on a ledger with the tables of the package's projection."""
    shell = Shell(database_url, tmp_path / "search")
    assert "tables of durations created" in shell.says("migrate")
    return shell


def durations(system: System) -> Any:
    (found,) = system.plug_ins.followers
    return found


def complete(system: System, type_: str, *, duration_ms: int) -> None:
    clock = system.ledger.clock
    assert isinstance(clock, Clock)
    (created,) = carry_out(system, Create(type=type_))
    carry_out(system, Start(job_id=created.job_id))
    clock.now_ms += duration_ms
    carry_out(system, Complete(job_id=created.job_id, attempt=1))


@pytest.fixture
def busy(system: System, shell: Shell) -> System:
    """Return a ledger in which jobs took known times."""
    system.ledger.clock = Clock()
    for type_, duration_ms in (("email", 10), ("email", 30), ("video", 5_000)):
        complete(system, type_, duration_ms=duration_ms)
    return system


def mean_ms(system: System) -> dict[str, float]:
    with system.database.read() as connection:
        found: dict[str, float] = durations(system).mean_ms(connection)
        return found


def test_its_tables_are_created_by_migrate_once(shell: Shell, system: System) -> None:
    with system.database.read() as connection:
        indexes = [index["name"] for index in inspect(connection).get_indexes("durations")]

    assert indexes == ["durations_by_total"]
    assert "tables of durations" not in shell.says("migrate")
    assert rows(system, "SELECT name, position FROM ledger_checkpoints ORDER BY name") == [
        {"name": name, "position": 0}
        for name in ("durations", "jobs", "ledger_state", "state_counts", "unique_keys")
    ]


def test_it_follows_the_ledger(busy: System) -> None:
    following = Following(busy.database, durations(busy), busy.commit_notifier)
    following.start()
    eventually(lambda: durations(busy).checkpoint() == 9)
    complete(busy, "video", duration_ms=1_000)
    eventually(lambda: durations(busy).checkpoint() == 12)
    following.stop()

    assert mean_ms(busy) == {"email": 20.0, "video": 3_000.0}


def test_rows_whose_checkpoint_a_downgrade_dropped_are_not_added_to(
    busy: System, shell: Shell
) -> None:
    catch_up(busy.database, durations(busy))
    migrate(busy.database, to="0002")

    assert "tables of durations created" in shell.says("migrate")
    catch_up(busy.database, durations(busy))
    assert verified(busy).differences == []


def test_a_table_of_the_application_s_with_its_name_is_left_alone(
    busy: System, shell: Shell
) -> None:
    tamper(
        busy,
        "DROP TABLE durations",
        "DELETE FROM ledger_checkpoints",
        "CREATE TABLE durations (theirs INTEGER)",
        "INSERT INTO durations VALUES (7)",
    )

    result = shell("migrate")

    assert result.exit_code == NO_DATABASE
    assert "durations cannot have the table durations: there is another one" in result.stderr
    assert rows(busy, "SELECT * FROM durations") == [{"theirs": 7}]


def test_it_is_among_those_that_are_followed(busy: System, shell: Shell) -> None:
    said = shell.says("follow", "--once").splitlines()

    assert said[1:] == [
        "activity caught up to event 9",
        "durations caught up to event 9",
    ]


def test_it_is_verified_and_rebuilt_like_ours(busy: System, shell: Shell) -> None:
    catch_up(busy.database, durations(busy))
    tamper(busy, "UPDATE durations SET jobs = 9 WHERE type = 'email'")

    damaged = [each.where for each in verified(busy).differences]
    rebuilt = shell.says("rebuild", "durations")

    assert damaged == ["durations type=email"]
    assert rebuilt == (
        "durations type=email: was jobs=9; is jobs=2\ndurations rebuilt from 9 events\n"
    )
    assert verified(busy).differences == []
    assert shell.json("verify")["projections"][-2:] == ["activity", "durations"]
    assert mean_ms(busy) == {"email": 20.0, "video": 5_000.0}


def test_a_first_rebuild_creates_its_tables(busy: System, shell: Shell) -> None:
    tamper(busy, "DROP TABLE durations", "DELETE FROM ledger_checkpoints")

    shell.says("rebuild", "--all")

    assert mean_ms(busy) == {"email": 20.0, "video": 5_000.0}
    with busy.database.read() as connection:
        indexes = [index["name"] for index in inspect(connection).get_indexes("durations")]
    assert indexes == ["durations_by_total"]


def test_how_far_it_is_and_what_stops_it_is_told(busy: System, shell: Shell) -> None:
    before = shell.json("status")["projections"]["durations"]
    tamper(busy, "INSERT INTO ledger_failures VALUES ('durations', 5, 'ZeroDivisionError: no', 1)")
    stopped = shell.json("status")["projections"]["durations"]
    catch_up(busy.database, durations(busy))
    after = shell.json("status")["projections"]["durations"]

    assert before == "at position 0, 9 events behind"
    assert stopped == "stopped: event 5 cannot be applied: ZeroDivisionError: no"
    assert after == "up to date, at position 9"


def test_without_its_tables_it_says_how_to_create_them(busy: System, shell: Shell) -> None:
    tamper(busy, "DROP TABLE durations", "DELETE FROM ledger_checkpoints")
    said = (
        "it has no tables yet; run `ledger migrate` to create them, or `ledger rebuild durations` "
        "to create and fill them"
    )

    status = shell.json("status")["projections"]["durations"]
    report = shell.json("verify")

    assert status == f"stopped: {said}"
    assert report["not_compared"]["durations"] == said
    assert report["projections"] == [
        "jobs",
        "state_counts",
        "unique_keys",
        "ledger_state",
        "activity",
    ]
    with pytest.raises(SchemaMismatch, match="it has no tables yet"):
        catch_up(busy.database, durations(busy))


def test_tables_that_were_dropped_are_reported(busy: System) -> None:
    catch_up(busy.database, durations(busy))
    tamper(busy, "DROP TABLE durations", "DROP TABLE ledger_state")

    report = verified(busy)

    assert [(each.where, each.found) for each in report.differences] == [
        ("ledger_state", "only some of them; run `ledger rebuild ledger_state`"),
        ("durations", "only some of them; run `ledger rebuild durations`"),
    ]


def test_a_newer_version_of_it_asks_to_be_rebuilt(
    busy: System, shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    catch_up(busy.database, durations(busy))
    monkeypatch.setattr(type(durations(busy)), "version", 2)

    before = shell.json("status")["projections"]["durations"]
    shell.says("rebuild", "durations")
    after = shell.json("status")["projections"]["durations"]

    assert before.endswith("belong to another version of it; run `ledger rebuild durations`")
    assert after == "up to date, at position 9"


def test_one_of_another_version_is_named_and_all_others_are_verified(busy: System) -> None:
    catch_up(busy.database, durations(busy))
    tamper(busy, "UPDATE ledger_checkpoints SET fingerprint = 'older' WHERE name = 'durations'")
    tamper(busy, "ALTER TABLE durations RENAME COLUMN jobs TO number")

    report = verified(busy)

    assert [(each.where, each.found) for each in report.differences] == [
        ("durations", "tables of another version; run `ledger rebuild durations`")
    ]
    assert report.projections == ["jobs", "state_counts", "unique_keys", "ledger_state", "activity"]


def test_one_that_is_behind_is_told_no_empty_batches_by_a_verification(
    busy: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[int] = []
    model = type(durations(busy))
    apply = model.apply

    def counting(self: Any, tx: Connection, changes: Sequence[Change]) -> None:
        told.append(len(changes))
        apply(self, tx, changes)

    monkeypatch.setattr(model, "apply", counting)

    assert verified(busy).differences == []
    assert told == []


def stopped(system: System) -> Any:
    answer = Client(system).get("/health/ready")
    assert (answer.status, answer.json["status"]) == (200, "ready")
    return answer.json.get("stopped")


def test_readiness_tells_of_one_of_another_version_and_serves(busy: System) -> None:
    catch_up(busy.database, durations(busy))
    before = stopped(busy)
    tamper(busy, "UPDATE ledger_checkpoints SET fingerprint = 'older' WHERE name = 'durations'")

    assert before is None
    assert stopped(busy) == {
        "durations": "the tables of durations belong to another version of it; "
        "run `ledger rebuild durations`"
    }


def test_readiness_tells_of_one_whose_code_fails_when_it_is_asked(
    busy: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: object) -> int:
        raise ZeroDivisionError("no")

    monkeypatch.setattr(type(durations(busy)), "checkpoint", fail)

    assert stopped(busy) == {"durations": "ZeroDivisionError: no"}


def test_readiness_forgets_one_that_was_stuck_and_is_there_no_more(
    busy: System, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tamper(busy, "INSERT INTO ledger_failures VALUES ('durations', 5, 'ZeroDivisionError: no', 1)")
    stuck = stopped(busy)
    monkeypatch.setattr("ledger.projections.plugins.entry_points", lambda **_: ())
    without = compose(Settings(database_url=database_url))

    assert stuck == {"durations": "event 5 cannot be applied: ZeroDivisionError: no"}
    assert stopped(without) is None
    without.close()


class Titles(TableFollower):
    """The data of jobs, as an example of content."""

    name = "titles"
    wants_content = True

    def __init__(
        self, database: Database, *, shadow: bool = False, replacement: bool = False
    ) -> None:
        super().__init__(database, shadow=shadow, replacement=replacement)
        self._table = self._define(
            "titles", Column("id", BigInteger, primary_key=True), Column("data", Text)
        )

    def apply(self, tx: Connection, changes: Sequence[Change]) -> None:
        for recorded, _, job in changes:
            if isinstance(recorded.event, Created):
                tx.execute(insert(self._table), {"id": job.id, "data": recorded.event.content})
            if isinstance(recorded.event, Erased):
                tx.execute(update(self._table).where(self._table.c.id == job.id).values(data=None))


def test_one_that_wants_content_is_told_it_in_every_way(system: System) -> None:
    titles = Titles(system.database)
    titles.create()
    carry_out(system, Create(type="email", data='"a"'), Create(type="email", data='"b"'))
    catch_up(system.database, titles)
    followed = rows(system, "SELECT data FROM titles ORDER BY id")
    tamper(system, "UPDATE titles SET data = 'x' WHERE id = 2")

    shadows = [(titles, titles.twin(shadow=True))]
    damaged = [
        each.where for each in verify(system.database, shadows, silently, tables=()).differences
    ]
    carry_out(system, Erase(job_id=1))
    rebuild(system.database, [titles], silently)

    assert followed == [{"data": '"a"'}, {"data": '"b"'}]
    assert damaged == ["titles id=2"]
    assert rows(system, "SELECT data FROM titles ORDER BY id") == [{"data": None}, {"data": '"b"'}]
    assert verify(system.database, shadows, silently, tables=()).differences == []


# --- what cannot be had

BROKEN: Final = {
    "absent": ("not_there:Model", "ModuleNotFoundError: No module named 'not_there'"),
    "number": ("broken_models:NUMBER", "TypeError: 'int' object is not callable"),
    "other": ("broken_models:Other", "does not return a ledger.projections.follower.Follower"),
    "ours": ("broken_models:Ours", "the name 'jobs' is taken"),
    "table": ("broken_models:Table", "the name 'ledger_events' is taken"),
    "search": ("broken_models:Search", "the name 'search' is taken"),
    "green": ("broken_models:Green", "the name 'ledger_jobs_green' is taken"),
    "mine": ("broken_models:Mine", "the name 'mine' is taken"),
    "odd": ("broken_models:Odd", "expected a name that matches"),
    "raising": ("broken_models:raising", "ZeroDivisionError: no"),
}
MODELS: Final = """
from sqlalchemy import Column, Text
from ledger.projections.table_follower import TableFollower

NUMBER = 7

class Other:
    def __init__(self, database): pass

class Base(TableFollower):
    table = "mine"
    def __init__(self, database, *, shadow=False, replacement=False):
        super().__init__(database, shadow=shadow, replacement=replacement)
        self._define(self.table, Column("a", Text, primary_key=True))
    def apply(self, tx, changes): pass

class Ours(Base):
    name = "jobs"

class Table(Base):
    name = "table"
    table = "ledger_events"

class Search(Base):
    name = "search"

class Green(Base):
    name = "green"
    table = "ledger_jobs_green"

class Mine(Base):
    name = "mine_as_well"

class Odd(Base):
    name = "Odd; DROP TABLE ledger_jobs"

class Good(Base):
    name = "good"

def raising(database):
    raise ZeroDivisionError("no")
"""


def test_what_cannot_be_had_stops_nobody_else(
    system: System, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "broken_models.py").write_text(textwrap.dedent(MODELS))
    points = {name: value for name, (value, _) in BROKEN.items()} | {"good": "broken_models:Good"}
    install(tmp_path / "site", points, monkeypatch)
    shell = Shell(database_url, tmp_path / "search")

    found = compose(Settings(database_url=database_url))
    followers = [follower.name for follower in found.followers]
    broken: dict[str, BrokenPlugIn] = {each.name: each for each in found.plug_ins.broken}
    status = json.loads(shell("status", "--json").stdout)["projections"]
    told = stopped(found)
    found.close()
    sys.modules.pop("broken_models", None)

    assert followers == ["search", "activity", "good"]
    assert {name: BROKEN[name][1] in each.reason for name, each in broken.items()} == dict.fromkeys(
        BROKEN, True
    )
    assert status["raising"] == "stopped: ZeroDivisionError: no"
    assert told.pop("good").startswith("it has no tables yet")
    assert told == {name: each.reason for name, each in broken.items()}
    carry_out(system, Create(type="email"))
    assert shell("rebuild", "jobs").exit_code == 0
    with system.database.read() as connection:
        assert connection.scalar(text("SELECT count(*) FROM ledger_jobs")) == 1

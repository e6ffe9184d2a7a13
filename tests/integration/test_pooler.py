"""PostgreSQL behind a connection pooler that gives each transaction another session."""

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Final

import pytest
from sqlalchemy import text

import ledger
from ledger.database.leader_loop import LeaderLoop
from ledger.database.migration import migrate
from ledger.database.postgres import PostgresDatabase
from ledger.errors import InvalidInput
from ledger.processes.composition import System, compose, queue_of
from ledger.processes.settings import Settings
from ledger.projections.rebuild.rebuild import rebuild
from ledger.rules.commands import Create
from ledger.testing import drain
from tests.builders import carry_out, rows, silently, verified
from tests.integration.servers import DEADLINE_S, wait_until
from tests.integration.test_schemas import ODD
from tests.proxies import Pooler

A_JOB: Final = Create(type="email")

Opens = Callable[..., System]


@pytest.fixture
def pooler(postgres_url: str) -> Iterator[Pooler]:
    with closing(Pooler(postgres_url)) as pooler:
        yield pooler


@pytest.fixture
def opens(pooler: Pooler, postgres_url: str, tmp_path: Path) -> Iterator[Opens]:
    """Yield a function that opens the system through the pooler, as another process would."""
    with ExitStack() as stack:

        def open_pooled(schema: str = "", *, is_direct: bool = False) -> System:
            system = compose(
                Settings(
                    database_url=pooler.url,
                    database_direct_url=postgres_url if is_direct else "",
                    schema=schema,
                    search_directory=str(tmp_path / "search"),
                )
            )
            stack.callback(system.close)
            return system

        migrate(open_pooled(is_direct=True).database)
        yield open_pooled


def database_of(system: System) -> PostgresDatabase:
    assert isinstance(system.database, PostgresDatabase)
    return system.database


@pytest.mark.parametrize("is_direct", [False, True])
def test_a_ledger_works_through_a_pooler(opens: Opens, *, is_direct: bool) -> None:
    system = opens(is_direct=is_direct)
    queue = queue_of(system, actor="app:test", lease_ms=30_000)
    queue.process("email")(lambda job: {"sent": job.data["to"]})
    jobs = [queue.create("email", {"to": f"user {number}"}) for number in range(30)]

    ran = drain(queue)
    rebuild(system.database, list(system.models.values()), silently)

    assert database_of(system).is_pooled
    assert len(ran) == 30
    assert jobs[29].result == {"sent": "user 29"}
    assert [job.id for job in queue.jobs(state="complete")][:3] == [1, 2, 3]
    assert len(system.search.find("user").job_ids) == 30
    assert verified(system).differences == []


def test_nothing_is_left_in_the_sessions_that_others_use_too(opens: Opens, pooler: Pooler) -> None:
    system = opens()
    for _ in range(20):
        carry_out(system, A_JOB)

    with closing(compose(Settings(database_url=pooler.url))) as plain:
        found = set()
        for _ in range(20):
            with plain.database.engine.connect() as connection:
                found.add(
                    connection.execute(
                        text(
                            "SELECT current_setting('lock_timeout'),"
                            " current_setting('search_path'),"
                            " (SELECT count(*) FROM pg_prepared_statements)"
                        )
                    ).one()
                )
    assert found == {("0", '"$user", public', 0)}


def test_one_of_two_leads_through_a_pooler_and_the_other_takes_over(opens: Opens) -> None:
    steps: list[str] = []

    def loop(name: str) -> LeaderLoop:
        database = opens().database

        def step() -> float:
            steps.append(name)
            return 0.001

        return LeaderLoop(name, lambda: database.leadership("test"), step, standby_s=0.01)

    loops = [loop("first"), *(loop(f"other {number}") for number in range(3))]
    threads = [loops[0].start()]
    wait_until(lambda: len(steps) > 0, "the first leads")
    threads += [each.start() for each in loops[1:]]
    seen = len(steps)
    wait_until(lambda: len(steps) > seen + 100, "it goes on")
    before = set(steps)
    loops[0].stop()
    wait_until(lambda: steps[-1] != "first", "another takes over")
    for each in loops[1:]:
        each.stop()
    for thread in threads:
        thread.join(DEADLINE_S)

    assert before == {"first"}


def test_a_leader_whose_session_ends_leads_no_longer(opens: Opens) -> None:
    system = opens()
    claim = system.database.leadership("test")
    assert claim.held()

    with system.database.write() as tx:
        tx.execute(
            text(
                "SELECT pg_terminate_backend(pid) FROM pg_locks"
                " WHERE locktype = 'advisory' AND database ="
                " (SELECT oid FROM pg_database WHERE datname = current_database())"
            )
        )

    with pytest.raises(ledger.Unavailable):
        claim.held()
    other = opens().database.leadership("test")
    wait_until(other.held, "another leads")
    assert not claim.held()
    other.release()
    wait_until(claim.held, "it leads again")
    claim.release()


def test_a_leader_holds_no_snapshot(opens: Opens) -> None:
    """It would keep VACUUM from removing rows, and CREATE INDEX CONCURRENTLY from its end."""
    system = opens()
    claim = system.database.leadership("test")
    assert claim.held()
    found = []
    for _ in range(2):
        found += rows(
            system,
            "SELECT state, backend_xmin, backend_xid FROM pg_locks"
            " JOIN pg_stat_activity USING (pid)"
            " WHERE locktype = 'advisory' AND datname = current_database()",
        )
        assert claim.held()
    claim.release()

    idle = {"state": "idle in transaction", "backend_xmin": None, "backend_xid": None}
    assert found == [idle, idle]


@pytest.mark.parametrize("is_direct", [False, True])
def test_commits_of_others_wake_who_waits(opens: Opens, *, is_direct: bool) -> None:
    waiting, writing = opens(is_direct=is_direct), opens()
    woken = threading.Event()

    with waiting.commit_notifier.subscribed(woken.set):
        # The first call may be for the subscription itself.
        wait_until(woken.is_set, "it watches")
        woken.clear()
        carry_out(writing, A_JOB)
        assert woken.wait(DEADLINE_S)


def test_a_schema_is_found_in_every_session(opens: Opens, postgres_url: str) -> None:
    direct = opens(ODD, is_direct=True)
    migrate(direct.database)
    system = opens(ODD)
    for _ in range(20):
        carry_out(system, A_JOB)

    assert verified(system).differences == []
    assert opens().jobs is not None
    with opens().database.read() as connection:
        assert connection.scalar(text("SELECT position FROM ledger_head")) == 0


def test_a_migration_through_a_pooler_is_refused(opens: Opens) -> None:
    with pytest.raises(InvalidInput, match="set LEDGER_DATABASE_DIRECT_URL to a URL of the same"):
        migrate(opens().database)

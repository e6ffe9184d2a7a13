"""A PostgreSQL server that has gone without a word: nobody waits for it for long."""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Final

import pytest
from sqlalchemy import text

from ledger.database.leader_loop import LeaderLoop
from ledger.database.migration import migrate
from ledger.database.postgres import PostgresDatabase
from ledger.database.postgres_connection import OPTIONS
from ledger.database.postgres_engine import PostgresEngine
from ledger.database.postgres_watch import ListeningWatch
from ledger.database.url import parse_url
from ledger.errors import OutcomeUnknown, Unavailable
from ledger.processes.composition import System
from ledger.rules.commands import Create
from tests.builders import carry_out, open_system, rows
from tests.integration.servers import DEADLINE_S, wait_until
from tests.proxies import Network, Pooler

A_JOB: Final = Create(type="email")
LOCK_TIMEOUT_MS: Final = 400
# The time until a silence is doubted, the time to connect in vain, and the time for an answer
# that was on its way; twice, as the ROLLBACK may meet the same.
CONNECT_TIMEOUT_S: Final = 2
LONGEST_S: Final = 2 * (1.5 * LOCK_TIMEOUT_MS / 1000 + CONNECT_TIMEOUT_S + 1.0)


@pytest.fixture
def network(postgres_url: str) -> Iterator[Network]:
    with closing(open_system(postgres_url)) as direct:
        migrate(direct.database)
    with closing(Network(postgres_url)) as network:
        yield network


@pytest.fixture
def system(network: Network) -> Iterator[System]:
    """Yield a ledger behind the network; it does not wait for long."""
    url = parse_url(f"{network.url}?connect_timeout={CONNECT_TIMEOUT_S}")
    database = PostgresDatabase(url, lock_timeout_ms=LOCK_TIMEOUT_MS)
    with closing(open_system(network.url, database=database)) as system:
        yield system


def in_time(call: Callable[[], object]) -> object:
    """Return what *call* raises, which must not take longer than a lost server may."""
    began_s = time.monotonic()
    with pytest.raises(Unavailable) as raised:
        call()
    assert time.monotonic() - began_s < LONGEST_S
    return raised.value


def test_a_write_ends_and_the_next_one_after_that_succeeds(
    system: System, network: Network
) -> None:
    carry_out(system, A_JOB)
    network.is_silent = True
    error = in_time(lambda: carry_out(system, A_JOB))
    network.is_silent = False
    carry_out(system, A_JOB)

    assert "has been silent for 0.6 s" in str(error)
    assert rows(system, "SELECT position FROM ledger_head") == [{"position": 2}]


def test_a_commit_that_is_not_answered_may_have_happened(system: System, network: Network) -> None:
    def cut_off() -> None:
        with system.database.write() as tx:
            tx.execute(text("UPDATE ledger_head SET last_job_id = 7"))
            network.is_silent = True

    error = in_time(cut_off)

    assert isinstance(error, OutcomeUnknown)


def test_a_read_ends(system: System, network: Network) -> None:
    rows(system, "SELECT 1")
    network.is_silent = True

    in_time(lambda: rows(system, "SELECT 1"))


def test_a_statement_that_takes_long_is_waited_for(system: System) -> None:
    with system.database.write() as tx:
        took_s = 4 * LOCK_TIMEOUT_MS / 1000
        assert tx.scalar(text("SELECT 7 FROM pg_sleep(:s)"), {"s": took_s}) == 7


def test_so_is_one_behind_a_pooler(postgres_url: str) -> None:
    with closing(Pooler(postgres_url)) as pooler:
        database = PostgresDatabase(parse_url(pooler.url), lock_timeout_ms=LOCK_TIMEOUT_MS)
        with closing(database), database.read() as connection:
            took_s = 4 * LOCK_TIMEOUT_MS / 1000
            assert connection.scalar(text("SELECT 7 FROM pg_sleep(:s)"), {"s": took_s}) == 7


def test_a_leader_and_a_watch_recover(
    system: System, network: Network, caplog: pytest.LogCaptureFixture
) -> None:
    steps: list[float] = []
    woken = threading.Event()

    def step() -> float:
        steps.append(time.monotonic())
        return 0.01

    loop = LeaderLoop("test", lambda: system.database.leadership("test"), step, standby_s=0.05)
    thread = loop.start()
    with caplog.at_level(logging.WARNING), system.commit_notifier.subscribed(woken.set):
        wait_until(lambda: len(steps) > 3, "it leads")
        network.is_silent = True
        # The watch asks only after some seconds without a notification.
        wait_until(lambda: "cannot watch for commits" in caplog.text, "the watch has noticed")
        wait_until(lambda: "test cannot run" in caplog.text, "so has the leader")
        network.is_silent = False
        before = len(steps)
        wait_until(lambda: len(steps) > before, "it leads again")
        woken.clear()
        wait_until(lambda: _wakes(system, woken), "commits wake again")
    loop.stop()
    thread.join(DEADLINE_S)


def _wakes(system: System, woken: threading.Event) -> bool:
    carry_out(system, A_JOB)
    return woken.wait(0.1)


def test_a_watch_that_hears_nothing_asks(system: System, network: Network) -> None:
    database = system.database
    assert isinstance(database, PostgresDatabase)
    with closing(ListeningWatch(database.engine, database.channel, check_s=0.0)) as watch:
        assert not watch.wait(0.01)
        network.is_silent = True

        assert "has been silent" in str(in_time(lambda: watch.wait(0.01)))


# --- what the kernel is asked to do


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", {}),
        (
            "?connect_timeout=9&tcp_user_timeout=0",
            {"connect_timeout": "9", "tcp_user_timeout": "0"},
        ),
    ],
)
def test_the_kernel_gives_up_too_unless_the_url_says_otherwise(
    network: Network, query: str, expected: dict[str, str]
) -> None:
    engine = PostgresEngine(
        parse_url(network.url + query), None, lock_timeout_ms=1_000, on_lost=lambda: None
    )
    with engine.pool.connect() as connection:
        driver = connection.connection.driver_connection
        assert driver is not None
        given = driver.info.get_parameters()
    engine.pool.dispose()

    options = {name: str(value) for name, value in OPTIONS.items()} | expected
    assert {name: given.get(name, "0") for name in options} == options

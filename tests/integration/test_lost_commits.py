"""A standby without the last commits takes the place of a server."""

import logging
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress

import pytest
from sqlalchemy import Connection, create_engine, make_url, text

from ledger.database.migration import migrate
from ledger.errors import Unavailable
from ledger.log import store
from ledger.processes.composition import System
from ledger.rules.commands import Create
from tests.builders import carry_out, open_system, verified

A_JOB = Create(type="email")
LOST = "nothing was recorded: event 3 of "

Standby = Callable[[], None]


@pytest.fixture
def system(postgres_url: str) -> Iterator[System]:
    """Yield a ledger with two events."""
    with closing(open_system(postgres_url)) as opened:
        migrate(opened.database)
        for _ in range(2):
            carry_out(opened, A_JOB)
        yield opened


@contextmanager
def standby(postgres_url: str) -> Iterator[Standby]:
    """Yield a function that puts the database as it is now in the place of what it is then."""
    url = make_url(postgres_url)
    engine = create_engine(url.set(database="postgres"), isolation_level="AUTOCOMMIT")
    copy = f"{url.database}_copy"

    with engine.connect() as admin:
        end_sessions(admin, str(url.database))
        admin.execute(text(f"CREATE DATABASE {copy} TEMPLATE {url.database}"))

        def take_over() -> None:
            admin.execute(text(f"DROP DATABASE {url.database} WITH (FORCE)"))
            admin.execute(text(f"ALTER DATABASE {copy} RENAME TO {url.database}"))

        yield take_over
    engine.dispose()


def end_sessions(admin: Connection, database: str) -> None:
    admin.execute(
        text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = :name"),
        {"name": database},
    )


def append_again(system: System) -> None:
    """Append until it succeeds, as a client does whose server was away."""
    for _ in range(3):
        with suppress(Unavailable):
            carry_out(system, A_JOB)
            return


@pytest.mark.parametrize(
    ("others", "said"),
    [(0, "the last event is 2;"), (1, "the last event is 3;"), (3, "the last event is 5;")],
)
def test_the_loss_of_commits_is_noticed(
    system: System, postgres_url: str, caplog: pytest.LogCaptureFixture, others: int, said: str
) -> None:
    with standby(postgres_url) as take_over:
        append_again(system)
        take_over()
    with closing(open_system(postgres_url)) as other:
        for _ in range(others):
            carry_out(other, A_JOB)

    with caplog.at_level(logging.ERROR, "ledger"):
        append_again(system)
        append_again(system)

    (record,) = caplog.records
    assert record.getMessage().startswith(LOST)
    assert said in record.getMessage()
    with system.database.read() as connection:
        assert store.read_position(connection) == 2 + others + 2
    assert verified(system).differences == []


def test_a_server_that_lost_nothing_is_not_suspected(
    system: System, postgres_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    with standby(postgres_url) as take_over, closing(open_system(postgres_url)) as other:
        take_over()
        append_again(other)
        append_again(system)
        append_again(other)

    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []

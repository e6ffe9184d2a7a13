"""Fixtures of the HTTP tests: clients on an empty ledger, or on one with a job in each state."""

from collections.abc import Iterator

import pytest

from ledger.database.migration import migrate
from ledger.processes.composition import System
from tests.builders import job_in, open_system
from tests.contract.client import Client

# The jobs of ``crowd``, by state.
CROWD = ("inactive", "delayed", "active", "complete", "failed", "removed")


@pytest.fixture
def client(system: System) -> Client:
    """Return a client on an empty ledger, on each engine in turn."""
    return Client(system)


@pytest.fixture(scope="module")
def crowd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """Yield a client on a ledger with jobs 1 to 6, one in each state, for read-only tests."""
    yield from _with_one_job_in_each_state(tmp_path_factory)


@pytest.fixture(scope="module")
def rabble(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """Yield a client on another such ledger, for tests that may change anything."""
    yield from _with_one_job_in_each_state(tmp_path_factory)


def _with_one_job_in_each_state(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    system = open_system(f"sqlite:///{tmp_path_factory.mktemp('ledger') / 'ledger.db'}")
    migrate(system.database)
    for state in CROWD:
        job_in(system, state)
    # Random requests to wait are answered at once.
    yield Client(system, most_waiting=0)
    system.close()

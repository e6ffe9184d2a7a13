"""Fixtures of the browser tests: a browser, a server, a hostile site."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from ledger.processes.composition import System
from tests.browser.chromium import MISSING, find_chromium
from tests.browser.hostile import HostileSite
from tests.builders import open_system
from tests.integration.servers import Server


@pytest.fixture(scope="session")
def chromium() -> str:
    """Return the path of Chromium; without it the tests fail, because they would prove nothing."""
    path = find_chromium()
    if path is None:
        pytest.fail(MISSING)
    return path


@pytest.fixture
def hostile() -> Iterator[HostileSite]:
    """Yield a hostile site that does not know the server yet."""
    with HostileSite() as site:
        yield site


@pytest.fixture
def url(tmp_path: Path) -> str:
    """Return the URL of a ledger that the server creates."""
    return f"sqlite:///{tmp_path / 'ledger.db'}"


@pytest.fixture
def server(url: str, tmp_path: Path, hostile: HostileSite) -> Iterator[Server]:
    """Yield a server to which the hostile site forwards requests."""
    with Server(url, tmp_path, variables={"LEDGER_HOSTS": "ledger.test"}) as server:
        hostile.ledger_port = server.port
        yield server


@pytest.fixture
def system(server: Server, url: str) -> Iterator[System]:
    """Yield the server's ledger, for assertions."""
    system = open_system(url)
    yield system
    system.close()

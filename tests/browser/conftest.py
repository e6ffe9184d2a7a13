"""Give the tests in a browser that browser, a server, and a hostile site."""

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
    """Give the path of Chromium; without it these tests fail, for they would show nothing."""
    path = find_chromium()
    if path is None:
        pytest.fail(MISSING)
    return path


@pytest.fixture
def hostile() -> Iterator[HostileSite]:
    """Give a hostile site that passes on to no server yet."""
    with HostileSite() as site:
        yield site


@pytest.fixture
def url(tmp_path: Path) -> str:
    """Give the URL of a ledger that the server creates."""
    return f"sqlite:///{tmp_path / 'ledger.db'}"


@pytest.fixture
def server(url: str, tmp_path: Path, hostile: HostileSite) -> Iterator[Server]:
    """Give a server that the hostile site passes on to."""
    with Server(url, tmp_path, variables={"LEDGER_HOSTS": "ledger.test"}) as server:
        hostile.ledger_port = server.port
        yield server


@pytest.fixture
def system(server: Server, url: str) -> Iterator[System]:
    """Give the server's ledger, to look into."""
    system = open_system(url)
    yield system
    system.close()

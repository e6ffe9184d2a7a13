"""The memory of a server does not depend on how large the ledger is, or who does not read."""

import re
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Final

import pytest

from ledger.database.migration import migrate
from ledger.rules.commands import Create
from tests.builders import open_system
from tests.integration.servers import Server, children, wait_until
from tests.integration.test_slow_clients import connected, variables

JOBS: Final = 300
DATA: Final = f'"{"x" * 1_000_000}"'
CLIENTS: Final = 8
# Before answers had a bound, one page of these jobs took 840 MB more, and eight of them 1,220 MB.
MOST_MIB: Final = 320


def own_mib(pid: int) -> int:
    """Return the memory of a process without that of files, which the kernel can take back."""
    (found,) = re.findall(r"RssAnon:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    return int(found) // 1024


@contextmanager
def peak_of(pid: int) -> Iterator[list[int]]:
    """Yield a list whose last item is the most memory that a process has had in the block."""
    seen, is_over = [own_mib(pid)], threading.Event()

    def look() -> None:
        while not is_over.wait(0.002):
            seen.append(max(seen[-1], own_mib(pid)))

    looking = threading.Thread(target=look)
    looking.start()
    try:
        yield seen
    finally:
        is_over.set()
        looking.join()


@pytest.mark.parametrize("ranks", ["0..31", "-32..-1", "0..9999"])
@pytest.mark.parametrize("clients", [1, CLIENTS])
def test_pages_of_a_large_ledger_take_little_memory(
    tmp_path: Path, clients: int, ranks: str
) -> None:
    page = f"GET /jobs/{ranks} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
    url = f"sqlite:///{tmp_path / 'ledger.db'}"
    with closing(open_system(url)) as system:
        migrate(system.database)
        for _ in range(JOBS // 10):
            system.ledger.submit([Create(type="large", data=DATA)] * 10, actor="test")
    with Server(url, tmp_path, variables=variables(600_000)) as server, ExitStack() as stack:
        (process,) = children(server.pid)
        with peak_of(process) as seen:
            unread = [stack.enter_context(connected(server, page)) for _ in range(clients)]
            for client in unread:
                # The answer has begun, so all of it is in memory.
                assert client.recv(12) == b"HTTP/1.1 200"
            wait_until(lambda: server.ask("GET", "/stats").status == 200, "it answers others")

    assert seen[-1] - seen[0] < MOST_MIB

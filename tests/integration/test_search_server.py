"""Servers answer searches as of now: while jobs come and go, and indexers die."""

import os
import random
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from http.client import HTTPException
from pathlib import Path
from typing import Any, Final

import psutil  # type: ignore[import-untyped]  # comes with the package that brings PostgreSQL
import pytest

from ledger.processes.composition import System, compose
from ledger.processes.follower_process import FollowerProcess
from ledger.processes.settings import SearchOn, Settings
from ledger.rules.commands import Create
from tests.builders import carry_out
from tests.contract.client import Client
from tests.integration.servers import (
    DEADLINE_S,
    Asker,
    Server,
    children,
    is_running,
    is_stopped,
    wait_until,
)

CLIENTS: Final = 8
PROCESSES: Final = 4
# A search that is answered at once takes less than this, and one that waits, more.
SOON_S: Final = 10.0
LONG_MS: Final = 120_000
# A quarter of them may wait: in any process, all clients' searches at once.
THREADS: Final = 4 * CLIENTS


def indexers(server: Server) -> list[int]:
    """Return the processes below a server that index."""
    found = []
    for worker in children(server.pid):
        for child in children(worker):
            # It may end meanwhile.
            with suppress(psutil.NoSuchProcess):
                if "follow" in psutil.Process(child).cmdline():
                    found.append(child)
    return found


def others(pids: list[int], *, than: int) -> list[int]:
    return [pid for pid in pids if pid != than]


@pytest.fixture(params=["whoosh", "sql"])
def kind(request: pytest.FixtureRequest) -> SearchOn:
    search: SearchOn = request.param
    return search


@pytest.fixture
def server(system: System, database_url: str, tmp_path: Path, kind: SearchOn) -> Iterator[Server]:
    """Yield a server of four processes on each kind of engine, on each database."""
    variables = {
        "LEDGER_SEARCH": kind,
        "LEDGER_SEARCH_DIRECTORY": str(tmp_path / "index"),
        "LEDGER_SERVER_PROCESSES": str(PROCESSES),
        "LEDGER_THREADS": str(THREADS),
        "LEDGER_SEARCH_WAIT_MS": "20000",
    }
    with Server(database_url, tmp_path, variables=variables) as server:
        yield server


def test_one_process_beside_a_server_follows_for_all_of_its_processes(
    server: Server, system: System
) -> None:
    first = server.ask("POST", "/job", {"type": "t", "data": "avi video"}).json["id"]
    assert server.ask("GET", "/job/search?q=video").json == [str(first)]
    catches_up(system)
    (indexer,) = indexers(server)
    named = psutil.Process(indexer).cmdline()
    assert named[named.index("follow") + 2 :] == ["search", "activity"]

    # It is killed: searches are right nevertheless, and another takes its place.
    os.kill(indexer, signal.SIGKILL)
    second = server.ask("POST", "/job", {"type": "t", "data": "video"}).json["id"]
    assert server.ask("GET", "/job/search?q=video").json == [str(second), str(first)]
    server.ask("DELETE", f"/job/{first}")
    assert server.ask("GET", "/job/search?q=video").json == [str(second)]
    wait_until(lambda: others(indexers(server), than=indexer) != [], "another process indexes")

    # It ends with the server, however that ends.
    (indexer,) = others(indexers(server), than=indexer)
    server.kill()
    wait_until(lambda: not is_running(indexer), "the indexer is gone")


class Clients:
    """Create, remove and search from many threads, and note what was not as it must be.

    Args:
        server: Where to do so.
        searches: How many searches each thread makes before the server is measured, and
            again after.
    """

    def __init__(self, server: Server, searches: int) -> None:
        self._server = server
        self._searches = searches
        self._half_way = threading.Barrier(CLIENTS + 1)
        self.wrong: list[Any] = []

    def run(self, look: Callable[[], None]) -> None:
        """Do half of the work, *look*, do the other half, and *look* again."""
        threads = [threading.Thread(target=self._one, args=(n,)) for n in range(CLIENTS)]
        for thread in threads:
            thread.start()
        # Nobody is at work while one looks.
        with suppress(threading.BrokenBarrierError):
            self._half_way.wait()
            look()
            self._half_way.wait()
        for thread in threads:
            thread.join()
        look()

    def _one(self, number: int) -> None:
        random_ = random.Random(number)
        mine: list[str] = []
        word = f"client{number}"
        try:
            with Asker(self._server.port) as asker:
                for search in range(2 * self._searches):
                    if search == self._searches:
                        self._half_way.wait()
                        self._half_way.wait()
                    if not mine or random_.random() < 0.6:
                        body = {"type": "t", "data": {"of": word, "all": "common"}}
                        mine.append(str(asker.ask("POST", "/job", body).json["id"]))
                    else:
                        asker.ask("DELETE", f"/job/{mine.pop(random_.randrange(len(mine)))}")
                    answer = asker.ask("GET", f"/job/search?q={word}%20common&limit=10000")
                    if (answer.status, answer.json) != (200, mine[::-1]):
                        self.wrong.append((number, answer.status, answer.json, mine[::-1]))
        except (OSError, HTTPException, threading.BrokenBarrierError) as error:
            self.wrong.append((number, error))
            self._half_way.abort()


def test_four_processes_answer_as_of_now_and_stay_as_they_are(server: Server) -> None:
    search_from_many_threads(server, searches=15)


def search_from_many_threads(server: Server, *, searches: int) -> None:
    """Require right answers, and that the server's processes take no more and more room."""
    clients = Clients(server, searches)
    files: list[int] = []
    memory: list[int] = []

    def look() -> None:
        workers = [psutil.Process(pid) for pid in children(server.pid)]
        files.append(max(worker.num_fds() for worker in workers))
        memory.append(sum(worker.memory_info().rss for worker in workers))

    clients.run(look)

    assert clients.wrong == []
    # After as many searches again, they have no more files open than threads that had not been
    # needed yet may open for themselves, three of the database each; and not much more memory.
    assert files[1] <= files[0] + 3 * THREADS
    assert memory[1] < 1.3 * memory[0]


# --- the wire, where nobody indexes


def test_a_search_that_cannot_be_as_of_now_is_503_with_when_to_try_again(
    system: System, database_url: str, tmp_path: Path
) -> None:
    alone = compose(
        Settings(
            database_url=database_url,
            search_directory=str(tmp_path / "search"),
            search_wait_ms=1,
        ),
        indexes=False,
    )
    client = Client(alone)
    client.post({"type": "t", "data": "avi"})
    answer = client.get("/job/search?q=avi")
    assert (answer.status, answer.headers["retry-after"]) == (503, "1")
    assert "the search index has reached event 0 of 1" in answer.json["error"]
    # Whoever indexes brings it there.
    assert system.search.find("avi").job_ids == [1]

    assert client.get("/job/search?q=avi").json == ["1"]
    alone.close()


@pytest.fixture
def unindexed(system: System, database_url: str, tmp_path: Path) -> Iterator[System]:
    """Yield a system whose index only another one updates, with searches that wait for long."""
    settings = Settings(
        database_url=database_url,
        search_directory=str(tmp_path / "search"),
        search_wait_ms=LONG_MS,
    )
    alone = compose(settings, indexes=False)
    yield alone
    alone.close()


def test_a_search_that_finds_no_place_to_wait_is_answered_at_once(
    system: System, unindexed: System
) -> None:
    client = Client(unindexed, most_waiting=0)
    client.post({"type": "t", "data": "avi"})
    begun = time.monotonic()
    refused = client.get("/job/search?q=avi")
    took_s = time.monotonic() - begun
    # Another process brings the index to the head; from then on nothing has to wait.
    system.search.find("avi")
    found = client.get("/job/search?q=avi")

    assert (refused.status, refused.headers["retry-after"]) == (503, "1")
    assert "the search index has reached event 0 of 1" in refused.json["error"]
    assert took_s < SOON_S
    assert (found.status, found.json) == (200, ["1"])


def test_claims_that_wait_leave_searches_their_places(system: System, unindexed: System) -> None:
    client = Client(unindexed, most_waiting=1)
    claim = {"types": ["t"], "worker": "w", "wait": 60}
    # Nothing contains it, but an answer must cover all events.
    client.post({"type": "other"})
    with ThreadPoolExecutor() as pool:
        claimed = pool.submit(client.post, claim, "/jobs/claim")
        wait_until(lambda: len(unindexed.commit_notifier._subscribers) == 1, "the claim waits")
        searched = pool.submit(client.get, "/job/search?q=avi")
        time.sleep(0.1)
        waits = not searched.done()
        system.search.find("avi")
        found = searched.result(DEADLINE_S)
        client.post({"type": "t", "data": "avi"})
        jobs = claimed.result(DEADLINE_S).json

    assert (waits, found.status, found.json) == (True, 200, [])
    assert [job["id"] for job in jobs] == ["2"]


def test_forty_searches_while_the_indexer_hangs_leave_the_other_requests_alone(
    tmp_path: Path,
) -> None:
    url = f"sqlite:///{tmp_path / 'ledger.db'}"
    variables = {
        "LEDGER_SERVER_PROCESSES": "1",
        "LEDGER_THREADS": "8",
        "LEDGER_SEARCH_WAIT_MS": str(LONG_MS),
    }
    with Server(url, tmp_path, variables=variables) as server, ThreadPoolExecutor(40) as pool:
        server.create()
        assert server.ask("GET", "/job/search?q=avi").status == 200
        (indexer,) = indexers(server)
        os.kill(indexer, signal.SIGSTOP)
        wait_until(lambda: is_stopped(indexer), "the indexer hangs")
        server.create()
        searches = [pool.submit(server.ask, "GET", "/job/search?q=avi") for _ in range(40)]
        # A quarter of the threads wait; those that found no place have their answers.
        wait_until(lambda: sum(each.done() for each in searches) == 38, "the others are answered")
        begun = time.monotonic()
        server.create()
        stats = server.ask("GET", "/stats").json
        claimed = server.ask("POST", "/jobs/claim", {"types": ["t"], "worker": "w", "wait": 1})
        took_s = time.monotonic() - begun
        still = [each for each in searches if not each.done()]
        os.kill(server.pid, signal.SIGTERM)
        statuses = {each.result(DEADLINE_S).status for each in searches}
        os.kill(indexer, signal.SIGCONT)

    assert (len(still), stats["inactiveCount"], claimed.json) == (2, 3, [])
    assert took_s < SOON_S
    # Those that waited are answered when the server stops.
    assert statuses == {503}


def test_the_parameters_of_a_search(system: System) -> None:
    client = Client(system, largest_page=4)
    for number in range(6):
        client.post({"type": "t", "data": f"avi {number}"})

    def ids(query: str) -> Any:
        answer = client.get(f"/job/search{query}")
        return answer.json if answer.status == 200 else answer.status

    assert ids("?q=avi") == ["6", "5", "4", "3"]
    assert ids("?q=avi&limit=2&offset=3") == ["3", "2"]
    assert ids("?q=avi&limit=1000&offset=4") == ["2", "1"]
    assert ids("?q=avi&limit=0") == ids("?q=avi&offset=999999999999999") == []
    assert ids("") == ids("?") == ids("?q=") == ids("?q=%20*") == ids("?q=%00") == []
    assert ids("?q=avi+5") == ids("?q=AVI%2F5") == ["6"]
    assert ids("?q=%ff%fe") == []
    for bad in ("?q=a&q=b", "?q=a&limit=x", "?q=a&offset=-1", "?q=a&limit=1&limit=2"):
        assert ids(bad) == 400
    tag = client.get("/job/search?q=avi").headers["etag"]
    assert re.fullmatch('W/"6-[0-9a-f]{16}"', tag)
    assert client.get("/job/search?q=avi", If_None_Match=tag).status == 304


def test_one_whose_directory_is_not_there_follows_the_rest_and_tries_again(
    system: System, database_url: str, tmp_path: Path
) -> None:
    settings = Settings(
        database_url=database_url, search_directory=str(tmp_path / "later" / "search")
    )
    alone = compose(settings, indexes=False)
    following = FollowerProcess(["search", "activity"], alone.starter, settings)
    following.start()
    try:
        # What needs no directory does not wait for it.
        catches_up(system)
        assert not (tmp_path / "later").exists()
        (tmp_path / "later").mkdir()
        wait_until(lambda: any((tmp_path / "later" / "search").glob("*/current")), "an index")
    finally:
        following.stop()
        alone.close()


def test_one_whose_directory_became_somebody_elses_goes_on_with_the_rest(
    system: System, database_url: str, tmp_path: Path
) -> None:
    settings = Settings(database_url=database_url, search_directory=str(tmp_path / "shared"))
    alone = compose(settings, indexes=False)
    following = FollowerProcess(["search", "activity"], alone.starter, settings)
    following.start()
    try:
        catches_up(system)
        wait_until(lambda: any((tmp_path / "shared").glob("*/current")), "an index")
        (home,) = (tmp_path / "shared").iterdir()
        home.rename(tmp_path / "moved")
        home.mkdir()
        (home / "photos-2026").mkdir()
        for child in children(os.getpid()):
            if "follow" in psutil.Process(child).cmdline():
                os.kill(child, signal.SIGKILL)
        # Another process has to be started for that, by whoever may.
        catches_up(system)
        assert [each.name for each in home.iterdir()] == ["photos-2026"]
    finally:
        following.stop()
        alone.close()


def catches_up(system: System) -> None:
    """Wait until activity has been brought to the head by another process."""
    (at,) = carry_out(system, Create(type="email"))
    wait_until(lambda: system.activity.checkpoint() == at.position, "activity is followed")

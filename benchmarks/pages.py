"""Benchmark of pages in the middle of lists beside the first page of the same list.

The jobs of a ledger are filled in directly, and the migration counts them.  Then pages of each list
in each order are requested from a server, one after the other on one connection, in turns.
"""

import json
import random
import sys
from collections.abc import Callable, Iterator
from functools import partial
from http.client import HTTPConnection
from itertools import product
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Final, NamedTuple
from urllib.parse import quote

from sqlalchemy import inspect, text

from benchmarks import machine, servers
from benchmarks.processes import free_port, running
from benchmarks.report import Figure, Report
from ledger.database.migration import migrate
from ledger.processes.composition import System, compose
from ledger.processes.settings import Settings
from ledger.projections.models.job_runs import JobList
from ledger.rules.job import State

JOBS: Final = 10_000_000
# The longest time of a page, in times of the first page.
TARGET: Final = 3.0
SIZE: Final = 20
# Before the runs of the lists were counted as they are now.
_BEFORE: Final = "0009"
_TYPES: Final = 9
# Of each 1,000 jobs: most are complete, and some of each other state.
_STATE: Final = """
    CASE WHEN i % 1000 < 800 THEN 'complete' WHEN i % 1000 < 900 THEN 'failed'
    WHEN i % 1000 < 980 THEN 'inactive' WHEN i % 1000 < 999 THEN 'delayed' ELSE 'active' END
"""
# The five priorities of Kue, most of them normal; and one for each job, as of a time in seconds.
_PRIORITIES: Final = {
    "of Kue": "CASE i % 7 WHEN 1 THEN -10 WHEN 2 THEN -5 WHEN 3 THEN 10 WHEN 5 THEN -15 ELSE 0 END",
    "of each job": "1700000000 + i * 7919 % 10000019",
}
_LISTS: Final = (
    JobList(),
    JobList(State.COMPLETE),
    JobList(State.INACTIVE),
    JobList(State.COMPLETE, "type 3"),
    JobList(State.INACTIVE, "type 3"),
)

# The order of a list, and how it is requested.
_ORDERS: Final = {
    "asc": "/asc",
    "desc": "/desc",
    "priority": "/asc?sort=priority",
    "priority, desc": "/desc?sort=priority",
}

Tell = Callable[[str], None]


class _Page(NamedTuple):
    """A page of a list."""

    jobs: JobList
    order: str
    first: int

    @property
    def list_path(self) -> str:
        return "".join(f"{part}/" for part in (self.jobs.type, self.jobs.state) if part)

    def ask(self, server: HTTPConnection) -> float:
        """Request the page, and return how long that took, in milliseconds."""
        ranks = f"{self.first}..{self.first + SIZE - 1}"
        began_s = perf_counter()
        server.request("GET", quote(f"/jobs/{self.list_path}{ranks}") + _ORDERS[self.order])
        answer = server.getresponse().read()
        took_ms = (perf_counter() - began_s) * 1000
        found = json.loads(answer)
        if not isinstance(found, list) or len(found) != SIZE:
            raise RuntimeError(f"{self} was answered {answer[:200]!r}")
        return took_ms


def measure(directory: Path, *, jobs: int, rounds: int, tell: Tell) -> Report:
    """Run the benchmark on SQLite and PostgreSQL; return its report.

    Args:
        directory: An empty directory on the disk to be measured.
        jobs: Number of jobs in each ledger.
        rounds: Times that each page is requested.
        tell: Called with what is being done.

    Raises:
        RuntimeError: A page has not as many jobs as it must.
    """
    report = Report(title=f"Pages of {SIZE} of {jobs:,} jobs, {rounds} times each, in turns")
    report.peer = "the first page"
    report.facts += machine.facts(directory)
    report.facts.append("`ledger serve` with its defaults, one connection")
    with servers.postgres(directory) as server:
        report.facts.append(server.facts())
        for name in _PRIORITIES:
            file = directory / f"{name.replace(' ', '-')}.db"
            url = f"sqlite:///{file}"
            report.figures += _measure("SQLite", name, url, directory, jobs, rounds, tell)
            file.unlink()
            with server.database() as database:
                url = database.render_as_string(hide_password=False)
                report.figures += _measure("PostgreSQL", name, url, directory, jobs, rounds, tell)
    report.facts.append(f"at the end: {machine.disk(directory)}")
    return report


def _measure(
    engine: str,
    priorities: str,
    url: str,
    directory: Path,
    jobs: int,
    rounds: int,
    tell: Tell,
) -> Iterator[Figure]:
    where = f"{engine}, priorities {priorities}"
    system = compose(Settings(database_url=url))
    tell(f"{where}: filling in {jobs:,} jobs")
    fill(system, jobs, priorities=_PRIORITIES[priorities])
    with system.database.read() as connection:
        lengths = {each: system.jobs.lists.length(connection, each) for each in _LISTS}
    system.close()
    tell(f"{where}: requesting pages")
    server = HTTPConnection("127.0.0.1", free_port(), timeout=600)
    with running(
        [sys.executable, "-m", "ledger", "serve", "--bind", f"127.0.0.1:{server.port}"],
        log=directory / "server.log",
        ready=partial(_is_ready, server),
        environment={"LEDGER_DATABASE_URL": url, "LEDGER_SEARCH": "off"},
    ):
        for each, order in product(_LISTS, _ORDERS):
            yield _figure(where, server, each, order, lengths[each], rounds)
    server.close()


def fill(system: System, jobs: int, *, priorities: str) -> None:
    """Fill a new database with jobs.

    Args:
        system: On an empty database.
        jobs: Their number.
        priorities: The SQL expression of the priority of job ``i``.
    """
    migrate(system.database, to=_BEFORE)
    values = {
        "id": "i",
        "version": "1",
        "state": _STATE,
        "type": f"'type ' || (i % {_TYPES})",
        "priority": priorities,
        "created_at_ms": "1700000000000 + i",
        "promote_at_ms": "1700000000000 + i",
        "updated_at_ms": "1700000000000 + i",
        "json_start": """'{"id":"' || i || '","type":"type","data":'""",
        "json_priority": """',"priority": 0,"progress":"0"'""",
        "json_state": """',"state":"complete","created_at":"1700000000000"'""",
        "json_end": """',"attempts":{"made": 0, "remaining": 1, "max": 1}}'""",
        "max_attempts": "1",
        **dict.fromkeys(
            ("made", "attempt", "started_attempt", "backoff_delay_ms", "remove_on_complete"), "0"
        ),
    }
    numbers = """
        WITH RECURSIVE numbers(i) AS
            (SELECT CAST(1 AS BIGINT) UNION ALL SELECT i + 1 FROM numbers WHERE i < :jobs)
    """
    with system.database.write() as tx:
        # An index of ten million jobs is built in a fraction of the time of adding them to it.
        found = {each["name"] for each in inspect(tx).get_indexes("ledger_jobs")}
        indexes = [each for each in system.jobs.tables[0].indexes if each.name in found]
        for index in indexes:
            index.drop(tx)
        tx.execute(
            text(
                f"INSERT INTO ledger_jobs ({', '.join(values)}) {numbers} "  # noqa: S608 - ours
                f"SELECT {', '.join(values.values())} FROM numbers"
            ),
            {"jobs": jobs},
        )
        for index in indexes:
            index.create(tx)
    migrate(system.database)
    if not system.database.is_embedded:
        with system.database.write() as tx:
            tx.execute(text("ANALYZE ledger_jobs, ledger_job_runs"))


def _is_ready(server: HTTPConnection) -> bool:
    try:
        server.request("GET", "/stats")
        return server.getresponse().read().startswith(b"{")
    except OSError:
        server.close()
        return False


def _figure(
    where: str, server: HTTPConnection, jobs: JobList, order: str, length: int, rounds: int
) -> Figure:
    depths = (
        length // 2,
        length // 3,
        length * 3 // 4,
        random.randrange(length - SIZE),
        length - SIZE,
    )
    first = _Page(jobs, order, 0)
    deep = [_Page(jobs, order, depth) for depth in depths]
    times_ms: dict[_Page, list[float]] = {page: [] for page in (first, *deep)}
    for page in times_ms:
        page.ask(server)
    for _ in range(rounds):
        for page, times in times_ms.items():
            times.append(page.ask(server))
    slowest = max(deep, key=lambda page: median(times_ms[page]))
    return Figure(
        name=f"{where}: /jobs/{first.list_path} by {order}",
        unit="ms",
        ours=times_ms[slowest],
        peer=times_ms[first],
        target=TARGET,
        at_most=True,
        note=f"page at {slowest.first:,} of {length:,}; "
        f"middle {median(times_ms[deep[0]]):.2f} ms, last {median(times_ms[deep[-1]]):.2f} ms",
    )

"""Benchmark of searches beside Kue's, of the cost of search for creating jobs, and of indexing.

As in ``http.py``, servers take turns.  Every server has jobs whose data contains the words
"welcome email", and one in the middle that also contains "visible pelican".  Kue answers with
all ids, ours with the newest 1,000, as its API is documented.
"""

import shutil
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any, Final, NamedTuple

from benchmarks import history, machine, wrk
from benchmarks.peers import PROGRAMS, Kue, Ours, Server, install_kue
from benchmarks.processes import require
from benchmarks.report import Figure, Report
from ledger.database.migration import migrate
from ledger.processes.composition import System, compose
from ledger.processes.settings import SearchOn, Settings
from ledger.projections.follower import catch_up
from ledger.projections.rebuild.rebuild import rebuild
from ledger.projections.search.engine import SearchEngine

SIZES: Final = (1_000, 100_000)
DOCUMENTS: Final = 200_000
WARM_S: Final = 2
PAGE: Final = 1_000
# Lowest ratio of the rate of creating jobs with search to the rate without.
SLOWDOWN: Final = 0.85

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """A search to measure.

    Attributes:
        name: Name in the report.
        q: The query, encoded for a URL.
        right: Returns whether an answer is correct, given the number of jobs.
        targets: Lowest ratios ours/Kue to reach, for Whoosh and for search in the database.
        least_s: Shortest run in which Kue can give an answer on each of sixteen connections.
    """

    name: str
    q: str
    right: Callable[[list[Any], int], bool]
    targets: tuple[float, float]
    least_s: int = WARM_S


QUERIES: Final = (
    Query(
        name="one hit",
        q="pelican",
        right=lambda ids, jobs: list(map(str, ids)) == [str(jobs // 2)],
        targets=(0.25, 0.6),
    ),
    Query(
        name="two words, one hit",
        q="visible%20pelican",
        right=lambda ids, jobs: list(map(str, ids)) == [str(jobs // 2)],
        targets=(0.25, 0.6),
    ),
    Query(
        name="a word in every job",
        q="welcome",
        right=lambda ids, jobs: len(ids) in {jobs, min(jobs, PAGE)},
        targets=(20.0, 50.0),
        least_s=6,
    ),
)


def measure(directory: Path, *, rounds: int, seconds: int, documents: int, tell: Tell) -> Report:
    """Run the benchmark; return its report.

    Args:
        directory: An empty directory on the disk to be measured.
        rounds: Runs of each measurement; the median counts.
        seconds: Duration of a run.
        documents: Number of jobs to index.
        tell: Called with what is being done.
    """
    require(PROGRAMS | wrk.PROGRAMS)
    tell("installing Kue")
    versions = install_kue()
    report = Report(
        title=f"Search: wrk, {wrk.CONNECTIONS} connections, {rounds} x {seconds} s, in turns",
    )
    report.facts += [*machine.facts(directory), *versions]
    report.facts.append("ours: `ledger serve` with its defaults, SQLite, synchronous=FULL")
    report.facts.append("peer: kue, unless the figure names another")
    for jobs in SIZES:
        report.figures += _searches(directory / str(jobs), jobs, rounds, seconds, tell)
    report.figures += _creating(directory / "creating", rounds, seconds, tell)
    report.figures += _indexing(directory / "indexing", documents, rounds, tell)
    return report


# --- searching


def _searches(directory: Path, jobs: int, rounds: int, seconds: int, tell: Tell) -> list[Figure]:
    ours: dict[str, Server] = {
        "whoosh": Ours(directory / "whoosh", "whoosh"),
        "sql": Ours(directory / "sql", "sql"),
    }
    kue = Kue(directory / "kue", search=True)
    figures = []
    with ExitStack() as running:
        for server in (*ours.values(), kue):
            tell(f"storing {jobs:,} jobs: {server.name}")
            server.fill(jobs)
            running.enter_context(server.serve())
        for query in QUERIES:
            runs = _runs(query, jobs, {**ours, "kue": kue}, rounds, seconds, tell)
            latencies = ", ".join(
                f"{name} {median(run.p99_ms for run in some):.1f} ms" for name, some in runs.items()
            )
            figures += [
                Figure(
                    name=f"search, {query.name}: {name} ({jobs:,} stored)",
                    unit="/s",
                    ours=[run.per_second for run in runs[name]],
                    peer=[run.per_second for run in runs["kue"]],
                    # With a thousand jobs, Kue's answer is as long as ours.
                    target=target if jobs > PAGE or target < 1 else None,
                    note=f"p99 {latencies}",
                )
                for name, target in zip(ours, query.targets, strict=True)
            ]
    return figures


def _runs(
    query: Query, jobs: int, servers: dict[str, Server], rounds: int, seconds: int, tell: Tell
) -> dict[str, list[wrk.Run]]:
    path = f"/job/search?q={query.q}"
    runs: dict[str, list[wrk.Run]] = {name: [] for name in servers}
    for server in servers.values():
        wrk.drive(server, wrk.get(path), seconds=query.least_s)
    for _ in range(rounds):
        for name, server in servers.items():
            answer = server.get(path)
            if not query.right(answer, jobs):
                raise RuntimeError(f"{name}: GET {path} is wrong: {str(answer)[:200]}")
            tell(f"{jobs:,} jobs: {query.name}: {name}")
            seconds = max(seconds, query.least_s)
            runs[name].append(wrk.drive(server, wrk.get(path), seconds=seconds))
    return runs


# --- creating


def _creating(directory: Path, rounds: int, seconds: int, tell: Tell) -> list[Figure]:
    kinds: Sequence[SearchOn] = ("off", "whoosh", "sql")
    servers: dict[str, Server] = {kind: Ours(directory / kind, kind) for kind in kinds}
    servers["kue, off"] = Kue(directory / "kue-off")
    servers["kue, on"] = Kue(directory / "kue-on", search=True)
    for server in servers.values():
        server.fill(SIZES[0])
    runs: dict[str, list[float]] = {name: [] for name in servers}
    for _ in range(rounds):
        for name, server in servers.items():
            tell(f"POST /job: search {name}")
            with server.serve():
                wrk.drive(server, wrk.POST_ONE, seconds=WARM_S)
                runs[name].append(wrk.drive(server, wrk.POST_ONE, seconds=seconds).per_second)
    kues = median(runs["kue, on"]) / median(runs["kue, off"])
    return [
        Figure(
            name=f"POST /job with search ({name}), times the rate without",
            unit="x",
            ours=[one / other for one, other in zip(runs[name], runs["off"], strict=True)],
            target=SLOWDOWN,
            note=f"{median(runs[name]):,.0f}/s, off {median(runs['off']):,.0f}/s; kue {kues:.2f} x",
        )
        for name in ("whoosh", "sql")
    ]


# --- indexing


def _indexing(directory: Path, documents: int, rounds: int, tell: Tell) -> list[Figure]:
    directory.mkdir()
    store = directory / "store.db"
    tell(f"storing {documents:,} jobs")
    system = compose(Settings(database_url=f"sqlite:///{store}"))
    migrate(system.database)
    history.write(system.ledger, history.searched(documents))
    system.close()
    runs: dict[str, list[_Indexed]] = {"whoosh": [], "sql": []}
    for number in range(rounds):
        for kind, some in runs.items():
            folder = directory / f"{kind}-{number}"
            folder.mkdir()
            shutil.copyfile(store, folder / "ledger.db")
            tell(f"indexing {documents:,} jobs: {kind}")
            some.append(_index(folder, kind, documents, _size(folder)))
            shutil.rmtree(folder)
    ours, peer = runs["whoosh"], runs["sql"]
    return [
        Figure(
            name=f"{what} {documents:,} jobs: Whoosh / FTS5",
            unit=unit,
            ours=[getattr(run, field) for run in ours],
            peer=[getattr(run, field) for run in peer],
        )
        for what, unit, field in (
            ("indexing", "jobs/s", "per_second"),
            ("rebuilding the index of", "jobs/s", "rebuilt_per_second"),
            ("size of the index of", "bytes/job", "bytes_a_job"),
        )
    ]


class _Indexed(NamedTuple):
    """The results of indexing, and of rebuilding the index."""

    per_second: float
    rebuilt_per_second: float
    bytes_a_job: float


def _index(folder: Path, kind: SearchOn, documents: int, before_bytes: int) -> _Indexed:
    settings = Settings(database_url=f"sqlite:///{folder / 'ledger.db'}", search=kind)
    with closing(compose(settings)) as system:
        # Uses the same batches as the indexer of a server.
        followed_s = _timed(lambda: catch_up(system.database, _engine(system)))
    # Measured after closing, so that SQLite's log is in the file, and before the rebuild, which
    # frees pages.
    used = _size(folder) - before_bytes
    with closing(compose(settings)) as system:
        rebuilt_s = _timed(lambda: rebuild(system.database, [_engine(system)], _ignore))
    return _Indexed(documents / followed_s, documents / rebuilt_s, used / documents)


def _engine(system: System) -> SearchEngine:
    if system.search.engine is None:
        raise AssertionError
    return system.search.engine


def _timed(work: Callable[[], object]) -> float:
    start = perf_counter()
    work()
    return perf_counter() - start


def _ignore(done: int, total: int) -> None:
    pass


def _size(folder: Path) -> int:
    """Return the total size of the files in a directory, in bytes."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())

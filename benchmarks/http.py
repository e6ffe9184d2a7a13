"""Benchmark of the JSON API beside Kue's, by request.

Both servers run on this machine and take turns: a run of ours, a run of Kue's, and so on, so
that other load on the machine affects both.  Reads are measured first, on the store as it was
filled; for every run that writes, the server is restarted on a fresh copy of the store.  The
store grows during the run, and the note states its final size.  Every server is warmed up
first, because a fresh one is slow for a second.
"""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import machine, wrk
from benchmarks.peers import PROGRAMS, Kue, Ours, Server, install_kue
from benchmarks.processes import require
from benchmarks.report import Figure, Report

SIZES = (1_000, 100_000)
PAGE = 20
ARRAY = 100
WARM_S = 2
# How many times as slow as the first page a deep page may be.
DEEP_PAGE = 3.0

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Read:
    """A GET to measure.

    Attributes:
        name: Name in the report.
        script: Script for wrk.
        path: Path of one such request, whose answer is checked before each run.
        right: Returns whether the decoded answer is correct.
        target: Lowest ratio ours/Kue to reach; None if there is no target.
    """

    name: str
    script: str
    path: str
    right: Callable[[Any], bool]
    target: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Write:
    """A POST to measure, which creates *jobs* jobs."""

    name: str
    script: str
    jobs: int
    target: float


WRITES = (
    Write(name="POST /job", script=wrk.POST_ONE, jobs=1, target=1.0),
    Write(name=f"POST /job, arrays of {ARRAY}", script=wrk.POST_ARRAY, jobs=ARRAY, target=3.0),
)


def measure(directory: Path, *, rounds: int, seconds: int, tell: Tell) -> Report:
    """Run the benchmark; return its report.

    Args:
        directory: An empty directory on the disk to be measured.
        rounds: Runs of each request; the median counts.
        seconds: Duration of a run.
        tell: Called with what is being done.
    """
    require(PROGRAMS | wrk.PROGRAMS)
    tell("installing Kue")
    versions = install_kue()
    report = Report(
        title=f"JSON API: wrk, {wrk.CONNECTIONS} connections, {rounds} x {seconds} s, in turns",
        peer=Kue.name,
    )
    report.facts += [*machine.facts(directory), *versions]
    report.facts.append("ours: `ledger serve` with its defaults, SQLite, synchronous=FULL")
    report.facts.append("search is off on both, as is Kue's default")
    for jobs in SIZES:
        bench = _Bench(directory / str(jobs), jobs, rounds, seconds, tell)
        bench.fill()
        with ExitStack() as running:
            for server in bench.servers:
                running.enter_context(server.serve())
            report.figures += [bench.read(read) for read in _reads(jobs)]
            if jobs == max(SIZES):
                report.figures += bench.deep_pages()
        report.figures += [bench.write(write) for write in WRITES]
    report.facts.append(f"at the end: {machine.disk(directory)}")
    return report


def _reads(jobs: int) -> tuple[Read, ...]:
    newest = f"/jobs/0..{PAGE - 1}/desc"
    complete = f"/jobs/email/complete/0..{PAGE - 1}"
    return (
        Read(
            name="GET /job/:id",
            script=wrk.get_random_job(jobs),
            path=f"/job/{jobs}",
            right=lambda job: str(job["id"]) == str(jobs),
            target=1.0,
        ),
        Read(
            name="GET /stats",
            script=wrk.get("/stats"),
            path="/stats",
            right=lambda stats: stats["completeCount"] == stats["inactiveCount"] == jobs // 2,
            target=1.2,
        ),
        Read(name=f"GET {newest}", script=wrk.get(newest), path=newest, right=_page, target=2.5),
        Read(
            name=f"GET {complete}", script=wrk.get(complete), path=complete, right=_page, target=2.5
        ),
    )


def _page(jobs: Any) -> bool:  # noqa: ANN401 - JSON is any of its types
    return len(jobs) == PAGE


class _Bench:
    """The two servers, with stores of the same size."""

    def __init__(self, directory: Path, jobs: int, rounds: int, seconds: int, tell: Tell) -> None:
        directory.mkdir()
        self.servers: tuple[Server, ...] = (Ours(directory / "ours"), Kue(directory / "kue"))
        self._jobs = jobs
        self._rounds = rounds
        self._seconds = seconds
        self._tell = tell

    def fill(self) -> None:
        for server in self.servers:
            self._tell(f"storing {self._jobs:,} jobs: {server.name}")
            server.fill(self._jobs)

    def read(self, read: Read) -> Figure:
        runs: dict[str, list[wrk.Run]] = {server.name: [] for server in self.servers}
        for server in self.servers:
            self._warm(server, read.script)
        for _ in range(self._rounds):
            for server in self.servers:
                answer = server.get(read.path)
                if not read.right(answer):
                    raise RuntimeError(f"{server.name}: GET {read.path} is wrong: {answer}")
                runs[server.name].append(self._drive(server, read.name, read.script))
        return self._figure(read.name, runs, read.target, _latencies(runs))

    def write(self, write: Write) -> Figure:
        runs: dict[str, list[wrk.Run]] = {server.name: [] for server in self.servers}
        grown: dict[str, int] = {}
        for _ in range(self._rounds):
            for server in self.servers:
                with server.serve():
                    self._warm(server, write.script)
                    before = server.stored()
                    run = self._drive(server, write.name, write.script)
                    stored = server.stored()
                if stored - before < run.requests * write.jobs:
                    raise RuntimeError(
                        f"{server.name}: {run.requests} requests of {write.jobs} jobs were "
                        f"answered, but {stored - before} jobs were stored"
                    )
                runs[server.name].append(run)
                grown[server.name] = max(stored, grown.get(server.name, 0))
        sizes = ", ".join(f"{name} {stored:,}" for name, stored in grown.items())
        note = f"{_latencies(runs)}; grew to {sizes}"
        return self._figure(write.name, runs, write.target, note)

    def deep_pages(self) -> list[Figure]:
        """Return the cost of a middle page and of the last, relative to the first page."""
        first = self._page_runs(0)
        figures = []
        for name, rank in (("middle", self._jobs // 2), ("last", self._jobs - PAGE)):
            deep = self._page_runs(rank)
            times = {
                server: [
                    one.per_second / other.per_second for one, other in zip(*runs, strict=True)
                ]
                for server, runs in ((s.name, (first[s.name], deep[s.name])) for s in self.servers)
            }
            rates = ", ".join(
                f"{server} {median(run.per_second for run in runs):,.0f}/s"
                for server, runs in deep.items()
            )
            ours = times[Ours.name]
            figures.append(
                Figure(
                    name=f"{name} page of {self._jobs:,}: times the first page's cost",
                    unit="x",
                    ours=ours,
                    target=DEEP_PAGE,
                    at_most=True,
                    note=f"{rates}; kue {median(times[Kue.name]):.2f} x",
                )
            )
        return figures

    def _page_runs(self, rank: int) -> dict[str, list[wrk.Run]]:
        path = f"/jobs/{rank}..{rank + PAGE - 1}/asc"
        runs: dict[str, list[wrk.Run]] = {server.name: [] for server in self.servers}
        for _ in range(self._rounds):
            for server in self.servers:
                if not _page(server.get(path)):
                    raise RuntimeError(f"{server.name}: GET {path} is not a full page")
                runs[server.name].append(self._drive(server, path, wrk.get(path)))
        return runs

    def _warm(self, server: Server, script: str) -> None:
        """Warm up a server: V8 compiles Kue's functions, SQLAlchemy our statements."""
        wrk.drive(server, script, seconds=WARM_S)

    def _drive(self, server: Server, name: str, script: str) -> wrk.Run:
        self._tell(f"{self._jobs:,} jobs: {name}: {server.name}")
        return wrk.drive(server, script, seconds=self._seconds)

    def _figure(
        self, name: str, runs: dict[str, list[wrk.Run]], target: float | None, note: str
    ) -> Figure:
        return Figure(
            name=f"{name} ({self._jobs:,} stored)",
            unit="/s",
            ours=[run.per_second for run in runs[Ours.name]],
            peer=[run.per_second for run in runs[Kue.name]],
            target=target,
            note=note,
        )


def _latencies(runs: dict[str, list[wrk.Run]]) -> str:
    return "p99 " + ", ".join(
        f"{server} {median(run.p99_ms for run in some):.1f} ms" for server, some in runs.items()
    )

"""Benchmark of what many workers, claims and active jobs cost, on SQLite and PostgreSQL.

It measures commits that concern none of the idle workers, heartbeats beside many active jobs,
commits that many claims share, and the health check.
"""

import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from http import HTTPStatus
from http.client import HTTPConnection
from pathlib import Path
from statistics import median
from typing import Final, NamedTuple

import ledger
from benchmarks import machine, servers
from benchmarks.contestants import ROOT
from benchmarks.history import job_data
from benchmarks.idle_workers import TYPE
from benchmarks.processes import cpu_s, free_port, running
from benchmarks.report import Figure, Report
from ledger.database.migration import migrate
from ledger.log.answers import Claimed
from ledger.processes.composition import System, compose
from ledger.processes.settings import Settings
from ledger.queue import presence
from ledger.rules.commands import Claim, Create
from ledger.worker.held_attempts import HeldAttempts
from ledger.worker.registration import Registration

CLAIMS: Final = 200
SLOTS: Final = 20
BATCH: Final = 1_000
IDLE_WORKERS: Final = 20
CREATIONS: Final = 100
# Pauses between creations: each is a commit that the workers could be woken by.
PAUSE_S: Final = 0.02
# Pause after which the workers have finished starting, and PostgreSQL's processes have reported
# their transactions, which they do when they have been idle for ten seconds.
SETTLE_S: Final = 12.0
BEATS: Final = 50
REQUESTS: Final = 300
# The workers that hold the active jobs stay alive for the whole run.
LEASE_MS: Final = 3_600_000

CLAIMS_TARGET_MS: Final = 1_000
HEARTBEAT_TARGET_MS: Final = 5
WAKING_TARGET: Final = 100
READY_TARGET_MS: Final = 1

Tell = Callable[[str], None]


class Scale(NamedTuple):
    """The amounts to measure.

    Attributes:
        rounds: Number of commits of claims.
        active: Numbers of active jobs beside which heartbeats are sent, in rising order.
    """

    rounds: int
    active: Sequence[int]


FULL: Final = Scale(rounds=5, active=(1_000, 16_000, 60_000))
QUICK: Final = Scale(rounds=1, active=(1_000, 4_000))


class _Place(NamedTuple):
    """A database to measure.

    Attributes:
        engine: Its engine's name in the report.
        url: Its URL.
        directory: Where to keep logs.
        transactions: Returns how many transactions have ended; None if the engine does not count.
    """

    engine: str
    url: str
    directory: Path
    transactions: Callable[[], int] | None = None


def measure(directory: Path, scale: Scale, *, tell: Tell) -> Report:
    """Run the benchmark; return its report.

    Args:
        directory: An empty directory on the disk to be measured.
        scale: How much to measure.
        tell: Called with what is being done.
    """
    report = Report(title="Contention: idle workers, active jobs, many claims, the health check")
    report.facts += machine.facts(directory)
    file = f"sqlite:///{directory / 'ledger.db'}"
    report.figures += _measure(_Place("SQLite", file, directory), scale, tell)
    with servers.postgres(directory) as server, server.database() as database:
        report.facts.append(server.facts())
        url = database.set(drivername="postgresql").render_as_string(hide_password=False)
        report.figures += _measure(
            _Place("PostgreSQL", url, directory, lambda: server.transactions(database)),
            scale,
            tell,
        )
    report.facts.append(f"at the end: {machine.disk(directory)}")
    return report


def _measure(place: _Place, scale: Scale, tell: Tell) -> Iterator[Figure]:
    system = compose(Settings(database_url=place.url))
    migrate(system.database)
    tell(f"{place.engine}: creating jobs beside idle workers")
    yield from _idle_workers(place, system)
    for number in scale.active:
        tell(f"{place.engine}: starting jobs until {number:,} are active")
        _activate(system, number)
        yield _heartbeats(place, number)
    tell(f"{place.engine}: claiming")
    yield _claims(place, system, scale.rounds)
    system.close()
    tell(f"{place.engine}: asking for the health")
    yield _health(place)


# --- commits that concern none of the idle workers


def _idle_workers(place: _Place, system: System) -> Iterator[Figure]:
    """Measure what idle workers do because of jobs of a type that none of them does."""
    ready = place.directory / f"{place.engine}.json"
    command = [sys.executable, "-m", "benchmarks.idle_workers", place.url, f"{IDLE_WORKERS}"]
    with running(
        [*command, f"{ready}"],
        log=place.directory / "idle_workers.log",
        ready=lambda: ready.exists() and bool(ready.read_text()),
        cwd=ROOT,
    ):
        workers = json.loads(ready.read_text())
        time.sleep(SETTLE_S)
        without = _done_meanwhile(place, workers, lambda: None)
        with_ = _done_meanwhile(place, workers, lambda: _create_unwanted(system))
    asked = f"{IDLE_WORKERS} idle workers, {CREATIONS} jobs of a type that none does"
    yield Figure(
        name=f"{place.engine}: {asked}",
        unit="ms of CPU time of the workers",
        ours=[with_.cpu_ms - without.cpu_ms],
        note=f"without the jobs {without.cpu_ms:.0f} ms in the same time",
    )
    if place.transactions is not None:
        yield Figure(
            name="  transactions",
            unit="",
            ours=[with_.transactions - without.transactions - CREATIONS],
            target=WAKING_TARGET,
            at_most=True,
            note=f"without the jobs {without.transactions} in the same time",
        )


class _Done(NamedTuple):
    """What idle workers have done in a time."""

    cpu_ms: float
    transactions: int


def _done_meanwhile(place: _Place, workers: Sequence[int], work: Callable[[], object]) -> _Done:
    """Return what the workers do while *work* is called for each creation."""
    count = place.transactions or (lambda: 0)
    transactions = count()
    began_s = cpu_s(workers)
    for _ in range(CREATIONS):
        work()
        time.sleep(PAUSE_S)
    time.sleep(SETTLE_S)
    return _Done((cpu_s(workers) - began_s) * 1000, count() - transactions)


def _create_unwanted(system: System) -> None:
    system.ledger.execute(Create(type="unwanted", data=job_data(1)), actor="benchmark")


# --- heartbeats beside many active jobs


def _activate(system: System, number: int) -> None:
    """Start jobs until *number* are active, 20 of each worker."""
    with system.database.read() as connection:
        active = system.state_counts.stats(connection).counts["active"]
    for first in range(active, number, BATCH):
        _store(system, BATCH)
        names = [f"host:{first + held}:1" for held in range(0, BATCH, SLOTS)]
        with system.database.write() as tx:
            now_ms = system.ledger.time_ms(tx)
            for name in names:
                presence.beat(tx, name, {TYPE: SLOTS}, now_ms=now_ms, lease_ms=LEASE_MS)
        _claim(system, names)


def _heartbeats(place: _Place, active: int) -> Figure:
    """Measure a heartbeat of a worker, with its look at what it holds."""
    queue = ledger.connect(place.url)
    queue.open()
    worker = f"host:{active}:2"
    registration = Registration(queue, worker, {TYPE: SLOTS})
    held = HeldAttempts(queue, worker, on_over=lambda _: None)
    times_ms, cpu_ms = [], []
    for _ in range(BEATS):
        began_s, began_cpu_s = time.perf_counter(), time.process_time()
        registration.beat()
        held.must_compare = True
        held.reconcile()
        times_ms.append((time.perf_counter() - began_s) * 1000)
        cpu_ms.append((time.process_time() - began_cpu_s) * 1000)
    registration.leave()
    queue.close()
    return Figure(
        name=f"{place.engine}: heartbeat beside {active:,} active jobs",
        unit="ms",
        ours=times_ms,
        target=HEARTBEAT_TARGET_MS,
        at_most=True,
        note=f"{median(cpu_ms):.2f} ms of CPU time of the worker",
    )


# --- commits that many claims share


def _claims(place: _Place, system: System, rounds: int) -> Figure:
    """Measure a batch of claims, all of which is under the lock of the ledger."""
    names = [f"host:{number}:3" for number in range(CLAIMS)]
    times_ms, cpu_ms = [], []
    for _ in range(rounds):
        _store(system, CLAIMS * SLOTS)
        began_s, began_cpu_s = time.perf_counter(), time.process_time()
        _claim(system, names)
        times_ms.append((time.perf_counter() - began_s) * 1000)
        cpu_ms.append((time.process_time() - began_cpu_s) * 1000)
    return Figure(
        name=f"{place.engine}: {CLAIMS} claims of {SLOTS} in one commit",
        unit="ms of CPU time",
        ours=cpu_ms,
        target=CLAIMS_TARGET_MS,
        at_most=True,
        note=f"{median(times_ms):,.0f} ms including waits",
    )


def _store(system: System, jobs: int) -> None:
    creations = [Create(type=TYPE, data=job_data(number)) for number in range(jobs)]
    for _ in system.ledger.submit_in_parts(creations, actor="benchmark"):
        pass


def _claim(system: System, names: Sequence[str]) -> None:
    """Start 20 jobs for each worker, in one commit."""
    claims = [Claim(worker=name, slots={TYPE: SLOTS}) for name in names]
    answers = system.ledger.submit(claims, actor="benchmark")
    given = sum(len(answer.jobs) for answer in answers if isinstance(answer, Claimed))
    if given != len(names) * SLOTS:
        raise RuntimeError(f"{len(names)} claims of {SLOTS} were given {given} jobs")


# --- the health check


def _health(place: _Place) -> Figure:
    server = HTTPConnection("127.0.0.1", free_port(), timeout=60)
    with running(
        [sys.executable, "-m", "ledger", "serve", "--bind", f"127.0.0.1:{server.port}"],
        log=place.directory / "server.log",
        ready=lambda: _answers(server),
        environment={"LEDGER_DATABASE_URL": place.url, "LEDGER_SEARCH": "off"},
    ):
        times_ms = []
        for _ in range(REQUESTS):
            began_s = time.perf_counter()
            if not _answers(server):
                raise RuntimeError("the server is not ready any more")
            times_ms.append((time.perf_counter() - began_s) * 1000)
    server.close()
    return Figure(
        name=f"{place.engine}: GET /health/ready",
        unit="ms",
        ours=times_ms,
        target=READY_TARGET_MS,
        at_most=True,
        note="by the client, one request after the other on one connection",
    )


def _answers(server: HTTPConnection) -> bool:
    try:
        server.request("GET", "/health/ready")
        answer = server.getresponse()
        answer.read()
    except OSError:
        server.close()
        return False
    return answer.status == HTTPStatus.OK

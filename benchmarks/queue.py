"""Benchmark of the job queue beside others: draining, creating, waiting, long histories.

All jobs do nothing.  Every run has a fresh store and its own process.  The contestants take
turns: a run of ours, a run of each peer, and so on, so that other load on the machine affects
all of them.
"""

import json
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Final

from benchmarks import contestants, history, machine, servers
from benchmarks.contestants import (
    CELERY,
    HUEY,
    KUE,
    OURS,
    PGQUEUER,
    PROCRASTINATE,
    ROOT,
    RQ,
    Contestant,
    Engine,
    Stores,
    carry_out,
)
from benchmarks.peers import install_kue
from benchmarks.processes import clean_environment, cpu_percent, free_port, running
from benchmarks.report import Figure, Report
from ledger.database.migration import migrate
from ledger.processes.composition import compose
from ledger.processes.settings import Settings

Tell = Callable[[str], None]

# The peers of ``drain``, and the lowest ratio ours/peer to reach.
DRAIN: Final[tuple[tuple[Engine, Contestant, float], ...]] = (
    ("sqlite", KUE, 2.0),
    ("sqlite", HUEY, 3.0),
    ("sqlite", CELERY, 5.0),
    ("sqlite", RQ, 5.0),
    ("postgresql", PGQUEUER, 1.2),
    ("postgresql", PROCRASTINATE, 10.0),
)
# The peers that create jobs as durably as we do.
DURABLE: Final[dict[Engine, tuple[Contestant, ...]]] = {
    "sqlite": (HUEY,),
    "postgresql": (PGQUEUER, PROCRASTINATE),
}
ENQUEUE_TARGET: Final = 1.0
ENGINES: Final[dict[Engine, str]] = {"sqlite": "SQLite", "postgresql": "PostgreSQL"}
START_TARGET_MS: Final = 50
IDLE_WORKERS: Final = 50
# Of one core, for all idle workers together.
IDLE_TARGET_PERCENT: Final = 2.0
IDLE_S: Final = 10.0
# Pause after which the workers have finished starting.
SETTLE_S: Final = 3.0
FLAT_TARGET: Final = 0.8
HISTORY_STEP: Final = 20_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """The amounts to measure.

    Attributes:
        rounds: Runs of each measurement; the median counts.
        sizes: Numbers of jobs to drain.
        one: Number of jobs to create one by one.
        threads: Number of jobs to create one by one from 32 threads.
        batches: Number of jobs to create 1,000 at a time.
        starts: Number of jobs to start on an idle worker.
        history: Number of complete jobs in a ledger with a long history.
        flat: Number of jobs to drain from that ledger.
    """

    rounds: int
    sizes: tuple[int, ...]
    one: int
    threads: int
    batches: int
    starts: int
    history: int
    flat: int


FULL: Final = Scale(
    rounds=3,
    sizes=(10_000, 100_000),
    one=3_000,
    threads=6_400,
    batches=20_000,
    starts=30,
    history=1_000_000,
    flat=10_000,
)
QUICK: Final = Scale(
    rounds=1,
    sizes=(2_000,),
    one=1_000,
    threads=3_200,
    batches=10_000,
    starts=8,
    history=20_000,
    flat=5_000,
)


def measure(directory: Path, scale: Scale, *, parts: Sequence[str], tell: Tell) -> Report:
    """Run the benchmark; return its report.

    Args:
        directory: An empty directory on the disk to be measured.
        scale: How much to measure.
        parts: Names of ``PARTS`` to run.
        tell: Called with what is being done.
    """
    began_s = time.monotonic()
    tell("installing the peers")
    versions = [*install_kue(), *contestants.install()]
    report = Report(title=f"Job queue: jobs that do nothing, runs of each in turns: {scale.rounds}")
    report.facts += [*machine.facts(directory), *versions]
    report.facts.append("ours: `ledger.Worker` with its defaults; SQLite with synchronous=FULL")
    port = free_port()
    with servers.postgres(directory) as postgres, servers.redis(directory, port):
        report.facts.append(postgres.facts())
        bench = _Bench(Stores(directory, postgres, port), scale, tell)
        for part in parts:
            report.figures += PARTS[part](bench)
    report.facts.append(f"at the end: {machine.disk(directory)}")
    report.facts.append(f"took {(time.monotonic() - began_s) / 60:.1f} minutes")
    return report


class _Bench:
    """The parts of the benchmark, one method each."""

    def __init__(self, stores: Stores, scale: Scale, tell: Tell) -> None:
        self._stores = stores
        self._scale = scale
        self._tell = tell

    # --- draining

    def drain(self) -> Iterator[Figure]:
        """Measure how fast each worker runs stored jobs."""
        runs: dict[tuple[Contestant, int], list[float]] = {}
        for size in self._scale.sizes:
            planned = {
                who: min(size, who.most or size)
                for who in (*OURS.values(), *(peer for _, peer, _ in DRAIN))
            }
            # A contestant with a limit was already measured at its limit.
            due = [(who, jobs) for who, jobs in planned.items() if (who, jobs) not in runs]
            runs |= {key: [] for key in due}
            for _ in range(self._scale.rounds):
                for who, jobs in due:
                    runs[who, jobs].append(self._drained(who, jobs))
            for engine, peer, target in DRAIN:
                fewer = "" if planned[peer] == size else f"; its figure: {planned[peer]:,} jobs"
                yield Figure(
                    name=f"drain {size:,} jobs: {ENGINES[engine]} / {peer.name}",
                    unit="/s",
                    ours=runs[OURS[engine], size],
                    peer=runs[peer, planned[peer]],
                    target=target,
                    note=peer.note + fewer,
                )

    def _drained(self, who: Contestant, jobs: int) -> float:
        with self._stores.fresh(who.engine) as store:
            return self._filled_and_drained(who, store, jobs)

    def _filled_and_drained(self, who: Contestant, store: str, jobs: int) -> float:
        self._tell(f"storing {jobs:,} jobs: {who.name}, {who.engine}")
        carry_out(who, "fill", store, jobs)
        self._tell(f"draining {jobs:,} jobs: {who.name}, {who.engine}")
        return carry_out(who, "drain", store, jobs)

    # --- creating

    def enqueue(self) -> Iterator[Figure]:
        """Measure how fast each durable queue creates jobs, in three ways."""
        for engine, peers in DURABLE.items():
            runs = self._enqueued((OURS[engine], *peers))
            ours = runs[OURS[engine]]
            for task, way in _WAYS.items():
                rates = {peer: median(runs[peer][task]) for peer in peers}
                best = max(peers, key=rates.__getitem__)
                note = ", ".join(f"{peer.name} {rate:,.0f}/s" for peer, rate in rates.items())
                if task == "batches" and not best.has_batches:
                    note += f"; {best.name} has no batches: one by one"
                yield Figure(
                    name=f"create {way}: {ENGINES[engine]} / {best.name}",
                    unit="/s",
                    ours=ours[task],
                    peer=runs[best][task],
                    target=ENQUEUE_TARGET,
                    note=note,
                )

    def _enqueued(self, all_: Sequence[Contestant]) -> dict[Contestant, dict[str, list[float]]]:
        numbers = {
            "one": self._scale.one,
            "threads": self._scale.threads,
            "batches": self._scale.batches,
        }
        runs: dict[Contestant, dict[str, list[float]]] = {who: defaultdict(list) for who in all_}
        for task, way in _WAYS.items():
            able = [who for who in all_ if task != "batches" or who.has_batches]
            for _ in range(self._scale.rounds):
                for who in able:
                    self._tell(f"creating jobs {way}: {who.name}, {who.engine}")
                    with self._stores.fresh(who.engine) as store:
                        runs[who][task].append(carry_out(who, task, store, numbers[task]))
        for who in all_:
            if not who.has_batches:
                runs[who]["batches"] = runs[who]["one"]
        return runs

    # --- waiting

    def start(self) -> Iterator[Figure]:
        """Measure how soon an idle worker starts a job that another process creates."""
        for engine, name in ENGINES.items():
            self._tell(f"starting jobs on an idle worker: {engine}")
            with self._stores.fresh(engine) as store, self._idle_workers(store, 1):
                times_ms = json.loads(
                    _output("benchmarks.start_latency", store, str(self._scale.starts))
                )
            yield Figure(
                name=f"create to start, idle worker: {name}",
                unit="ms",
                ours=times_ms,
                target=START_TARGET_MS,
                at_most=True,
                note=f"{len(times_ms)} jobs, each created by another process",
            )

    def idle(self) -> Iterator[Figure]:
        """Measure the processor time of idle workers."""
        for engine, name in ENGINES.items():
            with (
                self._stores.fresh(engine) as store,
                self._idle_workers(store, IDLE_WORKERS) as ids,
            ):
                time.sleep(SETTLE_S)
                backends = self._stores.postgres.backends() if engine == "postgresql" else []
                self._tell(f"watching {IDLE_WORKERS} idle workers: {engine}")
                ours, server = cpu_percent([ids, backends], seconds=IDLE_S)
            yield Figure(
                name=f"{IDLE_WORKERS} idle workers, a process each: {name}",
                unit="% of a core",
                ours=[ours],
                target=IDLE_TARGET_PERCENT,
                at_most=True,
                note=f"over {IDLE_S:g} s"
                + (f"; the server beside: {server:.2f} %" if backends else ""),
            )

    @contextmanager
    def _idle_workers(self, store: str, number: int) -> Iterator[list[int]]:
        self._tell(f"starting {number} idle workers: {store.partition(':')[0]}")
        _migrate(store)
        ready = self._stores.directory / "ready.json"
        ready.unlink(missing_ok=True)
        with running(
            [sys.executable, "-m", "benchmarks.idle_workers", store, str(number), str(ready)],
            log=self._stores.directory / "idle_workers.log",
            ready=lambda: ready.exists() and bool(ready.read_text()),
            cwd=ROOT,
        ):
            yield json.loads(ready.read_text())

    # --- long histories

    def flat(self) -> Iterator[Figure]:
        """Compare draining a ledger with a long history to draining a new one."""
        who, jobs = OURS["sqlite"], self._scale.flat
        with self._stores.fresh("sqlite") as old:
            self._write_history(old)
            runs = [
                (self._filled_and_drained(who, old, jobs), self._drained(who, jobs))
                for _ in range(self._scale.rounds)
            ]
        yield Figure(
            name=f"drain {jobs:,} jobs: {self._scale.history:,} finished ones in the ledger / none",
            unit="/s",
            ours=[with_history for with_history, _ in runs],
            peer=[without for _, without in runs],
            target=FLAT_TARGET,
            note="SQLite; both columns are ours",
        )

    def _write_history(self, store: str) -> None:
        system = compose(Settings(database_url=store))
        migrate(system.database)
        asked = history.all_complete(self._scale.history)
        for done in range(0, self._scale.history, HISTORY_STEP):
            self._tell(f"finishing {self._scale.history:,} jobs: {done:,}")
            history.write(system.ledger, asked, HISTORY_STEP * history.EVENTS_A_COMPLETE_JOB)
        system.close()


_WAYS: Final = {
    "one": "one by one, one thread",
    "threads": "one by one, 32 threads",
    "batches": "1,000 at a time",
}
PARTS: Final[dict[str, Callable[[_Bench], Iterator[Figure]]]] = {
    "drain": _Bench.drain,
    "enqueue": _Bench.enqueue,
    "start": _Bench.start,
    "idle": _Bench.idle,
    "flat": _Bench.flat,
}


def _migrate(store: str) -> None:
    system = compose(Settings(database_url=store))
    migrate(system.database)
    system.close()


def _output(module: str, *words: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", module, *words],
        cwd=ROOT,
        env=clean_environment(),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return done.stdout

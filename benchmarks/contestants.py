"""The job queues that are measured: their installation, and the runs of their tasks.

Each run has its own process and a fresh store; ``queue_peers/contest.py`` defines the tasks.
"""

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final, Literal

from benchmarks import servers
from benchmarks.peers import HERE, INSTALLED, NODE
from benchmarks.processes import clean_environment

ROOT: Final = HERE.parent
SCRIPTS: Final = HERE / "queue_peers"
VENV: Final = INSTALLED / "venv"
REQUIREMENTS: Final = SCRIPTS / "requirements.txt"
# A task that takes longer is considered hung.
LONGEST_TASK_S: Final = 300

Engine = Literal["sqlite", "postgresql", "redis"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Contestant:
    """A job queue to measure.

    Attributes:
        name: Name in the report.
        engine: The database that stores its jobs.
        command: Command of its script; the task, the store and a number of jobs are appended.
        most: Number of jobs that it drains in reasonable time; None for any number.
        has_batches: Whether it can create many jobs in one call.
        note: How it is run, for the report.
        environment: Environment variables for its script.
    """

    name: str
    engine: Engine
    command: Sequence[str]
    most: int | None = None
    has_batches: bool = True
    note: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)


def _python(module: str, interpreter: str | Path = VENV / "bin" / "python") -> list[str]:
    return [str(interpreter), "-m", f"benchmarks.queue_peers.{module}"]


_OURS: Final = _python("ours", sys.executable)

OURS: Final[Mapping[Engine, Contestant]] = {
    "sqlite": Contestant(name="ledger", engine="sqlite", command=_OURS),
    "postgresql": Contestant(name="ledger", engine="postgresql", command=_OURS),
}
KUE: Final = Contestant(
    name="Kue",
    engine="redis",
    command=["node", str(SCRIPTS / "kue.js")],
    most=50_000,
    has_batches=False,
    note="Redis without persistence, concurrency 20",
    environment=NODE,
)
HUEY: Final = Contestant(
    name="Huey",
    engine="sqlite",
    command=_python("huey"),
    most=30_000,
    has_batches=False,
    note="SQLite, fsync=True, 20 threads",
)
CELERY: Final = Contestant(
    name="Celery",
    engine="redis",
    command=_python("celery"),
    most=5_000,
    has_batches=False,
    note="Redis without persistence, 20 threads",
)
RQ: Final = Contestant(
    name="RQ",
    engine="redis",
    command=_python("rq"),
    most=2_000,
    note="Redis without persistence, SimpleWorker: one at a time",
)
PGQUEUER: Final = Contestant(
    name="PgQueuer",
    engine="postgresql",
    command=_python("pgqueuer"),
    note="asyncpg, batches of 20, 40 tasks",
)
PROCRASTINATE: Final = Contestant(
    name="Procrastinate",
    engine="postgresql",
    command=_python("procrastinate"),
    most=2_000,
    note="concurrency 20, coroutines",
)


def install() -> list[str]:
    """Install the Python peers into an environment beside this file; return their versions."""
    wanted = REQUIREMENTS.read_text()
    installed = VENV / "installed.txt"
    if not installed.exists() or installed.read_text() != wanted:
        _run([sys.executable, "-m", "venv", "--clear", str(VENV)])
        pip = [str(VENV / "bin" / "python"), "-m", "pip", "install", "--quiet"]
        _run([*pip, "--disable-pip-version-check", "--requirement", str(REQUIREMENTS)])
        installed.write_text(wanted)
    return [", ".join(wanted.split())]


def _run(command: Sequence[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}:\n{done.stderr[-2_000:]}")


class Stores:
    """The stores, of which each task gets a fresh one.

    Args:
        directory: Directory of SQLite files, on the disk to be measured.
        postgres: The server for queues on PostgreSQL.
        redis_port: Port of Redis.
    """

    def __init__(self, directory: Path, postgres: servers.Postgres, redis_port: int) -> None:
        self.directory = directory
        self.postgres = postgres
        self._redis_port = redis_port

    @contextmanager
    def fresh(self, engine: Engine) -> Iterator[str]:
        """Yield the URL of an empty store, which exists until the block ends."""
        if engine == "sqlite":
            with TemporaryDirectory(prefix="store-", dir=self.directory) as folder:
                yield f"sqlite:///{folder}/store.db"
        elif engine == "postgresql":
            with self.postgres.database() as url:
                plain = url.set(drivername="postgresql")
                yield plain.render_as_string(hide_password=False)
        else:
            servers.redis_cli(self._redis_port, "flushall")
            yield f"redis://127.0.0.1:{self._redis_port}/0"


def carry_out(contestant: Contestant, task: str, store: str, jobs: int) -> float:
    """Run the task with *jobs* jobs on *contestant*; return the jobs per second.

    Raises:
        RuntimeError: The task failed, lost jobs, or ran some twice.
    """
    command = [*contestant.command, task, store, str(jobs)]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=clean_environment() | dict(contestant.environment),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=LONGEST_TASK_S,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{contestant.name}: {task} {jobs:,} jobs:\n{done.stderr[-2_000:]}")
    seconds: float = json.loads(done.stdout.splitlines()[-1])["seconds"]
    return jobs / seconds

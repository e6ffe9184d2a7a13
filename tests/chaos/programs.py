"""The programs of an installation: started, kept running, and hit by signals."""

import json
import re
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from itertools import product
from pathlib import Path
from random import Random
from typing import Final

import psutil  # type: ignore[import-untyped]  # comes with the package that brings PostgreSQL

from tests.chaos.deck import Deck
from tests.integration.servers import DEADLINE_S, is_running

_RESTART_AFTER_S: Final = 0.5
# How much of what a program said is shown.
_SHOWN: Final = 3_000
_SIGNALS: Final = (
    *(signal.SIGKILL, signal.SIGKILL),
    *(signal.SIGSTOP, signal.SIGSTOP),
    signal.SIGTERM,
)
# Not one of the exceptions that Python ignores, such as that of a library whose thread registers
# something while the interpreter ends; nothing comes of them.
_TRACEBACK: Final = re.compile(
    r"\A.*Traceback | ^(?!Exception\ ignored\ in).*\n.*Traceback", re.MULTILINE | re.VERBOSE
)
# How long a program takes to find that it can use the database.
_LONGEST_START_S: Final = 60.0
# Exit codes of a program that could not use the database, or what is beside it.
_REFUSED: Final = frozenset({1, 3})
_KILLED_AFTER_S: Final = 120.0


class Program:
    """A program that runs for as long as the test, or again and again.

    Args:
        name: What it is called in figures and messages.
        command: Its command.
        folder: Its working directory, which also holds what it writes.
        environment: Its environment.
        again_after_s: If it ends by itself: seconds between two runs.
        children: What its child processes are called, if it has some.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        folder: Path,
        environment: Mapping[str, str],
        *,
        again_after_s: float | None = None,
        children: str | None = None,
    ) -> None:
        self.name = name
        self.children = children
        self.runs = 0
        self.refusals = 0
        # What should not have happened, each with what the program said.
        self.faults: list[str] = []
        self._command = command
        self._folder = folder
        self._environment = environment
        self._again_after_s = again_after_s
        self._file_name = name.replace(" ", "-")
        self._process: subprocess.Popen[bytes] | None = None
        self._struck: set[int] = set()
        self._said_from = 0
        self._printed_from = 0
        self._start_at_s = 0.0
        self._started_s = 0.0
        # `keep` and `end` are called by two threads.
        self._lock = threading.Lock()
        self._is_over = False

    @property
    def _is_repeated(self) -> bool:
        return self._again_after_s is not None

    @property
    def kinds(self) -> list[str]:
        """Return what its processes are called."""
        return [self.name, self.children] if self.children else [self.name]

    @property
    def output(self) -> Path:
        """Return the file with all that it has written to stderr."""
        return self._folder / f"{self._file_name}.log"

    @property
    def _result(self) -> Path:
        return self._folder / f"{self._file_name}.out"

    def processes(self) -> dict[str, list[psutil.Process]]:
        """Return its running processes by what they are called."""
        if self._process is None or self._process.poll() is not None:
            return {}
        with suppress(psutil.NoSuchProcess):
            first = psutil.Process(self._process.pid)
            found = {self.name: [first]}
            children = [each for each in first.children() if is_running(each.pid)]
            if self.children and children:
                found[self.children] = children
            return found
        return {}

    def strike(self, process: psutil.Process) -> None:
        """Expect that *process* ends, because it will get a signal."""
        self._struck.add(process.pid)

    def keep(self) -> None:
        """Start it if it does not run, and note how it has ended."""
        with self._lock:
            if not self._is_over:
                self._keep()

    def _keep(self) -> None:
        if self._process is None:
            if time.monotonic() >= self._start_at_s:
                self._start()
            return
        code = self._process.poll()
        if code is None:
            return
        self._judge(self._process.pid, code)
        self._process = None
        self._start_at_s = time.monotonic() + (self._again_after_s or _RESTART_AFTER_S)

    def _start(self) -> None:
        self.runs += 1
        self._started_s = time.monotonic()
        with self.output.open("ab") as log, self._result.open("ab") as result:
            self._said_from, self._printed_from = log.tell(), result.tell()
            self._process = subprocess.Popen(
                self._command,
                cwd=self._folder,
                env=dict(self._environment),
                stdin=subprocess.DEVNULL,
                stdout=result,
                stderr=log,
                start_new_session=True,
            )

    def end(self) -> None:
        """Ask it to end, and note it if it does not; what only reads or rebuilds is killed."""
        with self._lock:
            if self._is_over:
                return
            self._is_over = True
        if self._process is not None and self._process.poll() is None:
            self._end(self._process)
        for path in (self.output, self._result):
            said = path.read_text(errors="replace") if path.exists() else ""
            if found := _TRACEBACK.search(said):
                # Whatever happens to a program, it says so in words.
                self.faults.append(f"{self.name} said {said[found.start() :][:_SHOWN]}")

    def _end(self, process: "subprocess.Popen[bytes]") -> None:
        family = psutil.Process(process.pid).children(recursive=True)
        if self._is_repeated:
            process.kill()
        else:
            process.terminate()
        try:
            process.wait(_KILLED_AFTER_S)
        except subprocess.TimeoutExpired:
            self._note(f"did not end within {_KILLED_AFTER_S:.0f} s of SIGTERM")
            process.kill()
            process.wait(DEADLINE_S)
        for each in family:
            with suppress(psutil.NoSuchProcess):
                each.kill()

    def _judge(self, pid: int, code: int) -> None:
        if pid in self._struck:
            self._struck.discard(pid)
            return
        if code == 0 and self._is_repeated:
            return
        if code == 1 and self._differs():
            self._note("found differences")
        elif code in _REFUSED and self._may_refuse():
            self.refusals += 1
        else:
            self._note(f"ended with {code}")

    def _may_refuse(self) -> bool:
        """Return whether it may end because the database is away: at its start, if it goes on."""
        return self._is_repeated or time.monotonic() - self._started_s < _LONGEST_START_S

    def _differs(self) -> bool:
        """Return whether it has printed a result, instead of what it could not do."""
        with suppress(ValueError):
            return bool(json.loads(_read(self._result, self._printed_from)))
        return False

    def _note(self, what: str) -> None:
        said = _read(self.output, self._said_from)[-_SHOWN:]
        printed = _read(self._result, self._printed_from)[-_SHOWN:]
        self.faults.append(f"{self.name} {what}: {said}{printed}")


def _read(path: Path, start: int) -> str:
    with path.open("rb") as file:
        file.seek(start)
        return file.read().decode(errors="replace")


class Programs:
    """All programs of an installation.

    Args:
        programs: The programs.
        chance: In which order their processes get signals.
        longest_stop_s: How long a process is stopped at most before it is continued.
    """

    def __init__(
        self, programs: Sequence[Program], chance: Random, *, longest_stop_s: float
    ) -> None:
        self.programs = programs
        self._longest_stop_s = longest_stop_s
        kinds = [kind for program in programs for kind in program.kinds]
        self._deck = Deck(product(kinds, _SIGNALS), chance)
        self.signals = Counter({(kind, each.name): 0 for kind, each in product(kinds, _SIGNALS)})

    def keep(self) -> None:
        """Start what does not run; called again and again."""
        for program in self.programs:
            program.keep()

    def end(self) -> None:
        """End all of them."""
        for program in self.programs:
            program.end()

    def strike(self, chance: Random) -> None:
        """Kill, stop and continue, or end a random process of the next kind."""
        kind, signal_ = self._deck.draw()
        found = [
            (program, process)
            for program in self.programs
            for process in program.processes().get(kind, ())
        ]
        if not found:
            self._deck.put_back((kind, signal_))
            return
        program, process = chance.choice(found)
        with suppress(psutil.NoSuchProcess):
            if signal_ is signal.SIGSTOP:
                process.suspend()
                time.sleep(chance.uniform(0, self._longest_stop_s))
                process.resume()
            else:
                program.strike(process)
                process.send_signal(signal_)
            self.signals[kind, signal_.name] += 1

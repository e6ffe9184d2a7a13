"""The processes of measured programs, each with its own process group, which is always ended."""

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

START_S = 60.0
STOP_S = 10.0


class MissingProgramError(Exception):
    """A program that the benchmarks need is missing; the message says how to install it."""


def require(programs: Mapping[str, str]) -> None:
    """Require *programs*, a mapping from names to Debian packages.

    Raises:
        MissingProgramError: One or more programs are not on PATH.
    """
    missing = {name: package for name, package in programs.items() if shutil.which(name) is None}
    if missing:
        packages = " ".join(sorted(set(missing.values())))
        raise MissingProgramError(
            f"not on PATH: {', '.join(missing)}; run `apt-get install {packages}`"
        )


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def running(
    command: Sequence[str],
    *,
    log: Path,
    ready: Callable[[], bool],
    cwd: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> Iterator[None]:
    """Run *command* until the block ends, then end its whole process group.

    Args:
        command: The command to run.
        log: File for its output, the end of which is shown if it does not start.
        ready: Called repeatedly until it returns True.
        cwd: Working directory of the command.
        environment: Variables in addition to ``clean_environment``.
    """
    with log.open("ab") as output:
        process = subprocess.Popen(
            command,
            cwd=cwd,
            env=clean_environment() | dict(environment or {}),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + START_S
        while not ready():
            if process.poll() is not None or time.monotonic() > deadline:
                text = log.read_text(errors="replace")[-2_000:]
                raise RuntimeError(f"{' '.join(command)} does not start:\n{text}")
            time.sleep(0.02)
        yield
    finally:
        _end(process)


def clean_environment() -> dict[str, str]:
    """Return this process's environment without ``LEDGER_*`` settings."""
    return {name: value for name, value in os.environ.items() if not name.startswith("LEDGER_")}


def _end(process: subprocess.Popen[bytes]) -> None:
    for way in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, way)
        except ProcessLookupError:
            break
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            continue
    process.wait()


def cpu_percent(groups: Sequence[Sequence[int]], *, seconds: float) -> list[float]:
    """Return the processor time of each group of processes, in per cent of a core."""
    start_s = time.perf_counter()
    before = [cpu_s(group) for group in groups]
    time.sleep(seconds)
    elapsed_s = time.perf_counter() - start_s
    used = [cpu_s(group) - begun for group, begun in zip(groups, before, strict=True)]
    return [100 * used_s / elapsed_s for used_s in used]


def cpu_s(processes: Sequence[int]) -> float:
    """Return the processor time of all threads of *processes*, in seconds.

    It is read from ``schedstat``, in nanoseconds: the ticks of ``stat`` are longer than the
    time that an idle process uses.
    """
    threads = (
        thread for process in processes for thread in Path(f"/proc/{process}/task").iterdir()
    )
    return sum(int((thread / "schedstat").read_text().split()[0]) for thread in threads) / 1e9

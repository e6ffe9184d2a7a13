"""The machine of a measurement, with its disk, on which figures of durable writes depend."""

import os
import platform
import sqlite3
import time
from importlib.metadata import version
from pathlib import Path

PROBE_S = 1.0
BLOCK = b"x" * 4096


def facts(directory: Path) -> list[str]:
    """Return lines about the machine, the versions, and the disk of *directory*."""
    packages = ("ledger-queue", "sqlalchemy", "falcon", "gunicorn", "msgspec", "psycopg")
    versions = ", ".join(f"{name} {version(name)}" for name in packages)
    return [
        f"{os.cpu_count()} cores, {platform.system()} {platform.release()}",
        f"Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}, {versions}",
        disk(directory),
    ]


def disk(directory: Path) -> str:
    """Measure and return in a line how many durable 4 kB writes per second the disk performs."""
    path = directory / "fdatasync-probe"
    number = 0
    descriptor = os.open(path, os.O_CREAT | os.O_RDWR)
    try:
        start = time.perf_counter()
        while (elapsed := time.perf_counter() - start) < PROBE_S:
            os.pwrite(descriptor, BLOCK, 0)
            os.fdatasync(descriptor)
            number += 1
    finally:
        os.close(descriptor)
        path.unlink()
    load = ", ".join(f"{average:.1f}" for average in os.getloadavg())
    return f"disk: {number / elapsed:,.0f} fdatasync of 4 kB a second; load average {load}"

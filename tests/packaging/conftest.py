"""Build and install Ledger once, for all processes that run these tests."""

import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

from tests.packaging import environment as environments
from tests.packaging.environment import Environment

ROOT: Final = Path(__file__).parents[2]
# What is committed inside `ledger/` as links to the top level.
LINKED: Final = ("api", "migrations", "projections")
FOLDERS: Final = ("ledger", *LINKED)


@pytest.fixture(autouse=True)
def _no_other_paths(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take away what would lead the processes of a test back to the checkout."""
    for name in ("PYTEST_ADDOPTS", "PYTEST_PLUGINS", "PYTHONPATH"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a directory that all of pytest's processes have in common."""
    own = tmp_path_factory.getbasetemp()
    return own.parent if "PYTEST_XDIST_WORKER" in os.environ else own


def once(folder: Path, make: Callable[[Path], object]) -> Path:
    """Return a folder that the first process to ask for it makes, while others wait."""
    with folder.with_suffix(".lock").open("a+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lock.seek(0)
        if not lock.read():
            # The process before may have failed half-way.
            shutil.rmtree(folder, ignore_errors=True)
            make(folder)
            lock.write("made")
    return folder


def build(target: str, source: Path, folder: Path) -> Path:
    """Build a distribution of the sources in a folder, as pip does, and return its path."""
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "--target", target, "--directory", folder],
        cwd=source,
        stdout=subprocess.DEVNULL,
        check=True,
    )
    (built,) = folder.iterdir()
    return built


@pytest.fixture(scope="session")
def wheel(shared: Path) -> Path:
    """Give the wheel of the checkout."""
    folder = once(shared / "wheel", lambda folder: build("wheel", ROOT, folder))
    (built,) = folder.iterdir()
    return built


@pytest.fixture(scope="session")
def environment(shared: Path, wheel: Path) -> Environment:
    """Give an environment in which the wheel is installed with its extra for tests."""
    return Environment(
        once(
            shared / "environment",
            lambda folder: environments.create(folder, wheel, extra="testing"),
        )
    )

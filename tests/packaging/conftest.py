"""Fixtures that build and install Ledger once for all processes that run these tests."""

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
# Symbolic links in `ledger/` to top-level directories.
LINKED: Final = ("api", "migrations", "projections")
FOLDERS: Final = ("ledger", *LINKED)


@pytest.fixture(autouse=True)
def _no_other_paths(monkeypatch: pytest.MonkeyPatch) -> None:
    """Delete the variables through which a test's processes would import the checkout."""
    for name in ("PYTEST_ADDOPTS", "PYTEST_PLUGINS", "PYTHONPATH"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory that all of pytest's processes share."""
    own = tmp_path_factory.getbasetemp()
    return own.parent if "PYTEST_XDIST_WORKER" in os.environ else own


def once(folder: Path, make: Callable[[Path], object]) -> Path:
    """Return a directory that the first process creates while the others wait."""
    with folder.with_suffix(".lock").open("a+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lock.seek(0)
        if not lock.read():
            # An earlier process may have failed before it was complete.
            shutil.rmtree(folder, ignore_errors=True)
            make(folder)
            lock.write("made")
    return folder


def build(target: str, source: Path, folder: Path) -> Path:
    """Build a distribution from a source directory, as pip does, and return its path."""
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
    """Return the wheel of the checkout."""
    folder = once(shared / "wheel", lambda folder: build("wheel", ROOT, folder))
    (built,) = folder.iterdir()
    return built


@pytest.fixture(scope="session")
def environment(shared: Path, wheel: Path) -> Environment:
    """Return an environment in which the wheel is installed with its extra ``testing``."""
    return Environment(
        once(
            shared / "environment",
            lambda folder: environments.create(folder, wheel, extra="testing"),
        )
    )

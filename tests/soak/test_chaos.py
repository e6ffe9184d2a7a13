"""Ten minutes in which everything happens at once to an installation."""

import subprocess
import sys
from collections.abc import Callable
from typing import get_args

import pytest

from tests.chaos.run import Database
from tests.documents import ROOT


@pytest.mark.parametrize("database", get_args(Database))
def test_nothing_is_lost_double_or_stuck_whatever_happens(
    database: Database, record_property: Callable[[str, object], None]
) -> None:
    command = [sys.executable, "-m", "tests.chaos", "--database", database, "--seconds", "600"]

    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    # For `--junitxml`.
    record_property("figures", done.stdout)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert "Never happened" not in done.stdout, done.stdout

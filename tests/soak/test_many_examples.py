"""The state machines and comparisons of tests/property, with many more examples."""

from pathlib import Path

import pytest

from ledger.processes.settings import SearchOn
from tests.property.arenas import Arena
from tests.property.test_ledger_machine import run_ledger_machine
from tests.property.test_search_engines import ENGINES, compare_with_plain_python
from tests.property.test_worker_machine import run_worker_machine


def test_the_ledger_is_what_its_history_says(arena: Arena) -> None:
    run_ledger_machine(arena, examples=50)


def test_no_job_is_lost_or_done_twice_whatever_workers_do(arena: Arena) -> None:
    run_worker_machine(arena, examples=100)


@pytest.mark.parametrize("engine", ENGINES)
def test_every_engine_finds_what_plain_python_finds(
    arena: Arena, engine: SearchOn, tmp_path: Path
) -> None:
    compare_with_plain_python(arena, engine, tmp_path, examples=100)

"""Do what the README says, and compare what it prints."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests import documents
from tests.integration.servers import Server, surroundings, wait_until

README = documents.README.read_text()
BLOCKS = re.findall(r"^```console\n(.*?)^```", README, re.DOTALL | re.MULTILINE)

# What differs from run to run: times, random salts and what follows from them.
_VARYING = (
    (re.compile(r"\b\d{13}\b"), "MILLISECONDS"),
    (re.compile(r"\d{4}-\d\d-\d\dT[\d:.]+Z"), "TIME"),
    (re.compile(r"\b[0-9a-f]{64}\b|\b[0-9a-f]{32}\b"), "HASH"),
)


def test_the_tables_and_the_diagram_are_what_the_code_says() -> None:
    assert documents.written(README) == README


def test_the_page_about_kue_is_what_the_contract_tests_compare() -> None:
    assert documents.KUE.read_text() == documents.differences_from_kue()


@pytest.fixture
def port(tmp_path: Path) -> Iterator[int]:
    """Serve an empty ledger as `make run` does, on a free port."""
    with Server(f"sqlite:///{tmp_path / 'ledger.db'}", tmp_path) as server:
        yield server.port


def test_every_command_answers_as_printed(port: int, tmp_path: Path) -> None:
    commands = [each for block in BLOCKS for each in _commands(block)]
    environment = surroundings(
        tmp_path,
        LEDGER_DATABASE_URL=f"sqlite:///{tmp_path / 'ledger.db'}",
        PATH=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    )

    def ask(command: str) -> str:
        return _alike(_run(command.replace("localhost:3000", f"127.0.0.1:{port}"), environment))

    printed = [(command, _alike(output)) for command, output in commands]
    answered: list[tuple[str, str]] = []
    for command, output in printed:
        if answered and answered[-1][0].startswith("sleep "):
            # A machine that is slow enough needs longer.
            with suppress(TimeoutError):
                wait_until(lambda: ask(command) == output, command)  # noqa: B023 - at once
        answered.append((command, ask(command)))

    assert answered == printed


def _commands(block: str) -> Iterator[tuple[str, str]]:
    """Yield each command of a console block with what it prints."""
    for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
        command, _, output = part.partition("\n")
        yield command, output.strip()


def _run(command: str, environment: dict[str, str]) -> str:
    done = subprocess.run(
        ["bash", "-c", command], env=environment, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def _alike(output: str) -> str:
    for pattern, name in _VARYING:
        output = pattern.sub(name, output)
    return output

"""Do what the README and docs/ say, and compare what they print."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Final

import pytest

from tests.documents import DOCS, README, ROOT, blocks
from tests.integration.servers import (
    DEADLINE_S,
    HOST,
    Server,
    kill_group,
    surroundings,
    wait_until,
)

# What differs from run to run: times, random salts and what follows from them.
_VARYING: Final = (
    (re.compile(r"\b\d{13}\b"), "MILLISECONDS"),
    (re.compile(r"\d{4}-\d\d-\d\d[T ][\d:.]+Z"), "TIME"),
    (re.compile(r"\b[0-9a-f]{64}\b|\b[0-9a-f]{32}\b"), "HASH"),
    (re.compile(r"[\w.-]+:\d+:[0-9a-f]{8}\b"), "WORKER"),
    (re.compile(r'"(workTime|duration_ms)":\d+'), r'"\1":DURATION'),
)


class Terminal:
    """Run commands as a user does, in a directory of its own, against a server.

    Args:
        folder: The working directory; the ledger is in it.
        port: The server's.
    """

    def __init__(self, folder: Path, port: int) -> None:
        self._folder = folder
        self._port = port
        self._environment = surroundings(
            folder,
            PATH=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        )

    def run(self, *command: str) -> str:
        """Return what a command prints that succeeds."""
        done = subprocess.run(
            command,
            cwd=self._folder,
            env=self._environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=DEADLINE_S,
        )
        assert done.returncode == 0, (command, done.stdout, done.stderr)
        return done.stdout.strip()

    @contextmanager
    def running(self, command: str) -> Iterator[None]:
        """Run a command in the background."""
        process = subprocess.Popen(
            command.split(),
            cwd=self._folder,
            env=self._environment,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            yield
            assert process.poll() is None, f"{command} ended with {process.returncode}"
        finally:
            if process.poll() is None:
                kill_group(process)

    def require(self, block: str) -> None:
        """Require that the commands of a console block print what the block says."""
        printed = [(command, _alike(output)) for command, output in _commands(block)]
        answered: list[tuple[str, str]] = []
        for command, output in printed:
            if answered and answered[-1][0].startswith("sleep "):
                # A slow machine needs longer.
                with suppress(TimeoutError):
                    wait_until(lambda: self._ask(command) == output, command)  # noqa: B023 - at once
            answered.append((command, self._ask(command)))
        assert answered == printed

    def _ask(self, command: str) -> str:
        here = command.replace("localhost:3000", f"{HOST}:{self._port}")
        return _alike(self.run("bash", "-c", here))


def _commands(block: str) -> Iterator[tuple[str, str]]:
    """Yield each command of a console block with what it prints."""
    for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
        command, _, output = part.partition("\n")
        yield command, output.strip()


def _alike(output: str) -> str:
    for pattern, name in _VARYING:
        output = pattern.sub(name, output)
    return output


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Terminal]:
    """Serve an empty ledger as `make run` does, on a free port."""
    with Server(f"sqlite:///{tmp_path / 'ledger.db'}", tmp_path) as server:
        yield Terminal(tmp_path, server.port)


def test_the_walk_through_the_readme_works(terminal: Terminal, tmp_path: Path) -> None:
    done = []
    with ExitStack() as stack:
        for language, text in blocks(README.read_text()):
            done.append(language)
            match language:
                case "python":
                    (tmp_path / "jobs.py").write_text(text)
                case "pycon":
                    (tmp_path / "session.txt").write_text(text)
                    terminal.run(sys.executable, "-m", "doctest", "session.txt")
                case "console":
                    terminal.require(text)
                case "sh" if text.startswith("make "):
                    _require_targets(text)
                case "sh":
                    stack.enter_context(terminal.running(text))
                case _:
                    pytest.fail(f"no test runs this block: {language} {text}")

    assert done[:4] == ["sh", "python", "sh", "pycon"]
    assert done.count("console") > 5


def _require_targets(block: str) -> None:
    """Require that each line calls a target of the Makefile."""
    makefile = (ROOT / "Makefile").read_text()
    for line in block.splitlines():
        target = line.split()[1]
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), line


# docs/workers.md is run beside its workers: test_http_workers.py.
@pytest.mark.parametrize("name", ["http.md", "running.md"])
def test_the_commands_of_a_page_print_what_it_says(terminal: Terminal, name: str) -> None:
    for language, text in blocks((DOCS / name).read_text()):
        if language == "console":
            terminal.require(text)


def test_every_page_with_output_of_commands_is_run() -> None:
    pages = [
        page.name
        for page in sorted(DOCS.glob("*.md"))
        if any(language == "console" for language, _ in blocks(page.read_text()))
    ]

    assert pages == ["http.md", "running.md", "workers.md"]

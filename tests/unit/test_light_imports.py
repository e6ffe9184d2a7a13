"""What applications and commands import, and what they must not: it takes too long."""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from tests.integration.servers import surroundings

# Each takes longer to import than all of ours that a queue needs before its first use.
DATABASES: Final = {"sqlalchemy", "psycopg", "alembic"}
HEAVY: Final = {"alembic", "falcon", "gunicorn", "hypothesis", "mako", "rich", "whoosh"}


# `ledger` with these arguments, as far as it matters what it imports.
COMMAND: Final = """
import sys
from ledger.cli import main
main({arguments!r}, prog_name="ledger", standalone_mode=False)
"""


@pytest.fixture
def ledger_folder(tmp_path: Path, sqlite_template: Path) -> Path:
    """Return a working directory with a ledger that needs no migration."""
    shutil.copy(sqlite_template, tmp_path / "ledger.db")
    return tmp_path


def imported(program: str, folder: Path) -> set[str]:
    """Return the top-level packages that a program imports."""
    report = "\nimport sys\nprint(*{name.partition('.')[0] for name in sys.modules})"
    said = subprocess.run(
        [sys.executable, "-c", program + report],
        env=surroundings(folder),
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
    )
    return set(said.stdout.splitlines()[-1].split())


@pytest.mark.parametrize(
    "program",
    [
        "import ledger; ledger.connect()",
        "from ledger import Fail, Job, Queue, Retry, RunningJob, connect",
        "import ledger\n@ledger.connect('postgresql://h/n').process('email')\ndef send(job): ...",
    ],
)
def test_an_application_imports_no_database_before_it_uses_one(
    program: str, tmp_path: Path
) -> None:
    assert imported(program, tmp_path) & (DATABASES | HEAVY) == set()
    assert list(tmp_path.iterdir()) == []


def test_an_application_that_creates_a_job_imports_nothing_else_that_is_heavy(
    ledger_folder: Path,
) -> None:
    program = "import ledger; ledger.connect().create('email').state"

    found = imported(program, ledger_folder)

    assert found & (DATABASES | HEAVY) == {"sqlalchemy"}


@pytest.mark.parametrize(
    "arguments", [["--help"], ["create", "--help"], ["create", "--nothing"], ["nothing"]]
)
def test_help_and_wrong_usage_import_no_database(arguments: list[str], tmp_path: Path) -> None:
    program = (
        "import click\ntry:"
        + COMMAND.format(arguments=arguments).replace("\n", "\n    ")
        + "\nexcept click.UsageError: pass"
    )

    assert imported(program, tmp_path) & (DATABASES | HEAVY) == set()


def test_creating_a_job_imports_nothing_heavy_but_sqlalchemy(ledger_folder: Path) -> None:
    found = imported(COMMAND.format(arguments=["create", "email"]), ledger_folder)

    assert found & (DATABASES | HEAVY) == {"sqlalchemy"}


@pytest.mark.parametrize("arguments", [["pause", "email"], ["stats", "--json"], ["events"]])
def test_a_command_imports_neither_the_server_nor_the_search_engine(
    arguments: list[str], ledger_folder: Path
) -> None:
    found = imported(COMMAND.format(arguments=arguments), ledger_folder)

    assert found & HEAVY == set()

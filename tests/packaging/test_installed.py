"""Installed beside an application's own ``api``, ``migrations`` and ``projections``, all works."""

import json
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

from tests.integration.servers import DEADLINE_S, Server, kill_group, surroundings, tool
from tests.packaging.application import Application
from tests.packaging.environment import Environment


@pytest.fixture(params=[True, False], ids=["packages", "namespaces"])
def application(
    request: pytest.FixtureRequest, environment: Environment, tmp_path: Path
) -> Iterator[Application]:
    """Yield an application whose Alembic scripts nothing may have run when the test ends."""
    folder = tmp_path / "application"
    application = Application(folder, environment, initialised=request.param)
    yield application
    assert not application.alembic_ran


@contextmanager
def working(application: Application, *arguments: str) -> Iterator["subprocess.Popen[bytes]"]:
    """Yield the running ``ledger work``; at the end it and its children are killed."""
    output = application.folder / "output"
    with output.open("wb") as file:
        process = subprocess.Popen(
            [application.environment.tool("ledger"), "work", "jobs:queue", *arguments],
            cwd=application.folder,
            env=surroundings(application.folder, LEDGER_DATABASE_URL=application.url),
            stdout=file,
            stderr=file,
            start_new_session=True,
        )
    try:
        yield process
    except BaseException as error:
        error.add_note(f"it said:\n{output.read_text()}")
        raise
    finally:
        if process.poll() is None:
            kill_group(process)


def test_two_processes_do_the_jobs_of_an_application(application: Application) -> None:
    with working(application, "--processes", "2") as process:
        results = json.loads(application.run("python", "order.py"))
        process.send_signal(signal.SIGTERM)
        code = process.wait(DEADLINE_S)

    assert code == 0
    assert [(result["order"], result["from"]) for result in results] == [
        (number, ["the application's api", "the application's projections"]) for number in (0, 1)
    ]
    assert len({result["process"] for result in results}) == 2
    assert "6 events verified" in application.run("ledger", "verify")


@pytest.mark.parametrize(
    "command", [("ledger", "serve"), ("gunicorn", "ledger.api.wsgi:app")], ids=" ".join
)
def test_the_api_is_served_from_the_folder_of_an_application(
    application: Application, command: Sequence[str]
) -> None:
    tool, *arguments = command
    with Server(
        application.url,
        application.folder,
        command=(application.environment.tool(tool), *arguments),
    ) as server:
        assert server.create("order") == 1
        assert server.ask("GET", "/stats").json["inactiveCount"] == 1


def test_an_application_tests_its_handlers_with_the_fixture(application: Application) -> None:
    assert "1 passed" in application.run("pytest", "-p", "no:cacheprovider")


def test_an_application_runs_its_own_alembic_when_it_wants_to(
    environment: Environment, tmp_path: Path
) -> None:
    # Were they broken, that they never ran would mean nothing.
    application = Application(tmp_path, environment, initialised=True)

    application.run("alembic", "current")

    assert application.alembic_ran


def test_the_command_has_three_names(environment: Environment, tmp_path: Path) -> None:
    said = [
        environment.run(*command, "--version", cwd=tmp_path)
        for command in (("ledger",), ("ledger-queue",), ("python", "-m", "ledger"))
    ]

    assert {line.partition(", ")[2] for line in said} == {said[0].partition(", ")[2]}
    assert [line.partition(" version ")[0] for line in said] == [
        "ledger,",
        "ledger-queue,",
        "ledger,",
    ]


TYPED: Final = """
from typing import assert_type

import ledger
from ledger.projections.projection import Projection
from ledger.testing import Ran, drain

queue = ledger.connect()


@queue.process("order", concurrency=2)
def order(job: ledger.RunningJob) -> dict[str, int]:
    if not job.data:
        raise ledger.Fail("an order of nothing")
    return {"order": assert_type(job.id, int)}


assert_type(queue.create("order"), ledger.Job)
assert_type(drain(queue), list[Ran])
assert_type(Projection.name, str)
"""


def test_mypy_knows_the_types_of_what_is_installed(
    environment: Environment, tmp_path: Path
) -> None:
    (tmp_path / "shop.py").write_text(TYPED)

    done = subprocess.run(
        [
            *(tool("mypy"), "--strict", "--config-file=", "--no-error-summary"),
            *("--python-executable", environment.tool("python"), "shop.py"),
        ],
        cwd=tmp_path,
        env=surroundings(tmp_path),
        capture_output=True,
        text=True,
        check=False,
    )

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")

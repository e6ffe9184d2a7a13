"""The command line, called in the process of the test."""

import json
import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Final, TypeVar

from click.testing import CliRunner, Result

from ledger.cli import main
from tests.integration.servers import DEADLINE_S

Returned = TypeVar("Returned")

# Exit codes.
REFUSED: Final = 1
USAGE: Final = 2
NO_DATABASE: Final = 3


def invoke(*arguments: str, stdin: str | None = None, **variables: str) -> Result:
    """Return how a command ended, in an environment that has *variables* too."""
    runner = CliRunner(env=variables)
    return runner.invoke(main, arguments, input=stdin, prog_name="ledger")


def in_time(call: Callable[[], Returned]) -> Returned:
    """Return what *call* returns.

    Raises:
        TimeoutError: It takes too long; its thread is left behind.
    """
    future: Future[Returned] = Future()

    def run() -> None:
        try:
            future.set_result(call())
        except BaseException as error:  # noqa: BLE001 - raised again in the caller's thread
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future.result(DEADLINE_S)


class Shell:
    """The command line on one database.

    Args:
        url: The database's.
        search: Where the search index lies; None is beside a SQLite file.
    """

    def __init__(self, url: str, search: Path | None = None) -> None:
        self.url = url
        self._variables = {} if search is None else {"LEDGER_SEARCH_DIRECTORY": str(search)}

    def __call__(self, *arguments: str, stdin: str | None = None) -> Result:
        """Return how a command ended."""
        return invoke("--database", self.url, *arguments, stdin=stdin, **self._variables)

    def says(self, *arguments: str, stdin: str | None = None) -> str:
        """Return what a command prints that ends well."""
        result = self(*arguments, stdin=stdin)
        assert (result.exit_code, result.stderr) == (0, ""), result.output
        return result.stdout

    def json(self, *arguments: str) -> Any:
        """Return what a command prints as JSON, one value a line."""
        lines = self.says(*arguments, "--json").splitlines()
        values = [json.loads(line) for line in lines]
        return values if arguments[0] in {"events", "remove"} else values[0]

    def refusal(self, *arguments: str) -> tuple[int, str]:
        """Return exit code and complaint of a command that does not do what was asked."""
        result = self(*arguments)
        assert result.stdout == ""
        assert isinstance(result.exception, SystemExit), result.exception
        return result.exit_code, result.stderr


def cells(line: str) -> list[str]:
    """Return what stands in a row of a table."""
    return [cell.strip() for cell in line.strip("│┃").replace("┃", "│").split("│")]


def table(text: str) -> list[list[str]]:
    """Return the rows of a printed table, the heading first."""
    return [cells(line) for line in text.splitlines() if line[:1] in "│┃"]

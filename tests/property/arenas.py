"""Give each example of a state machine a fresh database, quickly."""

import shutil
from itertools import count
from pathlib import Path
from typing import Protocol

from ledger.database.migration import migrate
from tests.builders import make_empty, open_system


class Arena(Protocol):
    """Be where examples run, each on a database of its own, or as good as that.

    Attributes:
        search: Where the search index lies; empty is beside a SQLite file.
    """

    search: Path | str

    def fresh(self) -> str:
        """Return the URL of a migrated, empty database."""


class SqliteArena:
    """Copy a migrated file for each example."""

    search: Path | str = ""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._numbers = count()
        self._template = folder / "template.db"
        system = open_system(f"sqlite:///{self._template}")
        migrate(system.database)
        system.close()

    def fresh(self) -> str:
        path = self._folder / f"example-{next(self._numbers)}.db"
        shutil.copyfile(self._template, path)
        return f"sqlite:///{path}"


class PostgresArena:
    """Empty the tables for each example: a new database costs 50 times as much."""

    def __init__(self, url: str, search: Path) -> None:
        self.search: Path | str = search
        self._url = url
        self._system = open_system(url)
        migrate(self._system.database)

    def fresh(self) -> str:
        make_empty(self._system)
        return self._url

    def close(self) -> None:
        self._system.close()

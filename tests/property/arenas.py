"""Fresh databases for the examples of a state machine, created quickly."""

import shutil
from itertools import count
from pathlib import Path
from typing import Final, Protocol

from ledger.database.migration import migrate
from ledger.projections.rebuild.steps import Steps
from tests.builders import make_empty, open_system

# Of rebuilds: an example has no other process to give way to.
WITHOUT_PAUSES: Final = Steps(give_way_s=0)


class Arena(Protocol):
    """The source of an empty database for each example.

    Attributes:
        search: Directory of the search index; empty means beside the SQLite file.
    """

    search: Path | str

    def fresh(self) -> str:
        """Return the URL of a migrated, empty database."""


class SqliteArena:
    """Copies of a migrated file, one for each example."""

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
    """One database, emptied for each example; creating one takes 50 times as long."""

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

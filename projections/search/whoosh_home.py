"""Keep the directories of an index: the one that is read, and the one that is built.

::

    ledger.db-search/
        indexer.lock      who writes
        starter.lock      which server process starts who writes
        links.lock        who changes a link
        current           a link to the index that is read
        green             a link to the one that a rebuild makes beside it
        damaged           a reader could not read ``current``
        1.1-3f2a90c1/     an index; its name begins with the version of its layout

A link changes in one step, so whoever opens ``current`` finds a whole index: the old
one or the new.
"""

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from ledger.errors import Unavailable
from ledger.locks import LockFile
from projections.search import words
from projections.search.whoosh_index import Index
from projections.search.whoosh_writer import LAYOUT

_PREFIX: Final = f"{LAYOUT}.{words.VERSION}-"

CURRENT: Final = "current"
GREEN: Final = "green"


class Home:
    """Be the directory of a ledger's indexes.

    Args:
        path: It is created when something is written, for nobody else to enter.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def lock(self, role: str) -> Path:
        """Return the file that whoever has a role locks."""
        self._make()
        return self.path / f"{role}.lock"

    def find(self, link: str) -> Path | None:
        """Return the index that a link leads to, None if there is none of this version."""
        try:
            name = os.readlink(self.path / link)  # noqa: PTH115 - a tenth of Path's time
        except OSError:
            return None
        return self.path / name if name.startswith(_PREFIX) else None

    def begin(self, link: str) -> Path:
        """Make an empty index and let a link lead to it; return its directory."""
        self._make()
        with self._alone():
            folder = self.path / f"{_PREFIX}{secrets.token_hex(8)}"
            folder.mkdir(mode=0o700)
            Index(folder).create()
            new = self.path / f"{link}.new"
            new.unlink(missing_ok=True)
            new.symlink_to(folder.name)
            new.replace(self.path / link)
            self._tidy()
        return folder

    def swap(self) -> None:
        """Let the green index be the current one, and drop the old one."""
        with self._alone():
            (self.path / GREEN).replace(self.path / CURRENT)
            self._tidy()

    def drop_green(self) -> None:
        """Drop the green index, if there is one."""
        if self.find(GREEN) is not None:
            with self._alone():
                (self.path / GREEN).unlink(missing_ok=True)
                self._tidy()

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Keep others from removing an index to which no link leads yet."""
        lock = LockFile(self.lock("links"))
        lock.acquire()
        try:
            yield
        finally:
            lock.close()

    def _tidy(self) -> None:
        """Remove the indexes to which no link leads: those who read them have them open."""
        kept = set()
        for link in (CURRENT, GREEN):
            with suppress(OSError):
                kept.add((self.path / link).readlink().name)
        for folder in self.path.glob("*-*"):
            if folder.is_dir() and not folder.is_symlink() and folder.name not in kept:
                shutil.rmtree(folder, ignore_errors=True)

    # --- a reader's word to whoever indexes

    def tell_damage(self) -> None:
        """Note that the current index cannot be read."""
        with suppress(OSError):
            (self.path / "damaged").touch()

    def is_damaged(self) -> bool:
        """Tell whether a reader could not read the current index."""
        return (self.path / "damaged").exists()

    def forget_damage(self) -> None:
        """Remove the note."""
        (self.path / "damaged").unlink(missing_ok=True)

    def _make(self) -> None:
        try:
            self.path.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise Unavailable(
                f"cannot create {self.path}: {error.strerror}; the directory above must exist "
                "and be writable, or LEDGER_SEARCH_DIRECTORY name another"
            ) from error

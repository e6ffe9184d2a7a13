"""The directories of an index: the live one, and the one that a rebuild builds.

::

    ledger.db-search/
        CACHEDIR.TAG            marks a directory that Ledger made
        indexer.lock            locked by the process that writes
        starter.lock            locked by the server process that starts the one that writes
        links.lock              locked while links are changed
        current                 a link to the live index
        green                   a link to the replacement that a rebuild builds
        damaged                 exists if a reader could not read ``current``
        2.1-3f2a90c1b4d5e6f7/   an index; its name begins with the versions of its layout
                                and of the rules for words
            CACHEDIR.TAG        marks this directory too
            …

A link changes in one step, so a process that opens ``current`` finds a complete index: the
old one or the new one.

A directory of that name may exist already, or others may put something into it.  What Ledger
did not make is not read, written, replaced or removed.  If it is in the way, there is no
index, and each search raises an error that says what to do.
"""

import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from ledger.database import shortages
from ledger.database.file_lock import LockFile
from ledger.database.own_files import NotOurs, Strange, kind, open_regular
from ledger.errors import Unavailable
from ledger.projections.search import words
from ledger.projections.search.whoosh import own_directory
from ledger.projections.search.whoosh.index import Index
from ledger.projections.search.whoosh.own_directory import MARKER
from ledger.projections.search.whoosh.table_of_contents import LAYOUT, is_file_of_index

_PREFIX: Final = f"{LAYOUT}.{words.VERSION}-"
# The name of an index of this version or any other.
_INDEX_NAME: Final = re.compile(r"[0-9]+\.[0-9]+-[0-9a-f]{16}")

CURRENT: Final = "current"
REPLACEMENT: Final = "green"
_UNFINISHED: Final = ".new"
_DAMAGED: Final = "damaged"

_ADVICE: Final = (
    "delete it if it is the search index of an older version; otherwise move it away, make this "
    "user its owner and only writer (chown, chmod go-w), or set LEDGER_SEARCH_DIRECTORY to another "
    "directory"
)


class Home:
    """The directory of a ledger's indexes.

    Args:
        path: The directory; it is created, for this user alone, when something is written.
        with_parent: Whether to create the directory above, too.
        database: The file whose owner alone may create the directory, if root could; None if root
            may.
    """

    def __init__(
        self, path: Path, *, with_parent: bool = False, database: Path | None = None
    ) -> None:
        self.path = path
        self.with_parent = with_parent
        self.database = database

    def lock(self, role: str) -> Path:
        """Return the file that the holder of a role locks.

        Raises:
            NotOurs: The directory is not Ledger's.
            Unavailable: It cannot be created.
        """
        self._make()
        return self.lock_path(role)

    def lock_path(self, role: str) -> Path:
        """Return the path of that file, which may not exist."""
        return self.path / f"{role}.lock"

    def find(self, link: str) -> Path | None:
        """Return the index that a link points to, or None if there is none of this version.

        Raises:
            NotOurs: The directory, or the file with the link's name, is not Ledger's.
            Unavailable: It cannot be read.
        """
        with self._opened() as home:
            name = None if home is None else self._target(home, link)
        return self.path / name if name is not None and name.startswith(_PREFIX) else None

    def begin(self, link: str) -> Path:
        """Create an empty index and point a link to it; return its directory."""
        with self._alone() as home:
            # Check this before anything is created.
            self._require_free(home, link)
            name = f"{_PREFIX}{secrets.token_hex(8)}"
            folder = self.path / name
            os.mkdir(name, 0o700, dir_fd=home)
            try:
                _mark(home, name)
                Index(folder).create()
                self._lead(home, link, name)
            except BaseException:
                # For example, the disk is full.  Leave nothing behind: callers try again and again.
                _remove(home, name, is_new=True)
                raise
            self._tidy(home)
        return folder

    def swap(self) -> None:
        """Make the replacement the current index, and remove the old one."""
        with self._alone() as home:
            if self._target(home, REPLACEMENT) is None:
                raise Unavailable(
                    f"{self.path / REPLACEMENT} is missing: another process removed it"
                )
            self._require_free(home, CURRENT)
            os.rename(REPLACEMENT, CURRENT, src_dir_fd=home, dst_dir_fd=home)
            self._tidy(home)

    def drop_replacement(self) -> None:
        """Remove the replacement, if there is one."""
        if self.find(REPLACEMENT) is not None:
            with self._alone() as home:
                if self._target(home, REPLACEMENT) is not None:
                    os.unlink(REPLACEMENT, dir_fd=home)
                self._tidy(home)

    @contextmanager
    def _alone(self) -> Iterator[int]:
        """Keep other processes from removing an index to which no link points yet."""
        lock = LockFile(self.lock("links"))
        lock.acquire()
        try:
            with self._opened() as home:
                if home is None:
                    raise Unavailable(f"{self.path} was removed; try again")
                yield home
        finally:
            lock.close()

    # --- links

    def _target(self, home: int, link: str) -> str | None:
        """Return the name of the index that a link points to, or None if there is no link."""
        try:
            name = os.readlink(link, dir_fd=home)
        except FileNotFoundError:
            return None
        except OSError:
            there = os.stat(link, dir_fd=home, follow_symlinks=False)
            raise self._in_the_way(link, f"it is {kind(there.st_mode)}") from None
        if not _INDEX_NAME.fullmatch(name):
            raise self._in_the_way(link, "it is a symbolic link to something else")
        return name

    def _lead(self, home: int, link: str, name: str) -> None:
        """Point a link to an index, in one step."""
        new = f"{link}{_UNFINISHED}"
        with suppress(FileNotFoundError):
            os.unlink(new, dir_fd=home)
        os.symlink(name, new, dir_fd=home)
        os.rename(new, link, src_dir_fd=home, dst_dir_fd=home)

    def _require_free(self, home: int, link: str) -> None:
        """Raise ``NotOurs`` if changing a link would replace something that is not Ledger's."""
        for name in (link, f"{link}{_UNFINISHED}"):
            self._target(home, name)

    def _in_the_way(self, name: str, found: str) -> NotOurs:
        return NotOurs(self.path / name, found, "move it away: the search index needs this name")

    def _tidy(self, home: int) -> None:
        """Remove the indexes to which no link points; their readers have the files open."""
        kept = set()
        for link in (CURRENT, REPLACEMENT):
            with suppress(OSError):
                kept.add(os.readlink(link, dir_fd=home))
        for name in own_directory.names(home):
            if _INDEX_NAME.fullmatch(name) and name not in kept:
                _remove(home, name)

    # --- damage, which readers record for the process that indexes

    def tell_damage(self) -> None:
        """Record that the current index cannot be read.

        Raises:
            NotOurs: Something else has the name of the record.
        """
        with self._opened() as home:
            if home is None or _is_note(home):
                return
            try:
                flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY
                os.close(open_regular(_DAMAGED, flags, directory=home))
            except FileExistsError as error:
                if _is_note(home):
                    # Another reader was first.
                    return
                raise self._in_the_way(_DAMAGED, "it is a file that is not empty") from error
            except Strange as error:
                raise self._in_the_way(_DAMAGED, str(error)) from error
            except OSError:
                # For example, the disk is full.  The next reader tries again.
                return

    def is_damaged(self) -> bool:
        """Return whether a reader could not read the current index."""
        with self._opened() as home:
            return home is not None and _is_note(home)

    def forget_damage(self) -> None:
        """Remove the record of damage."""
        with self._opened() as home:
            if home is not None and _is_note(home):
                own_directory.remove(home, _DAMAGED)

    # --- the directory itself

    @contextmanager
    def _opened(self, *, adopts: bool = False) -> Iterator[int | None]:
        """Open the directory and yield its descriptor, or None if Ledger has not made one yet.

        Args:
            adopts: Whether to mark an empty directory as Ledger's.

        Raises:
            NotOurs: The directory is not Ledger's.
            Unavailable: The operating system does not allow its use.
        """
        home = self._open(adopts=adopts)
        try:
            yield home
        except OSError as error:
            why = shortages.in_words(error, "this user needs read and write access to it")
            raise Unavailable(f"the search index in {self.path} cannot be used: {why}") from error
        finally:
            if home is not None:
                os.close(home)

    def _open(self, *, adopts: bool) -> int | None:
        try:
            home = own_directory.open_directory(self.path)
            try:
                if own_directory.is_marked(home):
                    return home
                own_directory.require_new(home)
                if adopts:
                    own_directory.mark(home)
                if own_directory.is_marked(home):
                    return home
            except BaseException:
                os.close(home)
                raise
        except FileNotFoundError:
            return None
        except Strange as error:
            raise NotOurs(self.path, str(error), _ADVICE) from error
        except OSError as error:
            why = shortages.in_words(error, "this user needs read and write access to it")
            raise Unavailable(f"{self.path} cannot be used: {why}") from error
        os.close(home)
        return None

    def _make(self) -> None:
        self._require_user()
        try:
            if self.with_parent:
                self.path.parent.mkdir(mode=0o700, exist_ok=True)
            self.path.mkdir(mode=0o700)
        except FileExistsError:
            pass
        except OSError as error:
            raise Unavailable(
                f"cannot create {self.path}: "
                + shortages.in_words(error, "its parent directory must exist and be writable")
                + ", or set LEDGER_SEARCH_DIRECTORY to another directory"
            ) from error
        with self._opened(adopts=True):
            pass

    def _require_user(self) -> None:
        """Keep root from creating what the ledger's owner could then not use."""
        if self.database is None or os.geteuid() != 0 or self.path.exists():
            return
        with suppress(FileNotFoundError):
            owner = self.database.stat().st_uid
            if owner != 0:
                raise Unavailable(
                    f"cannot create {self.path}: {self.database} belongs to user {owner}, not to "
                    "root; run this as that user, or set LEDGER_SEARCH_DIRECTORY to a directory "
                    "for root"
                )


def _is_note(home: int) -> bool:
    there = own_directory.is_own(home, _DAMAGED)
    return there is not None and not there.st_size


def _mark(home: int, name: str) -> None:
    directory = own_directory.open_directory(name, within=home)
    try:
        own_directory.mark(directory)
    finally:
        os.close(directory)


def _remove(home: int, name: str, *, is_new: bool = False) -> None:
    """Remove an index that Ledger made, except for files that others have put into it.

    Args:
        home: Descriptor of the directory that contains it.
        name: Its name.
        is_new: Whether it has just been created, so that its marker may be incomplete.
    """
    with suppress(OSError, Strange):
        directory = own_directory.open_directory(name, within=home)
        try:
            if not is_new and not own_directory.is_marked(directory):
                return
            for each in filter(is_file_of_index, own_directory.names(directory)):
                own_directory.remove(directory, each)
            # The marker comes last: if this is interrupted, the next call continues.
            own_directory.remove(directory, MARKER)
        finally:
            os.close(directory)
        os.rmdir(name, dir_fd=home)

"""Search with Whoosh: an index in a directory of this machine.

One process of the machine indexes, and all of them read.  A commit is visible to a process
that opens the index after it.  What is open never changes, so all threads of a process share
it, and open the index again only when it is not new enough for them.

An index stores the position and the chain value of the last event that it contains.  An index
that cannot be read, or that followed another ledger (the database was replaced, or restored
from a backup), is not repaired: an empty one takes its place and follows the ledger from its
beginning.
"""

import logging
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from ledger.database import shortages
from ledger.database.contract import Database, Leadership
from ledger.database.file_lock import FileLeadership
from ledger.errors import Overtaken, Unavailable
from ledger.log import store
from ledger.log.recorded import AnyChange, Recorded
from ledger.projections.search.engine import Behind, Damaged, SearchEngine, update_of
from ledger.projections.search.whoosh.folders import CURRENT, REPLACEMENT, Home
from ledger.projections.search.whoosh.index import Contents, Index
from ledger.projections.search.whoosh.newest import newest
from ledger.projections.search.whoosh.table_of_contents import START, Checkpoint

_log = logging.getLogger(__name__)


class OfAnotherLedger(Behind):
    """The index followed another ledger, so it has reached nothing of this one.

    Two ledgers may have been at one URL, one after the other; or the database was restored.
    """

    def __init__(self, path: Path, checkpoint: Checkpoint) -> None:
        super().__init__(
            0,
            f"the search index in {path} is of another ledger, or of another copy of this one, "
            f"whose event {checkpoint.position} has the chain value {checkpoint.chain.hex()}; the "
            "next process that follows, or a search, builds it again from this ledger; if both "
            "are in use, give each its own LEDGER_SEARCH_DIRECTORY",
        )


class WhooshEngine(SearchEngine):
    """The index in a directory.

    Args:
        database: The database of the ledger that it follows.
        path: The directory, which is created when there is something to index.
        with_parent: Whether to create the directory above, too.
        beside: The database file, if the directory is the one beside it.
    """

    def __init__(
        self,
        database: Database,
        path: Path,
        *,
        with_parent: bool = False,
        beside: Path | None = None,
        link: str = CURRENT,
    ) -> None:
        self._database = database
        self._home = Home(path, with_parent=with_parent, database=beside)
        self._link = link
        self._index: Index | None = None
        self._reader = _Reader(database, self._home)

    @property
    def path(self) -> Path:
        """Return the directory."""
        return self._home.path

    # --- following

    def checkpoint(self) -> int:
        """Return the position of the index, after replacing an unusable one with an empty one."""
        return self._readable().checkpoint.position

    def recover(self) -> None:
        folder = self._home.find(self._link)
        if folder is not None:
            # An index that cannot be read is replaced by the first look at the checkpoint.
            with suppress(Damaged, FileNotFoundError):
                Index(folder).remove_left_over()

    def follow(self, changes: Sequence[AnyChange], *, through: int) -> None:
        done = self._readable().checkpoint.position
        if changes[0].recorded.position != done + 1:
            raise Overtaken(self.name, done)
        update = update_of(changes)
        try:
            # A rebuild may have put another index in its place meanwhile, which is further behind.
            self._opened().commit(
                update.added.items(),
                update.removed,
                self._at(changes[-1].recorded),
                after=done,
                erased=update.erased,
            )
        except Damaged as error:
            # For example, a rebuild has removed this index.
            raise Unavailable(f"the search index cannot be written: {error}") from error
        except OSError as error:
            why = shortages.in_words(error, "this user needs write access to it")
            raise Unavailable(
                f"the search index in {self._home.path} cannot be written: {why}"
            ) from error

    def leadership(self) -> Leadership:
        return _Role(self._home, "indexer")

    def is_followed(self) -> bool:
        # A claim would create the directory.
        return FileLeadership(self._home.lock_path("indexer")).taken()

    def reached(self) -> int:
        try:
            return self._reader.newest().checkpoint.position
        except OfAnotherLedger:
            # Position 0 would look like an index that has only just begun.
            raise
        except Behind as behind:
            return behind.position

    def starter(self) -> Leadership:
        return _Role(self._home, "starter")

    def _readable(self) -> Contents:
        """Return the index's contents; replace an unusable index with an empty one first."""
        is_noted = self._link == CURRENT and self._home.is_damaged()
        if is_noted:
            self._index = None
        index = self._opened()
        try:
            contents = index.contents()
            for file in contents.files if is_noted else ():
                # The damage that a reader met may be a single number.
                file.require_sound()
            if not is_of(self._database, contents.checkpoint):
                raise Damaged("it belongs to another ledger")  # noqa: TRY301 - one way out
        except Damaged as error:
            if self._home.find(self._link) not in {None, index.folder}:
                # A rebuild has put another in its place meanwhile, and removed this one.
                return self._readable()
            _log.warning("rebuilding the search index from the ledger: %s", error)
            self._index = Index(self._home.begin(self._link))
            contents = self._index.contents()
        if self._link == CURRENT:
            self._home.forget_damage()
        return contents

    def _opened(self) -> Index:
        """Return the index that the link points to now; create one if there is none.

        A rebuild may have put another index there.
        """
        folder = self._home.find(self._link)
        if folder is None:
            _log.info("creating a search index in %s", self._home.path)
            folder = self._home.begin(self._link)
        if self._index is None or self._index.folder != folder:
            self._index = Index(folder)
        return self._index

    def _at(self, last: Recorded) -> Checkpoint:
        with self._database.read() as connection:
            store.require_recorded(connection, last)
            chain = store.read_chain(connection, last.position)
        return Checkpoint(last.position, chain or b"")

    # --- the replacement that a rebuild builds beside the live index

    def replacement(self) -> "WhooshEngine":
        home = self._home
        return WhooshEngine(
            self._database,
            home.path,
            with_parent=home.with_parent,
            beside=home.database,
            link=REPLACEMENT,
        )

    def swap(self) -> None:
        self._home.swap()
        self._index = None

    def drop_replacement(self) -> None:
        self._home.drop_replacement()

    def replacement_checkpoint(self) -> int | None:
        folder = self._home.find(REPLACEMENT)
        if folder is None:
            return None
        try:
            return Index(folder).contents().checkpoint.position
        except Damaged:
            return 0

    # --- searching

    def search(
        self, asked: Sequence[str], *, head: store.Head, limit: int, offset: int
    ) -> Sequence[int]:
        contents = self._reader.contents(head)
        try:
            return newest(contents, asked, limit=limit, offset=offset)
        except Damaged as error:
            raise self._reader.damage(error) from error

    def forget(self) -> None:
        self.close()

    def close(self) -> None:
        self._index = None
        self._reader = _Reader(self._database, self._home)


class _Role(FileLeadership):
    """The claim to a role in a directory, which is recreated if it has been removed."""

    def __init__(self, home: Home, role: str) -> None:
        super().__init__(home.lock(role))
        self._home = home
        self._role = role

    def held(self) -> bool:
        self._home.lock(self._role)
        return super().held()


def is_of(database: Database, checkpoint: Checkpoint) -> bool:
    """Return whether an index followed this ledger, and is not ahead of it."""
    if checkpoint == START:
        return True
    with database.read() as connection:
        return store.read_chain(connection, checkpoint.position) == checkpoint.chain


class _Reader:
    """The open index that all threads of a process share."""

    def __init__(self, database: Database, home: Home) -> None:
        self._database = database
        self._home = home
        self._opening = threading.Lock()
        self._index: Index | None = None
        self._contents: Contents | None = None

    def contents(self, head: store.Head) -> Contents:
        """Return the index's contents as of *head*, or later."""
        contents = self._contents
        if contents is not None and self._serves(contents, head):
            return contents
        with self._opening:
            # Another thread may have opened it meanwhile.
            contents = self._contents
            if contents is None or not self._serves(contents, head):
                contents = self._contents = self._newest()
        if contents.checkpoint.position < head.position:
            raise Behind(contents.checkpoint.position)
        return contents

    def newest(self) -> Contents:
        """Return the index's current contents."""
        with self._opening:
            contents = self._contents = self._newest()
        return contents

    def damage(self, error: Damaged) -> Unavailable:
        """Record, for the process that indexes, that the index cannot be read; return the error.

        Raises:
            Unavailable: The damage cannot be recorded.
        """
        index, self._index, self._contents = self._index, None, None
        if index is not None and self._home.find(CURRENT) == index.folder:
            # Once: every search tries again until there is another index.
            is_told = self._home.is_damaged()
            self._home.tell_damage()
            if not is_told:
                _log.warning("the search index cannot be read: %s", error)
        return Unavailable(
            f"the search index is damaged and is being rebuilt from the ledger: {error}",
            retry_after_s=2,
        )

    def _serves(self, contents: Contents, head: store.Head) -> bool:
        """Return whether contents are new enough, and not of a ledger that has been replaced."""
        position, chain = contents.checkpoint
        if position == head.position:
            # A ledger restored from a backup may have grown to the same length.
            return chain == head.chain or contents.checkpoint == START
        return position > head.position and is_of(self._database, contents.checkpoint)

    def _newest(self) -> Contents:
        folder = self._home.find(CURRENT)
        if folder is None:
            raise Behind(0)
        if self._index is None or self._index.folder != folder:
            self._index, self._contents = Index(folder), None
        contents = self._contents
        if (
            contents is not None
            and contents.generation == self._index.generation()
            and is_of(self._database, contents.checkpoint)
        ):
            return contents
        try:
            contents = self._index.contents()
        except Damaged as error:
            raise self.damage(error) from error
        if not is_of(self._database, contents.checkpoint):
            # The process that indexes detects it too.
            self._contents = None
            raise OfAnotherLedger(self._home.path, contents.checkpoint)
        return contents

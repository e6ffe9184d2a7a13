"""Search with the database's own engine: SQLite's FTS5, or PostgreSQL's tsvector.

For ledgers that outgrow Whoosh, and for API servers on several machines, which then need no
index of their own.

The checkpoint is a row that is committed with the documents.  A rebuild swaps the documents
but keeps this row, so transactions that wait for its lock still find it.  Its position never
decreases, so a job that was found once is found again.
"""

from collections.abc import Sequence
from typing import Final

from sqlalchemy import (
    Column,
    Connection,
    Integer,
    MetaData,
    Table,
    Text,
    bindparam,
    delete,
    select,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite

from ledger.database.contract import Database, Leadership
from ledger.database.fast_sql import Query
from ledger.errors import Overtaken, SchemaMismatch
from ledger.log import store
from ledger.log.recorded import AnyChange
from ledger.log.schema import BIGINT
from ledger.projections.follower import catch_up
from ledger.projections.projection import REPLACEMENT_SUFFIX
from ledger.projections.search.engine import Behind, SearchEngine, update_of
from ledger.projections.search.sql_words import QUICK_MS, Fts5, Tsvector, Words
from ledger.projections.search.words import VERSION

LIVE: Final = ""
REPLACEMENT: Final = REPLACEMENT_SUFFIX

checkpoints: Final = Table(
    "ledger_search_checkpoints",
    MetaData(),
    Column("name", Text, primary_key=True),
    Column("position", BIGINT, nullable=False),
    # Version of the rules by which text was split into words.
    Column("words_version", Integer, nullable=False),
)
_CHECKPOINT: Final = select(checkpoints.c.position, checkpoints.c.words_version).where(
    checkpoints.c.name == bindparam("name")
)
_READ_CHECKPOINT: Final = Query(_CHECKPOINT)


class SqlEngine(SearchEngine):
    """The index in the ledger's own database.

    Args:
        database: The ledger's database.
        suffix: ``REPLACEMENT`` for the replacement that a rebuild builds beside the live index.
        quick_ms: How long PostgreSQL tries to find a page among the newest jobs before it
            collects all matches; 50 ms by default.
    """

    def __init__(self, database: Database, suffix: str = LIVE, *, quick_ms: int = QUICK_MS) -> None:
        self._database = database
        self._suffix = suffix
        self._words: Words = (
            Fts5(database, suffix, _CHECKPOINT)
            if database.is_embedded
            else Tsvector(database, suffix, _CHECKPOINT, quick_ms=quick_ms)
        )

    @property
    def tables(self) -> Sequence[Table]:
        """Return the tables that the database's catalog describes; FTS5's is not one of them."""
        return (checkpoints, *self._words.tables)

    # --- following

    def checkpoint(self) -> int:
        with self._database.read() as connection:
            return self._position(_READ_CHECKPOINT.first(connection, name=self._name))

    def follow(self, changes: Sequence[AnyChange], *, through: int) -> None:
        # All slow work comes before the transaction, because writers wait for it.
        updated = update_of(changes)
        with self._database.write() as tx:
            done = self._locked(tx)
            if changes[0].recorded.position != done + 1:
                raise Overtaken(self.name, done)
            store.require_recorded(tx, changes[-1].recorded)
            self._words.apply(tx, updated)
            self._move(tx, through)
            if updated.erased and self._words.keeps_erased:
                self._begin(tx, self._erasing)
        if updated.erased:
            self.recover()

    def recover(self) -> None:
        """Remove the words of erased documents that the index still keeps, if there are any.

        Other writers may come in between: a large index takes many steps.  A row that was
        committed with the erasure tells a later process that the steps have not ended.
        """
        while True:
            with self._database.read() as connection:
                if _READ_CHECKPOINT.first(connection, name=self._erasing) is None:
                    return
            with self._database.write() as tx:
                if self._words.merge(tx):
                    self._delete(tx, self._erasing)

    def leadership(self) -> Leadership:
        return self._database.leadership("search-indexer")

    def starter(self) -> Leadership:
        return self._database.leadership("search-starter")

    @property
    def _name(self) -> str:
        return f"search{self._suffix}"

    @property
    def _erasing(self) -> str:
        """Return the name of the row that is there while erased words may be in the index."""
        return f"{self._name}_erasing"

    def _locked(self, tx: Connection) -> int:
        """Return the checkpoint, locked against changes by others until *tx* ends."""
        row = tx.execute(_CHECKPOINT.with_for_update(), {"name": self._name}).first()
        if row is None:
            # A missing row cannot be locked, so two transactions could both begin: insert it first.
            self._begin(tx, self._name)
            row = tx.execute(_CHECKPOINT.with_for_update(), {"name": self._name}).one()
        return self._position(row)

    def _begin(self, tx: Connection, name: str) -> None:
        """Insert a row of that name at position 0, unless there is one."""
        insert = sqlite.insert if tx.dialect.name == "sqlite" else postgresql.insert
        tx.execute(
            insert(checkpoints)
            .values(name=name, position=0, words_version=VERSION)
            .on_conflict_do_nothing(index_elements=["name"])
        )

    def _delete(self, tx: Connection, name: str) -> None:
        tx.execute(delete(checkpoints).where(checkpoints.c.name == name))

    def _move(self, tx: Connection, position: int) -> None:
        """Set the checkpoint to *position* and to our version of the rules for words."""
        tx.execute(
            update(checkpoints)
            .where(checkpoints.c.name == self._name)
            .values(position=position, words_version=VERSION)
        )

    def _position(self, row: Sequence[int] | None) -> int:
        if row is None:
            return 0
        position, version = row
        if version != VERSION:
            raise SchemaMismatch(
                "the search index was made by a version of Ledger that splits text into other "
                "words; run `ledger rebuild search`"
            )
        return position

    # --- the replacement that a rebuild builds beside the live index

    def replacement(self) -> "SqlEngine":
        replacement = SqlEngine(self._database, REPLACEMENT)
        with self._database.write() as tx:
            row = tx.execute(_CHECKPOINT, {"name": replacement._name}).first()
            if row is None or row.words_version != VERSION:
                # A table without a checkpoint was left by a downgrade.
                replacement._forget(tx)
                replacement._words.create(tx)
                replacement._begin(tx, replacement._name)
        return replacement

    def _forget(self, tx: Connection) -> None:
        """Drop the words and the checkpoint."""
        self._words.drop(tx)
        self._delete(tx, self._name)
        self._delete(tx, self._erasing)

    def swap(self) -> None:
        while not self._try_to_swap():
            catch_up(self._database, SqlEngine(self._database, REPLACEMENT))
        self.recover()

    def _try_to_swap(self) -> bool:
        """Swap unless the live index has got ahead meanwhile; return whether it was done."""
        with self._database.write() as tx:
            replacement = SqlEngine(self._database, REPLACEMENT)
            built = replacement._locked(tx)
            # The process that indexes holds this lock until its commit.
            live = tx.execute(_CHECKPOINT.with_for_update(), {"name": self._name}).first()
            if live is not None and built < min(live.position, store.read_position(tx)):
                return False
            grants = self._words.grants(tx)
            self._words.drop(tx)
            replacement._words.rename(tx)
            for grant in grants:
                tx.exec_driver_sql(grant)
            self._delete(tx, replacement._name)
            self._delete(tx, self._erasing)
            tx.execute(
                update(checkpoints)
                .where(checkpoints.c.name == replacement._erasing)
                .values(name=self._erasing)
            )
            self._begin(tx, self._name)
            self._move(tx, built)
        return True

    def drop_replacement(self) -> None:
        replacement = SqlEngine(self._database, REPLACEMENT)
        with self._database.write() as tx:
            if tx.scalar(_CHECKPOINT, {"name": replacement._name}) is not None:
                replacement._forget(tx)

    def replacement_checkpoint(self) -> int | None:
        with self._database.read() as connection:
            row = _READ_CHECKPOINT.first(connection, name=f"search{REPLACEMENT}")
        return None if row is None else int(row[0])

    # --- searching

    def search(
        self, asked: Sequence[str], *, head: store.Head, limit: int, offset: int
    ) -> Sequence[int]:
        page = self._words.find(
            asked,
            {"name": self._name, "at_least": head.position, "limit": limit, "offset": offset},
        )
        position = self._position(page.moment)
        if position < head.position:
            raise Behind(position)
        return page.job_ids

"""Keep words in the database, in one engine's way: SQLite's FTS5, or PostgreSQL's tsvector.

Neither FTS5's tokenizers nor ``to_tsvector`` would cut an e-mail address or Chinese in the
same way, so both are given words that are cut already.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Index,
    MetaData,
    Select,
    Table,
    Text,
    bindparam,
    cast,
    delete,
    exc,
    func,
    insert,
    literal_column,
    select,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, TSVECTOR

from ledger.database import Database
from ledger.rows import Query
from ledger.schema import BIGINT
from projections.green import grants_of
from projections.projection import in_parts
from projections.search.contract import Update
from projections.search.words import in_ascii

_TABLE: Final = "search_words"
# As long as PostgreSQL may look for the newest first; see ``Tsvector.find``.
_QUICK_MS: Final = 50
_QUERY_CANCELED: Final = "57014"


class Words(ABC):
    """Be the table of words, in one engine's way."""

    tables: Sequence[Table] = ()

    def __init__(self, database: Database, suffix: str) -> None:
        self.database = database
        self.name = f"{_TABLE}{suffix}"

    @abstractmethod
    def apply(self, tx: Connection, updated: Update) -> None:
        """Add and remove documents."""

    @abstractmethod
    def find(self, asked: Sequence[str], page: Mapping[str, int]) -> Sequence[int]:
        """Return the jobs that have all the words, the newest first."""

    @abstractmethod
    def create(self, tx: Connection) -> None:
        """Create the table, empty."""

    def drop(self, tx: Connection) -> None:
        """Drop the table, if it is there."""
        tx.execute(text(f"DROP TABLE IF EXISTS {self.name}"))

    def grants(self, tx: Connection) -> Sequence[str]:
        """Return what gives others again what they may do with the table."""
        return ()

    def rename(self, tx: Connection) -> None:
        """Give the table the live one's name."""
        tx.execute(text(f"ALTER TABLE {self.name} RENAME TO {_TABLE}"))


class Fts5(Words):
    """Be SQLite's full text index; its row ids are the jobs'."""

    def __init__(self, database: Database, suffix: str) -> None:
        super().__init__(database, suffix)
        self._table = table = Table(
            self.name, MetaData(), Column("rowid", BIGINT, primary_key=True), Column("words", Text)
        )
        self._find = Query(
            select(table.c.rowid)
            .where(literal_column(self.name).op("MATCH")(bindparam("asked")))
            .order_by(table.c.rowid.desc())
            .limit(bindparam("limit"))
            .offset(bindparam("offset"))
        )

    def apply(self, tx: Connection, updated: Update) -> None:
        table = self._table
        for some in in_parts(sorted(updated.removed)):
            tx.execute(delete(table).where(table.c.rowid.in_(some)))
        rows = [
            {"rowid": job_id, "words": in_ascii(found)} for job_id, found in updated.added.items()
        ]
        if rows:
            tx.execute(insert(table), rows)

    def find(self, asked: Sequence[str], page: Mapping[str, int]) -> Sequence[int]:
        # Words that follow each other are all asked for, in FTS5's language too; quoted,
        # none of them is one of its operators.
        quoted = " ".join(f'"{word}"' for word in in_ascii(asked).split())
        with self.database.read() as connection:
            return [row[0] for row in self._find.all(connection, asked=quoted, **page)]

    def create(self, tx: Connection) -> None:
        tx.execute(
            text(
                f"CREATE VIRTUAL TABLE {self.name} USING fts5("
                "words, detail=none, columnsize=0, tokenize=\"ascii tokenchars '_'\")"
            )
        )


class Tsvector(Words):
    """Be PostgreSQL's: a vector of words a job, and a GIN index over them."""

    def __init__(self, database: Database, suffix: str) -> None:
        super().__init__(database, suffix)
        self._table = table = Table(
            self.name,
            MetaData(),
            Column("job_id", BigInteger, primary_key=True, autoincrement=False),
            Column("words", TSVECTOR, nullable=False),
        )
        Index(f"{self.name}_by_word", table.c.words, postgresql_using="gin")
        self.tables = (table,)
        has_all = table.c.words.bool_op("@@")(text("CAST(:asked AS tsquery)"))
        page = bindparam("limit", type_=BigInteger), bindparam("offset", type_=BigInteger)
        self._quick: Select[Any] = (
            select(table.c.job_id)
            .where(has_all)
            .order_by(table.c.job_id.desc())
            .limit(page[0])
            .offset(page[1])
        )
        matches = select(table.c.job_id).where(has_all).cte("matches")
        matches = matches.prefix_with("MATERIALIZED", dialect="postgresql")
        self._sure: Select[Any] = (
            select(matches.c.job_id)
            .order_by(matches.c.job_id.desc())
            .limit(page[0])
            .offset(page[1])
        )

    def apply(self, tx: Connection, updated: Update) -> None:
        table = self._table
        for some in in_parts(sorted(updated.removed)):
            tx.execute(delete(table).where(table.c.job_id.in_(some)))
        rows = [{"id": job_id, "found": list(found)} for job_id, found in updated.added.items()]
        if rows:
            vector = func.array_to_tsvector(cast(bindparam("found"), ARRAY(Text)))
            tx.execute(insert(table).values(job_id=bindparam("id"), words=vector), rows)

    def find(self, asked: Sequence[str], page: Mapping[str, int]) -> Sequence[int]:
        """Return the jobs that have all the words, the newest first.

        The planner walks the newest jobs if it guesses the words to be frequent, and
        that is right for words that are.  Where they only seem to be, or never meet, it
        would walk all jobs; so it gets a moment, then all matches are collected first.
        """
        # A word consists of letters, digits and marks: nothing in it needs an escape.
        given = {"asked": " & ".join(f"'{word}'" for word in asked), **page}
        with self.database.translated(), self.database.engine.connect() as connection:
            connection.exec_driver_sql(f"BEGIN; SET LOCAL statement_timeout = {_QUICK_MS}")
            try:
                return list(connection.scalars(self._quick, given))
            except exc.OperationalError as error:
                if getattr(error.orig, "sqlstate", None) != _QUERY_CANCELED:
                    raise
            finally:
                # A connection that cannot even do this is dropped by the pool.
                with suppress(exc.SQLAlchemyError):
                    connection.exec_driver_sql("ROLLBACK")
            return list(connection.scalars(self._sure, given))

    def create(self, tx: Connection) -> None:
        self._table.create(tx)

    def grants(self, tx: Connection) -> Sequence[str]:
        return grants_of(tx, self.name)

    def rename(self, tx: Connection) -> None:
        super().rename(tx)
        for index in ("_pkey", "_by_word"):
            tx.execute(text(f"ALTER INDEX {self.name}{index} RENAME TO {_TABLE}{index}"))

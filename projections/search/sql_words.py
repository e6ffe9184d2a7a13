"""Keep words in the database, in one engine's way: SQLite's FTS5, or PostgreSQL's tsvector.

Neither FTS5's tokenizers nor ``to_tsvector`` would cut an e-mail address or Chinese in the
same way, so both are given words that are cut already.

A page comes with the checkpoint, in one row of one statement: asked for one after the
other, a rebuild could put other words in place between them.  And each further row would
cost SQLite's threads a turn at the interpreter: a page of a thousand took three times as long.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Final, NamedTuple

import msgspec
from sqlalchemy import (
    BigInteger,
    Column,
    ColumnElement,
    Connection,
    Index,
    MetaData,
    Select,
    Table,
    Text,
    bindparam,
    case,
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

from ledger.database.contract import Database
from ledger.database.fast_sql import Query
from ledger.log.schema import BIGINT
from ledger.projections.projection import in_parts
from ledger.projections.rebuild.table_swap import grants_of, names_alone
from ledger.projections.search.engine import Update
from ledger.projections.search.words import in_ascii

_TABLE: Final = "ledger_search_words"
# As long as PostgreSQL may look for the newest first; see ``Tsvector.find``.
_QUICK_MS: Final = 50
_QUERY_CANCELED: Final = "57014"

_job_ids: Final = msgspec.json.Decoder(list[int])


class Page(NamedTuple):
    """Be what was found, and as of when.

    Attributes:
        moment: The row of the checkpoint; None if there is none.
        job_ids: The newest first; none if the checkpoint is not as far as was asked for.
    """

    moment: Sequence[int] | None
    job_ids: Sequence[int]


class Words(ABC):
    """Be the table of words, in one engine's way.

    Args:
        database: Where it is.
        suffix: Of its name.
        moment: Selects the row of the checkpoint that is committed with it; the position
            first.
    """

    tables: Sequence[Table] = ()

    def __init__(self, database: Database, suffix: str, moment: Select[Any]) -> None:
        self.database = database
        self.name = f"{_TABLE}{suffix}"
        self._moment = moment

    @abstractmethod
    def apply(self, tx: Connection, updated: Update) -> None:
        """Add and remove documents."""

    @abstractmethod
    def find(self, asked: Sequence[str], wanted: Mapping[str, Any]) -> Page:
        """Return the jobs that have all the words, the newest first.

        Args:
            asked: The words.
            wanted: What the checkpoint's statement takes, and ``at_least``, ``limit``,
                ``offset``.
        """

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

    def _with_moment(self, job_ids: ColumnElement[int], of: Select[Any]) -> Select[Any]:
        """Return the statement whose one row is the checkpoint and a page of *job_ids*.

        The aggregate takes them in the subselect's order, on both engines.
        """
        page = (
            of.with_only_columns(job_ids.label("job_id"))
            .order_by(job_ids.desc())
            .limit(bindparam("limit", type_=BigInteger))
            .offset(bindparam("offset", type_=BigInteger))
            .subquery("page")
        )
        in_a_line = select(func.aggregate_strings(cast(page.c.job_id, Text), ","))
        position = next(iter(self._moment.selected_columns))
        is_far_enough = position >= bindparam("at_least", type_=BigInteger)
        return self._moment.add_columns(case((is_far_enough, in_a_line.scalar_subquery())))


def _page(row: Sequence[Any] | None) -> Page:
    """Return what is in the row of ``_with_moment``."""
    if row is None:
        return Page(None, ())
    *moment, in_a_line = row
    return Page(moment, _job_ids.decode(f"[{in_a_line or ''}]"))


class Fts5(Words):
    """Be SQLite's full text index; its row ids are the jobs'."""

    def __init__(self, database: Database, suffix: str, moment: Select[Any]) -> None:
        super().__init__(database, suffix, moment)
        self._table = table = Table(
            self.name, MetaData(), Column("rowid", BIGINT, primary_key=True), Column("words", Text)
        )
        has_all = literal_column(self.name).op("MATCH")(bindparam("asked"))
        self._find = Query(self._with_moment(table.c.rowid, select(table).where(has_all)))

    def apply(self, tx: Connection, updated: Update) -> None:
        table = self._table
        for some in in_parts(sorted(updated.removed)):
            tx.execute(delete(table).where(table.c.rowid.in_(some)))
        rows = [
            {"rowid": job_id, "words": in_ascii(found)} for job_id, found in updated.added.items()
        ]
        if rows:
            tx.execute(insert(table), rows)

    def find(self, asked: Sequence[str], wanted: Mapping[str, Any]) -> Page:
        # Words that follow each other are all asked for, in FTS5's language too; quoted,
        # none of them is one of its operators.
        quoted = " ".join(f'"{word}"' for word in in_ascii(asked).split())
        with self.database.read() as connection:
            return _page(self._find.first(connection, asked=quoted, **wanted))

    def rename(self, tx: Connection) -> None:
        with names_alone(tx):
            super().rename(tx)

    def create(self, tx: Connection) -> None:
        tx.execute(
            text(
                f"CREATE VIRTUAL TABLE {self.name} USING fts5("
                "words, detail=none, columnsize=0, tokenize=\"ascii tokenchars '_'\")"
            )
        )


class Tsvector(Words):
    """Be PostgreSQL's: a vector of words a job, and a GIN index over them."""

    def __init__(self, database: Database, suffix: str, moment: Select[Any]) -> None:
        super().__init__(database, suffix, moment)
        self._table = table = Table(
            self.name,
            MetaData(),
            Column("job_id", BigInteger, primary_key=True, autoincrement=False),
            Column("words", TSVECTOR, nullable=False),
        )
        Index(f"{self.name}_by_word", table.c.words, postgresql_using="gin")
        self.tables = (table,)
        has_all = table.c.words.bool_op("@@")(text("CAST(:asked AS tsquery)"))
        self._quick = self._with_moment(table.c.job_id, select(table).where(has_all))
        matches = select(table.c.job_id).where(has_all).cte("matches")
        matches = matches.prefix_with("MATERIALIZED", dialect="postgresql")
        self._sure = self._with_moment(matches.c.job_id, select(matches))

    def apply(self, tx: Connection, updated: Update) -> None:
        table = self._table
        for some in in_parts(sorted(updated.removed)):
            tx.execute(delete(table).where(table.c.job_id.in_(some)))
        rows = [{"id": job_id, "found": list(found)} for job_id, found in updated.added.items()]
        if rows:
            vector = func.array_to_tsvector(cast(bindparam("found"), ARRAY(Text)))
            tx.execute(insert(table).values(job_id=bindparam("id"), words=vector), rows)

    def find(self, asked: Sequence[str], wanted: Mapping[str, Any]) -> Page:
        """Return the jobs that have all the words, the newest first.

        The planner walks the newest jobs if it guesses the words to be frequent, and
        that is right for words that are.  Where they only seem to be, or never meet, it
        would walk all jobs; so it gets a moment, then all matches are collected first.
        """
        # A word consists of letters, digits and marks: nothing in it needs an escape.
        given = {"asked": " & ".join(f"'{word}'" for word in asked), **wanted}
        with self.database.translated(), self.database.engine.connect() as connection:
            connection.exec_driver_sql(f"BEGIN; SET LOCAL statement_timeout = {_QUICK_MS}")
            try:
                return _page(connection.execute(self._quick, given).first())
            except exc.OperationalError as error:
                if getattr(error.orig, "sqlstate", None) != _QUERY_CANCELED:
                    raise
            finally:
                # A connection that cannot even do this is dropped by the pool.
                with suppress(exc.SQLAlchemyError):
                    connection.exec_driver_sql("ROLLBACK")
            return _page(connection.execute(self._sure, given).first())

    def create(self, tx: Connection) -> None:
        self._table.create(tx)

    def grants(self, tx: Connection) -> Sequence[str]:
        return grants_of(tx, self.name)

    def rename(self, tx: Connection) -> None:
        super().rename(tx)
        for index in ("_pkey", "_by_word"):
            tx.execute(text(f"ALTER INDEX {self.name}{index} RENAME TO {_TABLE}{index}"))

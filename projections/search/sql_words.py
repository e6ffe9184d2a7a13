"""Words in the database, in each engine's way: SQLite's FTS5, or PostgreSQL's tsvector.

Neither FTS5's tokenizers nor ``to_tsvector`` would split an e-mail address or Chinese in the
same way, so both receive words that are already split.

A page comes with the checkpoint, in one row of one statement: between two statements, a
rebuild could swap the words.  And for each further row, SQLite's threads would have to take
the interpreter lock once more: a page of a thousand rows took three times as long.
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
from ledger.database.fast_sql import Query, driver_of
from ledger.log.schema import BIGINT
from ledger.projections.projection import in_parts
from ledger.projections.rebuild.table_swap import grants_of, names_alone
from ledger.projections.search.engine import Update
from ledger.projections.search.words import in_ascii

_TABLE: Final = "ledger_search_words"
QUICK_MS: Final = 50
# Pages of an index that a step of a merge writes; it holds the database for some milliseconds.
MERGED_PAGES: Final = 64
_CHANGES_OF_A_STEP: Final = 2
_QUERY_CANCELED: Final = "57014"

_job_ids: Final = msgspec.json.Decoder(list[int])


class Page(NamedTuple):
    """The jobs that were found, and the checkpoint at that moment.

    Attributes:
        moment: The row of the checkpoint; None if there is none.
        job_ids: Newest first; empty if the checkpoint has not reached the required position.
    """

    moment: Sequence[int] | None
    job_ids: Sequence[int]


class Words(ABC):
    """The table of words, in one engine's way.

    Args:
        database: The ledger's database.
        suffix: Suffix of the table's name.
        moment: Selects the row of the checkpoint that is committed with the words; its first
            column is the position.

    Attributes:
        keeps_erased: Whether the words of a deleted document stay until ``merge``.
    """

    keeps_erased: bool = False
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
        """Return the jobs that have all the words, newest first.

        Args:
            asked: The words.
            wanted: The parameters of *moment*, and ``at_least``, ``limit`` and ``offset``.
        """

    @abstractmethod
    def create(self, tx: Connection) -> None:
        """Create an empty table."""

    def merge(self, tx: Connection) -> bool:
        """Take a step to remove the words of deleted documents; return whether it was the last."""
        return True

    def drop(self, tx: Connection) -> None:
        """Drop the table, if it exists."""
        tx.execute(text(f"DROP TABLE IF EXISTS {self.name}"))

    def grants(self, tx: Connection) -> Sequence[str]:
        """Return the statements that restore the privileges of others on the table."""
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
    """Return the contents of a row of ``_with_moment``."""
    if row is None:
        return Page(None, ())
    *moment, in_a_line = row
    return Page(moment, _job_ids.decode(f"[{in_a_line or ''}]"))


class Fts5(Words):
    """SQLite's full-text index; its row ids are the ids of the jobs.

    A deletion is a note in a new segment that repeats the words; both are gone only once all
    segments have been merged to one.  The option ``secure-delete`` would remove the words at
    once, but it needs SQLite 3.42, and does nothing for a document that was deleted before its
    data was erased.
    """

    keeps_erased = True

    def __init__(self, database: Database, suffix: str, moment: Select[Any]) -> None:
        super().__init__(database, suffix, moment)
        self._table = table = Table(
            self.name, MetaData(), Column("rowid", BIGINT, primary_key=True), Column("words", Text)
        )
        # An insert into these columns is a command.
        self._command = Table(
            self.name, MetaData(), Column(self.name, Text), Column("rank", BIGINT)
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

    def merge(self, tx: Connection) -> bool:
        driver = driver_of(tx)
        before = driver.total_changes
        # A negative number merges all segments, not only those that are due to be merged.
        tx.execute(insert(self._command), {self.name: "merge", "rank": -MERGED_PAGES})
        # As SQLite's manual says: a step that has nothing to do changes one row.
        return bool(driver.total_changes - before < _CHANGES_OF_A_STEP)

    def find(self, asked: Sequence[str], wanted: Mapping[str, Any]) -> Page:
        # FTS5 requires all words that follow each other.  Quoted, none of them is one of its
        # operators.
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
    """PostgreSQL's full-text index: a vector of words per job, and a GIN index over them.

    Args:
        database: See ``Words``.
        suffix: See ``Words``.
        moment: See ``Words``.
        quick_ms: Time limit for the search of the newest jobs first, see ``find``; 50 ms by
            default.
    """

    def __init__(
        self, database: Database, suffix: str, moment: Select[Any], *, quick_ms: int = QUICK_MS
    ) -> None:
        super().__init__(database, suffix, moment)
        self._quick_ms = quick_ms
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
        """Return the jobs that have all the words, newest first.

        If the planner takes the words for frequent, it walks the newest jobs, which is right if
        they are frequent.  If they are not, or never occur together, it would walk all jobs.  So
        this query has a time limit; after that, all matches are collected first.
        """
        # A word consists of letters, digits and marks: nothing in it needs escaping.
        given = {"asked": " & ".join(f"'{word}'" for word in asked), **wanted}
        with self.database.translated(), self.database.engine.connect() as connection:
            connection.exec_driver_sql(f"BEGIN; SET LOCAL statement_timeout = {self._quick_ms}")
            try:
                return _page(connection.execute(self._quick, given).first())
            except exc.OperationalError as error:
                if getattr(error.orig, "sqlstate", None) != _QUERY_CANCELED:
                    raise
            finally:
                # The pool drops a connection on which even this fails.
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

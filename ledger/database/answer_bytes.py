"""The bound on the bytes of one answer, and what statements keep it with.

A list of jobs or events can have any number of bytes, as each of them holds what users put in.
So a page is read only as far as its rows fit, and its reader asks again for the rest.  A page
always has one row, if there is any.  The database adds up the lengths of the rows, and reads
the texts of those that fit.

On PostgreSQL, and since SQLite 3.43, the length of a text is known without reading it.  Older
releases of SQLite read it from the file, but keep no more than one text in memory.
"""

import sqlite3
from collections.abc import Sequence
from typing import Any, Final

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    Select,
    TextClause,
    bindparam,
    func,
    select,
    text,
)
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

from ledger.database.fast_sql import Query, driver_of

# Of JSON or of the content of events.  A server holds a few copies of it for each request.
ANSWER_BYTES: Final = 8 * 1024 * 1024
_KNOWS_OCTET_LENGTH: Final = sqlite3.sqlite_version_info >= (3, 43)


class ByteLength(FunctionElement[int]):
    """The number of bytes of a text, 0 if it is NULL, as SQL."""

    type = BigInteger()
    name = "byte_length"
    inherit_cache = True


@compiles(ByteLength, "postgresql")
def _on_postgresql(element: ByteLength, compiler: Any, **given: Any) -> str:  # noqa: ANN401 - SQLAlchemy's
    return f"coalesce(octet_length({compiler.process(element.clauses, **given)}), 0)"


@compiles(ByteLength, "sqlite")
def _on_sqlite(element: ByteLength, compiler: Any, **given: Any) -> str:  # noqa: ANN401 - as above
    text = compiler.process(element.clauses, **given)
    if _KNOWS_OCTET_LENGTH:
        return f"coalesce(octet_length({text}), 0)"
    return f"coalesce(length(CAST({text} AS BLOB)), 0)"


class FittingRows:
    """How many of the rows of a page fit into an answer.

    Args:
        page: The rows, in order, each with its ``bytes``.
        order: The order, in terms of the columns of *page*.
    """

    def __init__(self, page: Select[Any], order: str) -> None:
        rows = page.subquery("page")
        total = func.coalesce(func.sum(rows.c.bytes), 0)
        self._total = Query(select(total, func.count()).select_from(rows))
        through = select(bytes_through(rows.c.bytes, [text(order)]).label("bytes")).subquery()
        self._fitting = Query(
            select(func.count()).where(through.c.bytes <= bindparam("most_bytes"))
        )

    def number(self, connection: Connection, most: int, *, most_bytes: int, **given: Any) -> int:  # noqa: ANN401 - SQL's
        """Return how many rows to read.

        Args:
            connection: Where to read.
            most: Maximum number of rows.
            most_bytes: Their bytes; a single row may have more.
            given: The parameters of the page, *most* among them.
        """
        if most <= 1:
            return most
        total, rows = self._total.first(connection, **given)
        if total <= most_bytes or rows <= 1:
            return most
        (fitting,) = self._fitting.first(connection, most_bytes=most_bytes, **given)
        return max(1, int(fitting))


def row_if_small(
    query: Query, connection: Connection, given: dict[str, Any], *, most: int
) -> Any | None:  # noqa: ANN401 - a row
    """Return the only row of *query*, or None if one of its texts would have more bytes.

    Only for SQLite, which stops at *most* bytes, so nothing has to be counted before.

    Args:
        query: A query that has one row.
        connection: Where to read.
        given: The parameters.
        most: Bytes of a text.
    """
    driver = driver_of(connection)
    usual = driver.getlimit(sqlite3.SQLITE_LIMIT_LENGTH)
    try:
        driver.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, most)
        return query.rows(connection, given)[0]
    except sqlite3.DataError:
        return None
    finally:
        driver.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, usual)


def bytes_through(
    size: ColumnElement[int], order_by: Sequence[ColumnElement[Any] | TextClause]
) -> ColumnElement[int]:
    """Return the sum of *size* over each row and those before it, as SQL."""
    return func.sum(size).over(order_by=order_by, rows=(None, 0))

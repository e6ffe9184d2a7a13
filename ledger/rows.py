"""Run the statements of the hot paths with as little as possible around them.

Statements are built in SQLAlchemy and compiled by it, once.  What is left out is
what it does for each execution: a dictionary a row, each value through its type
(which for integers, text and bytes changes nothing), a result object.  That was 17
of 35 microseconds for a row of a batch, and 60 of 70 for a read of one row.

On SQLite the compiled text goes to the driver.  Each step of SQLite's there gives up
the interpreter's lock and has to get it back from the other threads, so many rows go
in one statement, and a page comes out as one row.  On PostgreSQL the way to the
server dwarfs all this, and SQLAlchemy's own batching is as good.
"""

import sqlite3
from collections.abc import Sequence
from typing import Any, Final

from sqlalchemy import Connection, Delete, Insert, Select, Update

# A statement a number of rows; the driver must keep them all prepared.
ROWS_A_STATEMENT: Final = 32


class Rows:
    """Be a statement that is run for many rows.

    Args:
        statement: An insert, update or delete with named parameters.
        names: What the values of a row are, in the order in which they stand in
            the statement.
    """

    def __init__(self, statement: Insert | Update | Delete, names: Sequence[str]) -> None:
        self._statement = statement
        self._names = tuple(names)
        self._texts: dict[int, str] = {}

    def execute(self, tx: Connection, rows: Sequence[Sequence[Any]]) -> None:
        """Run the statement for *rows*; nothing happens if there are none."""
        if not rows:
            return
        if not tx.dialect.positional:
            # PostgreSQL: SQLAlchemy turns inserts into statements of 1,000 rows.
            tx.execute(self._statement, [dict(zip(self._names, row, strict=True)) for row in rows])
            return
        driver = driver_of(tx)
        if not isinstance(self._statement, Insert):
            driver.executemany(self._text(tx, 1), rows)
            return
        for start in range(0, len(rows), ROWS_A_STATEMENT):
            some = rows[start : start + ROWS_A_STATEMENT]
            driver.execute(self._text(tx, len(some)), [value for row in some for value in row])

    def _text(self, tx: Connection, rows: int) -> str:
        """Return the compiled statement for that number of rows."""
        text = self._texts.get(rows)
        if text is None:
            compiled: Any = self._statement.compile(dialect=tx.dialect, column_keys=self._names)
            if tuple(compiled.positiontup) != self._names:
                raise AssertionError(f"{compiled} takes {compiled.positiontup}: {self._names}")
            one = f"({', '.join('?' * len(self._names))})"
            text = str(compiled)
            if rows > 1:
                text = text.replace(f"VALUES {one}", f"VALUES {', '.join([one] * rows)}")
            self._texts[rows] = text
        return text


class Query:
    """Be a select that is run often, with named parameters."""

    def __init__(self, statement: Select[Any]) -> None:
        self._statement = statement
        self._text = ""
        self._names: tuple[str, ...] = ()
        self._defaults: dict[str, Any] = {}

    def all(self, connection: Connection, **values: Any) -> Sequence[Any]:  # noqa: ANN401 - SQL's
        """Return all rows, as tuples."""
        if not connection.dialect.positional:
            return connection.execute(self._statement, values).all()
        if not self._text:
            compiled: Any = self._statement.compile(dialect=connection.dialect)
            # Writes out what SQLAlchemy puts into the text itself, such as a separator.
            expanded = compiled.construct_expanded_state(values)
            self._names, self._defaults = tuple(expanded.positiontup), compiled.params
            self._text = expanded.statement
        given = self._defaults | values
        rows: list[Any] = (
            driver_of(connection)
            .execute(self._text, [given[name] for name in self._names])
            .fetchall()
        )
        return rows

    def first(self, connection: Connection, **values: Any) -> Any:  # noqa: ANN401 - as all
        """Return the first row, None if there is none."""
        rows = self.all(connection, **values)
        return rows[0] if rows else None


def driver_of(connection: Connection) -> sqlite3.Connection:
    """Return SQLite's own connection behind SQLAlchemy's."""
    driver: sqlite3.Connection = connection.connection.driver_connection  # type: ignore[assignment]
    return driver

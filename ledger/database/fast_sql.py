"""Execution of the statements of the hot paths with as little overhead as possible.

Statements are built with SQLAlchemy, which compiles them once.  What is skipped is its
work for each execution: a dictionary per row, the conversion of each value by its type
(which changes nothing for integers, text and bytes), and a result object.  That took 17 of
35 microseconds for a row of a batch, and 60 of 70 for a read of one row.

The compiled text goes to the driver.  On SQLite each step releases the GIL and has to get
it back from the other threads, so one statement inserts many rows, and a page is read as
one row.  On PostgreSQL all rows are sent as one JSON text, which the server expands into
rows: one statement whose text never changes, so that it is planned once, and one
parameter, where psycopg takes a microsecond for each.
"""

import json
import re
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import msgspec
from sqlalchemy import (
    ARRAY,
    BigInteger,
    BindParameter,
    ColumnElement,
    Connection,
    Delete,
    Insert,
    LargeBinary,
    Select,
    Update,
    any_,
    bindparam,
    func,
    literal_column,
    select,
)
from sqlalchemy.dialects import postgresql

# A parameter as SQLAlchemy writes it for psycopg: %(name)s::BIGINT.
_PLACEHOLDER: Final = re.compile(r"%\((\w+)\)s(?:::[A-Z]+)?")
_VALUES: Final = re.compile(rf"\((?:{_PLACEHOLDER.pattern}(?:, )?)+\)")
# Rows per JSON text; the server holds the text and its rows in memory at once.
ROWS_A_JSON: Final = 1_000
# Rows per statement.  Each number of rows needs its own statement, and the driver must keep all
# of them prepared.
ROWS_A_STATEMENT: Final = 32


class Rows:
    """A statement that is executed for many rows.

    Args:
        statement: An insert, update or delete with named parameters.
        names: The parameters of a row, in the order in which they occur in the statement.
    """

    def __init__(self, statement: Insert | Update | Delete, names: Sequence[str]) -> None:
        self._statement = statement
        self._names = tuple(names)
        self._texts: dict[int, str] = {}

    def execute(self, tx: Connection, rows: Sequence[Sequence[Any]]) -> None:
        """Execute the statement for *rows*; do nothing if there are none."""
        if not rows:
            return
        if not tx.dialect.positional:
            text, driver = self._of_json(tx), driver_of(tx)
            for start in range(0, len(rows), ROWS_A_JSON):
                some = rows[start : start + ROWS_A_JSON]
                named = [dict(zip(self._names, row, strict=True)) for row in some]
                driver.execute(text, (msgspec.json.encode(named).decode(),))
            return
        driver = driver_of(tx)
        if not isinstance(self._statement, Insert):
            driver.executemany(self._text(tx, 1), rows)
            return
        for start in range(0, len(rows), ROWS_A_STATEMENT):
            some = rows[start : start + ROWS_A_STATEMENT]
            driver.execute(self._text(tx, len(some)), [value for row in some for value in row])

    def _of_json(self, tx: Connection) -> str:
        """Return the statement compiled for PostgreSQL, for any number of rows."""
        text = self._texts.get(0)
        if text is None:
            compiled: Any = self._statement.compile(dialect=tx.dialect, column_keys=self._names)
            text = self._texts[0] = self._over_given(str(compiled))
        return text

    def _over_given(self, text: str) -> str:
        given = self._given()
        if isinstance(self._statement, Insert):
            head, _, tail = text.partition(" VALUES ")
            # After the values of the single row: the ON CONFLICT clause.
            rest = _VALUES.sub("", tail, count=1)
            return f"{head} {given}{rest}"
        change, where, condition = _PLACEHOLDER.sub(r"given.\1", text).partition(" WHERE ")
        joins = "FROM" if isinstance(self._statement, Update) else "USING"
        return f"{change} {joins} ({given}) AS given{where}{condition}"

    def _given(self) -> str:
        """Return the SELECT that expands the JSON text into rows."""
        columns = self._statement.table.c
        fields, values = [], []
        for name in self._names:
            type_ = columns[name.rstrip("_")].type
            is_bytes = isinstance(type_, LargeBinary)
            # msgspec writes bytes in Base64.
            values.append(f"decode({name}, 'base64') AS {name}" if is_bytes else name)
            shown = "TEXT" if is_bytes else type_.compile(postgresql.dialect())  # type: ignore[no-untyped-call]
            fields.append(f"{name} {shown}")
        source = f"json_to_recordset(%s::json) AS raw({', '.join(fields)})"
        return f"SELECT {', '.join(values)} FROM {source}"  # noqa: S608 - only columns and types

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
    """A SELECT that is executed often, with named parameters."""

    def __init__(self, statement: Select[Any]) -> None:
        self._statement = statement
        # One per dialect: a process may have databases of both.
        self._compiled: dict[str, _Compiled] = {}

    def all(self, connection: Connection, **values: Any) -> Sequence[Any]:  # noqa: ANN401 - SQL's
        """Return all rows, as tuples."""
        compiled = self._compiled.get(connection.dialect.name)
        if compiled is None:
            compiled = _compile(self._statement, connection, values)
            self._compiled[connection.dialect.name] = compiled
        text, names, defaults = compiled
        given = defaults | values
        parameters = given if names is None else [given[name] for name in names]
        rows: list[Any] = driver_of(connection).execute(text, parameters).fetchall()
        return rows

    def first(self, connection: Connection, **values: Any) -> Any:  # noqa: ANN401 - as all
        """Return the first row; None if there is none."""
        rows = self.all(connection, **values)
        return rows[0] if rows else None


class _Compiled(NamedTuple):
    """A statement for a driver; *names* is None if the driver takes parameters by name."""

    text: str
    names: tuple[str, ...] | None
    defaults: dict[str, Any]


def _compile(statement: Select[Any], connection: Connection, values: dict[str, Any]) -> _Compiled:
    compiled: Any = statement.compile(dialect=connection.dialect)
    # Expands what SQLAlchemy itself puts into the text, such as a separator.
    expanded = compiled.construct_expanded_state(values)
    names = tuple(expanded.positiontup) if connection.dialect.positional else None
    return _Compiled(expanded.statement, names, compiled.params)


class Listed:
    """A SELECT of the rows whose integer *column* is in a list.

    The list is one parameter, so the statement is the same for every length of it.
    """

    def __init__(self, statement: Select[Any], column: ColumnElement[int]) -> None:
        listed: BindParameter[str] = bindparam("listed")
        each: Select[Any] = select(literal_column("value")).select_from(func.json_each(listed))
        self._sqlite = Query(statement.where(column.in_(each)))
        array: BindParameter[Any] = bindparam("listed", type_=ARRAY(BigInteger))
        self._postgresql = Query(statement.where(column == any_(array)))

    def all(
        self,
        connection: Connection,
        listed: Sequence[int],
        **values: Any,  # noqa: ANN401 - SQL's
    ) -> Sequence[Any]:
        """Return the rows, as tuples."""
        if connection.dialect.positional:
            return self._sqlite.all(connection, listed=json.dumps(listed), **values)
        return self._postgresql.all(connection, listed=list(listed), **values)


def driver_of(connection: Connection) -> Any:  # noqa: ANN401 - either driver's
    """Return the driver's connection that a SQLAlchemy connection wraps."""
    return connection.connection.driver_connection

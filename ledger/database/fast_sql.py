"""Run the statements of the hot paths with as little as possible around them.

Statements are built in SQLAlchemy and compiled by it, once.  What is left out is
what it does for each execution: a dictionary a row, each value through its type
(which for integers, text and bytes changes nothing), a result object.  That was 17
of 35 microseconds for a row of a batch, and 60 of 70 for a read of one row.

The compiled text goes to the driver.  On SQLite each step gives up the interpreter's
lock and has to get it back from the other threads, so many rows go in one statement,
and a page comes out as one row.  On PostgreSQL all rows go as one JSON text, which the
server turns into rows again: one statement whose text never changes, so it is planned
once, and one parameter, where psycopg takes a microsecond for each.
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
# The server holds the text and its rows at once.
ROWS_A_JSON: Final = 1_000
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
        """Return the compiled statement for PostgreSQL, for any number of rows."""
        text = self._texts.get(0)
        if text is None:
            compiled: Any = self._statement.compile(dialect=tx.dialect, column_keys=self._names)
            text = self._texts[0] = self._over_given(str(compiled))
        return text

    def _over_given(self, text: str) -> str:
        given = self._given()
        if isinstance(self._statement, Insert):
            head, _, tail = text.partition(" VALUES ")
            # After the values of the one row: what to do on conflict.
            rest = _VALUES.sub("", tail, count=1)
            return f"{head} {given}{rest}"
        change, where, condition = _PLACEHOLDER.sub(r"given.\1", text).partition(" WHERE ")
        joins = "FROM" if isinstance(self._statement, Update) else "USING"
        return f"{change} {joins} ({given}) AS given{where}{condition}"

    def _given(self) -> str:
        """Return the select that makes rows of the JSON text."""
        columns = self._statement.table.c
        fields, values = [], []
        for name in self._names:
            type_ = columns[name.rstrip("_")].type
            is_bytes = isinstance(type_, LargeBinary)
            # msgspec writes bytes in base 64.
            values.append(f"decode({name}, 'base64') AS {name}" if is_bytes else name)
            shown = "TEXT" if is_bytes else type_.compile(postgresql.dialect())  # type: ignore[no-untyped-call]
            fields.append(f"{name} {shown}")
        source = f"json_to_recordset(%s::json) AS raw({', '.join(fields)})"
        return f"SELECT {', '.join(values)} FROM {source}"  # noqa: S608 - of columns and types alone

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
        # One a dialect: a process may have databases of both.
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
        """Return the first row, None if there is none."""
        rows = self.all(connection, **values)
        return rows[0] if rows else None


class _Compiled(NamedTuple):
    """Be a statement for a driver; *names* are None where it takes them by name."""

    text: str
    names: tuple[str, ...] | None
    defaults: dict[str, Any]


def _compile(statement: Select[Any], connection: Connection, values: dict[str, Any]) -> _Compiled:
    compiled: Any = statement.compile(dialect=connection.dialect)
    # Writes out what SQLAlchemy puts into the text itself, such as a separator.
    expanded = compiled.construct_expanded_state(values)
    names = tuple(expanded.positiontup) if connection.dialect.positional else None
    return _Compiled(expanded.statement, names, compiled.params)


class Listed:
    """Be a select of the rows whose integer *column* is one of a list.

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
    """Return the driver's own connection behind SQLAlchemy's."""
    return connection.connection.driver_connection

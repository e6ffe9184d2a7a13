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
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from typing import Any, Final, NamedTuple, cast

import msgspec
from sqlalchemy import (
    ARRAY,
    BigInteger,
    BindParameter,
    Column,
    ColumnElement,
    Connection,
    Delete,
    Insert,
    LargeBinary,
    Select,
    Text,
    Update,
    any_,
    bindparam,
    func,
    literal_column,
    select,
    text,
)
from sqlalchemy.dialects import postgresql
from sqlalchemy.sql.visitors import replacement_traverse

# Rows per JSON text, and bytes unless one row has more; the server holds the text and its rows in
# memory at once.  It takes a text of up to 1 GB.
ROWS_A_JSON: Final = 1_000
BYTES_A_JSON: Final = 8 * 1024 * 1024
# A text from this size on is sent before what follows is encoded.  libpq moves all that is left
# in its buffer each time that it has sent a little: with a gigabyte there, it took minutes.
BYTES_AT_ONCE: Final = 1024 * 1024
# Rows per statement.  Each number of rows needs its own statement, and the driver must keep all
# of them prepared.
ROWS_A_STATEMENT: Final = 32
# Stands for the number of rows of a statement that takes any.
_ANY_NUMBER: Final = 0


class Rows:
    """A statement that is executed for many rows.

    Args:
        statement: An insert without values, or an update or delete with named parameters that
            has a WHERE clause.
        names: The parameters of a row, in the order in which they occur in the statement.  A
            trailing underscore tells a parameter from the column of that name.
        bytes_a_json: See BYTES_A_JSON.
    """

    def __init__(
        self,
        statement: Insert | Update | Delete,
        names: Sequence[str],
        *,
        bytes_a_json: int = BYTES_A_JSON,
    ) -> None:
        self._statement = statement
        self._bytes_a_json = bytes_a_json
        self._names = tuple(names)
        # One per dialect: a process may have databases of both.
        self._compiled: dict[tuple[str, int], str] = {}

    def execute(self, tx: Connection, rows: Sequence[Sequence[Any]]) -> None:
        """Execute the statement for *rows*; do nothing if there are none."""
        if not rows:
            return
        driver = driver_of(tx)
        if not tx.dialect.positional:
            sql = self._sql(tx, _ANY_NUMBER)
            for start in range(0, len(rows), ROWS_A_JSON):
                some = rows[start : start + ROWS_A_JSON]
                named = [dict(zip(self._names, row, strict=True)) for row in some]
                for given in json_texts(named, most=self._bytes_a_json):
                    # The end of a pipeline within another waits until all has been executed.
                    is_small = len(given) < BYTES_AT_ONCE
                    with nullcontext() if is_small else driver.pipeline():
                        driver.execute(sql, {"rows": given.decode()})
        elif isinstance(self._statement, Insert):
            for start in range(0, len(rows), ROWS_A_STATEMENT):
                some = rows[start : start + ROWS_A_STATEMENT]
                sql = self._sql(tx, len(some))
                driver.execute(sql, [value for row in some for value in row])
        else:
            driver.executemany(self._sql(tx, 1), rows)

    def _sql(self, tx: Connection, rows: int) -> str:
        """Return the statement compiled for a number of rows."""
        key = tx.dialect.name, rows
        sql = self._compiled.get(key)
        if sql is None:
            sql = self._compiled[key] = self._compile(tx, rows)
        return sql

    def _compile(self, tx: Connection, rows: int) -> str:
        if not tx.dialect.positional:
            return str(self._over_json().compile(dialect=tx.dialect))
        if isinstance(self._statement, Insert):
            return str(self._of_values(self._statement, rows).compile(dialect=tx.dialect))
        compiled: Any = self._statement.compile(dialect=tx.dialect)
        if tuple(compiled.positiontup) != self._names:
            raise AssertionError(f"{compiled} takes {compiled.positiontup}, not {self._names}")
        return str(compiled)

    def _of_values(self, statement: Insert, rows: int) -> Insert:
        """Return the insert with that number of rows of parameters.

        The parameters are text.  With one of SQLAlchemy's own for each value, compiling the
        inserts of events and jobs for all numbers of rows took 0.42 s instead of 0.05 s.
        """
        row = f"({', '.join('?' * len(self._names))})"
        values = text("VALUES " + ", ".join([row] * rows))
        columns = (statement.table.c[name] for name in self._names)
        return statement.from_select(list(self._names), values.columns(*columns))

    def _over_json(self) -> Insert | Update | Delete:
        """Return the statement over all rows of the JSON text that is its one parameter."""
        given = self._given()
        if isinstance(self._statement, Insert):
            return self._statement.from_select(list(self._names), given)
        rows = given.subquery("given")

        def of_row(element: Any, **_: object) -> Any:  # noqa: ANN401 - any part of a statement
            return rows.c[element.key] if isinstance(element, BindParameter) else None

        return cast("Update | Delete", replacement_traverse(self._statement, {}, of_row))

    def _given(self) -> Select[Any]:
        """Return the SELECT that expands the JSON text into rows."""
        types = {name: self._statement.table.c[name.rstrip("_")].type for name in self._names}
        # msgspec writes bytes in Base64.
        as_bytes = {name for name, type_ in types.items() if isinstance(type_, LargeBinary)}
        raw = (
            func.json_to_recordset(bindparam("rows", type_=postgresql.JSON))
            .table_valued(
                *(Column(name, Text if name in as_bytes else types[name]) for name in self._names)
            )
            .render_derived(name="raw", with_types=True)
        )
        return select(
            *(
                func.decode(raw.c[name], literal_column("'base64'")).label(name)
                if name in as_bytes
                else raw.c[name]
                for name in self._names
            )
        )


def json_texts(rows: Sequence[dict[str, Any]], *, most: int) -> Iterator[bytes]:
    """Yield JSON texts of *rows*, in order.

    Args:
        rows: The rows, by the names of their columns.
        most: Bytes of a text; only one with a single row may have more.
    """
    whole = msgspec.json.encode(rows)
    if len(whole) <= most:
        yield whole
        return
    # Row by row takes half as long again, so only now.
    del whole
    texts: list[bytes] = []
    size = 0
    for row in rows:
        text_ = msgspec.json.encode(row)
        # With a bracket or comma before it, and the last bracket.
        if texts and size + len(text_) + 2 > most:
            yield b"[%b]" % b",".join(texts)
            texts, size = [], 0
        texts.append(text_)
        size += len(text_) + 1
    yield b"[%b]" % b",".join(texts)


class Query:
    """A SELECT that is executed often, with named parameters."""

    def __init__(self, statement: Select[Any]) -> None:
        self._statement = statement
        # As above, one per dialect.
        self._compiled: dict[str, _Compiled] = {}

    def all(self, connection: Connection, **values: Any) -> Sequence[Any]:  # noqa: ANN401 - SQL's
        """Return all rows, as tuples."""
        return self.rows(connection, values)

    def rows(self, connection: Connection, values: dict[str, Any]) -> Sequence[Any]:
        """Return all rows; as ``all``, with the parameters in a dictionary that stays as it is."""
        compiled = self._compiled.get(connection.dialect.name)
        if compiled is None:
            compiled = _compile(self._statement, connection, values)
            self._compiled[connection.dialect.name] = compiled
        sql, names, defaults = compiled
        given = defaults | values
        parameters = given if names is None else [given[name] for name in names]
        rows: list[Any] = driver_of(connection).execute(sql, parameters).fetchall()
        return rows

    def first(self, connection: Connection, **values: Any) -> Any:  # noqa: ANN401 - as all
        """Return the first row; None if there is none."""
        rows = self.rows(connection, values)
        return rows[0] if rows else None


class _Compiled(NamedTuple):
    """A statement for a driver; *names* is None if the driver takes parameters by name."""

    sql: str
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
    # ``driver_connection`` is the same for drivers that are not asynchronous, in three calls.
    return connection.connection.dbapi_connection

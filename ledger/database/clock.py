"""The database's clock, the only one by which delays, ttls and leases are judged.

The clocks of a ledger's machines differ, and can be set while they run.  PostgreSQL returns
its server's time with the statement that needs it, so all machines use one clock.  All
processes that use a SQLite file run on one machine; SQLite reads that machine's clock.
"""

from typing import Any, Final

from sqlalchemy import BigInteger, Connection, select
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

from ledger.database.fast_sql import Query


class CurrentTime(FunctionElement[int]):
    """The time at which a statement is executed, UTC milliseconds, as SQL.

    On PostgreSQL it is volatile: each row of a result has a time of its own.
    """

    type = BigInteger()
    name = "current_time_ms"
    inherit_cache = True


@compiles(CurrentTime, "postgresql")
def _on_postgresql(element: CurrentTime, compiler: Any, **_: Any) -> str:  # noqa: ANN401 - SQLAlchemy's
    # Not now(), which is the time at which the transaction began.
    return "CAST(extract(epoch FROM clock_timestamp()) * 1000 AS bigint)"


@compiles(CurrentTime, "sqlite")
def _on_sqlite(element: CurrentTime, compiler: Any, **_: Any) -> str:  # noqa: ANN401 - as above
    # SQLite 3.42 has unixepoch('subsec').  A Julian day is precise to a twentieth of a millisecond.
    return "CAST(round((julianday('now') - 2440587.5) * 86400000) AS INTEGER)"


_SELECT: Final = Query(select(CurrentTime()))


def current_time_ms(connection: Connection) -> int:
    """Return the time of the database's clock, UTC milliseconds."""
    time_ms: int = _SELECT.first(connection)[0]
    return time_ms

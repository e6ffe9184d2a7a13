"""Keep the workers' signs of life, and tell whose jobs are lost.

Heartbeats are not history: they live in a table of their own, outside the ledger, and
are overwritten.  What follows from a heartbeat that stays away, a failed attempt, is an
event like any other.
"""

from collections.abc import Collection, Sequence
from typing import Any, Final, NamedTuple

import msgspec
from sqlalchemy import Connection, bindparam, delete, select
from sqlalchemy.dialects import postgresql, sqlite

from ledger.database.contract import Database
from ledger.database.fast_sql import Query, Rows
from ledger.log.schema import workers

# After how long a worker that was lost, and holds nothing, is struck from the list.
FORGOTTEN_MS: Final = 24 * 60 * 60 * 1000


class WorkerSeen(NamedTuple):
    """Be a worker as it last told of itself.

    Attributes:
        name: ``HOST:PID:N``, or what it calls itself.
        types: Which types of jobs it takes, and how many of each at once.
        started_at_ms: When it was first seen, UTC milliseconds.
        seen_at_ms: When it was last seen.
        lease_ms: How long it may be silent.
    """

    name: str
    types: dict[str, int]
    started_at_ms: int
    seen_at_ms: int
    lease_ms: int


def _upsert(dialect: Any) -> Any:  # noqa: ANN401 - two modules of one shape
    insert = dialect.insert(workers)
    return insert.on_conflict_do_update(
        index_elements=[workers.c.name],
        set_={name: insert.excluded[name] for name in ("types", "seen_at_ms", "lease_ms")},
    )


_COLUMNS: Final = WorkerSeen._fields
_UPSERT: Final = {
    dialect.dialect.name: Rows(_upsert(dialect), _COLUMNS) for dialect in (sqlite, postgresql)
}
_SELECT: Final = select(*(workers.c[name] for name in _COLUMNS)).order_by(workers.c.name)
_FIND: Final = Query(_SELECT.where(workers.c.name == bindparam("name_")))
_DELETE: Final = Rows(delete(workers).where(workers.c.name == bindparam("name_")), ("name_",))
_FORGET: Final = Rows(
    delete(workers).where(
        workers.c.name == bindparam("name_"), workers.c.seen_at_ms < bindparam("seen_at_ms_")
    ),
    ("name_", "seen_at_ms_"),
)


def beat(tx: Connection, name: str, types: dict[str, int], *, now_ms: int, lease_ms: int) -> None:
    """Record a worker's sign of life."""
    shown = msgspec.json.encode(types).decode()
    _UPSERT[tx.dialect.name].execute(tx, [(name, shown, now_ms, now_ms, lease_ms)])


def leave(tx: Connection, name: str) -> None:
    """Strike a worker that has ended."""
    _DELETE.execute(tx, [(name,)])


def forget(database: Database, holders: Collection[str], *, now_ms: int) -> int:
    """Strike workers that are silent for a day; return how many.

    They died: those that end say so.  Should one come back, it is on the list again.

    Args:
        database: Where to look, and to write if there are some.
        holders: Whom to keep, as they hold jobs.
        now_ms: The time, UTC milliseconds.
    """
    with database.read() as connection:
        silent = [w.name for w in seen(connection) if now_ms - w.seen_at_ms > FORGOTTEN_MS]
    gone = [(name, now_ms - FORGOTTEN_MS) for name in silent if name not in holders]
    if gone:
        with database.write() as tx:
            _FORGET.execute(tx, gone)
    return len(gone)


def find(connection: Connection, name: str) -> WorkerSeen | None:
    """Return the worker of that name, None if it was never seen, or has left."""
    row = _FIND.first(connection, name_=name)
    return None if row is None else _seen(row)


def seen(connection: Connection) -> list[WorkerSeen]:
    """Return all workers, by name."""
    return [_seen(row) for row in connection.execute(_SELECT)]


def _seen(row: Sequence[Any]) -> WorkerSeen:
    name, types, *times = row
    return WorkerSeen(name, msgspec.json.decode(types), *times)

"""The heartbeats of workers, which show which workers are lost.

Heartbeats are not history: they are kept in a separate table, outside the ledger, and are
overwritten.  The consequence of a missing heartbeat, a failed attempt, is an event like any
other.
"""

from collections.abc import Collection, Sequence
from typing import Any, Final, NamedTuple

import msgspec
from sqlalchemy import Connection, bindparam, delete, select
from sqlalchemy.dialects import postgresql, sqlite

from ledger.database.contract import Database
from ledger.database.fast_sql import Query, Rows
from ledger.log.schema import workers

# Silence after which a worker that holds no job is removed from the list.
FORGOTTEN_MS: Final = 24 * 60 * 60 * 1000


class WorkerSeen(NamedTuple):
    """A worker, as of its last heartbeat.

    Attributes:
        name: ``HOST:PID:N``, or the name that it was given.
        types: The types of jobs that it claims, with the number of each that it runs at once.
        started_at_ms: Time of its first heartbeat, UTC milliseconds.
        seen_at_ms: Time of its last heartbeat, UTC milliseconds.
        lease_ms: How long it may be silent, in milliseconds.
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
    """Record a worker's heartbeat."""
    shown = msgspec.json.encode(types).decode()
    _UPSERT[tx.dialect.name].execute(tx, [(name, shown, now_ms, now_ms, lease_ms)])


def leave(tx: Connection, name: str) -> None:
    """Remove a worker that has ended."""
    _DELETE.execute(tx, [(name,)])


def forget(database: Database, holders: Collection[str], *, now_ms: int) -> int:
    """Remove workers that have been silent for more than ``FORGOTTEN_MS``; return how many.

    These workers have died, because a worker that ends removes itself.  A worker that comes
    back is added to the list again.

    Args:
        database: The database, which is written only if there are such workers.
        holders: Names of workers that hold jobs; these are kept.
        now_ms: The current time, UTC milliseconds.
    """
    with database.read() as connection:
        silent = [w.name for w in seen(connection) if now_ms - w.seen_at_ms > FORGOTTEN_MS]
    gone = [(name, now_ms - FORGOTTEN_MS) for name in silent if name not in holders]
    if gone:
        with database.write() as tx:
            _FORGET.execute(tx, gone)
    return len(gone)


def find(connection: Connection, name: str) -> WorkerSeen | None:
    """Return the worker named *name*, or None if it was never seen or has ended."""
    row = _FIND.first(connection, name_=name)
    return None if row is None else _seen(row)


def seen(connection: Connection) -> list[WorkerSeen]:
    """Return all workers, sorted by name."""
    return [_seen(row) for row in connection.execute(_SELECT)]


def _seen(row: Sequence[Any]) -> WorkerSeen:
    name, types, *times = row
    return WorkerSeen(name, msgspec.json.decode(types), *times)

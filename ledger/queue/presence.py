"""Which workers there are, when each was last heard from, and which are silent or lost.

A worker sends heartbeats.  They are not history: they are kept in a separate table, outside
the ledger, and are overwritten.  The consequence of missing heartbeats, a failed attempt, is
an event like any other.

Each worker has a *lease*, the time for which it may be silent.  The rules, each of which is
stated once, here:

* A worker's name is its own until it leaves or is silent: ``enter``, ``renew``.
* A worker sends a few heartbeats per lease, so that one may be late: ``beat_interval_ms``.
* A heartbeat that follows another sooner than half of that is not recorded: ``beat_if_due``.
* A worker that has not been heard from for longer than its lease is silent: ``is_silent``.
* A silent worker that holds attempts is lost, and they are failed: ``LostWorkers``.
* A worker that holds none is forgotten after a day of silence: ``forget``.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

import msgspec
from sqlalchemy import Connection, bindparam, delete, func, insert, select, update
from sqlalchemy.dialects import postgresql, sqlite

from ledger.database.answer_bytes import ANSWER_BYTES, ByteLength, FittingRows
from ledger.database.clock import CurrentTime
from ledger.database.fast_sql import Query, Rows
from ledger.log.schema import workers
from ledger.rules.commands import LARGEST_INTEGER

if TYPE_CHECKING:
    from ledger.log.ledger import Ledger

# Heartbeats that a worker sends per lease.
BEATS_A_LEASE: Final = 3
# Silence after which a worker that holds no job is removed from the list.
FORGOTTEN_MS: Final = 24 * 60 * 60 * 1000

WorkerState = Literal["working", "silent"]


class WorkerSeen(NamedTuple):
    """A worker, as of its last heartbeat.

    Attributes:
        name: ``HOST:PID:RANDOM``, or the name that it was given.
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

    def silent_ms(self, now_ms: int) -> int:
        """Return how long it has been silent; 0 if its heartbeat is in the future.

        That is so after the clock was set back.
        """
        return max(0, now_ms - self.seen_at_ms)

    def state(self, now_ms: int) -> WorkerState:
        """Return whether it works or has been silent for longer than its lease."""
        silent = is_silent(self.silent_ms(now_ms), lease_ms=self.lease_ms)
        return "silent" if silent else "working"


class ListedWorker(NamedTuple):
    """A worker in the list of workers.

    Attributes:
        seen: The worker, as of its last heartbeat.
        state: ``silent`` if it has been silent for longer than its lease, else ``working``.
        held: The number of attempts that it holds.
    """

    seen: WorkerSeen
    state: WorkerState
    held: int


def beat_interval_ms(lease_ms: int) -> float:
    """Return the time between two heartbeats of a worker with this lease."""
    return lease_ms / BEATS_A_LEASE


def is_silent(silent_ms: int, *, lease_ms: int) -> bool:
    """Return whether a worker has been silent for longer than its lease."""
    return silent_ms > lease_ms


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
_SELECT_NAMED: Final = _SELECT.where(workers.c.name.in_(bindparam("names", expanding=True)))
# SQLite allows 32,766 parameters in a statement.
_NAMES_AT_ONCE: Final = 1_000
_SELECT_AFTER: Final = _SELECT.where(workers.c.name > bindparam("after")).limit(bindparam("limit"))
_FITTING: Final = FittingRows(
    _SELECT_AFTER.with_only_columns(
        workers.c.name, (ByteLength(workers.c.name) + ByteLength(workers.c.types)).label("bytes")
    ),
    "name",
)
_COUNT_AFTER: Final = select(func.count()).select_from(
    select(workers.c.name)
    .where(workers.c.name > bindparam("after"))
    .limit(bindparam("limit"))
    .subquery()
)
_FIND: Final = Query(
    _SELECT.where(workers.c.name == bindparam("name_")).add_columns(CurrentTime().label("time_ms"))
)
_EXCUSED_UNTIL_MS: Final = workers.c.seen_at_ms + 2 * workers.c.lease_ms
_LONG_SILENT: Final = Query(
    select(workers.c.name, _EXCUSED_UNTIL_MS).where(bindparam("now_ms") >= _EXCUSED_UNTIL_MS)
)
_OWN: Final = (workers.c.name == bindparam("name_")) & (
    workers.c.started_at_ms == bindparam("started_at_ms_")
)
_RENEW: Final = (
    update(workers)
    .where(_OWN)
    .values({name: bindparam(name) for name in ("types", "seen_at_ms", "lease_ms")})
)
_REPLACE: Final = (
    update(workers)
    .where(_OWN, workers.c.seen_at_ms == bindparam("seen_at_ms_"))
    .values({name: bindparam(name) for name in _COLUMNS[1:]})
)
_DELETE_OWN: Final = Rows(delete(workers).where(_OWN), ("name_", "started_at_ms_"))
_DELETE: Final = Rows(delete(workers).where(workers.c.name == bindparam("name_")), ("name_",))
_SELECT_DEAD: Final = select(workers.c.name).where(workers.c.seen_at_ms < bindparam("before_ms"))
_FORGET: Final = Rows(
    delete(workers).where(
        workers.c.name == bindparam("name_"), workers.c.seen_at_ms < bindparam("seen_at_ms_")
    ),
    ("name_", "seen_at_ms_"),
)


# --- heartbeats


def beat(tx: Connection, name: str, types: dict[str, int], *, now_ms: int, lease_ms: int) -> None:
    """Record a worker's heartbeat."""
    types_json = msgspec.json.encode(types).decode()
    _UPSERT[tx.dialect.name].execute(tx, [(name, types_json, now_ms, now_ms, lease_ms)])


def beat_if_due(
    ledger: "Ledger", name: str, types: dict[str, int] | None, *, lease_ms: int
) -> None:
    """Record that a worker is alive, unless this was recorded a moment ago.

    Each request of a worker over HTTP shows that it is alive.  The claims of many threads share
    a commit, but each heartbeat has a commit of its own.

    Args:
        ledger: Its database is written only if the heartbeat is due.
        name: The worker's name.
        types: The types of jobs that it claims; None if it does not state them.
        lease_ms: How long it may be silent.
    """
    with ledger.database.read() as connection:
        row = _FIND.first(connection, name_=name)
    if row is not None:
        known = _seen(row[:-1])
        now_ms = row[-1] if ledger.clock is None else ledger.clock()
        types = known.types if types is None else types
        # Compare the types only: the number of each that it asks for changes with every claim.
        same = known.lease_ms == lease_ms and known.types.keys() == types.keys()
        if same and 0 <= now_ms - known.seen_at_ms < beat_interval_ms(lease_ms) / 2:
            return
    with ledger.database.write() as tx:
        beat(tx, name, types or {}, now_ms=ledger.time_ms(tx), lease_ms=lease_ms)


def enter(tx: Connection, new: WorkerSeen, *, in_place_of: WorkerSeen | None) -> bool:
    """Record the first heartbeat of a worker; return whether it has the name now.

    Args:
        tx: A transaction.
        new: The worker.
        in_place_of: The worker whose name it takes over, as it was last seen; None if there is
            none.

    Raises:
        IntegrityError: Another worker has entered the name since we looked.
    """
    if in_place_of is None:
        tx.execute(insert(workers), _row(new))
        return True
    before = {f"{name}_": value for name, value in _row(in_place_of).items()}
    replaced: int = tx.execute(_REPLACE, _row(new) | before).rowcount
    return replaced == 1


def renew(tx: Connection, seen: WorkerSeen) -> bool:
    """Record a heartbeat of a worker that has entered its name; return whether it still has it."""
    row = _row(seen)
    own = {"name_": row.pop("name"), "started_at_ms_": row.pop("started_at_ms")}
    renewed: int = tx.execute(_RENEW, row | own).rowcount
    return renewed == 1


def _row(seen: WorkerSeen) -> dict[str, Any]:
    return seen._asdict() | {"types": msgspec.json.encode(seen.types).decode()}


def leave(tx: Connection, name: str, *, started_at_ms: int | None = None) -> None:
    """Remove a worker that has ended.

    Args:
        tx: A transaction.
        name: The worker's name.
        started_at_ms: Remove it only if this is the time of its first heartbeat.
    """
    if started_at_ms is None:
        _DELETE.execute(tx, [(name,)])
    else:
        _DELETE_OWN.execute(tx, [(name, started_at_ms)])


def forget(ledger: "Ledger", holders: Collection[str]) -> int:
    """Remove workers that have been silent for more than ``FORGOTTEN_MS``; return how many.

    These workers have died, because a worker that ends removes itself.  A worker that comes
    back is added to the list again.

    Args:
        ledger: Its database is written only if there are such workers.
        holders: Names of workers that hold jobs; these are kept.
    """
    with ledger.database.read() as connection:
        now_ms = ledger.time_ms(connection)
        dead = connection.scalars(_SELECT_DEAD, {"before_ms": now_ms - FORGOTTEN_MS}).all()
    gone = [(name, now_ms - FORGOTTEN_MS) for name in dead if name not in holders]
    if gone:
        with ledger.database.write() as tx:
            _FORGET.execute(tx, gone)
    return len(gone)


# --- queries


def long_silent(connection: Connection, *, now_ms: int) -> dict[str, int]:
    """Return the workers that no sweeper would still excuse, and since when that is so.

    A sweeper ignores silence that began while the database was unavailable, or before its clock
    was set: then it waits for one more lease.
    """
    rows = _LONG_SILENT.all(connection, now_ms=now_ms)
    return dict(tuple(row) for row in rows)


def find(connection: Connection, name: str) -> WorkerSeen | None:
    """Return the worker named *name*, or None if it was never seen or has ended."""
    row = _FIND.first(connection, name_=name)
    return None if row is None else _seen(row[:-1])


def seen(connection: Connection, *, after: str = "", limit: int | None = None) -> list[WorkerSeen]:
    """Return the workers, sorted by name.

    Args:
        connection: Where to read.
        after: Return only workers that follow this name.
        limit: Maximum number of workers, of which only those are returned that fit into an
            answer; None returns all.
    """
    if limit is None:
        return [_seen(row) for row in connection.execute(_SELECT)]
    given = {"after": after, "limit": limit}
    fitting = _FITTING.number(connection, limit, most_bytes=ANSWER_BYTES, **given)
    return [_seen(row) for row in connection.execute(_SELECT_AFTER, given | {"limit": fitting})]


def any_after(connection: Connection, name: str) -> bool:
    """Return whether there are workers that follow a name."""
    return count_after(connection, name, limit=1) > 0


def count_after(connection: Connection, name: str, *, limit: int = LARGEST_INTEGER) -> int:
    """Return how many workers follow a name, and *limit* if there are more."""
    number: int = connection.scalar(_COUNT_AFTER, {"after": name, "limit": limit}) or 0
    return number


def _among(connection: Connection, names: Collection[str]) -> list[WorkerSeen]:
    """Return those of the workers that have sent heartbeats."""
    ordered = list(names)
    return [
        _seen(row)
        for start in range(0, len(ordered), _NAMES_AT_ONCE)
        for row in connection.execute(
            _SELECT_NAMED, {"names": ordered[start : start + _NAMES_AT_ONCE]}
        )
    ]


def _seen(row: Sequence[Any]) -> WorkerSeen:
    name, types, *times = row
    return WorkerSeen(name, msgspec.json.decode(types), *times)


def listed(
    connection: Connection,
    held: Mapping[str, int],
    *,
    now_ms: int,
    after: str = "",
    limit: int | None = None,
) -> list[ListedWorker]:
    """Return the workers with their states, sorted by name.

    Args:
        connection: Where to read the heartbeats.
        held: The number of attempts that each worker holds; 0 where there is none.
        now_ms: The current time, UTC milliseconds.
        after: As for ``seen``.
        limit: As for ``seen``.
    """
    return [
        ListedWorker(worker, worker.state(now_ms), held.get(worker.name, 0))
        for worker in seen(connection, after=after, limit=limit)
    ]


class LostWorkers:
    """The lost workers, whose attempts must be failed, as a sweeper finds them.

    Args:
        lease_ms: How long a worker may be silent of which no heartbeat, with a lease of its
            own, is recorded.
    """

    def __init__(self, *, lease_ms: int) -> None:
        self._lease_ms = lease_ms
        # Holders whose last heartbeat does not tell how long they are silent: there is none, or
        # it is in the future, because the clock was set back.  And when that was first noticed.
        self._missed: dict[tuple[str, int | None], int] = {}
        # Silence before this time is ignored.
        self._silent_since_ms = 0

    def among(
        self, connection: Connection, holders: Collection[str], *, now_ms: int
    ) -> dict[str, int]:
        """Return the lost workers, and how long each has been silent, in milliseconds.

        Args:
            connection: Where to read the heartbeats.
            holders: The workers that hold attempts.  They were read before, because a worker is
                listed before it holds an attempt.
            now_ms: The current time, UTC milliseconds.
        """
        # There may be very many that hold nothing.
        known = {worker.name: worker for worker in _among(connection, holders)}
        missed = {}
        lost = {}
        for name in holders:
            worker = known.get(name)
            seen_at_ms = None if worker is None else worker.seen_at_ms
            lease_ms = self._lease_ms if worker is None else worker.lease_ms
            if seen_at_ms is None or seen_at_ms > now_ms:
                key = (name, seen_at_ms)
                since_ms = missed[key] = self._missed.get(key, now_ms)
            else:
                since_ms = max(seen_at_ms, self._silent_since_ms)
            silent_ms = now_ms - since_ms
            if is_silent(silent_ms, lease_ms=lease_ms):
                lost[name] = silent_ms
        self._missed = missed
        return lost

    def ignore_silence_before(self, now_ms: int) -> None:
        """Ignore silence before *now_ms*, because live workers could not report either."""
        self._silent_since_ms = now_ms
        self._missed.clear()

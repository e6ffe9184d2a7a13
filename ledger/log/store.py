"""Reading events as they are stored, and the head, which names the last one."""

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from sqlalchemy import Connection, bindparam, func, literal_column, select, update

from ledger.database.answer_bytes import ANSWER_BYTES, ByteLength, FittingRows
from ledger.database.clock import CurrentTime
from ledger.database.fast_sql import Query, Rows
from ledger.errors import SchemaMismatch, Unavailable
from ledger.log.recorded import Recorded
from ledger.log.schema import events, head
from ledger.rules.commands import LARGEST_INTEGER
from ledger.rules.events import READER_VERSION


class Head(NamedTuple):
    """The end of the ledger.

    Attributes:
        position: Number of events.
        chain: The newest event's chain value, 32 bytes.
        last_job_id: Number of jobs ever created.
        at_ms: Time of the newest event, UTC milliseconds.
        reader_version: The lowest ``READER_VERSION`` that knows all of its events.
    """

    position: int
    chain: bytes
    last_job_id: int
    at_ms: int
    reader_version: int = 1


class Locked(NamedTuple):
    """The head as it was locked.

    Attributes:
        head: The end of the ledger.
        inline_rebuilds: Number of rebuilds of inline projections.
        time_ms: The time of the database's clock once the lock was held, UTC milliseconds.
        known_chain: The chain value of the event that was asked for; None if it is missing, or
            none was asked for.
    """

    head: Head
    inline_rebuilds: int
    time_ms: int
    known_chain: bytes | None = None


class Envelope(NamedTuple):
    """An event as it is stored, column by column."""

    position: int
    job_id: int
    version: int
    kind: str
    schema: int
    at_ms: int
    actor: str
    cause: str | None
    body: str
    content: str | None
    salt: bytes | None
    digest: bytes | None
    chain: bytes


_ENVELOPE = tuple(events.c[name] for name in Envelope._fields)
_HEAD = tuple(head.c[name] for name in Head._fields)

# The version of what a statement reads, to be read by that statement: position and chain value.
MOMENT: Final = (
    select(head.c.position).scalar_subquery(),
    select(head.c.chain).scalar_subquery(),
)
# Its table has one row.
_HEAD_ID = 1

_SELECT_HEAD = Query(select(*_HEAD, head.c.inline_rebuilds))
# A subquery, because the time must be taken after the lock, for which this may have waited.
_LOCKED = (
    select(*_HEAD, head.c.inline_rebuilds).with_for_update().subquery("locked"),
    CurrentTime(),
)
_LOCK_HEAD = Query(select(*_LOCKED))
_LOCK_HEAD_AND_READ_CHAIN = Query(
    select(
        *_LOCKED,
        select(events.c.chain).where(events.c.position == bindparam("known")).scalar_subquery(),
    )
)
_SELECT_POSITION = Query(select(head.c.position, head.c.reader_version))
_UPDATE_HEAD = Rows(
    update(head)
    .where(head.c.id == bindparam("id_"))
    .values({name: bindparam(f"{name}_") for name in Head._fields}),
    [*(f"{name}_" for name in Head._fields), "id_"],
)
_COUNT_INLINE_REBUILD = update(head).values(inline_rebuilds=head.c.inline_rebuilds + 1)
_SELECT_STREAM = (
    select(*_ENVELOPE)
    .where(events.c.job_id == bindparam("job_id"), events.c.version > bindparam("after"))
    .order_by(events.c.version)
    .limit(bindparam("limit"))
)
_SELECT_AFTER = (
    select(*_ENVELOPE)
    .where(events.c.position > bindparam("after"))
    .order_by(events.c.position)
    .limit(bindparam("limit"))
)
_SELECT_VERSIONS = (
    select(events.c.job_id, func.max(events.c.version).label("version"))
    .where(events.c.job_id.in_(bindparam("job_ids", expanding=True)))
    .group_by(events.c.job_id)
)
_SELECT_LOG = (
    select(events.c.kind, events.c.version, events.c.content)
    .where(
        events.c.job_id == bindparam("job_id"),
        events.c.version < bindparam("before"),
        # Must be spelled as in the index, or the index is not used.
        events.c.kind.in_((literal_column("'logged'"), literal_column("'failed'"))),
    )
    .order_by(events.c.version.desc())
    .limit(bindparam("newest"))
)
# How many of them fit into an answer.
_BYTES = (ByteLength(events.c.body) + ByteLength(events.c.content)).label("bytes")
_FITTING_STREAM, _FITTING_AFTER, _FITTING_LOG = (
    FittingRows(statement.with_only_columns(events.c.version, events.c.position, _BYTES), order)
    for statement, order in (
        (_SELECT_STREAM, "version"),
        (_SELECT_AFTER, "position"),
        (_SELECT_LOG, "version DESC"),
    )
)
_SELECT_CONTENT = select(events.c.content).where(events.c.position == bindparam("position"))
_SELECT_CHAIN = Query(select(events.c.chain).where(events.c.position == bindparam("position")))
_SELECT_ORIGIN = Query(
    select(events.c.job_id, events.c.version, events.c.at_ms, events.c.actor).where(
        events.c.position == bindparam("position")
    )
)
_SELECT_TIME = Query(select(events.c.at_ms).where(events.c.position == bindparam("position")))


def lock_head(tx: Connection) -> Head:
    """Return the head and exclude all other writers until *tx* ends."""
    return lock_for_append(tx).head


def lock_for_append(tx: Connection, *, known: int = 0) -> Locked:
    """Return what an append needs, and exclude all other writers until *tx* ends.

    Args:
        tx: A transaction.
        known: Position of an event whose chain value is returned, too; 0 for none.
    """
    row = _LOCK_HEAD_AND_READ_CHAIN.first(tx, known=known) if known else _LOCK_HEAD.first(tx)
    head = _head(row and row[: len(_HEAD) + 1])
    return Locked(head, *row[len(_HEAD) :])


def count_inline_rebuild(tx: Connection) -> None:
    """Tell all processes that an inline projection was rebuilt; *tx* holds the head's lock."""
    tx.execute(_COUNT_INLINE_REBUILD)


def read_head(connection: Connection) -> Head:
    """Return the head as last committed."""
    return _head(_SELECT_HEAD.first(connection))


def move_head(tx: Connection, new: Head) -> None:
    """Store the new head; *tx* holds its lock."""
    _UPDATE_HEAD.execute(tx, [(*new, _HEAD_ID)])


def read_position(connection: Connection) -> int:
    """Return the number of events, which serves as the version of everything readable."""
    row = _SELECT_POSITION.first(connection)
    if row is None:
        raise SchemaMismatch("the ledger has no head; run `ledger migrate`")
    position: int
    position, reader_version = row
    _require_readable(reader_version)
    return position


def _head(row: Any) -> Head:  # noqa: ANN401 - SQLAlchemy types rows by their columns
    if row is None:
        raise SchemaMismatch("the ledger has no head; run `ledger migrate`")
    found = Head._make(row[:-1])
    _require_readable(found.reader_version)
    return found


def _require_readable(reader_version: int) -> None:
    """Refuse a ledger with events of kinds or shapes that this version does not know."""
    if reader_version > READER_VERSION:
        raise SchemaMismatch(
            f"the ledger has events that need reader version {reader_version}, and this Ledger "
            f"has reader version {READER_VERSION}: a newer Ledger has written them; upgrade this "
            "one"
        )


def read_versions(connection: Connection, job_ids: Sequence[int]) -> dict[int, int]:
    """Return the newest version of each stream in *job_ids* that exists."""
    if not job_ids:
        return {}
    rows = connection.execute(_SELECT_VERSIONS, {"job_ids": list(job_ids)})
    return {row.job_id: row.version for row in rows}


def read_stream(
    connection: Connection,
    job_id: int,
    *,
    after: int = 0,
    limit: int = 10_000,
    most_bytes: int = ANSWER_BYTES,
) -> list[Envelope]:
    """Return one job's next events with a version above *after*, in order.

    Args:
        connection: Where to read.
        job_id: The job.
        after: The version after which to begin.
        limit: Maximum number of events.
        most_bytes: The bytes of their bodies and contents; a single event may have more.
    """
    given = {"job_id": job_id, "after": after, "limit": limit}
    fitting = _FITTING_STREAM.number(connection, limit, most_bytes=most_bytes, **given)
    rows = connection.execute(_SELECT_STREAM, given | {"limit": fitting})
    return [_envelope(row) for row in rows]


def read_after(
    connection: Connection, *, after: int, limit: int, most_bytes: int = ANSWER_BYTES
) -> list[Envelope]:
    """Return the next events of all jobs with a position above *after*; as ``read_stream``."""
    given = {"after": after, "limit": limit}
    fitting = _FITTING_AFTER.number(connection, limit, most_bytes=most_bytes, **given)
    rows = connection.execute(_SELECT_AFTER, given | {"limit": fitting})
    return [_envelope(row) for row in rows]


def _envelope(row: Any) -> Envelope:  # noqa: ANN401 - as _head
    return Envelope._make(row)


def read_content(connection: Connection, position: int) -> str | None:
    """Return the content of one event; None if it has none or it was erased."""
    content: str | None = connection.scalar(_SELECT_CONTENT, {"position": position})
    return content


def read_chain(connection: Connection, position: int) -> bytes | None:
    """Return the chain value of one event; None if there is no such event."""
    row = _SELECT_CHAIN.first(connection, position=position)
    return None if row is None else bytes(row[0])


def require_recorded(connection: Connection, recorded: Recorded) -> None:
    """Require that the ledger has an event that was read before.

    For a follower that stores how far it has come: if another ledger was put in the place of this
    one after the events were read, the position alone would name other events.

    Raises:
        Unavailable: It has another event at that position, or none.
    """
    row = _SELECT_ORIGIN.first(connection, position=recorded.position)
    if row is None or tuple(row) != (
        recorded.job_id,
        recorded.version,
        recorded.at_ms,
        recorded.actor,
    ):
        raise Unavailable(
            f"event {recorded.position:,} is not the one that was read: another ledger was put in "
            "the place of this one; try again"
        )


def read_time(connection: Connection, position: int) -> int | None:
    """Return the time of one event, UTC milliseconds; None if there is no such event."""
    row = _SELECT_TIME.first(connection, position=position)
    return None if row is None else int(row[0])


def position_at(connection: Connection, at_ms: int) -> int:
    """Return the position of the last event up to a time; 0 if there was none.

    Times in the ledger never decrease, so this is a binary search: about twenty reads of one
    row in a ledger of a million events, and no index to maintain.
    """
    low, high = 0, read_position(connection)
    while low < high:
        middle = (low + high + 1) // 2
        time_ms = read_time(connection, middle)
        if time_ms is not None and time_ms <= at_ms:
            low = middle
        else:
            high = middle - 1
    return low


def read_log(
    connection: Connection,
    job_id: int,
    *,
    newest: int,
    before: int = LARGEST_INTEGER,
    most_bytes: int = ANSWER_BYTES,
) -> list[tuple[str, int, str | None]]:
    """Return kind, version and content of a job's log lines and failures.

    Args:
        connection: Where to read.
        job_id: The job.
        newest: The largest number of lines; of a longer log, the newest are returned.
        before: The version before which the lines lie.
        most_bytes: Their bytes; a single line may have more.

    Returns:
        The lines, oldest first.
    """
    given = {"job_id": job_id, "newest": newest, "before": before}
    fitting = _FITTING_LOG.number(connection, newest, most_bytes=most_bytes, **given)
    rows = connection.execute(_SELECT_LOG, given | {"newest": fitting}).all()
    return [(kind, version, content) for kind, version, content in reversed(rows)]


def has_log(connection: Connection, job_id: int, *, before: int) -> bool:
    """Return whether a job has log lines or failures with a version below *before*."""
    given = {"job_id": job_id, "newest": 1, "before": before}
    return connection.execute(_SELECT_LOG, given).first() is not None

"""Reads and appends of events, and of the head that names the last one."""

from collections.abc import Collection, Iterator, Sequence
from typing import Any, NamedTuple

from msgspec.structs import replace
from sqlalchemy import (
    ColumnElement,
    Connection,
    and_,
    bindparam,
    func,
    insert,
    literal_column,
    null,
    or_,
    select,
    update,
)

from ledger.database.fast_sql import Listed, Query, Rows
from ledger.errors import Corrupt, SchemaMismatch
from ledger.log import codec, hash_chain
from ledger.log.recorded import Recorded, Stored
from ledger.log.schema import events, head
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

# Its table has one row.
_HEAD_ID = 1

_SELECT_HEAD = Query(select(*_HEAD))
_LOCK_HEAD = Query(select(*_HEAD).with_for_update())
_SELECT_POSITION = Query(select(head.c.position, head.c.reader_version))
_INSERT_EVENTS = Rows(insert(events), Envelope._fields)
_UPDATE_HEAD = Rows(
    update(head)
    .where(head.c.id == bindparam("id_"))
    .values({name: bindparam(f"{name}_") for name in Head._fields}),
    [*(f"{name}_" for name in Head._fields), "id_"],
)
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
        # Must be spelled as in the index, or the index is not used.
        events.c.kind.in_((literal_column("'logged'"), literal_column("'failed'"))),
    )
    .order_by(events.c.version.desc())
    .limit(bindparam("newest"))
)
_SELECT_CONTENT = select(events.c.content).where(events.c.position == bindparam("position"))
_SELECT_CHAIN = Query(select(events.c.chain).where(events.c.position == bindparam("position")))
_SELECT_TIME = select(events.c.at_ms).where(events.c.position == bindparam("position"))
_REPLAYED = (
    events.c.position,
    events.c.job_id,
    events.c.version,
    events.c.kind,
    events.c.schema,
    events.c.at_ms,
    events.c.body,
    events.c.actor,
    events.c.cause,
)


def _replay_of(*columns: ColumnElement[Any]) -> Query:
    return Query(
        select(*columns)
        .where(events.c.position > bindparam("after"), events.c.position <= bindparam("through"))
        .order_by(events.c.position)
        .limit(bindparam("limit"))
    )


# By whether the content, and whether the rest of the envelope is read as well.
_SELECT_REPLAY = {
    (content, envelope): _replay_of(
        *_REPLAYED,
        *((events.c.content,) if content else ()),
        *((events.c.digest,) if envelope else ()),
    )
    for content in (False, True)
    for envelope in (False, True)
}
_SELECT_HISTORIES = Listed(
    select(*_REPLAYED)
    .where(
        events.c.position <= bindparam("through"),
        or_(events.c.job_id > bindparam("job_id"), events.c.version > bindparam("version")),
    )
    .order_by(events.c.job_id, events.c.version)
    .limit(bindparam("limit")),
    events.c.job_id,
)
# The number of jobs whose histories are read at once, and of events read at once.
_HISTORIES_AT_ONCE = 500
_PAGE = 10_000
_ERASE_ALL = (
    update(events)
    .where(and_(events.c.job_id == bindparam("job_id_"), events.c.version < bindparam("before_")))
    .values(content=null(), salt=null())
)
_ERASE_ONE = (
    update(events)
    .where(and_(events.c.job_id == bindparam("job_id_"), events.c.version == bindparam("version_")))
    .values(content=null(), salt=null())
)


def lock_head(tx: Connection) -> Head:
    """Return the head and exclude all other writers until *tx* ends."""
    return _head(_LOCK_HEAD.first(tx))


def read_head(connection: Connection) -> Head:
    """Return the head as last committed."""
    return _head(_SELECT_HEAD.first(connection))


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
    found = Head._make(row)
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


def append(tx: Connection, recorded: Sequence[Recorded], *, after: Head, last_job_id: int) -> Head:
    """Append *recorded* behind *after* and return the new head.

    Args:
        tx: A transaction that holds the head's lock.
        recorded: Events in order, the first at ``after.position + 1``.
        after: The head as it was locked.
        last_job_id: Number of jobs ever created, including these.
    """
    link = after.chain
    reader_version = after.reader_version
    rows = []
    for position, job_id, version, at_ms, actor, cause, event, _ in recorded:
        content = event.content
        salt = None if content is None else hash_chain.salt()
        digest = None if content is None or salt is None else hash_chain.digest(salt, content)
        body = codec.encode(event)
        leaf = hash_chain.leaf(
            position=position,
            job_id=job_id,
            version=version,
            kind=event.kind,
            schema=event.schema,
            at_ms=at_ms,
            actor=actor,
            cause=cause,
            body=body,
            digest=digest,
        )
        link = hash_chain.link(link, leaf)
        reader_version = max(reader_version, event.reader_version)
        rows.append(
            Envelope(
                position,
                job_id,
                version,
                event.kind,
                event.schema,
                at_ms,
                actor,
                cause,
                body,
                content,
                salt,
                digest,
                link,
            )
        )
    _INSERT_EVENTS.execute(tx, rows)
    new = Head(recorded[-1].position, link, last_job_id, recorded[-1].at_ms, reader_version)
    _UPDATE_HEAD.execute(tx, [(*new, _HEAD_ID)])
    return new


def erase(tx: Connection, job_id: int, *, versions: Sequence[int] | None, before: int) -> None:
    """Set content and salt of a job's events to NULL: of *versions*, or all *before*."""
    if versions is None:
        tx.execute(_ERASE_ALL, {"job_id_": job_id, "before_": before})
    else:
        tx.execute(_ERASE_ONE, [{"job_id_": job_id, "version_": v} for v in versions])


def read_versions(connection: Connection, job_ids: Sequence[int]) -> dict[int, int]:
    """Return the newest version of each stream in *job_ids* that exists."""
    if not job_ids:
        return {}
    rows = connection.execute(_SELECT_VERSIONS, {"job_ids": list(job_ids)})
    return {row.job_id: row.version for row in rows}


def read_stream(
    connection: Connection, job_id: int, *, after: int = 0, limit: int = 10_000
) -> list[Envelope]:
    """Return one job's events with a version above *after*, in order."""
    rows = connection.execute(_SELECT_STREAM, {"job_id": job_id, "after": after, "limit": limit})
    return [_envelope(row) for row in rows]


def read_after(connection: Connection, *, after: int, limit: int) -> list[Envelope]:
    """Return events of all jobs with a position above *after*, in order."""
    rows = connection.execute(_SELECT_AFTER, {"after": after, "limit": limit})
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


def position_at(connection: Connection, at_ms: int) -> int:
    """Return the position of the last event up to a time; 0 if there was none.

    Times in the ledger never decrease, so this is a binary search: about twenty reads of one
    row in a ledger of a million events, and no index to maintain.
    """
    low, high = 0, read_position(connection)
    while low < high:
        middle = (low + high + 1) // 2
        if connection.execute(_SELECT_TIME, {"position": middle}).scalar_one() <= at_ms:
            low = middle
        else:
            high = middle - 1
    return low


def read_log(
    connection: Connection, job_id: int, *, newest: int
) -> list[tuple[str, int, str | None]]:
    """Return kind, version and content of a job's log lines and failures.

    Args:
        connection: Where to read.
        job_id: The job.
        newest: The largest number of lines; of a longer log, the newest are returned.

    Returns:
        The lines, oldest first.
    """
    rows = connection.execute(_SELECT_LOG, {"job_id": job_id, "newest": newest}).all()
    return [(kind, version, content) for kind, version, content in reversed(rows)]


def replay(
    connection: Connection,
    *,
    after: int = 0,
    through: int,
    batch: int = 10_000,
    content: bool = False,
    envelope: bool = False,
) -> Iterator[list[Recorded]]:
    """Read history in order, decoded, in lists of *batch* events.

    Memory is bounded by *batch*, regardless of the length of history.

    Args:
        connection: In a snapshot, or with *through* at most at the head: events that were
            committed do not change.
        after: Position after which to begin.
        through: Position at which to end.
        batch: Number of events to read at once.
        content: Whether to fill ``event.content``, which few callers need.
        envelope: Whether to fill ``stored``, which few callers need.

    Raises:
        Corrupt: A body cannot be read, or a position is missing.
    """
    select_ = _SELECT_REPLAY[content, envelope]
    while after < through:
        rows = select_.all(connection, after=after, through=through, limit=batch)
        for missing, row in enumerate(rows, start=after + 1):
            if row[0] != missing:
                raise Corrupt(f"event {missing} is missing", position=missing)
        if not rows:
            raise Corrupt(f"event {after + 1} is missing", position=after + 1)
        after += len(rows)
        if content or envelope:
            yield [_recorded(row, content=content, envelope=envelope) for row in rows]
        else:
            yield _all_recorded(rows)


def read_histories(
    connection: Connection, job_ids: Collection[int], *, through: int
) -> Iterator[Recorded]:
    """Read the histories of some jobs, decoded without content, one job after the other.

    Args:
        connection: Where to read.
        job_ids: The jobs.
        through: Position of the last event to read.

    Raises:
        Corrupt: A body cannot be read.
    """
    ordered = sorted(job_ids)
    for start in range(0, len(ordered), _HISTORIES_AT_ONCE):
        some = ordered[start : start + _HISTORIES_AT_ONCE]
        job_id = version = 0
        while some:
            rows = _SELECT_HISTORIES.all(
                connection, some, through=through, job_id=job_id, version=version, limit=_PAGE
            )
            yield from map(_recorded, rows)
            if len(rows) < _PAGE:
                break
            _, job_id, version, *_ = rows[-1]
            some = [each for each in some if each >= job_id]


def _all_recorded(rows: Sequence[Sequence[Any]]) -> list[Recorded]:
    """Return ``_recorded`` of each row, in half the time, if only the event is wanted."""
    decode = codec.decode
    try:
        return [
            Recorded(position, job_id, version, at_ms, actor, cause, decode(kind, schema, body))
            for position, job_id, version, kind, schema, at_ms, body, actor, cause in rows
        ]
    except Corrupt:
        # Decoded one by one, so that the error names the event.
        return [_recorded(row) for row in rows]


def _recorded(row: Sequence[Any], *, content: bool = False, envelope: bool = False) -> Recorded:
    position, job_id, version, kind, schema, at_ms, body, actor, cause, *more = row
    try:
        event = codec.decode(kind, schema, body)
    except Corrupt as error:
        raise Corrupt(f"event {position}: {error}", position=position) from error
    if content and more[0] is not None:
        # A copy: what `decode` returns is shared by all events with that body.
        event = replace(event, content=more[0])
    stored = None
    if envelope:
        digest = more[-1]
        stored = Stored(schema, body, None if digest is None else bytes(digest))
    return Recorded(position, job_id, version, at_ms, actor, cause, event, stored)

"""Reading history decoded: events as ``Recorded``, in the order in which they happened."""

from collections.abc import Collection, Iterator, Sequence
from typing import Any, Final

from msgspec.structs import replace
from sqlalchemy import ColumnElement, Connection, bindparam, or_, select

from ledger.database.fast_sql import Listed, Query
from ledger.errors import Corrupt
from ledger.log import codec
from ledger.log.recorded import Recorded, Stored
from ledger.log.schema import events
from ledger.rules.events import Created

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
_SELECT_OF_ACTOR = Listed(
    select(*_REPLAYED)
    .where(events.c.position > bindparam("after"), events.c.actor == bindparam("actor"))
    .order_by(events.c.position),
    events.c.job_id,
)
_SELECT_CREATED = Listed(
    select(*_REPLAYED, events.c.content).where(events.c.version == 1),
    events.c.job_id,
)
HISTORIES_AT_ONCE: Final = 500
PAGE: Final = 10_000


def read_recorded(
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
    connection: Connection,
    job_ids: Collection[int],
    *,
    through: int,
    at_once: int = HISTORIES_AT_ONCE,
    page: int = PAGE,
) -> Iterator[Recorded]:
    """Read the histories of some jobs, decoded without content, one job after the other.

    Args:
        connection: Where to read.
        job_ids: The jobs.
        through: Position of the last event to read.
        at_once: Number of jobs whose histories are read with one statement; 500 by default.
        page: Number of events that are read at once; 10,000 by default.

    Raises:
        Corrupt: A body cannot be read.
    """
    ordered = sorted(job_ids)
    for start in range(0, len(ordered), at_once):
        some = ordered[start : start + at_once]
        job_id = version = 0
        while some:
            rows = _SELECT_HISTORIES.all(
                connection, some, through=through, job_id=job_id, version=version, limit=page
            )
            yield from map(_recorded, rows)
            if len(rows) < page:
                break
            _, job_id, version, *_ = rows[-1]
            some = [each for each in some if each >= job_id]


def read_of_actor(
    connection: Connection, job_ids: Sequence[int], *, actor: str, after: int
) -> list[Recorded]:
    """Return the events that an actor caused on some jobs after a position, in order."""
    return _all_recorded(_SELECT_OF_ACTOR.all(connection, job_ids, actor=actor, after=after))


def read_created(connection: Connection, job_ids: Sequence[int]) -> dict[int, Created]:
    """Return the first event of each of some jobs, with its content."""
    rows = _SELECT_CREATED.all(connection, job_ids)
    recorded = [_recorded(row, content=True) for row in rows]
    return {each.job_id: each.event for each in recorded if isinstance(each.event, Created)}


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

"""Writing events, the only statements that insert or change rows of ``ledger_events``."""

from collections.abc import Sequence

from sqlalchemy import Connection, and_, bindparam, insert, null, update

from ledger.database.fast_sql import Rows
from ledger.log import codec, hash_chain
from ledger.log.recorded import Recorded
from ledger.log.schema import events
from ledger.log.store import Envelope, Head, move_head

_INSERT_EVENTS = Rows(insert(events), Envelope._fields)
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
    move_head(tx, new)
    return new


def erase(tx: Connection, job_id: int, *, versions: Sequence[int] | None, before: int) -> None:
    """Set content and salt of a job's events to NULL: of *versions*, or all *before*."""
    if versions is None:
        tx.execute(_ERASE_ALL, {"job_id_": job_id, "before_": before})
    else:
        tx.execute(_ERASE_ONE, [{"job_id_": job_id, "version_": v} for v in versions])

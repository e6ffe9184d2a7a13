"""Comparison of missing content with the ``erased`` events that explain it.

The database lets anyone who may update ``ledger_events`` set content and salt to null, because
that is what erasure does.  It was an erasure only if the job has an ``erased`` event that covers
the event.  Content that is still there although an ``erased`` event covers it was not erased.

An ``erased`` event comes after the events that it covers, maybe months later.  So both are
collected in temporary tables while history is read, and compared at its end: memory does not
grow with the number of either.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

from sqlalchemy import (
    Column,
    Connection,
    Index,
    MetaData,
    Table,
    and_,
    exists,
    func,
    insert,
    or_,
    select,
)

from ledger.database.fast_sql import Rows
from ledger.errors import Corrupt
from ledger.log.schema import BIGINT, events
from ledger.rules.events import Erased

_metadata: Final = MetaData()
_gone: Final = Table(
    "ledger_gone_content",
    _metadata,
    Column("position", BIGINT, nullable=False),
    Column("job_id", BIGINT, nullable=False),
    Column("version", BIGINT, nullable=False),
    prefixes=["TEMPORARY"],
)
# Each row covers the versions of a job from `first` to `last`.
_erased: Final = Table(
    "ledger_erased_content",
    _metadata,
    Column("position", BIGINT, nullable=False),
    Column("job_id", BIGINT, nullable=False),
    Column("first", BIGINT, nullable=False),
    Column("last", BIGINT, nullable=False),
    Index("ledger_erased_content_by_job", "job_id"),
    prefixes=["TEMPORARY"],
)
_INSERT_GONE: Final = Rows(insert(_gone), _gone.columns.keys())
_INSERT_ERASED: Final = Rows(insert(_erased), _erased.columns.keys())
_IS_COVERED: Final = exists().where(
    _erased.c.job_id == _gone.c.job_id,
    _gone.c.version.between(_erased.c.first, _erased.c.last),
)
_COUNT_COVERED: Final = select(func.count()).select_from(_gone).where(_IS_COVERED)
_UNCOVERED: Final = (
    select(_gone.c.position, _gone.c.job_id).where(~_IS_COVERED).order_by(_gone.c.position)
)
_KEPT: Final = (
    select(events.c.position, func.min(_erased.c.position).label("erased_at"))
    .join(
        _erased,
        and_(
            _erased.c.job_id == events.c.job_id,
            events.c.version.between(_erased.c.first, _erased.c.last),
        ),
    )
    .where(or_(events.c.content.is_not(None), events.c.salt.is_not(None)))
    .group_by(events.c.position)
    .order_by(events.c.position)
)


class Uncovered(NamedTuple):
    """An event whose content is missing although no ``erased`` event covers it."""

    position: int
    job_id: int


class Kept(NamedTuple):
    """An event whose content is still there although an ``erased`` event covers it.

    Attributes:
        erased_at: Position of the first ``erased`` event that covers it.
    """

    position: int
    erased_at: int


class Erasures:
    """The missing content and the ``erased`` events of a history, collected while it is read.

    Args:
        connection: In a transaction, at whose end the temporary tables are dropped.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._new_gone: list[tuple[int, ...]] = []
        self._new_erased: list[tuple[int, ...]] = []
        _metadata.create_all(connection, checkfirst=False)

    def note_gone(self, position: int, job_id: int, version: int) -> None:
        """Record an event that has a digest, but neither content nor salt."""
        self._new_gone.append((position, job_id, version))

    def note_erased(self, position: int, job_id: int, version: int, event: Erased) -> None:
        """Record an ``erased`` event.

        Raises:
            Corrupt: It names versions that the job did not have yet.
        """
        ranges: Sequence[tuple[int, int]] = [(1, version - 1)]
        if event.versions is not None:
            ranges = [(named, named) for named in event.versions]
        for first, last in ranges:
            if not 1 <= first <= last < version:
                raise Corrupt(
                    f"event {position} erases version {first} of job {job_id}, which had "
                    f"versions 1 to {version - 1}",
                    position=position,
                )
            self._new_erased.append((position, job_id, first, last))

    def flush(self) -> None:
        """Write what was recorded to the temporary tables."""
        _INSERT_GONE.execute(self._connection, self._new_gone)
        _INSERT_ERASED.execute(self._connection, self._new_erased)
        self._new_gone.clear()
        self._new_erased.clear()

    def number(self) -> int:
        """Return the number of events whose content is missing and was erased by the rules."""
        return self._connection.scalar(_COUNT_COVERED) or 0

    def uncovered(self, *, limit: int) -> list[Uncovered]:
        """Return the first events whose content is missing, but was not erased."""
        return [Uncovered(*row) for row in self._connection.execute(_UNCOVERED.limit(limit))]

    def kept(self, *, limit: int) -> list[Kept]:
        """Return the first events whose content was erased, but is still there."""
        return [Kept(*row) for row in self._connection.execute(_KEPT.limit(limit))]

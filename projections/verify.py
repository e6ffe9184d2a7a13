"""Verify a ledger: replay every event, and compare everything that is stored.

Three things are checked, on one snapshot: the envelope (positions, versions,
times, digests, the chain), the rules (each event was allowed by the table), and
the projections, which are built anew on temporary tables and compared with the
live ones row by row, both ways.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from msgspec.structs import replace
from sqlalchemy import Connection, Select, and_, except_, func, select

from ledger import chain, codec, store
from ledger.database import Database
from ledger.errors import Corrupt
from ledger.events import Created
from ledger.record import Change, Recorded
from ledger.schema import events
from ledger.store import Envelope, Head
from projections import green
from projections.build import read_checkpoint
from projections.projection import Projection
from projections.replay import Advance, Replay

# Enough to see what is wrong; a ledger that differs everywhere says no more.
MOST_DIFFERENCES: Final = 20
BATCH: Final = 5_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """Be one thing that is not as it must be.

    Attributes:
        where: ``event 7``, ``head``, or ``jobs id=7``.
        expected: What history says it must be.
        found: What is stored.
    """

    where: str
    expected: str
    found: str


@dataclass(slots=True, kw_only=True)
class Report:
    """Be the outcome of a verification.

    Attributes:
        position: Number of events.
        chain: The chain's end as computed, in hexadecimal.
        erased: Number of events whose content has been erased.
        differences: What is wrong, the first ones.
        projections: What was compared with history.
        not_compared: What was not, and why.
    """

    position: int = 0
    chain: str = ""
    erased: int = 0
    differences: list[Difference] = field(default_factory=list)
    projections: list[str] = field(default_factory=list)
    not_compared: dict[str, str] = field(default_factory=dict)

    @property
    def clean(self) -> bool:
        """Tell whether everything is as it must be."""
        return not self.differences

    def differ(self, where: str, expected: object, found: object) -> None:
        """Note a difference, unless there are enough."""
        if len(self.differences) < MOST_DIFFERENCES:
            self.differences.append(
                Difference(where=where, expected=str(expected), found=str(found))
            )


def verify(
    database: Database, shadows: Sequence[tuple[Projection, Projection]], advance: Advance
) -> Report:
    """Replay all of history and compare it with everything that is stored.

    A projection that catches up is compared as of where it has come.

    Args:
        database: The ledger's.
        shadows: Each projection, and a shadow of it to build for comparison.
        advance: Told after each batch: events done, events in all.

    Raises:
        Unavailable: The database is away.
    """
    report = Report()
    with database.read_once(), database.snapshot() as connection:
        shadows = [pair for pair in shadows if _can_be_compared(connection, pair[0], report)]
        # Temporary tables, gone with the snapshot's rollback.
        for _, shadow in shadows:
            shadow.metadata.create_all(connection, checkfirst=False)
        head = store.read_head(connection)
        through = {live.name: _end(connection, live) for live, _ in shadows}
        content = any(live.wants_content for live, _ in shadows)
        history = _Checked(connection, head, report, content=content)
        try:
            for changes in Replay(connection, history):
                last = changes[-1].recorded.position
                for live, shadow in shadows:
                    some = _until(changes, through[live.name])
                    if some:
                        shadow.apply(connection, some)
                advance(last, head.position)
        except Corrupt as error:
            report.differ(f"event {error.position}", "what the rules allow", error)
            return report
        history.compare_head()
        for live, shadow in shadows:
            report.projections.append(live.name)
            compare(connection, live, shadow, report)
    return report


def _end(connection: Connection, live: Projection) -> int | None:
    """Return how far a projection has come, None if it is where the ledger is."""
    if live.is_inline:
        return None
    found = read_checkpoint(connection, live.name)
    return found[0] if found else 0


def _can_be_compared(connection: Connection, live: Projection, report: Report) -> bool:
    """Tell whether the tables of a projection can be compared; report it if not."""
    name = live.name
    found = None if live.is_inline else read_checkpoint(connection, name)
    if not green.are_there(connection, live.tables):
        if found is None and not live.is_inline:
            report.not_compared[name] = green.not_there(name)
        else:
            report.differ(name, "its tables", f"not all of them; run `ledger rebuild {name}`")
        return False
    if found is None or found[1] == live.fingerprint:
        return True
    report.differ(name, "tables of this version of it", f"others; run `ledger rebuild {name}`")
    return False


def _until(changes: list[Change], position: int | None) -> list[Change]:
    if position is None:
        return changes
    return changes[: max(0, position + 1 - changes[0].recorded.position)]


class _Checked:
    """Be the stored history, checked column by column as it is read."""

    def __init__(
        self, connection: Connection, head: Head, report: Report, *, content: bool
    ) -> None:
        self._connection = connection
        self._head = head
        self._report = report
        self._content = content
        self._at_ms = 0
        self._last_job_id = 0
        self._link = chain.GENESIS

    def __iter__(self) -> Iterator[list[Recorded]]:
        """Yield the events, decoded.

        Raises:
            Corrupt: A position is missing, or a body cannot be read.
        """
        while self._report.position < self._head.position:
            envelopes = store.read_after(self._connection, after=self._report.position, limit=BATCH)
            if not envelopes:
                missing = self._report.position + 1
                raise Corrupt(f"event {missing} is missing", position=missing)
            yield [self._check(envelope) for envelope in envelopes]

    def _check(self, envelope: Envelope) -> Recorded:
        report = self._report
        position = report.position + 1
        if envelope.position != position:
            raise Corrupt(f"event {position} is missing", position=position)
        report.position = position
        where = f"event {position}"
        if envelope.at_ms < self._at_ms:
            report.differ(where, f"a time from {self._at_ms} on", envelope.at_ms)
        self._at_ms = envelope.at_ms
        self._check_content(where, envelope)
        self._check_link(where, envelope)
        try:
            event = codec.decode(envelope.kind, envelope.schema, envelope.body)
        except Corrupt as error:
            raise Corrupt(str(error), position=position) from error
        if isinstance(event, Created):
            self._last_job_id += 1
            if envelope.job_id != self._last_job_id:
                report.differ(where, f"the creation of job {self._last_job_id}", envelope.job_id)
        if self._content and envelope.content is not None:
            event = replace(event, content=envelope.content)
        return Recorded(
            position,
            envelope.job_id,
            envelope.version,
            envelope.at_ms,
            envelope.actor,
            envelope.cause,
            event,
        )

    def _check_content(self, where: str, envelope: Envelope) -> None:
        if envelope.content is None or envelope.salt is None:
            self._report.erased += envelope.digest is not None
            return
        digest = chain.digest(envelope.salt, envelope.content)
        if digest != envelope.digest:
            found = "none" if envelope.digest is None else envelope.digest.hex()
            self._report.differ(where, f"content with the digest {found}", digest.hex())

    def _check_link(self, where: str, envelope: Envelope) -> None:
        leaf = chain.leaf(
            position=envelope.position,
            job_id=envelope.job_id,
            version=envelope.version,
            kind=envelope.kind,
            schema=envelope.schema,
            at_ms=envelope.at_ms,
            actor=envelope.actor,
            cause=envelope.cause,
            body=envelope.body,
            digest=envelope.digest,
        )
        link = chain.link(self._link, leaf)
        if link != envelope.chain:
            self._report.differ(where, f"the chain value {link.hex()}", envelope.chain.hex())
        # Go on from what is stored, or every later event would be reported too.
        self._link = envelope.chain
        self._report.chain = self._link.hex()

    def compare_head(self) -> None:
        """Compare the end of history with what the head says of it."""
        number = self._connection.scalar(select(func.count()).select_from(events)) or 0
        if number != self._head.position:
            self._report.differ("head", f"{self._head.position} events", f"{number} events")
        computed = Head(self._report.position, self._link, self._last_job_id, self._at_ms)
        for name, expected, found in zip(Head._fields, computed, self._head, strict=True):
            if expected != found:
                self._report.differ(f"head {name}", _shown(expected), _shown(found))


def compare(connection: Connection, live: Projection, rebuilt: Projection, report: Report) -> None:
    """Compare a projection with what it should be, both ways, row by row."""
    ours, theirs = live.contents(), rebuilt.contents()
    for table in ours:
        if not _are_equal(connection, ours[table], theirs[table]):
            _tell_differences(connection, table, ours[table], theirs[table], report)


def _are_equal(connection: Connection, one: Select[Any], other: Select[Any]) -> bool:
    """Return whether two selects have the same rows; a tenth of the time of a set's work."""
    left, right = one.subquery("one"), other.subquery("other")
    key = [column.name for column in one.selected_columns if column.primary_key]
    same_key = and_(*(left.c[name] == right.c[name] for name in key))
    same = and_(
        *(
            left.c[name].is_not_distinct_from(right.c[name])
            for name in left.c.keys()  # noqa: SIM118 - no mapping
            if name not in key
        )
    )
    counts = [
        select(func.count()).select_from(rows).scalar_subquery()
        for rows in (left.join(right, same_key & same), one.subquery(), other.subquery())
    ]
    both, ours, theirs = connection.execute(select(*counts)).one()
    return bool(both == ours == theirs)


def _tell_differences(
    connection: Connection, table: str, stored: Select[Any], rebuilt: Select[Any], report: Report
) -> None:
    key = [column.name for column in stored.selected_columns if column.primary_key]
    differing = {
        tuple(getattr(row, name) for name in key)
        for one, other in ((stored, rebuilt), (rebuilt, stored))
        for row in _first_of(connection, one, other, key)
    }
    for values in sorted(differing):
        where = " ".join(f"{name}={value}" for name, value in zip(key, values, strict=True))
        expected = _row(connection, rebuilt, key, values)
        found = _row(connection, stored, key, values)
        names = [name for name in expected | found if expected.get(name) != found.get(name)]
        report.differ(
            f"{table} {where}",
            ", ".join(f"{name}={expected[name]!r}" for name in names) if expected else "no row",
            ", ".join(f"{name}={found[name]!r}" for name in names) if found else "no row",
        )


def _first_of(
    connection: Connection, one: Select[Any], other: Select[Any], key: Sequence[str]
) -> Sequence[Any]:
    """Return the first rows of *one* that *other* lacks."""
    surplus = except_(one, other).subquery()
    order = [surplus.c[name] for name in key]
    return connection.execute(select(surplus).order_by(*order).limit(MOST_DIFFERENCES)).all()


def _row(
    connection: Connection, rows: Select[Any], key: Sequence[str], values: Sequence[Any]
) -> dict[str, Any]:
    table = rows.subquery()
    conditions = [table.c[name] == value for name, value in zip(key, values, strict=True)]
    row = connection.execute(select(table).where(*conditions)).mappings().first()
    return dict(row) if row else {}


def _shown(value: object) -> str:
    return value.hex() if isinstance(value, bytes) else str(value)

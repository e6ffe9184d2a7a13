"""Verification of a ledger: every event is replayed, and everything that is stored is compared.

Four things are checked, on one snapshot: the tables (columns, constraints, triggers and rules
are those that this version creates), the envelopes (positions, versions, times, types,
content, the hash chain), the rules (the table of transitions allows each event), and the
projections, which are rebuilt in temporary tables and compared with the live ones row by row,
in both directions.
"""

from collections.abc import Collection, Sequence

from sqlalchemy import Connection, Table, select

from ledger.database.contract import Database
from ledger.errors import Corrupt
from ledger.log.catalog import NOTHING, Kind, deviations
from ledger.log.recorded import AnyChange
from ledger.log.schema import events, head
from ledger.log.store import Head
from ledger.projections.projection import Projection
from ledger.projections.rebuild import table_swap
from ledger.projections.rebuild.build import read_checkpoint
from ledger.projections.rebuild.compare import compare
from ledger.projections.replay import Advance, Replay
from ledger.projections.report import Report
from ledger.projections.verify.checked_history import BATCH, CheckedHistory


def verify(
    database: Database,
    shadows: Sequence[tuple[Projection, Projection]],
    advance: Advance,
    *,
    tables: Sequence[Table],
    batch: int = BATCH,
) -> Report:
    """Replay all of history and compare it with everything that is stored.

    A projection that follows the ledger is compared at its checkpoint.

    Args:
        database: The ledger's database.
        shadows: Each projection, and a shadow of it to build for comparison.
        advance: Called after each batch with the number of events done and the total.
        tables: Ledger's own tables, which must be as this version creates them.
        batch: Number of events read at once.

    Raises:
        Unavailable: The database is not available.
    """
    report = Report()
    with database.read_once(), database.snapshot() as connection:
        # Missing tables of a read model are reported below, with the command that creates them.
        named = {table.name for live, _ in shadows for table in live.tables}
        readable = _can_be_read(connection, tables, report, not_missed=named)
        end = _read_head(connection, report) if readable else None
        if end is not None:
            _compare_history(connection, shadows, end, report, advance, batch=batch)
    return report


def _can_be_read(
    connection: Connection,
    tables: Sequence[Table],
    report: Report,
    *,
    not_missed: Collection[str],
) -> bool:
    """Report tables that deviate from their definition; return whether history can be read.

    Args:
        connection: Where to look.
        tables: The tables as they should be.
        report: Where to record differences.
        not_missed: Names of tables that may be missing.
    """
    readable = True
    for part, expected, found in deviations(connection, tables):
        if part.kind is Kind.TABLE and found == NOTHING and part.table in not_missed:
            continue
        report.differ(str(part), expected, found)
        if part.table in {events.name, head.name} and part.kind in {Kind.TABLE, Kind.COLUMN}:
            readable = False
    return readable


def _read_head(connection: Connection, report: Report) -> Head | None:
    """Return the one row of the head; report it if it is missing, not alone, or unusable."""
    columns = (head.c[name] for name in Head._fields)
    rows = connection.execute(select(head.c.id, *columns).order_by(head.c.id)).all()
    if [row.id for row in rows] != [1]:
        report.differ("head", "one row, with id 1", f"rows with id {[row.id for row in rows]}")
        return None
    found = Head(*rows[0][1:])
    for (name, value), type_ in zip(
        found._asdict().items(), (int, bytes, int, int, int), strict=True
    ):
        # SQLite stores any type in any column.
        if type(value) is not type_:
            report.differ(f"head {name}", type_.__name__, repr(value))
            return None
    return found


def _compare_history(
    connection: Connection,
    shadows: Sequence[tuple[Projection, Projection]],
    end: Head,
    report: Report,
    advance: Advance,
    *,
    batch: int,
) -> None:
    shadows = [pair for pair in shadows if _can_be_compared(connection, pair[0], report)]
    # Temporary tables, dropped by the snapshot's rollback.
    for _, shadow in shadows:
        shadow.metadata.create_all(connection, checkfirst=False)
    through = {live.name: _end(connection, live, end, report) for live, _ in shadows}
    content = any(live.wants_content for live, _ in shadows)
    envelope = any(live.wants_envelope for live, _ in shadows)
    history = CheckedHistory(
        connection, end, report, content=content, envelope=envelope, batch=batch
    )
    try:
        for changes in Replay(connection, history):
            last = changes[-1].recorded.position
            for live, shadow in shadows:
                some = _until(changes, through[live.name])
                if some:
                    shadow.apply_all(connection, some)
            advance(last, end.position)
    except Corrupt as error:
        report.differ(f"event {error.position}", "an event that the rules allow", error)
        return
    history.compare_head()
    history.compare_erasures()
    for live, shadow in shadows:
        report.projections.append(live.name)
        compare(connection, live, shadow, report)


def _end(connection: Connection, live: Projection, end: Head, report: Report) -> int | None:
    """Return the position of a projection's checkpoint, or None if it commits with the events."""
    if live.is_inline:
        return None
    found = read_checkpoint(connection, live.name)
    position = found[0] if found else 0
    if position > end.position:
        report.differ(f"checkpoint {live.name}", f"at most {end.position}", position)
    return position


def _can_be_compared(connection: Connection, live: Projection, report: Report) -> bool:
    """Return whether the tables of a projection can be compared; report it if not."""
    name = live.name
    found = read_checkpoint(connection, name)
    if not table_swap.are_there(connection, live.tables):
        if found is None and not live.is_inline:
            report.not_compared[name] = table_swap.not_there(name)
        else:
            report.differ(
                name, "all of its tables", f"only some of them; run `ledger rebuild {name}`"
            )
        return False
    if found is None or found[1] == live.fingerprint:
        return True
    report.differ(
        name, "tables of this version", f"tables of another version; run `ledger rebuild {name}`"
    )
    return False


def _until(changes: list[AnyChange], position: int | None) -> list[AnyChange]:
    if position is None:
        return changes
    return changes[: max(0, position + 1 - changes[0].recorded.position)]

"""Comparison of a projection with its rebuilt version, row by row."""

from collections.abc import Sequence
from typing import Any, Final

from sqlalchemy import Connection, Select, and_, exc, except_, func, select

from ledger.projections.projection import Projection
from ledger.projections.report import MOST_DIFFERENCES, Report

# The message of Python's sqlite3 for text that is not UTF-8.
_NO_TEXT: Final = "Could not decode to UTF-8"


def compare(connection: Connection, live: Projection, rebuilt: Projection, report: Report) -> None:
    """Compare a projection with its rebuilt version, in both directions, row by row."""
    ours, theirs = live.contents(), rebuilt.contents()
    for table in ours:
        if not _are_equal(connection, ours[table], theirs[table]):
            try:
                _tell_differences(connection, table, ours[table], theirs[table], report)
            except exc.OperationalError as error:
                if not is_undecodable(error):
                    raise
                report.differ(table, "text in UTF-8", error.orig)


def _are_equal(connection: Connection, one: Select[Any], other: Select[Any]) -> bool:
    """Return whether two selects have the same rows, in a tenth of the time of EXCEPT."""
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
    # On SQLite a key may hold values of any type, and these cannot all be compared.
    for values in sorted(differing, key=lambda key: [(type(each).__name__, each) for each in key]):
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
    """Return the first rows of *one* that are not in *other*."""
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


def is_undecodable(error: exc.DBAPIError) -> bool:
    """Return whether SQLite holds text that is not UTF-8, which only a cast can store."""
    return str(error.orig).startswith(_NO_TEXT)

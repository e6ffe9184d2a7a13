"""The revision of a database's tables, read without Alembic.

Every command and every ``GET /health/ready`` checks it.  Alembic would take a fifth of a
second to import, and would read all migrations from their files.
"""

from collections.abc import Collection
from typing import Final

from sqlalchemy import Connection, column, select, table

from ledger.database import release_before
from ledger.database.contract import Database
from ledger.database.fast_sql import Query
from ledger.errors import SchemaMismatch

# The migrations, oldest first; a test compares them with the files.
REVISIONS: Final = (
    *release_before.REVISIONS,
    "0005",
    "0006",
    "0007",
    "0008",
    "0009",
    "0010",
    "0011",
)
# Has one row.  It is not Alembic's usual table, which is the application's.
VERSION_TABLE: Final = "ledger_alembic_version"
_VERSION: Final = table(VERSION_TABLE, column("version_num"))
_NUMBER: Final = Query(select(_VERSION.c.version_num))


def require_current(database: Database) -> None:
    """Refuse a database whose tables are not of this version's revision.

    Raises:
        SchemaMismatch: The tables are older or newer, or there are none; the message says
            what to do.
        Unavailable: The database is unavailable.
    """
    if _is_current(database):
        return
    with database.read() as connection:
        found = current(connection)
    if found is None:
        rest = "; its other tables are not changed" if database.has_tables() else ""
        raise _mismatch(database, f"has no ledger yet; create it with `ledger migrate`{rest}")
    require_known(database, found, REVISIONS)
    raise _mismatch(
        database,
        f"has the tables of revision {found}, this version needs {REVISIONS[-1]}; run "
        "`ledger migrate`",
    )


def _is_current(database: Database) -> bool:
    """Return whether the tables are of this version's revision, with one statement."""
    try:
        with database.read() as connection:
            row = _NUMBER.first(connection)
    except SchemaMismatch:
        # There is no version table.
        return False
    return row is not None and row[0] == REVISIONS[-1]


def require_known(database: Database, found: str, known: Collection[str]) -> None:
    """Refuse a revision that is not among the *known* ones.

    Raises:
        SchemaMismatch: The revision belongs to a newer version.
    """
    if found not in known:
        raise _mismatch(
            database,
            f"has the tables of revision {found}, which this version does not know: it was "
            "migrated by a newer Ledger; upgrade this one",
        )


def _mismatch(database: Database, problem: str) -> SchemaMismatch:
    return SchemaMismatch(f"{database.shown_url} {problem}", public=f"the database {problem}")


def current(connection: Connection) -> str | None:
    """Return the revision of the ledger's tables, or None if there is no ledger."""
    return version(connection) or release_before.revision(connection)


def version(connection: Connection) -> str | None:
    """Return the revision in the version table, or None if there is none."""
    # Checked first, because on PostgreSQL an error would abort a migration's transaction.
    if not connection.dialect.has_table(connection, _VERSION.name):
        return None
    found: str | None = connection.scalar(select(_VERSION.c.version_num))
    return found

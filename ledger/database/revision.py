"""The revision of a database's tables, read without Alembic.

Every command and every ``GET /health/ready`` checks it.  Alembic would take a fifth of a
second to import, and would read all migrations from their files.
"""

from typing import Final

from sqlalchemy import Connection, column, select, table

from ledger.database.contract import Database
from ledger.errors import SchemaMismatch

# The migrations, oldest first; a test compares them with the files.
REVISIONS: Final = ("0001", "0002", "0003", "0004")
# Alembic's own table; it has one row.
_VERSION: Final = table("alembic_version", column("version_num"))


def require_current(database: Database) -> None:
    """Refuse a database whose tables are not of this version's revision.

    Raises:
        SchemaMismatch: The tables are older or newer, or there are none; the message says
            what to do.
        Unavailable: The database is unavailable.
    """
    with database.read() as connection:
        found = current(connection)
    if found == REVISIONS[-1]:
        return
    if found is None:
        raise SchemaMismatch(
            f"{database.shown_url} has no ledger yet; create it with `ledger migrate`"
        )
    require_known(database, found)
    raise SchemaMismatch(
        f"{database.shown_url} has the tables of revision {found}, this version needs "
        f"{REVISIONS[-1]}; run `ledger migrate`"
    )


def require_known(database: Database, found: str) -> None:
    """Refuse a revision that this version does not know.

    Raises:
        SchemaMismatch: The revision belongs to a newer version.
    """
    if found not in REVISIONS:
        raise SchemaMismatch(
            f"{database.shown_url} has the tables of revision {found}, which this version does "
            "not know: it was migrated by a newer Ledger; upgrade this one"
        )


def is_empty(database: Database) -> bool:
    """Return whether the database has no tables of a ledger."""
    with database.read() as connection:
        return current(connection) is None


def current(connection: Connection) -> str | None:
    """Return the revision of the tables, or None if there are none."""
    # Checked first, because on PostgreSQL an error would abort a migration's transaction.
    if not connection.dialect.has_table(connection, _VERSION.name):
        return None
    found: str | None = connection.scalar(select(_VERSION.c.version_num))
    return found

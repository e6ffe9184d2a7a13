"""Recognition of a ledger that the release before made, and of its version.

Its tables had common names, ``events`` and ``jobs``, and its version was in Alembic's
``alembic_version``, in which an application keeps its own, perhaps under the same numbers.  So
a number alone tells nothing: the tables must have the columns of a ledger too.  Such a ledger is
renamed by migration 0005; until then, and after it has been taken back, it is what the release
before expects.
"""

from typing import Final

from sqlalchemy import Connection, inspect, text

VERSION_TABLE: Final = "alembic_version"
REVISIONS: Final = ("0001", "0002", "0003", "0004")
# What no other tables of these names have, all of it.
_COLUMNS: Final = {
    "ledger_head": {"id", "position", "chain", "last_job_id", "at_ms"},
    "events": {
        *("position", "job_id", "version", "kind", "schema", "at_ms", "actor", "cause", "body"),
        *("content", "salt", "digest", "chain"),
    },
    "jobs": {
        *("id", "version", "state", "type", "priority", "max_attempts", "made", "attempt"),
        *("started_attempt", "json_start", "json_priority", "json_state", "json_end"),
    },
}


def revision(connection: Connection) -> str | None:
    """Return the revision of a ledger of the release before, None if there is none."""
    inspector = inspect(connection)
    if not inspector.has_table(VERSION_TABLE):
        return None
    ours = [number for number in _versions(connection) if number in REVISIONS]
    if not ours or not all(inspector.has_table(table) for table in _COLUMNS):
        return None
    are_ours = all(
        columns <= {column["name"] for column in inspector.get_columns(table)}
        for table, columns in _COLUMNS.items()
    )
    return max(ours) if are_ours else None


def remove_version(tx: Connection, found: str) -> None:
    """Remove a version that now is elsewhere, and its table if no other version is in it."""
    tx.execute(text(f"DELETE FROM {VERSION_TABLE} WHERE version_num = :found"), {"found": found})  # noqa: S608 - a constant
    if not _versions(tx):
        tx.execute(text(f"DROP TABLE {VERSION_TABLE}"))


def is_version_table_taken(connection: Connection) -> bool:
    """Return whether ``alembic_version`` holds the version of something else."""
    return inspect(connection).has_table(VERSION_TABLE) and bool(_versions(connection))


def put_version(tx: Connection, number: str) -> None:
    """Put the version where the release before looks for it."""
    tx.execute(
        text(
            f"""
            CREATE TABLE IF NOT EXISTS {VERSION_TABLE} (
                version_num VARCHAR(32) NOT NULL,
                CONSTRAINT {VERSION_TABLE}_pkc PRIMARY KEY (version_num)
            )
            """
        )
    )
    tx.execute(text(f"INSERT INTO {VERSION_TABLE} VALUES (:number)"), {"number": number})  # noqa: S608 - as above


def _versions(connection: Connection) -> list[str]:
    found = connection.execute(text(f"SELECT * FROM {VERSION_TABLE}")).mappings()  # noqa: S608 - as above
    # An application's table of that name may be anything.
    return [str(row["version_num"]) for row in found if "version_num" in row]

"""Add the prefix ``ledger_`` to the names of all objects that Ledger creates.

The tables were called ``events``, ``jobs``, ``workers`` and so on, and their version was in
Alembic's ``alembic_version``.  An application may use all of these names, so a ledger could not
share the application's database.

A new ledger skips revisions 0001 to 0004 and is created by this one, because those would create
``events`` and others where the application may have tables of these names.  They remain for
ledgers of the previous release, whose tables are renamed here.  The attribute ``is_new``, set by
``ledger.database.migration``, tells the two cases apart.

PostgreSQL renames the tables without reading a row.  SQLite cannot rename indexes and
constraints, and not every build allows edits of its catalog.  On SQLite, the rows are therefore
copied into new tables in one transaction, which needs as much free space as the ledger occupies.
Additional indexes on these tables are lost and must be created again.

The triggers are created again.  A trigger that was dropped earlier is reported by ``ledger
verify`` of the previous release only, so run it before this migration.

The search index in the database, checkpoints, and the read models of applications are kept.  The
tables of interrupted rebuilds are dropped, and those rebuilds start again.
"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import context, op
from sqlalchemy.dialects.postgresql import TSVECTOR

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

BIGINT = sa.BigInteger().with_variant(sa.Integer(), "sqlite")

BEFORE = ""
NOW = "ledger_"

# Erasure sets these columns to null.  No other change of an event is allowed.
ERASABLE = ("content", "salt")
KEPT = (
    "position",
    "job_id",
    "version",
    "kind",
    "schema",
    "at_ms",
    "actor",
    "cause",
    "body",
    "digest",
    "chain",
)
# ``ledger_head`` is not listed: its name has always had the prefix.
RENAMED = (
    "events",
    "jobs",
    "job_ranks",
    "state_counts",
    "unique_keys",
    "workers",
    "pauses",
    "search_checkpoints",
    "checkpoints",
    "rebuilds",
    "failures",
    "activity",
)
SEARCH_WORDS = "search_words"
CONSTRAINTS = (
    "events_stream",
    "events_position_positive",
    "events_version_positive",
    "events_content_committed",
    "jobs_state_known",
    "jobs_made_bounded",
)
INDEXES = (
    "events_log",
    "jobs_by_state",
    "jobs_by_type",
    "jobs_by_priority",
    "jobs_by_state_priority",
    "jobs_by_type_priority",
    "jobs_due",
    "search_words_by_word",
)
# Read models that can be rebuilt, with their tables.
REBUILT = {
    "jobs": ("jobs", "job_ranks"),
    "state_counts": ("state_counts",),
    "unique_keys": ("unique_keys",),
    "pauses": ("pauses",),
    "activity": ("activity",),
}
# The fingerprint of the definition of ``activity``, which includes the name of its table.
FINGERPRINTS = {BEFORE: "bdb6c177f9a38233", NOW: "4a5c6930d2ef7c49"}


def upgrade() -> None:
    if context.config.attributes.get("is_new"):
        create_head()
        create_tables(NOW)
        create_search_words(NOW)
        guard(NOW)
    else:
        rename(BEFORE, NOW)


def downgrade() -> None:
    if context.config.attributes.get("to_base"):
        # Do not restore the old names: the application may have tables of these names.
        for name in (SEARCH_WORDS, *reversed(RENAMED)):
            op.execute(f"DROP TABLE IF EXISTS {NOW}{name}")
        op.drop_table("ledger_head")
        if is_postgresql():
            op.execute("DROP FUNCTION ledger_events_append_only()")
    else:
        rename(NOW, BEFORE)


def is_postgresql() -> bool:
    return op.get_bind().dialect.name == "postgresql"


# --- renaming


def rename(old: str, new: str) -> None:
    drop_leftovers(old)
    if is_postgresql():
        rename_on_postgresql(old, new)
    else:
        copy_on_sqlite(old, new)
    guard(new)
    op.get_bind().execute(
        sa.text(
            f"""
            UPDATE {new}checkpoints
            SET fingerprint = :new
            WHERE name = 'activity' AND fingerprint = :old
            """  # noqa: S608 - the prefix is one of two constants
        ),
        {"old": FINGERPRINTS[old], "new": FINGERPRINTS[new]},
    )


def rename_on_postgresql(old: str, new: str) -> None:
    for trigger in ("no_change", "no_truncate"):
        op.execute(f"DROP TRIGGER IF EXISTS {old}events_{trigger} ON {old}events")
    op.execute(f"DROP FUNCTION IF EXISTS {old}events_append_only()")
    for name in (*RENAMED, SEARCH_WORDS):
        op.execute(f"ALTER TABLE {old}{name} RENAME TO {new}{name}")
        for constraint in constraints_of(f"{new}{name}"):
            if constraint in ours(old, name):
                renamed = new + constraint.removeprefix(old)
                op.execute(f"ALTER TABLE {new}{name} RENAME CONSTRAINT {constraint} TO {renamed}")
    for index in INDEXES:
        # IF EXISTS: `ledger verify` reports an index that was dropped.
        op.execute(f"ALTER INDEX IF EXISTS {old}{index} RENAME TO {new}{index}")


def constraints_of(table: str) -> Sequence[str]:
    named = sa.text("SELECT conname FROM pg_constraint WHERE conrelid = to_regclass(:table)")
    return op.get_bind().scalars(named, {"table": table}).all()


def ours(prefix: str, table: str) -> set[str]:
    """Return the names of a table's constraints; since PostgreSQL 18, these include NOT NULL."""
    columns = columns_of(f"{NOW if prefix == BEFORE else BEFORE}{table}")
    return {
        f"{prefix}{table}_pkey",
        *(f"{prefix}{table}_{column}_not_null" for column in columns),
        *(f"{prefix}{constraint}" for constraint in CONSTRAINTS),
    }


def columns_of(table: str) -> list[str]:
    return [column["name"] for column in sa.inspect(op.get_bind()).get_columns(table)]


def copy_on_sqlite(old: str, new: str) -> None:
    # `ledger verify` reports rows that violate a CHECK; they must not stop the migration.
    op.execute("PRAGMA ignore_check_constraints = ON")
    try:
        create_tables(new)
        for name in RENAMED:
            columns = ", ".join(columns_of(f"{new}{name}"))
            op.execute(
                f"INSERT INTO {new}{name} ({columns}) SELECT {columns} FROM {old}{name}"  # noqa: S608 - the names are constants
            )
            op.drop_table(f"{old}{name}")
    finally:
        op.execute("PRAGMA ignore_check_constraints = OFF")
    if sa.inspect(op.get_bind()).has_table(f"{old}{SEARCH_WORDS}"):
        # Otherwise SQLite checks the application's views, and fails if one of them is broken.
        op.execute("PRAGMA legacy_alter_table = ON")
        op.execute(f"ALTER TABLE {old}{SEARCH_WORDS} RENAME TO {new}{SEARCH_WORDS}")
        op.execute("PRAGMA legacy_alter_table = OFF")


def drop_leftovers(prefix: str) -> None:
    """Drop the tables that rebuilds have left, if they are certainly Ledger's."""
    bind = op.get_bind()
    begun = bind.scalars(sa.text(f"SELECT name FROM {prefix}rebuilds")).all()  # noqa: S608 - the prefix is a constant
    for name in (name for name in begun if name in REBUILT):
        for table in REBUILT[name]:
            op.execute(f"DROP TABLE IF EXISTS {prefix}{table}_green")
        bind.execute(
            sa.text(f"DELETE FROM {prefix}rebuilds WHERE name = :name"),  # noqa: S608 - the prefix is a constant
            {"name": name},
        )
    checkpoint = f"{prefix}search_checkpoints WHERE name = 'search_green'"
    if bind.scalar(sa.text(f"SELECT 1 FROM {checkpoint}")):  # noqa: S608 - the prefix is a constant
        op.execute(f"DROP TABLE IF EXISTS {prefix}{SEARCH_WORDS}_green")
        op.execute(f"DELETE FROM {checkpoint}")  # noqa: S608 - the prefix is a constant
    if is_postgresql():
        return
    # On SQLite, a swap renames the replaced table; a later step empties it in small batches.
    there = set(sa.inspect(bind).get_table_names())
    for table in (each for tables in REBUILT.values() for each in tables):
        live, left = f"{prefix}{table}", f"{prefix}{table}_old"
        if left in there and columns_of(left) == columns_of(live):
            op.drop_table(left)


# --- creating


def create_head() -> None:
    head = op.create_table(
        "ledger_head",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("position", BIGINT, nullable=False),
        sa.Column("chain", sa.LargeBinary, nullable=False),
        sa.Column("last_job_id", BIGINT, nullable=False),
        sa.Column("at_ms", BIGINT, nullable=False),
        sa.CheckConstraint("id = 1", name="ledger_head_single"),
    )
    op.bulk_insert(
        head, [{"id": 1, "position": 0, "chain": b"\0" * 32, "last_job_id": 0, "at_ms": 0}]
    )


def create_tables(prefix: str) -> None:
    """Create all tables except ``ledger_head`` and the words of the search index."""
    create_events(prefix)
    create_jobs(prefix)
    create_counts(prefix)
    create_checkpoints(prefix)
    op.create_table(
        f"{prefix}workers",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("types", sa.Text, nullable=False),
        sa.Column("started_at_ms", BIGINT, nullable=False),
        sa.Column("seen_at_ms", BIGINT, nullable=False),
        sa.Column("lease_ms", BIGINT, nullable=False),
    )


def create_events(prefix: str) -> None:
    op.create_table(
        f"{prefix}events",
        sa.Column("position", BIGINT, primary_key=True, autoincrement=False),
        sa.Column("job_id", BIGINT, nullable=False),
        sa.Column("version", BIGINT, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("schema", sa.Integer, nullable=False),
        sa.Column("at_ms", BIGINT, nullable=False),
        sa.Column("actor", sa.Text, nullable=False),
        sa.Column("cause", sa.Text),
        sa.Column("body", sa.Text, nullable=False),
        sa.Column("content", sa.Text),
        sa.Column("salt", sa.LargeBinary),
        sa.Column("digest", sa.LargeBinary),
        sa.Column("chain", sa.LargeBinary, nullable=False),
        sa.UniqueConstraint("job_id", "version", name=f"{prefix}events_stream"),
        sa.CheckConstraint("position > 0", name=f"{prefix}events_position_positive"),
        sa.CheckConstraint("version > 0", name=f"{prefix}events_version_positive"),
        sa.CheckConstraint(
            "(content IS NULL) = (salt IS NULL) AND (content IS NULL OR digest IS NOT NULL)",
            name=f"{prefix}events_content_committed",
        ),
    )
    of_log = sa.text("kind IN ('logged', 'failed')")
    op.create_index(
        f"{prefix}events_log",
        f"{prefix}events",
        ["job_id", "version"],
        sqlite_where=of_log,
        postgresql_where=of_log,
    )


def create_jobs(prefix: str) -> None:
    op.create_table(
        f"{prefix}jobs",
        sa.Column("id", BIGINT, primary_key=True, autoincrement=False),
        sa.Column("version", BIGINT, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("type", sa.Text, nullable=False),
        sa.Column("priority", BIGINT, nullable=False),
        sa.Column("max_attempts", BIGINT, nullable=False),
        sa.Column("made", BIGINT, nullable=False),
        sa.Column("attempt", BIGINT, nullable=False),
        sa.Column("started_attempt", BIGINT, nullable=False),
        sa.Column("delay_ms", BIGINT),
        sa.Column("ttl_ms", BIGINT),
        sa.Column("backoff", sa.Text),
        sa.Column("backoff_delay_ms", BIGINT, nullable=False),
        sa.Column("backoff_max_ms", BIGINT),
        sa.Column("remove_on_complete", sa.Integer, nullable=False),
        sa.Column("worker", sa.Text),
        sa.Column("progress", sa.Integer),
        sa.Column("created_at_ms", BIGINT, nullable=False),
        sa.Column("promote_at_ms", BIGINT, nullable=False),
        sa.Column("updated_at_ms", BIGINT, nullable=False),
        sa.Column("failed_at_ms", BIGINT),
        sa.Column("started_at_ms", BIGINT),
        sa.Column("duration_ms", BIGINT),
        sa.Column("due_at_ms", BIGINT),
        sa.Column("data_position", BIGINT),
        sa.Column("result_position", BIGINT),
        sa.Column("error_position", BIGINT),
        sa.Column("progress_position", BIGINT),
        sa.Column("json_start", sa.Text, nullable=False),
        sa.Column("json_priority", sa.Text, nullable=False),
        sa.Column("json_state", sa.Text, nullable=False),
        sa.Column("json_end", sa.Text, nullable=False),
        sa.CheckConstraint(
            "state = 'inactive' OR state = 'complete' OR state = 'active' OR state = 'failed' "
            "OR state = 'delayed'",
            name=f"{prefix}jobs_state_known",
        ),
        sa.CheckConstraint("made <= max_attempts", name=f"{prefix}jobs_made_bounded"),
    )
    jobs = f"{prefix}jobs"
    op.create_index(f"{jobs}_by_state", jobs, ["state", "id"])
    op.create_index(f"{jobs}_by_type", jobs, ["type", "state", "id"])
    op.create_index(f"{jobs}_by_priority", jobs, ["priority", "id"])
    op.create_index(f"{jobs}_by_state_priority", jobs, ["state", "priority", "id"])
    op.create_index(f"{jobs}_by_type_priority", jobs, ["type", "state", "priority", "id"])
    due = sa.text("due_at_ms IS NOT NULL")
    op.create_index(f"{jobs}_due", jobs, ["due_at_ms"], sqlite_where=due, postgresql_where=due)


def create_counts(prefix: str) -> None:
    op.create_table(
        f"{prefix}job_ranks",
        sa.Column("type", sa.Text, primary_key=True),
        sa.Column("state", sa.Text, primary_key=True),
        sa.Column("span", sa.Integer, primary_key=True),
        sa.Column("bucket", BIGINT, primary_key=True),
        sa.Column("jobs", sa.BigInteger, nullable=False),
    )
    op.create_table(
        f"{prefix}state_counts",
        sa.Column("type", sa.Text, primary_key=True),
        sa.Column("state", sa.Text, primary_key=True),
        sa.Column("jobs", sa.BigInteger, nullable=False),
        sa.Column("work_ms", sa.BigInteger, nullable=False),
    )
    op.create_table(
        f"{prefix}unique_keys",
        sa.Column("key", sa.Text, primary_key=True),
        sa.Column("job_id", BIGINT, nullable=False),
    )
    op.create_table(
        f"{prefix}pauses",
        sa.Column("type", sa.Text, primary_key=True),
        sa.Column("since_ms", BIGINT, nullable=False),
    )
    op.create_table(
        f"{prefix}activity",
        sa.Column("minute_ms", BIGINT, primary_key=True, autoincrement=False),
        sa.Column("type", sa.Text, primary_key=True),
        sa.Column("created", sa.BigInteger, nullable=False),
        sa.Column("started", sa.BigInteger, nullable=False),
        sa.Column("completed", sa.BigInteger, nullable=False),
        sa.Column("failed", sa.BigInteger, nullable=False),
        sa.Column("work_ms", sa.BigInteger, nullable=False),
    )


def create_checkpoints(prefix: str) -> None:
    op.create_table(
        f"{prefix}search_checkpoints",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("position", BIGINT, nullable=False),
        sa.Column("words_version", sa.Integer, nullable=False),
    )
    op.create_table(
        f"{prefix}checkpoints",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("position", BIGINT, nullable=False),
        sa.Column("fingerprint", sa.Text),
    )
    op.create_table(
        f"{prefix}rebuilds",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("position", BIGINT, nullable=False),
        sa.Column("fingerprint", sa.Text, nullable=False),
        sa.Column("begun_at_ms", BIGINT, nullable=False),
    )
    op.create_table(
        f"{prefix}failures",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("position", BIGINT, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("at_ms", BIGINT, nullable=False),
    )


def create_search_words(prefix: str) -> None:
    if is_postgresql():
        op.create_table(
            f"{prefix}search_words",
            sa.Column("job_id", BIGINT, primary_key=True, autoincrement=False),
            sa.Column("words", TSVECTOR, nullable=False),
        )
        op.create_index(
            f"{prefix}search_words_by_word",
            f"{prefix}search_words",
            ["words"],
            postgresql_using="gin",
        )
        return
    # A few builds of SQLite lack FTS5.  They can use the default search engine.
    options = op.get_bind().execute(sa.text("PRAGMA compile_options")).scalars()
    if "ENABLE_FTS5" in set(options):
        # The words are stored as ASCII tokens, and queries do not use their positions.
        op.execute(
            f"CREATE VIRTUAL TABLE {prefix}search_words USING fts5("
            "words, detail=none, columnsize=0, tokenize=\"ascii tokenchars '_'\")"
        )


# --- the triggers that keep the events append-only


def guard(prefix: str) -> None:
    events = f"{prefix}events"
    if is_postgresql():
        is_erasure = erasure("IS NOT DISTINCT FROM")
        guard_on_postgresql(events, is_erasure, has_path=prefix == NOW)
    else:
        guard_on_sqlite(events, erasure("IS"))


def erasure(is_same: str) -> str:
    """Return the condition of an erasure: two columns become null, the others stay the same."""
    erased = " AND ".join(f"NEW.{column} IS NULL" for column in ERASABLE)
    kept = " AND ".join(f"NEW.{column} {is_same} OLD.{column}" for column in KEPT)
    return f"{erased} AND {kept}"


def guard_on_sqlite(events: str, is_erasure: str) -> None:
    op.execute(
        f"""
        CREATE TRIGGER {events}_no_update BEFORE UPDATE ON {events}
        WHEN NOT ({is_erasure})
        BEGIN SELECT RAISE(ABORT, '{events} is append-only'); END
        """
    )
    op.execute(
        f"""
        CREATE TRIGGER {events}_no_delete BEFORE DELETE ON {events}
        BEGIN SELECT RAISE(ABORT, '{events} is append-only'); END
        """
    )
    # INSERT OR REPLACE deletes the existing row without running the DELETE trigger.
    op.execute(
        f"""
        CREATE TRIGGER {events}_no_replace BEFORE INSERT ON {events}
        WHEN EXISTS (SELECT 1 FROM {events} WHERE position = NEW.position)
          OR EXISTS (
              SELECT 1 FROM {events} WHERE job_id = NEW.job_id AND version = NEW.version
          )
        BEGIN SELECT RAISE(ABORT, '{events} is append-only'); END
        """  # noqa: S608 - the name is one of two constants
    )


def guard_on_postgresql(events: str, is_erasure: str, *, has_path: bool) -> None:
    # Otherwise a writer could shadow PostgreSQL's operator = with one of its own.
    path = "SET search_path = pg_catalog, pg_temp" if has_path else ""
    op.execute(
        f"""
        CREATE FUNCTION {events}_append_only() RETURNS trigger LANGUAGE plpgsql {path} AS $$
        BEGIN
            IF TG_OP = 'UPDATE' THEN
                IF {is_erasure} THEN
                    RETURN NEW;
                END IF;
            END IF;
            RAISE EXCEPTION '{events} is append-only';
        END $$
        """
    )
    op.execute(
        f"""
        CREATE TRIGGER {events}_no_change BEFORE UPDATE OR DELETE ON {events}
        FOR EACH ROW EXECUTE FUNCTION {events}_append_only()
        """
    )
    op.execute(
        f"""
        CREATE TRIGGER {events}_no_truncate BEFORE TRUNCATE ON {events}
        FOR EACH STATEMENT EXECUTE FUNCTION {events}_append_only()
        """
    )

"""Create the events, the triggers that keep them append-only, and the inline projections."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

BIGINT = sa.BigInteger().with_variant(sa.Integer(), "sqlite")

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


def upgrade() -> None:
    _create_ledger()
    _create_projections()
    if op.get_bind().dialect.name == "postgresql":
        _guard_postgresql()
    else:
        _guard_sqlite()


def _create_ledger() -> None:
    op.create_table(
        "events",
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
        sa.UniqueConstraint("job_id", "version", name="events_stream"),
        sa.CheckConstraint("position > 0", name="events_position_positive"),
        sa.CheckConstraint("version > 0", name="events_version_positive"),
        sa.CheckConstraint(
            "(content IS NULL) = (salt IS NULL) AND (content IS NULL OR digest IS NOT NULL)",
            name="events_content_committed",
        ),
    )
    of_log = sa.text("kind IN ('logged', 'failed')")
    op.create_index(
        "events_log",
        "events",
        ["job_id", "version"],
        sqlite_where=of_log,
        postgresql_where=of_log,
    )
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


def _create_projections() -> None:
    op.create_table(
        "jobs",
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
            name="jobs_state_known",
        ),
        sa.CheckConstraint("made <= max_attempts", name="jobs_made_bounded"),
    )
    op.create_index("jobs_by_state", "jobs", ["state", "id"])
    op.create_index("jobs_by_type", "jobs", ["type", "state", "id"])
    op.create_index("jobs_by_priority", "jobs", ["priority", "id"])
    op.create_index("jobs_by_state_priority", "jobs", ["state", "priority", "id"])
    op.create_index("jobs_by_type_priority", "jobs", ["type", "state", "priority", "id"])
    due = sa.text("due_at_ms IS NOT NULL")
    op.create_index("jobs_due", "jobs", ["due_at_ms"], sqlite_where=due, postgresql_where=due)
    op.create_table(
        "job_ranks",
        sa.Column("type", sa.Text, primary_key=True),
        sa.Column("state", sa.Text, primary_key=True),
        sa.Column("span", sa.Integer, primary_key=True),
        sa.Column("bucket", BIGINT, primary_key=True),
        sa.Column("jobs", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "state_counts",
        sa.Column("type", sa.Text, primary_key=True),
        sa.Column("state", sa.Text, primary_key=True),
        sa.Column("jobs", sa.BigInteger, nullable=False),
        sa.Column("work_ms", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "unique_keys",
        sa.Column("key", sa.Text, primary_key=True),
        sa.Column("job_id", BIGINT, nullable=False),
    )


def _guard_sqlite() -> None:
    erased = " AND ".join(f"NEW.{column} IS NULL" for column in ERASABLE)
    kept = " AND ".join(f"NEW.{column} IS OLD.{column}" for column in KEPT)
    op.execute(
        f"""
        CREATE TRIGGER events_no_update BEFORE UPDATE ON events
        WHEN NOT ({erased} AND {kept})
        BEGIN SELECT RAISE(ABORT, 'events is append-only'); END
        """
    )
    op.execute(
        """
        CREATE TRIGGER events_no_delete BEFORE DELETE ON events
        BEGIN SELECT RAISE(ABORT, 'events is append-only'); END
        """
    )
    # INSERT OR REPLACE deletes the existing row without running the DELETE trigger.
    op.execute(
        """
        CREATE TRIGGER events_no_replace BEFORE INSERT ON events
        WHEN EXISTS (SELECT 1 FROM events WHERE position = NEW.position)
          OR EXISTS (SELECT 1 FROM events WHERE job_id = NEW.job_id AND version = NEW.version)
        BEGIN SELECT RAISE(ABORT, 'events is append-only'); END
        """
    )


def _guard_postgresql() -> None:
    erased = " AND ".join(f"NEW.{column} IS NULL" for column in ERASABLE)
    kept = " AND ".join(f"NEW.{column} IS NOT DISTINCT FROM OLD.{column}" for column in KEPT)
    op.execute(
        f"""
        CREATE FUNCTION events_append_only() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            IF TG_OP = 'UPDATE' THEN
                IF {erased} AND {kept} THEN
                    RETURN NEW;
                END IF;
            END IF;
            RAISE EXCEPTION 'events is append-only';
        END $$
        """
    )
    op.execute(
        """
        CREATE TRIGGER events_no_change BEFORE UPDATE OR DELETE ON events
        FOR EACH ROW EXECUTE FUNCTION events_append_only()
        """
    )
    op.execute(
        """
        CREATE TRIGGER events_no_truncate BEFORE TRUNCATE ON events
        FOR EACH STATEMENT EXECUTE FUNCTION events_append_only()
        """
    )


def downgrade() -> None:
    for table in (
        "unique_keys",
        "state_counts",
        "job_ranks",
        "jobs",
        "ledger_head",
        "events",
    ):
        op.drop_table(table)
    if op.get_bind().dialect.name == "postgresql":
        op.execute("DROP FUNCTION events_append_only()")

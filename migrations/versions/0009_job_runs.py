"""Replace ``ledger_job_ranks`` by ``ledger_job_runs``, which counts lists by priority too.

A page in the middle of a list by priority was walked to: 0.4 s at 1,500,000 jobs.  Lists by age
were counted in runs of 1,024 and 1,048,576 ids, which no longer suffices at 10,000,000 jobs.

Jobs of priority 0 are counted once, all others also in the runs of all of them, and those whose
priority is not small in runs of priorities.

A process of the release before, which would go on with the table that is gone, is told that another
version has rebuilt the model.
"""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

BIGINT = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
WHOLE = 62


def upgrade() -> None:
    lock_head()
    op.create_table(
        "ledger_job_runs",
        sa.Column("type", sa.Text, primary_key=True),
        sa.Column("state", sa.Text, primary_key=True),
        sa.Column("priority_span", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("id_span", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("priority_run", BIGINT, primary_key=True, autoincrement=False),
        sa.Column("id_run", BIGINT, primary_key=True, autoincrement=False),
        sa.Column("jobs", sa.BigInteger, nullable=False),
        sqlite_with_rowid=False,
    )
    # The shortest runs, of each type and of all, in each state and in any; from them, the others.
    count("ledger_jobs", "type, state, 0, 8, priority, id >> 8, count(*)")
    count("ledger_job_runs", "'', state, 0, 8, priority_run, id_run, sum(jobs)")
    count("ledger_job_runs WHERE type = ''", "'', '', 0, 8, priority_run, id_run, sum(jobs)")
    count(
        "ledger_job_runs WHERE id_span = 8",
        "type, state, 0, 17, priority_run, id_run >> 9, sum(jobs)",
    )
    count(
        "ledger_job_runs WHERE priority_run != 0",
        f"type, state, {WHOLE}, id_span, 0, id_run, sum(jobs)",
    )
    others = (
        "ledger_job_runs WHERE priority_span = 0 AND id_span = 17"
        " AND (priority_run < -256 OR priority_run >= 256)"
    )
    for span in (12, 24, 36, 48):
        count(others, f"type, state, {span}, {WHOLE}, priority_run >> {span}, 0, sum(jobs)")
    drop("ledger_job_ranks")
    rebuilt(before="version 1", now="version 2")


def downgrade() -> None:
    lock_head()
    op.create_table(
        "ledger_job_ranks",
        sa.Column("type", sa.Text, primary_key=True),
        sa.Column("state", sa.Text, primary_key=True),
        sa.Column("span", sa.Integer, primary_key=True),
        sa.Column("bucket", BIGINT, primary_key=True),
        sa.Column("jobs", sa.BigInteger, nullable=False),
    )
    for type_ in ("type", "''"):
        for span in (10, 20, WHOLE):
            op.execute(
                f"""
                INSERT INTO ledger_job_ranks (type, state, span, bucket, jobs)
                SELECT {type_}, state, {span}, id >> {span}, count(*)
                FROM ledger_jobs GROUP BY 1, 2, 4
                """  # noqa: S608 - nothing of it comes from outside
            )
    drop("ledger_job_runs")
    rebuilt(before="version 2", now="version 1")


def lock_head() -> None:
    """Keep appends out, whose jobs would not be counted; they too lock the head first."""
    op.execute("UPDATE ledger_head SET position = position")


def count(source: str, columns: str) -> None:
    """Add runs, summed up from *source*."""
    op.execute(
        f"""
        INSERT INTO ledger_job_runs
            (type, state, priority_span, id_span, priority_run, id_run, jobs)
        SELECT {columns}
        FROM {source}
        GROUP BY 1, 2, 3, 4, 5, 6
        """  # noqa: S608 - nothing of it comes from outside
    )


def drop(table: str) -> None:
    """Drop a table, and those that an interrupted rebuild has left."""
    for suffix in ("", "_green", "_old"):
        op.execute(f"DROP TABLE IF EXISTS {table}{suffix}")


def rebuilt(*, before: str, now: str) -> None:
    """Record that the rows of the model are those of another version."""
    for suffix in ("_green", "_old"):
        op.execute(f"DROP TABLE IF EXISTS ledger_jobs{suffix}")
    op.execute("DELETE FROM ledger_rebuilds WHERE name = 'jobs'")
    # Only where a process has stored the version, it may be running.
    op.execute(
        "UPDATE ledger_head SET inline_rebuilds = inline_rebuilds + 1"
        " WHERE EXISTS (SELECT 1 FROM ledger_checkpoints WHERE name = 'jobs')"
    )
    op.execute(
        sa.text(
            "UPDATE ledger_checkpoints SET fingerprint = :now"
            " WHERE name = 'jobs' AND fingerprint = :before"
        ).bindparams(before=before, now=now)
    )

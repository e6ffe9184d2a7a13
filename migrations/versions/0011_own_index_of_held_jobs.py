"""Make ``ledger_jobs_held`` the only index in which a worker's jobs can be looked up.

While PostgreSQL's statistics came from a moment without active jobs, it took
``ledger_jobs_by_state`` instead, and each heartbeat read all active jobs: 58 ms at 16,000 of them.
No index on ``state`` serves the new condition, which has the same meaning.
"""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    replace_index(
        ["worker", "id"],
        "worker IS NOT NULL AND started_attempt = attempt AND state || '' = 'active'",
    )


def downgrade() -> None:
    replace_index(
        ["state", "worker", "id"],
        "state = 'active' AND worker IS NOT NULL AND started_attempt = attempt",
    )


def replace_index(columns: list[str], condition: str) -> None:
    # A rebuild that was interrupted has made the other index, and would go on.
    for suffix in ("_green", "_old"):
        op.execute(f"DROP TABLE IF EXISTS ledger_jobs{suffix}")
        op.execute(f"DROP TABLE IF EXISTS ledger_job_runs{suffix}")
    op.execute("DELETE FROM ledger_rebuilds WHERE name = 'jobs'")
    op.drop_index("ledger_jobs_held", "ledger_jobs")
    held = sa.text(condition)
    op.create_index(
        "ledger_jobs_held", "ledger_jobs", columns, sqlite_where=held, postgresql_where=held
    )

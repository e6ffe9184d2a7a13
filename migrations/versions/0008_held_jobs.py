"""Add the index of the attempts that workers hold.

A heartbeat asks what its worker holds, and the sweeper asks four times a second which workers
hold anything.  Both read all active jobs: 59 ms at 16,000 of them.
"""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    held = sa.text("state = 'active' AND worker IS NOT NULL AND started_attempt = attempt")
    op.create_index(
        "ledger_jobs_held",
        "ledger_jobs",
        ["state", "worker", "id"],
        sqlite_where=held,
        postgresql_where=held,
    )


def downgrade() -> None:
    op.drop_index("ledger_jobs_held", "ledger_jobs")

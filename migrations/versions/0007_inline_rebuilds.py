"""Tell a running process that a read model which commits with the events was rebuilt.

A process compares the versions of these models with its own when it starts.  One that went on
while a newer release rebuilt a model wrote rows of the old version into the new tables.
``ledger_head.inline_rebuilds`` counts such rebuilds.  An append reads it with the head, and
compares the versions again when it has changed.
"""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column(
        "ledger_head",
        sa.Column("inline_rebuilds", sa.Integer, nullable=False, server_default=sa.text("0")),
    )


def downgrade() -> None:
    op.execute("ALTER TABLE ledger_head DROP COLUMN inline_rebuilds")

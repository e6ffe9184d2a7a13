"""Create the tables for read models that follow the events, and for rebuilds."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

BIGINT = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "checkpoints",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("position", BIGINT, nullable=False),
        sa.Column("fingerprint", sa.Text),
    )
    op.create_table(
        "rebuilds",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("position", BIGINT, nullable=False),
        sa.Column("fingerprint", sa.Text, nullable=False),
        sa.Column("begun_at_ms", BIGINT, nullable=False),
    )
    op.create_table(
        "failures",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("position", BIGINT, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("at_ms", BIGINT, nullable=False),
    )
    op.create_table(
        "activity",
        sa.Column("minute_ms", BIGINT, primary_key=True, autoincrement=False),
        sa.Column("type", sa.Text, primary_key=True),
        sa.Column("created", sa.BigInteger, nullable=False),
        sa.Column("started", sa.BigInteger, nullable=False),
        sa.Column("completed", sa.BigInteger, nullable=False),
        sa.Column("failed", sa.BigInteger, nullable=False),
        sa.Column("work_ms", sa.BigInteger, nullable=False),
    )


def downgrade() -> None:
    for table in ("activity", "failures", "rebuilds", "checkpoints"):
        op.drop_table(table)

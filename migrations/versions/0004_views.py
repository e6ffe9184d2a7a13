"""Create the tables of the read models that catch up, and of those that are rebuilt."""

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


def downgrade() -> None:
    for table in ("failures", "rebuilds", "checkpoints"):
        op.drop_table(table)

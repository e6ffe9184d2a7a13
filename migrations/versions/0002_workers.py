"""Create the table of workers, and the projection of paused types."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

BIGINT = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "workers",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("types", sa.Text, nullable=False),
        sa.Column("started_at_ms", BIGINT, nullable=False),
        sa.Column("seen_at_ms", BIGINT, nullable=False),
        sa.Column("lease_ms", BIGINT, nullable=False),
    )
    op.create_table(
        "pauses",
        sa.Column("type", sa.Text, primary_key=True),
        sa.Column("since_ms", BIGINT, nullable=False),
    )


def downgrade() -> None:
    op.drop_table("pauses")
    op.drop_table("workers")

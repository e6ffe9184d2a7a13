"""Replace ``ledger_pauses`` by ``ledger_state``, and add ``ledger_head.reader_version``.

``ledger_pauses`` could record paused types only.  ``ledger_state`` has a row for each entry of
the ledger's own state that is not in its initial state.

``ledger_head.reader_version`` is the lowest reader version that knows all kinds and shapes of
events in the ledger.  A process of an older release now stops and asks to be upgraded.  Without
the column, it reported the ledger as corrupt when it read an unknown event.
"""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

BIGINT = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "ledger_state",
        sa.Column("subject", sa.Text, primary_key=True),
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("since_ms", BIGINT, nullable=False),
        sa.Column("facts", sa.Text, nullable=False),
    )
    op.execute(
        """
        INSERT INTO ledger_state (subject, name, state, since_ms, facts)
        SELECT 'type', type, 'paused', since_ms, '{}'
        FROM ledger_pauses
        """
    )
    drop("ledger_pauses", "pauses")
    op.add_column(
        "ledger_head",
        sa.Column("reader_version", sa.Integer, nullable=False, server_default=sa.text("1")),
    )


def downgrade() -> None:
    op.execute("ALTER TABLE ledger_head DROP COLUMN reader_version")
    op.create_table(
        "ledger_pauses",
        sa.Column("type", sa.Text, primary_key=True),
        sa.Column("since_ms", BIGINT, nullable=False),
    )
    op.execute(
        """
        INSERT INTO ledger_pauses (type, since_ms)
        SELECT name, since_ms
        FROM ledger_state
        WHERE subject = 'type' AND state = 'paused'
        """
    )
    drop("ledger_state", "ledger_state")
    # An older release stores no versions of the models that are updated with the events.
    op.execute(
        """
        DELETE FROM ledger_checkpoints
        WHERE name IN ('jobs', 'state_counts', 'unique_keys', 'ledger_state')
        """
    )


def drop(table: str, model: str) -> None:
    """Drop a table, and the tables that an interrupted rebuild has left."""
    for suffix in ("", "_green", "_old"):
        op.execute(f"DROP TABLE IF EXISTS {table}{suffix}")
    op.execute(sa.text("DELETE FROM ledger_rebuilds WHERE name = :name").bindparams(name=model))

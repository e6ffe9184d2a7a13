"""Keep the ledger's own state, whatever it is about, and who can read the events.

``ledger_pauses`` knew that a type is paused, and nothing else.  ``ledger_state`` has a row for
each entry of the ledger's own state that is not in its initial state.

``ledger_head.reader_version`` is the lowest version of a reader that knows all kinds and shapes
of events in the ledger.  A process of an older release stops with a sentence when it meets a
newer ledger; until now it met an event that it did not know, and called the ledger corrupt.
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
    # The models that commit with the events; an older release keeps no version of them.
    op.execute(
        """
        DELETE FROM ledger_checkpoints
        WHERE name IN ('jobs', 'state_counts', 'unique_keys', 'ledger_state')
        """
    )


def drop(table: str, model: str) -> None:
    """Drop a table, and what an interrupted rebuild has left beside it."""
    for suffix in ("", "_green", "_old"):
        op.execute(f"DROP TABLE IF EXISTS {table}{suffix}")
    op.execute(sa.text("DELETE FROM ledger_rebuilds WHERE name = :name").bindparams(name=model))

"""Create the tables of the search engine in the database, ``LEDGER_SEARCH=sql``."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import TSVECTOR

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

BIGINT = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "search_checkpoints",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("position", BIGINT, nullable=False),
        sa.Column("words_version", sa.Integer, nullable=False),
    )
    if op.get_bind().dialect.name == "sqlite":
        # A few builds of SQLite lack FTS5.  They can use the default search engine.
        options = op.get_bind().execute(sa.text("PRAGMA compile_options")).scalars()
        if "ENABLE_FTS5" not in set(options):
            return
        # The words are stored as ASCII tokens, and queries do not use their positions.
        op.execute(
            "CREATE VIRTUAL TABLE search_words USING fts5("
            "words, detail=none, columnsize=0, tokenize=\"ascii tokenchars '_'\")"
        )
        return
    op.create_table(
        "search_words",
        sa.Column("job_id", BIGINT, primary_key=True, autoincrement=False),
        sa.Column("words", TSVECTOR, nullable=False),
    )
    op.create_index("search_words_by_word", "search_words", ["words"], postgresql_using="gin")


def downgrade() -> None:
    op.execute("DROP TABLE IF EXISTS search_words")
    op.drop_table("search_checkpoints")

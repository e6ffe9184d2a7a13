"""The tables of the ledger itself, and those that are not part of history.

``ledger_events`` is append-only, by triggers that ``migrations/`` creates.  They allow one
change, *erasure*: content and salt become NULL, nothing else changes.  ``ledger_head`` has
one row: the lock, and the end of the chain.  ``ledger_workers`` holds heartbeats, which are
overwritten.  ``ledger_checkpoints``, ``ledger_rebuilds`` and ``ledger_failures`` record how far
the read models have come.
"""

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
    text,
)

# SQLite's rowid is INTEGER; on PostgreSQL positions and ids need more than 32 bits.
BIGINT = BigInteger().with_variant(Integer(), "sqlite")

metadata = MetaData()

_OF_LOG = "kind IN ('logged', 'failed')"

events = Table(
    "ledger_events",
    metadata,
    Column("position", BIGINT, primary_key=True, autoincrement=False),
    Column("job_id", BIGINT, nullable=False),
    Column("version", BIGINT, nullable=False),
    Column("kind", Text, nullable=False),
    Column("schema", Integer, nullable=False),
    Column("at_ms", BIGINT, nullable=False),
    Column("actor", Text, nullable=False),
    Column("cause", Text),
    # JSON text, never JSONB, which reorders keys and rewrites numbers.
    Column("body", Text, nullable=False),
    Column("content", Text),
    Column("salt", LargeBinary),
    Column("digest", LargeBinary),
    Column("chain", LargeBinary, nullable=False),
    UniqueConstraint("job_id", "version", name="ledger_events_stream"),
    CheckConstraint("position > 0", name="ledger_events_position_positive"),
    CheckConstraint("version > 0", name="ledger_events_version_positive"),
    CheckConstraint(
        "(content IS NULL) = (salt IS NULL) AND (content IS NULL OR digest IS NOT NULL)",
        name="ledger_events_content_committed",
    ),
    # For reading a job's log without its progress events.
    Index(
        "ledger_events_log",
        "job_id",
        "version",
        sqlite_where=text(_OF_LOG),
        postgresql_where=text(_OF_LOG),
    ),
)

head = Table(
    "ledger_head",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("position", BIGINT, nullable=False),
    Column("chain", LargeBinary, nullable=False),
    Column("last_job_id", BIGINT, nullable=False),
    Column("at_ms", BIGINT, nullable=False),
    Column("reader_version", Integer, nullable=False, server_default=text("1")),
    # Number of rebuilds of read models that commit with the events.
    Column("inline_rebuilds", Integer, nullable=False, server_default=text("0")),
    CheckConstraint("id = 1", name="ledger_head_single"),
)

workers = Table(
    "ledger_workers",
    metadata,
    Column("name", Text, primary_key=True),
    # A JSON object: how many jobs of each type it runs at once.
    Column("types", Text, nullable=False),
    Column("started_at_ms", BIGINT, nullable=False),
    Column("seen_at_ms", BIGINT, nullable=False),
    Column("lease_ms", BIGINT, nullable=False),
)

# Positions of the read models that follow the log after the commit.
checkpoints = Table(
    "ledger_checkpoints",
    metadata,
    Column("name", Text, primary_key=True),
    Column("position", BIGINT, nullable=False),
    # Of the definition of the read model's tables; NULL if it has no tables.
    Column("fingerprint", Text),
)

# Positions of read models that are being rebuilt beside the live ones.
rebuilds = Table(
    "ledger_rebuilds",
    metadata,
    Column("name", Text, primary_key=True),
    Column("position", BIGINT, nullable=False),
    Column("fingerprint", Text, nullable=False),
    Column("begun_at_ms", BIGINT, nullable=False),
)

# The event that a read model cannot apply, until it can.
failures = Table(
    "ledger_failures",
    metadata,
    Column("name", Text, primary_key=True),
    Column("position", BIGINT, nullable=False),
    Column("reason", Text, nullable=False),
    Column("at_ms", BIGINT, nullable=False),
)

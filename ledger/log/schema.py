"""Describe the two tables of the ledger itself, and those that are not history.

``ledger_events`` is append-only, by triggers that ``migrations/`` creates; the one
change they let through is *erasure*: content and salt become null, nothing else.
``ledger_head`` has one row: the lock, and the end of the chain.  ``ledger_workers`` holds
signs of life, which are overwritten.  ``ledger_checkpoints``, ``ledger_rebuilds``
and ``ledger_failures`` tell how far the read models have come.
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

# SQLite's rowid is INTEGER; everywhere else positions and ids outgrow 32 bits.
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
    # A job's log, without reading past its progress.
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
    CheckConstraint("id = 1", name="ledger_head_single"),
)

workers = Table(
    "ledger_workers",
    metadata,
    Column("name", Text, primary_key=True),
    # A JSON object: how many jobs of each type it takes at once.
    Column("types", Text, nullable=False),
    Column("started_at_ms", BIGINT, nullable=False),
    Column("seen_at_ms", BIGINT, nullable=False),
    Column("lease_ms", BIGINT, nullable=False),
)

# How far the read models that catch up have come.
checkpoints = Table(
    "ledger_checkpoints",
    metadata,
    Column("name", Text, primary_key=True),
    Column("position", BIGINT, nullable=False),
    # Of the tables' definition; null where there are no tables.
    Column("fingerprint", Text),
)

# How far those have come that are built anew, beside the live ones.
rebuilds = Table(
    "ledger_rebuilds",
    metadata,
    Column("name", Text, primary_key=True),
    Column("position", BIGINT, nullable=False),
    Column("fingerprint", Text, nullable=False),
    Column("begun_at_ms", BIGINT, nullable=False),
)

# The event that a read model cannot be told, as long as it cannot.
failures = Table(
    "ledger_failures",
    metadata,
    Column("name", Text, primary_key=True),
    Column("position", BIGINT, nullable=False),
    Column("reason", Text, nullable=False),
    Column("at_ms", BIGINT, nullable=False),
)

"""The Alembic environment; ``ledger.database.migration`` provides the connection."""

from alembic import context
from sqlalchemy import text

# While a migration waits for a lock, every writer queues behind it.  A migration that cannot
# get its lock therefore fails, and can be run again; so does one that takes too long.
LOCK_TIMEOUT = "10s"
STATEMENT_TIMEOUT = "30min"


def run() -> None:
    """Run the requested migrations in the caller's transaction."""
    connection = context.config.attributes["connection"]
    if connection.dialect.name == "postgresql":
        connection.execute(text(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'"))
        connection.execute(text(f"SET LOCAL statement_timeout = '{STATEMENT_TIMEOUT}'"))
    context.configure(
        connection=connection,
        target_metadata=context.config.attributes.get("target_metadata"),
        transactional_ddl=True,
        compare_type=True,
        version_table=context.config.attributes["version_table"],
    )
    # All steps are committed together, by the caller.
    context.run_migrations()


run()

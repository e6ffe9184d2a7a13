"""The Alembic environment; ``ledger.database.migration`` provides the connection."""

from alembic import context
from sqlalchemy import text

# While a migration waits for a lock, every writer queues behind it.  A migration that cannot
# get its lock therefore fails, and can be run again; so does one that takes too long.  There is
# no limit outside a transaction: an index that is built concurrently waits for every older
# transaction, and keeps no writer waiting.
LOCK_TIMEOUT = "10s"
STATEMENT_TIMEOUT = "30min"


def run() -> None:
    """Run the requested migrations in the caller's transaction, or in none if it has none."""
    connection = context.config.attributes["connection"]
    if connection.dialect.name == "postgresql":
        if context.config.attributes["is_transactional"]:
            connection.execute(text(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'"))
            connection.execute(text(f"SET LOCAL statement_timeout = '{STATEMENT_TIMEOUT}'"))
        else:
            connection.execute(text("SET lock_timeout = 0"))
            connection.execute(text("SET statement_timeout = 0"))
    context.configure(
        connection=connection,
        target_metadata=context.config.attributes.get("target_metadata"),
        transactional_ddl=True,
        compare_type=True,
        version_table=context.config.attributes["version_table"],
    )
    # The caller's transaction commits all steps or none; outside one, each step's revision is
    # stored when the step has been done.
    context.run_migrations()


run()

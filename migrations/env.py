"""The Alembic environment, which uses the connection of ``ledger.database.migration``."""

from alembic import context
from sqlalchemy import text

# A migration that cannot get its lock must fail, and can be run again: while it waits for the
# lock, every writer waits behind it.  One that takes too long must end.
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
    # The caller's transaction commits all steps or none.
    context.run_migrations()


run()

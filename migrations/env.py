"""Run migrations on the connection that ``ledger.database.migration`` hands over."""

from alembic import context
from sqlalchemy import text

# A migration that cannot get its lock must fail and be tried again, not queue up
# in front of every writer; one that runs away must end.
LOCK_TIMEOUT = "10s"
STATEMENT_TIMEOUT = "30min"


def run() -> None:
    """Run what Alembic was asked for, within the caller's transaction."""
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
    # The caller holds the transaction: all steps of a migration, or none.
    context.run_migrations()


run()

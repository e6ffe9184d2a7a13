"""The triggers that keep ``ledger_events`` append-only, as this version expects them.

A migration is never edited once it has run somewhere, so the migrations contain these
statements too.  ``ledger verify`` compares a database with the statements here, and so
does every test that verifies a migrated ledger: if the two diverge, those tests fail.
"""

from collections.abc import Sequence
from typing import Final

from ledger.log.schema import events

# Erasure sets these two columns to NULL; every other change is refused.
_ERASABLE: Final = ("content", "salt")
_KEPT: Final = tuple(column.name for column in events.columns if column.name not in _ERASABLE)


def sqlite_triggers() -> Sequence[str]:
    """Return the statements that create the triggers on SQLite."""
    erased = " AND ".join(f"NEW.{column} IS NULL" for column in _ERASABLE)
    kept = " AND ".join(f"NEW.{column} IS OLD.{column}" for column in _KEPT)
    return (
        f"""
        CREATE TRIGGER ledger_events_no_update BEFORE UPDATE ON ledger_events
        WHEN NOT ({erased} AND {kept})
        BEGIN SELECT RAISE(ABORT, 'ledger_events is append-only'); END
        """,
        """
        CREATE TRIGGER ledger_events_no_delete BEFORE DELETE ON ledger_events
        BEGIN SELECT RAISE(ABORT, 'ledger_events is append-only'); END
        """,
        # INSERT OR REPLACE deletes the conflicting row without firing the trigger above.
        """
        CREATE TRIGGER ledger_events_no_replace BEFORE INSERT ON ledger_events
        WHEN EXISTS (SELECT 1 FROM ledger_events WHERE position = NEW.position)
          OR EXISTS (
              SELECT 1 FROM ledger_events WHERE job_id = NEW.job_id AND version = NEW.version
          )
        BEGIN SELECT RAISE(ABORT, 'ledger_events is append-only'); END
        """,
    )


def postgres_triggers(schema: str) -> Sequence[str]:
    """Return the statements that create the triggers on PostgreSQL.

    Args:
        schema: The schema of the table ``ledger_events``.  A function in ``pg_temp`` is found only
            by its qualified name.
    """
    erased = " AND ".join(f"NEW.{column} IS NULL" for column in _ERASABLE)
    kept = " AND ".join(f"NEW.{column} IS NOT DISTINCT FROM OLD.{column}" for column in _KEPT)
    return (
        f"""
        CREATE FUNCTION {schema}.ledger_events_append_only() RETURNS trigger
        LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
        BEGIN
            IF TG_OP = 'UPDATE' THEN
                IF {erased} AND {kept} THEN
                    RETURN NEW;
                END IF;
            END IF;
            RAISE EXCEPTION 'ledger_events is append-only';
        END $$
        """,
        f"""
        CREATE TRIGGER ledger_events_no_change BEFORE UPDATE OR DELETE ON {schema}.ledger_events
        FOR EACH ROW EXECUTE FUNCTION {schema}.ledger_events_append_only()
        """,
        f"""
        CREATE TRIGGER ledger_events_no_truncate BEFORE TRUNCATE ON {schema}.ledger_events
        FOR EACH STATEMENT EXECUTE FUNCTION {schema}.ledger_events_append_only()
        """,
    )

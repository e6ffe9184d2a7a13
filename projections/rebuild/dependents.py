"""Objects of an application that use a read model's tables; on PostgreSQL, they block a swap.

A swap drops the live table.  PostgreSQL refuses that while a view, a foreign key or a function
refers to it.  To drop these objects too would be wrong, and to create them again would be as the
role of the rebuild and not as their owner's.  So a rebuild refuses, and names them: before its
long work begins, and again at the swap.

What is on the table itself, such as a trigger, an index or a policy, does not stop a rebuild: it
is dropped with the table.  It is not in what Ledger creates, and may be what the rebuild is to
undo.
"""

from collections.abc import Sequence
from typing import Final

from sqlalchemy import Connection, Table, text

from ledger.errors import LedgerError

# Dependencies of kind 'n' are those that keep a table from being dropped.  A view depends on a
# table by the rule that it consists of, and a function with a row among its arguments by the
# type of the table's rows.  What is on one of the tables also has a dependency of kind 'a' or 'i'.
_DEPENDENTS: Final = text(
    """
    WITH ours AS (
        SELECT c.oid, c.relname AS name, c.reltype, t.typarray
        FROM pg_class AS c
        JOIN pg_namespace AS n ON n.oid = c.relnamespace
        JOIN pg_type AS t ON t.oid = c.reltype
        WHERE n.nspname = current_schema() AND c.relname = ANY(CAST(:tables AS text[]))
    )
    SELECT DISTINCT ours.name, it.type, it.identity
    FROM ours
    JOIN pg_depend AS d
      ON (d.refclassid = 'pg_class'::regclass AND d.refobjid = ours.oid)
      OR (d.refclassid = 'pg_type'::regclass AND d.refobjid IN (ours.reltype, ours.typarray))
    LEFT JOIN pg_rewrite AS rule ON d.classid = 'pg_rewrite'::regclass AND rule.oid = d.objid
    LEFT JOIN pg_class AS ruled ON ruled.oid = rule.ev_class
    CROSS JOIN LATERAL pg_identify_object(
        CASE WHEN ruled.relkind IN ('v', 'm') THEN 'pg_class'::regclass ELSE d.classid END,
        CASE WHEN ruled.relkind IN ('v', 'm') THEN ruled.oid ELSE d.objid END,
        CASE WHEN ruled.relkind IN ('v', 'm') THEN 0 ELSE d.objsubid END
    ) AS it
    WHERE d.deptype = 'n'
      AND NOT EXISTS (
          SELECT 1
          FROM pg_depend AS own
          WHERE own.classid = d.classid
            AND own.objid = d.objid
            AND own.refclassid = 'pg_class'::regclass
            AND own.refobjid IN (SELECT oid FROM ours)
            AND own.deptype IN ('a', 'i')
      )
    ORDER BY ours.name, it.type, it.identity
    """
)


class HasDependents(LedgerError):  # noqa: N818 - as all in ledger.errors
    """Objects of an application that refer to the tables that were to be swapped."""


def require_no_dependents(connection: Connection, tables: Sequence[Table]) -> None:
    """Require that nothing keeps *tables* from being swapped; nothing does on SQLite.

    Raises:
        HasDependents: Objects of an application refer to them; the error names all.
    """
    if connection.dialect.name == "sqlite":
        return
    found = connection.execute(_DEPENDENTS, {"tables": [table.name for table in tables]}).all()
    if found:
        uses = ", ".join(f"{one.type} {one.identity} uses {one.name}" for one in found)
        them = "it" if len(found) == 1 else "them"
        raise HasDependents(
            f"{uses}; a rebuild replaces the table, so drop {them} and create {them} again after "
            "the rebuild"
        )

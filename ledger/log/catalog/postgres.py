"""Descriptions of tables on PostgreSQL, read from its catalogs.

The expected tables are created as temporary tables of the same names, in ``pg_temp``, and
rolled back.  This needs only the right to create temporary tables, which ``ledger verify``
needs anyway.

Source: https://www.postgresql.org/docs/current/catalogs.html
"""

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Final, NamedTuple

from sqlalchemy import Connection, MetaData, Table, exc, text

from ledger.log.append_only import postgres_triggers
from ledger.log.catalog.description import Description, Kind, Part
from ledger.log.schema import events

_TEMPORARY: Final = "pg_temp"

_RELATIONS: Final = text(
    """
    SELECT asked.table,
           c.oid,
           c.relkind::text AS kind,
           c.relpersistence::text AS persistence,
           c.relrowsecurity OR c.relforcerowsecurity AS has_row_security,
           EXISTS (SELECT 1 FROM pg_inherits WHERE c.oid IN (inhrelid, inhparent)) AS inherits
    FROM unnest(CAST(:tables AS text[]), CAST(:names AS text[])) AS asked ("table", name)
    JOIN pg_class AS c ON c.oid = to_regclass(asked.name)
    """
)
_COLUMNS: Final = text(
    """
    SELECT a.attrelid AS oid,
           a.attname AS name,
           concat_ws(
               ' ',
               format_type(a.atttypid, a.atttypmod),
               CASE WHEN a.attcollation <> t.typcollation
                    THEN 'COLLATE ' || a.attcollation::regcollation END,
               CASE WHEN a.attnotnull THEN 'NOT NULL' END,
               CASE WHEN a.attidentity <> '' THEN 'IDENTITY' END,
               CASE WHEN a.attgenerated <> '' THEN 'GENERATED' END,
               'DEFAULT ' || pg_get_expr(d.adbin, d.adrelid)
           ) AS definition
    FROM pg_attribute AS a
    JOIN pg_type AS t ON t.oid = a.atttypid
    LEFT JOIN pg_attrdef AS d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
    WHERE a.attrelid = ANY(CAST(:oids AS oid[])) AND a.attnum > 0 AND NOT a.attisdropped
    """
)
# Without NOT NULL, a constraint since PostgreSQL 18, which is described with its column.
_CONSTRAINTS: Final = text(
    """
    SELECT conrelid AS oid,
           conname AS name,
           pg_get_constraintdef(oid) AS definition
    FROM pg_constraint
    WHERE conrelid = ANY(CAST(:oids AS oid[])) AND contype <> 'n'
    """
)
_INDEXES: Final = text(
    """
    SELECT i.indrelid AS oid,
           c.relname AS name,
           i.indisunique AS is_unique,
           concat_ws(
               ' ',
               am.amname,
               (SELECT string_agg(pg_get_indexdef(i.indexrelid, k, false), ', ' ORDER BY k)
                FROM generate_series(1, i.indnatts) AS k),
               'options ' || i.indoption::text,
               'classes ' || i.indclass::text,
               'collations ' || i.indcollation::text,
               'WHERE ' || pg_get_expr(i.indpred, i.indrelid),
               CASE WHEN NOT i.indisvalid THEN 'INVALID' END
           ) AS definition
    FROM pg_index AS i
    JOIN pg_class AS c ON c.oid = i.indexrelid
    JOIN pg_am AS am ON am.oid = c.relam
    WHERE i.indrelid = ANY(CAST(:oids AS oid[]))
      AND NOT EXISTS (SELECT 1 FROM pg_constraint WHERE conindid = i.indexrelid)
    """
)
_TRIGGERS: Final = text(
    """
    SELECT t.tgrelid AS oid,
           t.tgname AS name,
           pg_get_triggerdef(t.oid) AS definition,
           t.tgenabled::text AS enabled,
           p.proname AS function,
           concat_ws(
               ' ',
               l.lanname,
               CASE WHEN p.prosecdef THEN 'SECURITY DEFINER' END,
               'SET ' || array_to_string(p.proconfig, ', '),
               p.prosrc
           ) AS body
    FROM pg_trigger AS t
    JOIN pg_proc AS p ON p.oid = t.tgfoid
    JOIN pg_language AS l ON l.oid = p.prolang
    WHERE t.tgrelid = ANY(CAST(:oids AS oid[])) AND NOT t.tgisinternal
    """
)
_RULES: Final = text(
    """
    SELECT ev_class AS oid,
           rulename AS name,
           pg_get_ruledef(oid) AS definition
    FROM pg_rewrite
    WHERE ev_class = ANY(CAST(:oids AS oid[]))
    """
)
_POLICIES: Final = text(
    """
    SELECT polrelid AS oid,
           polname AS name,
           concat_ws(
               ' ',
               'FOR ' || polcmd::text,
               'USING ' || pg_get_expr(polqual, polrelid),
               'CHECK ' || pg_get_expr(polwithcheck, polrelid)
           ) AS definition
    FROM pg_policy
    WHERE polrelid = ANY(CAST(:oids AS oid[]))
    """
)
# With 'replica', which can be set for all sessions of a role, no trigger fires.
_ROLE: Final = Part("", Kind.SETTING, "session_replication_role")
_SELECT_ROLE: Final = text("SELECT current_setting('session_replication_role')")
_KINDS: Final = {
    "r": "a table",
    "v": "a view",
    "m": "a materialized view",
    "p": "a partitioned table",
    "f": "a foreign table",
}
_ENABLED: Final = {
    "O": "enabled",
    "D": "disabled",
    "R": "enabled on replicas only",
    "A": "enabled always",
}
# The table in a trigger's definition, and the schema before a name: both differ between the live
# tables and those in pg_temp.
_NAME: Final = r'(?:"(?:[^"]|"")+"|[\w$]+)'
_ON_TABLE: Final = re.compile(rf" ON (?:{_NAME}\.)?{_NAME} ")
_QUALIFIER: Final = re.compile(rf"{_NAME}\.(?={_NAME}\()")


class _Relation(NamedTuple):
    """A relation under the name of a table; it may be something other than a table.

    Attributes:
        table: The name of the table that was looked up.
        told: The description of the relation.
    """

    table: str
    told: str


def describe(connection: Connection, tables: Sequence[Table]) -> tuple[Description, Description]:
    """Return the expected and the present description of *tables*."""
    # Queried first, because the temporary tables hide the live ones.
    live = _relations(connection, {table.name: _quoted(connection, table) for table in tables})
    found = {**_describe(connection, live), _ROLE: str(connection.scalar(_SELECT_ROLE))}
    connection.exec_driver_sql("SAVEPOINT expected_tables")
    try:
        _create(connection, tables)
        temporary = {table.name: f"{_TEMPORARY}.{_quoted(connection, table)}" for table in tables}
        expected = {**_describe(connection, _relations(connection, temporary)), _ROLE: "origin"}
    except BaseException:
        # The connection may be lost, and then that is the error.
        with suppress(exc.SQLAlchemyError):
            _undo(connection)
        raise
    _undo(connection)
    return expected, found


def _undo(connection: Connection) -> None:
    connection.exec_driver_sql("ROLLBACK TO SAVEPOINT expected_tables")


def _create(connection: Connection, tables: Sequence[Table]) -> None:
    apart = MetaData()
    for table in tables:
        table.to_metadata(apart, schema=_TEMPORARY).create(connection)
    if events in tables:
        for statement in postgres_triggers(_TEMPORARY):
            connection.exec_driver_sql(statement)


def _quoted(connection: Connection, table: Table) -> str:
    return connection.dialect.identifier_preparer.quote(table.name)


def _relations(connection: Connection, names: Mapping[str, str]) -> dict[int, _Relation]:
    """Return the relations found for some tables, by their OID.

    Args:
        connection: Where to look.
        names: For each table, the name to look up.
    """
    relations = {}
    asked = {"tables": list(names), "names": list(names.values())}
    for row in connection.execute(_RELATIONS, asked):
        told = [_KINDS.get(row.kind, "no table")]
        # Only "unlogged": the expected tables are temporary, the live ones are not.
        told += ["unlogged"] if row.persistence == "u" else []
        told += ["with row-level security"] if row.has_row_security else []
        told += ["with a parent or children"] if row.inherits else []
        relations[row.oid] = _Relation(row.table, ", ".join(told))
    return relations


def _describe(connection: Connection, relations: Mapping[int, _Relation]) -> dict[Part, str]:
    parts: dict[Part, str] = {}
    for table, told in relations.values():
        parts[Part(table, Kind.TABLE, table)] = told
    asked = {"oids": list(relations)}
    for kind, query in (
        (Kind.COLUMN, _COLUMNS),
        (Kind.CONSTRAINT, _CONSTRAINTS),
        (Kind.RULE, _RULES),
        (Kind.POLICY, _POLICIES),
    ):
        for oid, name, definition in connection.execute(query, asked):
            parts[Part(relations[oid].table, kind, name)] = _squeezed(definition)
    for oid, name, is_unique, definition in connection.execute(_INDEXES, asked):
        kind = Kind.UNIQUE_INDEX if is_unique else Kind.INDEX
        parts[Part(relations[oid].table, kind, name)] = definition
    for row in connection.execute(_TRIGGERS, asked):
        table = relations[row.oid].table
        definition = _QUALIFIER.sub("", _ON_TABLE.sub(" ", row.definition, count=1))
        enabled = _ENABLED.get(row.enabled, row.enabled)
        parts[Part(table, Kind.TRIGGER, row.name)] = f"{definition}, {enabled}"
        parts[Part(table, Kind.FUNCTION, row.function)] = _squeezed(row.body)
    return parts


def _squeezed(definition: str) -> str:
    return " ".join(definition.split())

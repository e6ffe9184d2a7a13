"""Replacement tables of projections: their creation, and their swap with the live tables.

The swap
--------
A swap is one short transaction.  It renames tables and everything that is named after them,
so that afterwards the schema has exactly the names that the migrations created.

On PostgreSQL, a rename waits until no transaction reads the old table, and later transactions
wait behind it.  So the locks are requested with a short timeout; if a long reader holds a
table, the swap lets the others proceed and tries again.  A snapshot that is older than the
replacement's rows would see only some of them under the new name.  So the swap also waits for
all snapshots (see ``PostgresDatabase``), which hold a lock on ``ledger_checkpoints``.

On SQLite, readers have a snapshot of the schema too, and nothing waits.  But SQLite cannot
rename an index, and rebuilding the indexes of a large table takes seconds.  So their names
are changed in ``sqlite_schema``, by the procedure that SQLite documents for changes that
``ALTER TABLE`` does not support; where that is forbidden, they are rebuilt.  Dropping a large
table takes long as well, because each of its pages is visited.  So the old table gets another
name, and is emptied in small steps once writers can continue.

Source: https://www.sqlite.org/lang_altertable.html, "Making Other Kinds Of Table Schema
Changes".
"""

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from sqlalchemy import Connection, Index, Table, exc, inspect, text
from sqlalchemy.schema import CreateTable

from ledger.database.contract import Database
from ledger.errors import LedgerError
from ledger.projections.projection import REPLACEMENT_SUFFIX, Projection
from ledger.projections.rebuild.steps import Steps

OLD_SUFFIX: Final = "_old"
# Maximum time that others wait behind a swap that waits for a reader.
SWAP_LOCK_MS: Final = 100
_LOCK_NOT_AVAILABLE: Final = "55P03"


class InUse(LedgerError):  # noqa: N818 - as all in ledger.errors
    """Another transaction reads the tables that were to be swapped."""


def create_tables(tx: Connection, projection: Projection) -> None:
    """Create the tables of *projection*, without their indexes."""
    for table in projection.tables:
        tx.execute(CreateTable(table))


def create_indexes(database: Database, projection: Projection, steps: Steps) -> None:
    """Create the indexes that are missing, each in a transaction of its own."""
    for table in projection.tables:
        with database.read() as connection:
            there = {index["name"] for index in inspect(connection).get_indexes(table.name)}
        for index in _by_name(table.indexes):
            if index.name not in there:
                with database.write() as tx:
                    index.create(tx)
                give_way(database, steps)
        if not database.is_embedded:
            with database.write() as tx:
                # Otherwise the first queries after the swap are planned for an empty table.
                tx.execute(text(f"ANALYZE {_quoted(tx, table.name)}"))


def give_way(database: Database, steps: Steps) -> None:
    """Let waiting writers proceed.

    On SQLite the lock is not passed on: waiting writers are woken when it is free, and a
    process that requests it again at once gets it before they have looked.  Without this pause,
    one writer waited for six indexes.
    """
    if database.is_embedded:
        time.sleep(steps.give_way_s)


def drop_tables(tx: Connection, projection: Projection) -> None:
    """Drop the tables of *projection*, if they exist."""
    for table in projection.tables:
        tx.execute(text(f"DROP TABLE IF EXISTS {_quoted(tx, table.name)}"))


def are_there(connection: Connection, tables: Iterable[Table]) -> bool:
    """Return whether all of the tables exist."""
    there = set(inspect(connection).get_table_names())
    return all(table.name in there for table in tables)


def not_there(name: str) -> str:
    """Return the message for a read model whose tables have not been created."""
    return (
        f"it has no tables yet; run `ledger migrate` to create them, or `ledger rebuild {name}` "
        "to create and fill them"
    )


def swap(tx: Connection, live: Projection) -> None:
    """Put the replacement tables of *live* in the place of its live tables.

    Args:
        tx: A transaction that holds the head's lock, and ``locked_for_swap``.
        live: The projection on its live tables, which need not exist.
    """
    there = set(inspect(tx).get_table_names())
    for table in live.tables:
        if tx.dialect.name == "sqlite":
            _swap_on_sqlite(tx, table, exists=table.name in there)
        else:
            _swap_on_postgres(tx, table.name, exists=table.name in there)


@contextmanager
def locked_for_swap(tx: Connection, tables: Sequence[Table]) -> Iterator[None]:
    """Keep others from reading *tables* until *tx* ends; SQLite does not need it.

    Raises:
        InUse: Another transaction reads them, and *tx* has failed; try again.
    """
    if tx.dialect.name == "sqlite":
        yield
        return
    there = set(inspect(tx).get_table_names())
    names = ["ledger_checkpoints", *(table.name for table in tables if table.name in there)]
    try:
        tx.execute(text(f"SET LOCAL lock_timeout = {SWAP_LOCK_MS}"))
        for name in names:
            tx.execute(text(f"LOCK TABLE {_quoted(tx, name)} IN ACCESS EXCLUSIVE MODE"))
    except exc.OperationalError as error:
        if getattr(error.orig, "sqlstate", None) == _LOCK_NOT_AVAILABLE:
            raise InUse("other transactions have been reading the live tables") from error
        raise
    yield


def drop_old(database: Database, live: Projection, steps: Steps) -> None:
    """Drop the tables that swaps have left of *live*, in small steps."""
    if not database.is_embedded:
        return
    for table in live.tables:
        name = table.name + OLD_SUFFIX
        with database.read() as connection:
            inspector = inspect(connection)
            if not inspector.has_table(name):
                continue
            indexes = [index["name"] for index in inspector.get_indexes(name)]
        for index in indexes:
            with database.write() as tx:
                tx.execute(text(f"DROP INDEX {_quoted(tx, str(index))}"))
            give_way(database, steps)
        has_rowid = table.dialect_options["sqlite"]["with_rowid"]
        while has_rowid and _delete_some(database, name, most=steps.rows_at_once):
            give_way(database, steps)
        with database.write() as tx:
            tx.execute(text(f"DROP TABLE {_quoted(tx, name)}"))


def _delete_some(database: Database, name: str, *, most: int) -> bool:
    """Delete up to *most* rows; return whether there may be more."""
    with database.write() as tx:
        quoted = _quoted(tx, name)
        some = f"SELECT rowid FROM {quoted} ORDER BY rowid LIMIT {most}"  # noqa: S608
        deleted = tx.execute(text(f"DELETE FROM {quoted} WHERE rowid IN ({some})"))  # noqa: S608
    return deleted.rowcount == most


# --- PostgreSQL


def _swap_on_postgres(tx: Connection, name: str, *, exists: bool) -> None:
    quoted, replacement = _quoted(tx, name), _quoted(tx, name + REPLACEMENT_SUFFIX)
    grants: Sequence[str] = ()
    if exists:
        grants = grants_of(tx, name)
        tx.execute(text(f"DROP TABLE {quoted}"))
    tx.execute(text(f"ALTER TABLE {replacement} RENAME TO {quoted}"))
    indexes = tx.scalars(
        text(
            """
            SELECT indexname
            FROM pg_indexes
            WHERE schemaname = current_schema() AND tablename = :name
            """
        ),
        {"name": name},
    ).all()
    for index in indexes:
        # For a primary key, this renames the constraint too.
        tx.execute(
            text(
                f"ALTER INDEX {_quoted(tx, index)} RENAME TO {_quoted(tx, live_name(index, name))}"
            )
        )
    for grant in grants:
        tx.exec_driver_sql(grant)


def grants_of(tx: Connection, name: str) -> Sequence[str]:
    """Return the GRANT statements that restore the privileges of others on a table."""
    return tx.scalars(
        text(
            """
            SELECT format('GRANT %s ON %I TO %s%s', privilege_type, table_name,
                          CASE grantee WHEN 'PUBLIC' THEN grantee ELSE quote_ident(grantee) END,
                          CASE is_grantable WHEN 'YES' THEN ' WITH GRANT OPTION' ELSE '' END)
            FROM information_schema.role_table_grants
            WHERE table_schema = current_schema()
              AND table_name = :name
              AND grantee <> grantor
            """
        ),
        {"name": name},
    ).all()


# --- SQLite


@contextmanager
def names_alone(tx: Connection) -> Iterator[None]:
    """Let SQLite rename tables, and leave views, triggers and foreign keys as they are.

    Otherwise it rewrites those of an application, to name the table that is dropped; and it
    fails if one of them, on whichever tables, names something that is not there any more.
    """
    tx.exec_driver_sql("PRAGMA legacy_alter_table = ON")
    try:
        yield
    finally:
        tx.exec_driver_sql("PRAGMA legacy_alter_table = OFF")


def _swap_on_sqlite(tx: Connection, table: Table, *, exists: bool) -> None:
    name, old = table.name, table.name + OLD_SUFFIX
    replacement = _quoted(tx, name + REPLACEMENT_SUFFIX)
    with names_alone(tx):
        if exists:
            tx.execute(text(f"ALTER TABLE {_quoted(tx, name)} RENAME TO {_quoted(tx, old)}"))
        tx.execute(text(f"ALTER TABLE {replacement} RENAME TO {_quoted(tx, name)}"))
    try:
        _rename_indexes(tx, name, old)
    except exc.OperationalError:
        # This SQLite was built to forbid it.
        _build_indexes(tx, table, old)


def _rename_indexes(tx: Connection, name: str, old: str) -> None:
    indexes = tx.execute(
        text(
            """
            SELECT rowid, name, tbl_name, sql
            FROM sqlite_master
            WHERE type = 'index' AND sql IS NOT NULL AND tbl_name IN (:name, :old)
            """
        ),
        {"name": name, "old": old},
    ).all()
    tx.exec_driver_sql("PRAGMA writable_schema = ON")
    try:
        for rowid, index, of, sql in indexes:
            new = live_name(index, name) if of == name else index + OLD_SUFFIX
            tx.execute(
                text("UPDATE sqlite_master SET name = :new, sql = :sql WHERE rowid = :rowid"),
                {"new": new, "sql": sql.replace(index, new, 1), "rowid": rowid},
            )
    finally:
        # This connection reads the schema again too; others do because the rename changed it.
        tx.exec_driver_sql("PRAGMA writable_schema = RESET")


def _build_indexes(tx: Connection, table: Table, old: str) -> None:
    for of in (old, table.name):
        for there in inspect(tx).get_indexes(of) if inspect(tx).has_table(of) else ():
            tx.execute(text(f"DROP INDEX {_quoted(tx, str(there['name']))}"))
    for index in _by_name(table.indexes):
        index.create(tx)


# --- names


def live_name(index: str, table: str) -> str:
    """Return the name that an index of the replacement has in the live table."""
    if index.endswith(REPLACEMENT_SUFFIX):
        return index.removesuffix(REPLACEMENT_SUFFIX)
    # The database named it after the table.
    return index.replace(table + REPLACEMENT_SUFFIX, table, 1)


def _by_name(indexes: Iterable[Index]) -> list[Index]:
    return sorted(indexes, key=lambda index: str(index.name))


def _quoted(tx: Connection, name: str) -> str:
    return tx.dialect.identifier_preparer.quote(name)

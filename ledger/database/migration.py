"""Bring a database's tables to this version, or say how far they are from it.

The steps themselves are Alembic's, in the package ``migrations``, which is
found by its name and not imported.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import as_file, files
from typing import Final

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, exc, text

from ledger.database import release_before
from ledger.database.contract import Database
from ledger.errors import SchemaMismatch

_PACKAGE: Final = "ledger.migrations"
# Not Alembic's usual one, which is the application's.
VERSION_TABLE: Final = "ledger_alembic_version"
# PostgreSQL's codes for a table or index, a function, and a constraint that is there already,
_TAKEN: Final = {"42P07", "42723", "42710"}
# and for a role without the right to create, or with no schema on its search path.
_FORBIDDEN: Final = {"42501", "3F000"}


def migrate(database: Database, *, to: str = "head") -> tuple[str | None, str | None]:
    """Bring the tables to revision *to*, in one transaction.

    A schema that was named is created.  An application's tables are left alone, whatever they
    are called.

    Returns:
        The revisions before and after; None is a database without a ledger.

    Raises:
        SchemaMismatch: They are of a newer version, or an application's table has one of our
            names.
        Unavailable: The database is away, or its tables are in use for too long.
    """
    with database.write() as tx, _explained(database), as_file(files(_PACKAGE)) as folder:
        # There is no head yet to lock, and two migrations must not meet.
        database.lock_schema(tx)
        database.create_schema(tx)
        found = None if _version(tx) else release_before.revision(tx)
        before = _version(tx) or found
        config = _config(str(folder), tx)
        if before is not None and before not in _known(config):
            raise _newer(database, before)
        if found is not None:
            command.stamp(config, found)
            release_before.remove_version(tx, found)
        if to in release_before.REVISIONS:
            _require_version_table(database, tx, to)
        _step(config, to, before)
        after = _current(tx)
        if after is None or after in release_before.REVISIONS:
            tx.execute(text(f"DROP TABLE IF EXISTS {VERSION_TABLE}"))
        if after is not None and after in release_before.REVISIONS:
            release_before.put_version(tx, after)
    if after is not None:
        database.tables_were_created()
    return before, after


def _step(config: Config, to: str, before: str | None) -> None:
    """Go from one revision to the other, in Alembic's steps."""
    script = ScriptDirectory.from_config(config)
    last_before = release_before.REVISIONS[-1]
    if before is None and to == "base":
        return
    if before is None and to not in release_before.REVISIONS:
        # Passed over, as they create tables of common names.
        command.stamp(config, last_before)
        config.attributes["is_new"] = True
        command.upgrade(config, to)
    elif to == "base" and before not in release_before.REVISIONS:
        config.attributes["to_base"] = True
        command.downgrade(config, last_before)
        command.stamp(config, "base")
    elif to == "base" or _is_older(script, to, before):
        command.downgrade(config, to)
    else:
        command.upgrade(config, to)


def _require_version_table(database: Database, tx: Connection, to: str) -> None:
    """Refuse to go back to where the version would be in a table that is an application's."""
    if release_before.is_version_table_taken(tx):
        raise SchemaMismatch(
            f"{database.shown_url} cannot go back to revision {to}: it would keep its version in "
            f"{release_before.VERSION_TABLE}, in which an application has its own"
        )


@contextmanager
def _explained(database: Database) -> Iterator[None]:
    """Say what to do if the database does not let the tables be created."""
    try:
        yield
    except exc.DBAPIError as error:
        code = getattr(error.orig, "sqlstate", None)
        said = str(error.orig).partition("\n")[0]
        if code in _TAKEN or "already exists" in said or "there is already" in said:
            raise SchemaMismatch(
                f"{database.shown_url} has something else by a name that Ledger needs ({said}), "
                "and is left as it is; rename that, or give Ledger a database of its own, on "
                "PostgreSQL a schema of its own with LEDGER_SCHEMA"
            ) from error
        if code in _FORBIDDEN:
            raise SchemaMismatch(
                f"{database.shown_url} does not let this role create tables: {said}; grant it "
                "CREATE on the schema, or name a schema of its own with LEDGER_SCHEMA"
            ) from error
        raise


def require_current(database: Database) -> None:
    """Refuse tables that are not those of this version.

    Raises:
        SchemaMismatch: They are older, or newer; the text says what to do.
        Unavailable: The database is away.
    """
    with database.read() as connection:
        found = _current(connection)
    with as_file(files(_PACKAGE)) as folder:
        config = _config(str(folder))
        known = _known(config)
        wanted = ScriptDirectory.from_config(config).get_current_head()
    if found == wanted:
        return
    if found is None:
        raise SchemaMismatch(
            f"{database.shown_url} has no ledger yet; create it with `ledger migrate`"
            + (", beside the tables that are there" if database.has_tables() else "")
        )
    if found in known:
        raise SchemaMismatch(
            f"{database.shown_url} has the tables of revision {found}, this version needs "
            f"{wanted}; run `ledger migrate`"
        )
    raise _newer(database, found)


def _newer(database: Database, found: str) -> SchemaMismatch:
    return SchemaMismatch(
        f"{database.shown_url} has the tables of revision {found}, which this version does "
        "not know: it was migrated by a newer Ledger; upgrade this one"
    )


def _known(config: Config) -> set[str]:
    script = ScriptDirectory.from_config(config)
    return {revision.revision for revision in script.walk_revisions()}


def _config(folder: str, connection: Connection | None = None) -> Config:
    config = Config()
    config.set_main_option("script_location", folder.replace("%", "%%"))
    config.attributes["connection"] = connection
    config.attributes["version_table"] = VERSION_TABLE
    return config


def _current(connection: Connection) -> str | None:
    """Return the revision of the ledger's tables, None if there is no ledger."""
    return _version(connection) or release_before.revision(connection)


def _version(connection: Connection) -> str | None:
    options = {"version_table": VERSION_TABLE}
    return MigrationContext.configure(connection, opts=options).get_current_revision()


def _is_older(script: ScriptDirectory, to: str, current: str | None) -> bool:
    if to == "head" or current is None:
        return False
    older = {revision.revision for revision in script.walk_revisions("base", current)}
    return to in older - {current}

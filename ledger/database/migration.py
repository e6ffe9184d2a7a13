"""Migration of a database's tables to this version, and the check that they are current.

The steps themselves are Alembic's, in the package ``ledger.migrations``, which is located
by its name and not imported here.
"""

from importlib.resources import as_file, files
from typing import Final

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, exc

from ledger.database.contract import Database
from ledger.errors import SchemaMismatch

_PACKAGE: Final = "ledger.migrations"
# PostgreSQL's SQLSTATE.
_DUPLICATE_TABLE: Final = "42P07"


def migrate(database: Database, *, to: str = "head") -> tuple[str | None, str | None]:
    """Migrate the tables to revision *to*, in one transaction.

    Returns:
        The revisions before and after; None is an empty database.

    Raises:
        SchemaMismatch: The tables are of a newer version, or not Ledger's.
        Unavailable: The database is down, or its tables are locked for too long.
    """
    with database.write() as tx, as_file(files(_PACKAGE)) as folder:
        # There may be no head to lock yet, and two migrations must not run at once.
        database.lock_schema(tx)
        before = _current(tx)
        config = _config(str(folder), tx)
        if before is not None and before not in _known(config):
            raise _newer(database, before)
        if to == "base" or _is_older(config, to, before):
            command.downgrade(config, to)
        else:
            _upgrade(database, config, to, before)
        return before, _current(tx)


def _upgrade(database: Database, config: Config, to: str, before: str | None) -> None:
    try:
        command.upgrade(config, to)
    except exc.DBAPIError as error:
        text = str(error.orig).partition("\n")[0]
        taken = getattr(error.orig, "sqlstate", None) == _DUPLICATE_TABLE
        if before is None and (taken or text.endswith("already exists")):
            raise SchemaMismatch(
                f"{database.shown_url} has tables that are no ledger's ({text}), and is left as "
                "it is; name an empty database"
            ) from error
        raise


def require_current(database: Database) -> None:
    """Raise unless the tables are those of this version.

    Raises:
        SchemaMismatch: The tables are missing, older or newer; the message says what to do.
        Unavailable: The database is down or overloaded.
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


def is_empty(database: Database) -> bool:
    """Return whether the database has no tables of a ledger at all."""
    with database.read() as connection:
        return _current(connection) is None


def _config(folder: str, connection: Connection | None = None) -> Config:
    config = Config()
    config.set_main_option("script_location", folder.replace("%", "%%"))
    config.attributes["connection"] = connection
    return config


def _current(connection: Connection) -> str | None:
    return MigrationContext.configure(connection).get_current_revision()


def _is_older(config: Config, to: str, current: str | None) -> bool:
    if to == "head" or current is None:
        return False
    script = ScriptDirectory.from_config(config)
    older = {revision.revision for revision in script.walk_revisions("base", current)}
    return to in older - {current}

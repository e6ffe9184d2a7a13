"""Migration of a database's tables to this version.

The steps themselves are Alembic's, in the package ``ledger.migrations``, which is located
by its name and not imported here.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import as_file, files
from typing import Final

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, exc, text

from ledger.database import release_before
from ledger.database.contract import Database
from ledger.database.revision import REVISIONS, VERSION_TABLE, current, require_known, version
from ledger.errors import SchemaMismatch

_PACKAGE: Final = "ledger.migrations"
# PostgreSQL's SQLSTATEs for a table or index, a function, and a constraint that exist already,
_TAKEN: Final = {"42P07", "42723", "42710"}
# and for a role that may not create anything, or has no schema on its search path.
_FORBIDDEN: Final = {"42501", "3F000"}


def migrate(database: Database, *, to: str = "head") -> tuple[str | None, str | None]:
    """Migrate the tables to revision *to*, in one transaction.

    A schema that was named is created.  An application's tables are left alone, whatever they
    are called.

    Returns:
        The revisions before and after; None is a database without a ledger.

    Raises:
        SchemaMismatch: They are of a newer version, or an application's table has one of our
            names.
        Unavailable: The database is down, or its tables are locked for too long.
    """
    with database.write() as tx, _explained(database), as_file(files(_PACKAGE)) as folder:
        # There may be no head to lock yet, and two migrations must not run at once.
        database.lock_schema(tx)
        database.create_schema(tx)
        before = current(tx)
        found = None if version(tx) else before
        config = _config(str(folder), tx)
        if before is not None:
            require_known(database, before)
        if found is not None:
            command.stamp(config, found)
            release_before.remove_version(tx, found)
        if to in release_before.REVISIONS:
            _require_version_table(database, tx, to)
        _step(config, to, before)
        after = current(tx)
        if after is None or after in release_before.REVISIONS:
            tx.execute(text(f"DROP TABLE IF EXISTS {VERSION_TABLE}"))
        if after is not None and after in release_before.REVISIONS:
            release_before.put_version(tx, after)
    if after is not None:
        database.tables_were_created()
    return before, after


def _step(config: Config, to: str, before: str | None) -> None:
    """Go from one revision to the other, in Alembic's steps."""
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
    elif to == "base" or _is_older(to, before):
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
    """Translate the refusal to create tables into an error that says what to do."""
    try:
        yield
    except exc.DBAPIError as error:
        code = getattr(error.orig, "sqlstate", None)
        said = str(error.orig).partition("\n")[0]
        if code in _TAKEN or "already exists" in said or "there is already" in said:
            raise SchemaMismatch(
                f"{database.shown_url} was not changed, because a name that Ledger needs is taken "
                f"({said}); rename that object, or give Ledger another database or, on "
                "PostgreSQL, a schema of its own with LEDGER_SCHEMA"
            ) from error
        if code in _FORBIDDEN:
            raise SchemaMismatch(
                f"{database.shown_url} does not let this role create tables: {said}; grant it "
                "CREATE on the schema, or give Ledger a schema of its own with LEDGER_SCHEMA"
            ) from error
        raise


def _config(folder: str, connection: Connection | None = None) -> Config:
    config = Config()
    config.set_main_option("script_location", folder.replace("%", "%%"))
    config.attributes["connection"] = connection
    config.attributes["version_table"] = VERSION_TABLE
    return config


def _is_older(to: str, before: str | None) -> bool:
    return before is not None and to in REVISIONS[: REVISIONS.index(before)]

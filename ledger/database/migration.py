"""Migration of a database's tables to this version.

The steps themselves are Alembic's, in the package ``ledger.migrations``, which is located
by its name and not imported here.
"""

from importlib.resources import as_file, files
from typing import Final

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, exc

from ledger.database.contract import Database
from ledger.database.revision import REVISIONS, current, require_known
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
        before = current(tx)
        config = _config(str(folder), tx)
        if before is not None:
            require_known(database, before)
        if to == "base" or _is_older(to, before):
            command.downgrade(config, to)
        else:
            _upgrade(database, config, to, before)
        return before, current(tx)


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


def _config(folder: str, connection: Connection | None = None) -> Config:
    config = Config()
    config.set_main_option("script_location", folder.replace("%", "%%"))
    config.attributes["connection"] = connection
    return config


def _is_older(to: str, before: str | None) -> bool:
    return before is not None and to in REVISIONS[: REVISIONS.index(before)]

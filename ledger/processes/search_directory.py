"""The directory of a ledger's search index, which no other ledger uses."""

import hashlib
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from ledger.database.contract import Database
from ledger.database.sqlite import SqliteDatabase

_LONGEST_NAME: Final = 64


def search_directory(database: Database, setting: str, *, working_directory: Path) -> Path:
    """Return the directory of the index of the ledger in *database*.

    An index is beside its SQLite file, unless the setting says where.  In a directory that may
    contain other files and the indexes of other ledgers, its name consists of the database's
    name and a digest that tells databases of the same name apart.

    Args:
        database: The ledger's database.
        setting: ``LEDGER_SEARCH_DIRECTORY``, the parent of the directory; may be empty.
        working_directory: Base of a relative setting, and the parent if the setting is empty
            and the database is on a server.
    """
    if isinstance(database, SqliteDatabase):
        if not setting:
            return database.path.with_name(f"{database.path.name}-search")
        name, identity = _of_file(database)
    else:
        name, identity = _of_server(database)
    digest = hashlib.sha256("\0".join(identity).encode("utf-8", "surrogateescape")).hexdigest()
    readable = re.sub(r"[^A-Za-z0-9_.-]", "_", name)[:_LONGEST_NAME]
    return (working_directory / setting).absolute() / f"{readable}-search-{digest[:16]}"


def _of_file(database: SqliteDatabase) -> tuple[str, Sequence[str]]:
    """Return the name of a file, and what tells it from files of the same name."""
    return database.path.name, ["sqlite", os.path.realpath(database.path)]


def _of_server(database: Database) -> tuple[str, Sequence[str]]:
    """Return the name of a ledger on a server, and what tells it from others of the name."""
    url = database.engine.url
    # Like the driver: the default name of a database is the user's name.
    name = url.database or url.username or "ledger"
    # The query may name the server too, as a host or as the directory of its socket.
    host = str(url.query.get("host", url.host or ""))
    port = str(url.query.get("port", url.port or ""))
    identity = [url.get_backend_name(), host, port, name]
    if database.schema is None:
        return name, identity
    return f"{name}-{database.schema}", [*identity, database.schema]

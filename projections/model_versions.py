"""Versions of the read models that commit with the events, as the database has them.

The rows of such a model are written by ``apply``, a batch at a time.  A release that writes
other rows raises the model's ``version``; rows of the older version are then wrong until the
model is rebuilt.  So the version is stored beside the rows, and a process that would read or
write rows of another version stops with a sentence.
"""

from collections.abc import Sequence

from sqlalchemy.dialects import postgresql, sqlite

from ledger.database.contract import Database
from ledger.log import inline_versions
from ledger.log.schema import checkpoints
from ledger.projections.projection import Projection


def require_versions(database: Database, models: Sequence[Projection]) -> None:
    """Require that the rows of *models* are those of this version.

    A model whose version is not stored is taken to be current: the release before stored none,
    and wrote the same rows.

    Raises:
        SchemaMismatch: The rows of a model are of another version.
        Unavailable: The database is unavailable.
    """
    with database.read() as connection:
        inline_versions.require_versions(connection, models)


def record_versions(database: Database, models: Sequence[Projection]) -> None:
    """Store the version of those of *models* that have none stored.

    Raises:
        Unavailable: The database is unavailable.
    """
    with database.read() as connection:
        stored = inline_versions.read_versions(connection)
    rows = [
        {"name": model.name, "position": 0, "fingerprint": model.fingerprint}
        for model in models
        if model.name not in stored
    ]
    if not rows:
        return
    with database.write() as tx:
        dialect = sqlite if tx.dialect.name == "sqlite" else postgresql
        insert = dialect.insert(checkpoints).values(rows)
        tx.execute(insert.on_conflict_do_nothing(index_elements=["name"]))

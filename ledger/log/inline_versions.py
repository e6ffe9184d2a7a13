"""Check that the rows of the inline projections are those that this process would write.

A release that writes other rows raises a projection's version, and ``ledger rebuild`` stores the
version beside the rows.  A process that starts compares it with its own.  One that runs on while
a newer release rebuilds must notice too, and before it writes, so an append asks each time.

That costs no round trip: the head, which an append reads and locks anyway, counts the rebuilds,
and only if the number has changed are the versions read.  They could not be read in the statement
that locks the head: on PostgreSQL an append that has waited for the lock sees the row of the head
as it is now, but other tables as they were when the statement began.
"""

from collections.abc import Sequence
from typing import Protocol

from sqlalchemy import Connection, select

from ledger.errors import SchemaMismatch
from ledger.log.schema import checkpoints


class Versioned(Protocol):
    """A read model whose rows have a version."""

    @property
    def name(self) -> str:
        """Return its name."""

    @property
    def fingerprint(self) -> str:
        """Return what tells its rows from those of another version."""


def read_versions(connection: Connection) -> dict[str, str | None]:
    """Return the version of each read model that has one stored."""
    rows = connection.execute(select(checkpoints.c.name, checkpoints.c.fingerprint))
    return {row.name: row.fingerprint for row in rows}


def require_versions(connection: Connection, models: Sequence[Versioned]) -> None:
    """Require that the rows of *models* are those of this version.

    A model whose version is not stored is taken to be current: the release before stored none,
    and wrote the same rows.

    Raises:
        SchemaMismatch: The rows of a model are of another version.
    """
    others = _of_other_versions(connection, models)
    if others:
        raise SchemaMismatch(
            f"the rows of {', '.join(others)} are of another version than this Ledger writes; "
            f"run `ledger rebuild {' '.join(others)}`"
        )


def _of_other_versions(connection: Connection, models: Sequence[Versioned]) -> list[str]:
    stored = read_versions(connection)
    return [
        model.name
        for model in models
        if stored.get(model.name, model.fingerprint) != model.fingerprint
    ]


class InlineVersions:
    """What a process remembers of the check, so that it is not made in every append.

    Args:
        models: The inline projections.
    """

    def __init__(self, models: Sequence[Versioned]) -> None:
        self._models = models
        # The number of rebuilds at which the versions were ours.
        self._checked: int | None = None

    def require(self, tx: Connection, rebuilds: int) -> None:
        """Require that the rows are ours; *tx* has the head's lock, and *rebuilds* is its number.

        Raises:
            SchemaMismatch: The rows of a model are of another version.
        """
        if rebuilds == self._checked:
            return
        others = _of_other_versions(tx, self._models)
        if others:
            raise SchemaMismatch(
                f"another version of Ledger than this process runs has rebuilt "
                f"{', '.join(others)}; restart the process with that version"
            )
        self._checked = rebuilds

    def forget(self) -> None:
        """Make the check at the next append: this is another database than before."""
        self._checked = None

"""Migration of a database's tables to this version.

The steps themselves are Alembic's, in the package ``ledger.migrations``, which is located
by its name and not imported here.

Transactions
------------
Migrations that follow one another run in one transaction.  One that sets ``transactional =
False`` runs outside of any: what comes before it is committed first, its revision is stored
after it, and what comes after it begins another transaction.  If it fails or is killed, the
revision stays the one before, and the next ``ledger migrate`` runs it again.

Alembic's own means do not fit.  ``autocommit_block`` commits a transaction that Alembic itself
has begun, one for each migration if ``transaction_per_migration`` is set.  On SQLite such a
transaction does not exist: the driver begins none before DDL, and Alembic does not either.  So
the transactions, and the lock that outlives them, are those of ``Database.migrating``, and
Alembic is called once for each part of the way.

Source: https://alembic.sqlalchemy.org/en/latest/api/runtime.html
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from importlib.resources import as_file, files
from itertools import groupby
from pathlib import Path
from typing import Final, NamedTuple

from alembic import command
from alembic.config import Config
from alembic.script import Script, ScriptDirectory
from sqlalchemy import Connection, exc, text

from ledger.database import release_before
from ledger.database.contract import Database
from ledger.database.revision import VERSION_TABLE, current, require_known, version
from ledger.errors import SchemaMismatch

_PACKAGE: Final = "ledger.migrations"
_BASE: Final = "base"
# PostgreSQL's SQLSTATEs for a table or index, a function, and a constraint that exist already,
_TAKEN: Final = {"42P07", "42723", "42710"}
# and for a role that may not create anything, or has no schema on its search path.
_FORBIDDEN: Final = {"42501", "3F000"}


class _Part(NamedTuple):
    """Migrations next to one another that run in one transaction, or each in none.

    Attributes:
        to: The revision after them.
    """

    is_transactional: bool
    to: str


def migrate(
    database: Database, *, to: str = "head", migrations: Path | None = None
) -> tuple[str | None, str | None]:
    """Migrate the tables to revision *to*.

    A schema that was named is created.  An application's tables are left alone, whatever they
    are called.

    Args:
        database: The database.
        to: A revision, "head" for the newest or "base" for none.
        migrations: The folder of the migrations; None for Ledger's own.

    Returns:
        The revisions before and after; None is a database without a ledger.

    Raises:
        SchemaMismatch: They are of a newer version, or an application's table has one of our
            names.
        Unavailable: The database is down, its tables are locked for too long, or another
            process migrates them.
    """
    with _located(migrations) as folder, database.migrating() as session, _explained(database):
        scripts = _scripts(folder)
        with session.transaction() as tx:
            before = current(tx)
        way = _Way(database, folder, scripts, before, to)
        for number, part in enumerate(way.parts):
            begin = session.transaction if part.is_transactional else session.autocommit
            with begin() as connection:
                if number == 0:
                    way.set_out(connection)
                way.go(connection, part)
                if number == len(way.parts) - 1:
                    way.arrive(connection)
                after = current(connection)
    if after is not None:
        database.tables_were_created()
    return before, after


class _Way:
    """The way from one revision to another.

    Attributes:
        parts: Its parts, at least one; the first and the last are transactional.
    """

    def __init__(
        self,
        database: Database,
        folder: Path,
        scripts: Sequence[Script],
        before: str | None,
        to: str,
    ) -> None:
        revisions = [script.revision for script in scripts]
        if before is not None:
            require_known(database, before, revisions)
        self._database = database
        self._folder = folder
        self._before = before
        self._to = revisions[-1] if to == "head" else to
        last_before = release_before.REVISIONS[-1]
        # Their tables have common names: a new ledger passes over them, in both directions.
        self._is_new = before is None and self._to not in {_BASE, *release_before.REVISIONS}
        self._is_removed = self._to == _BASE and before not in {None, *release_before.REVISIONS}
        start = last_before if self._is_new else before
        end = last_before if self._is_removed else self._to
        self._is_down = start is not None and _place(revisions, end) < _place(revisions, start)
        self.parts = _parts(scripts, start=start or _BASE, end=end)

    def set_out(self, tx: Connection) -> None:
        """Create what is needed first, and put the version where Alembic looks for it."""
        if self._is_new:
            self._database.require_suitable(tx)
        self._database.create_schema(tx)
        config = self._config(tx)
        if self._before is not None and version(tx) is None:
            command.stamp(config, self._before)
            release_before.remove_version(tx, self._before)
        if self._to in release_before.REVISIONS:
            _require_version_table(self._database, tx, self._to)
        if self._is_new:
            command.stamp(config, release_before.REVISIONS[-1])

    def go(self, connection: Connection, part: _Part) -> None:
        """Take the steps of one part."""
        config = self._config(connection, is_transactional=part.is_transactional)
        if self._is_down:
            command.downgrade(config, part.to)
        elif part.to != _BASE:
            command.upgrade(config, part.to)

    def arrive(self, tx: Connection) -> None:
        """Put the version where the revision's own release looks for it."""
        if self._is_removed:
            command.stamp(self._config(tx), _BASE)
        if self._to in {_BASE, *release_before.REVISIONS}:
            tx.execute(text(f"DROP TABLE IF EXISTS {VERSION_TABLE}"))
        if self._to in release_before.REVISIONS:
            release_before.put_version(tx, self._to)

    def _config(self, connection: Connection, *, is_transactional: bool = True) -> Config:
        config = _config(self._folder)
        config.attributes.update(
            connection=connection,
            version_table=VERSION_TABLE,
            is_transactional=is_transactional,
            is_new=self._is_new,
            to_base=self._is_removed,
        )
        return config


def _parts(scripts: Sequence[Script], *, start: str, end: str) -> list[_Part]:
    """Divide the migrations from one revision to another by whether they are transactional."""
    revisions = [script.revision for script in scripts]
    first, last = _place(revisions, start), _place(revisions, end)
    # What to run, and the revision that it leads to.
    steps = (
        [(script, script.revision) for script in scripts[first:last]]
        if first <= last
        else [
            (scripts[index], revisions[index - 1] if index else _BASE)
            for index in range(first - 1, last - 1, -1)
        ]
    )
    parts = [
        _Part(is_transactional, [to for _, to in some][-1])
        for is_transactional, some in groupby(steps, key=lambda step: _is_transactional(step[0]))
    ]
    # The version is moved into place and out of it in transactions.
    if not parts or not parts[0].is_transactional:
        parts.insert(0, _Part(is_transactional=True, to=start))
    if not parts[-1].is_transactional:
        parts.append(_Part(is_transactional=True, to=end))
    return parts


def _is_transactional(script: Script) -> bool:
    return bool(getattr(script.module, "transactional", True))


def _place(revisions: Sequence[str], revision: str) -> int:
    """Return the number of migrations up to *revision*."""
    return 0 if revision == _BASE else revisions.index(revision) + 1


def _scripts(folder: Path) -> list[Script]:
    """Return the migrations, oldest first."""
    return list(ScriptDirectory.from_config(_config(folder)).walk_revisions())[::-1]


def _located(migrations: Path | None) -> AbstractContextManager[Path]:
    return as_file(files(_PACKAGE)) if migrations is None else nullcontext(migrations)


def _config(folder: Path) -> Config:
    config = Config()
    config.set_main_option("script_location", str(folder).replace("%", "%%"))
    return config


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

"""Share among the commands: the system, the actor, errors as exit codes."""

import errno
import functools
import getpass
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from ledger.errors import LedgerError, SchemaMismatch, SettingsError, Unavailable

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from ledger.processes.composition import System
    from ledger.processes.settings import Settings

_UNWRITABLE: Final = {errno.ENOSPC, errno.EDQUOT, errno.EIO}
# What a script can tell apart: 1 refused or not clean, 2 wrong usage, 3 no database.
REFUSED: Final = 1
USAGE: Final = 2
NO_DATABASE: Final = 3


class Context:
    """Be what a command is called with."""

    def __init__(self, database_url: str | None) -> None:
        self._database_url = database_url

    def settings(self, **flags: object) -> "Settings":
        """Return the settings, flags first.

        Raises:
            SettingsError: Some are bad.
        """
        from ledger.processes.settings import read_settings
        from ledger.processes.unknown_variables import warn_once

        warn_once(lambda text: click.echo(f"Warning: {text}", err=True))
        return read_settings({"database_url": self._database_url} | flags)

    @contextmanager
    def system(self) -> "Iterator[System]":
        """Give the system on an existing ledger.

        Raises:
            SchemaMismatch: There is none, or its tables are not ours.
            Unavailable: The database is away.
        """
        from ledger.database.revision import require_current
        from ledger.database.sqlite import SqliteDatabase
        from ledger.processes.composition import compose

        system = compose(self.settings())
        database = system.database
        if isinstance(database, SqliteDatabase):
            _require_file(database.path)
        try:
            require_current(database)
            yield system
        finally:
            system.close()

    @contextmanager
    def reading(self) -> "Iterator[tuple[System, Connection]]":
        """Give the system and a snapshot of it."""
        with self.system() as system, system.database.snapshot() as connection:
            yield system, connection


def _require_file(path: Path) -> None:
    """Refuse a file that is not there; SQLite would create it."""
    try:
        path.stat()
    except FileNotFoundError:
        raise SchemaMismatch(
            f"there is no ledger at {path}; create one with `ledger migrate` or "
            "`ledger serve`, or name another with --database"
        ) from None
    except OSError as error:
        raise Unavailable(
            f"cannot access {path}: {error.strerror}; grant this user access, or name another "
            "ledger with --database"
        ) from error


def command(function: Callable[..., None]) -> Callable[..., None]:
    """Call *function* with the context, and turn our errors into exit codes."""

    @functools.wraps(function)
    def called(*args: object, **kwargs: object) -> None:
        context: Context = click.get_current_context().obj
        try:
            function(context, *args, **kwargs)
        except LedgerError as error:
            raise _failure(error) from error
        except OSError as error:
            # Of the file or the terminal that is written to; a broken pipe is Click's to end.
            if error.errno not in _UNWRITABLE:
                raise
            raise click.ClickException(f"cannot write the output: {error}") from error

    return called


class _Refusal(click.ClickException):
    exit_code = REFUSED


class _BadSettings(click.ClickException):
    exit_code = USAGE


class _Away(click.ClickException):
    exit_code = NO_DATABASE


def _failure(error: LedgerError) -> click.ClickException:
    if isinstance(error, SettingsError):
        return _BadSettings(str(error))
    if isinstance(error, Unavailable | SchemaMismatch):
        return _Away(str(error))
    return _Refusal(str(error))


def actor() -> str:
    """Return who the ledger says asked: ``cli:USER``."""
    try:
        return f"cli:{getpass.getuser()}"
    except (KeyError, OSError):
        return "cli:unknown"


def cause() -> str:
    """Return why, for the ledger: the command's name.

    Not its arguments: they may hold personal data, and a cause is kept for ever.
    """
    return click.get_current_context().command_path


def as_json(function: Callable[..., None]) -> Callable[..., None]:
    """Give the command the flag ``--json``."""
    flag = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
    return flag(function)

"""What all commands share: access to the ledger, actor and cause, exit codes."""

import errno
import functools
import getpass
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from ledger.errors import LedgerError, SchemaMismatch, SettingsError, Unavailable
from ledger.rules.printable import plain

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from ledger.processes.composition import System
    from ledger.processes.settings import Settings

_UNWRITABLE: Final = {errno.ENOSPC, errno.EDQUOT, errno.EIO}
# Exit codes: 1 refused or differences found, 2 invalid usage, 3 no usable database.
REFUSED: Final = 1
USAGE: Final = 2
NO_DATABASE: Final = 3


# Options that are named differently from their settings.
_OPTIONS: Final = {"database_url": "--database", "server_processes": "--processes"}


class Context:
    """The first argument of every command: the settings, and access to the ledger."""

    def __init__(self, database_url: str | None) -> None:
        self._database_url = database_url

    def settings(self, **flags: object) -> "Settings":
        """Return the settings; *flags* take precedence over the environment.

        Raises:
            SettingsError: Some settings are invalid.
        """
        from ledger.processes.settings import read_settings
        from ledger.processes.unknown_variables import warn_once

        warn_once(lambda text: click.echo(plain(f"Warning: {text}"), err=True))
        return read_settings({"database_url": self._database_url} | flags, name_of=_option)

    @contextmanager
    def system(self, *, any_rows: bool = False) -> "Iterator[System]":
        """Yield the system on an existing ledger.

        Args:
            any_rows: Whether read models may have rows of another version.

        Raises:
            SchemaMismatch: There is no ledger, or its tables, or the rows of a read model,
                are not of this version.
            Unavailable: The database is unavailable.
        """
        from ledger.database.revision import require_current
        from ledger.database.sqlite import SqliteDatabase
        from ledger.processes.composition import compose
        from ledger.projections.model_versions import require_versions

        system = compose(self.settings())
        database = system.database
        if isinstance(database, SqliteDatabase):
            _require_file(database.path)
        try:
            require_current(database)
            if not any_rows:
                require_versions(database, system.projections)
            yield system
        finally:
            system.close()

    @contextmanager
    def reading(self, *, any_rows: bool = False) -> "Iterator[tuple[System, Connection]]":
        """Yield the system and a connection that reads a snapshot of its database."""
        with self.system(any_rows=any_rows) as system, system.database.snapshot() as connection:
            yield system, connection


def _require_file(path: Path) -> None:
    """Refuse a file that does not exist, because SQLite would create it."""
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
    """Return *function* called with the context, its errors turned into exit codes."""

    @functools.wraps(function)
    def called(*args: object, **kwargs: object) -> None:
        context: Context = click.get_current_context().obj
        try:
            function(context, *args, **kwargs)
        except LedgerError as error:
            raise _failure(error) from error
        except OSError as error:
            # Writing the output failed.  Click handles a broken pipe.
            if error.errno not in _UNWRITABLE:
                raise
            raise click.ClickException(f"cannot write the output: {error}") from error

    return called


def _option(field: str) -> str:
    """Return the option that overrides a setting."""
    return _OPTIONS.get(field, "--" + field.replace("_", "-"))


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
    """Return the actor that events are recorded with: ``cli:USER``."""
    try:
        return f"cli:{getpass.getuser()}"
    except (KeyError, OSError):
        return "cli:unknown"


def cause() -> str:
    """Return the cause that events are recorded with: the command's name.

    Its arguments are left out: they may contain personal data, and a cause is never erased.
    """
    return click.get_current_context().command_path


def as_json(function: Callable[..., None]) -> Callable[..., None]:
    """Add the flag ``--json`` to a command."""
    flag = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
    return flag(function)

"""List commands without importing them: a table has what ``ledger --help`` says of each.

To import all of them took 0.7 s of processor time, for which ``ledger --version`` and every
press of the TAB key had to wait.  A command is imported when it is called.
"""

from importlib import import_module
from typing import Final

import click

_PACKAGE: Final = __name__.rpartition(".")[0]


class Listed(click.Command):
    """A command as a list of commands shows it.

    Args:
        name: The command, and the name of its function.
        module: Where that is, in ``ledger.cli``.
        first_line: The first line of its help; a test compares the two.
    """

    def __init__(self, name: str, module: str, first_line: str) -> None:
        super().__init__(name, help=first_line)
        self._module = module

    def load(self) -> click.Command:
        """Return the command itself."""
        command: click.Command = getattr(
            import_module(f"{_PACKAGE}.{self._module}"), str(self.name)
        )
        return command


class ListedCommands(click.Group):
    """A group of commands of which only the one that is called is imported."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the command that *args* call, and its arguments."""
        name, command, rest = super().resolve_command(ctx, args)
        return name, command.load() if isinstance(command, Listed) else command, rest

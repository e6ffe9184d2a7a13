"""A group of commands that imports a command only when it is called.

A table contains the line of ``ledger --help`` for each command.  Importing all commands takes
0.7 s of processor time, which ``ledger --version`` and every tab completion would have to
wait for.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any, Final

import click

from ledger.rules.printable import plain_lines

_PACKAGE: Final = __name__.rpartition(".")[0]


class Listed(click.Command):
    """A command that stands in for one that is not imported yet.

    Args:
        name: Name of the command and of its function.
        module: Module of the function, in ``ledger.cli``.
        first_line: First line of the command's help; a test compares the two.
    """

    def __init__(self, name: str, module: str, first_line: str) -> None:
        super().__init__(name, help=first_line)
        self._module = module

    def load(self) -> click.Command:
        """Import and return the command."""
        command: click.Command = getattr(
            import_module(f"{_PACKAGE}.{self._module}"), str(self.name)
        )
        return command


@contextmanager
def _plain_errors() -> Iterator[None]:
    """Make the messages of errors safe to print: they quote arguments, jobs and databases."""
    try:
        yield
    except click.ClickException as error:
        # Declared final, so that nobody replaces it by accident.
        vars(error)["message"] = plain_lines(error.message)
        raise


class ListedCommands(click.Group):
    """A group of commands that imports only the command that is called."""

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:  # noqa: ANN401 - click's
        """Parse the options of the group."""
        with _plain_errors():
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: click.Context) -> Any:  # noqa: ANN401 - what a command returns
        """Parse the command's arguments, and run it."""
        with _plain_errors():
            return super().invoke(ctx)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the name of the command in *args*, the imported command, and its arguments."""
        name, command, rest = super().resolve_command(ctx, args)
        return name, command.load() if isinstance(command, Listed) else command, rest

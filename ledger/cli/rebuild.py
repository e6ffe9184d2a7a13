"""The command ``rebuild``, which rebuilds read models and shows the progress of rebuilds."""

from collections.abc import Sequence

import click

from ledger.api.http import json_out
from ledger.cli import output
from ledger.cli.context import Context, as_json, command
from ledger.log import store
from ledger.processes.composition import System
from ledger.projections.follower import Follower
from ledger.projections.projection import Projection
from ledger.projections.rebuild import rebuild as rebuilding
from ledger.projections.rebuild.build import Build
from ledger.projections.report import Difference


@click.command()
@click.argument("names", metavar="[NAME]...", nargs=-1)
@click.option("--all", "every", is_flag=True, help="Rebuild all read models.")
@click.option("--status", is_flag=True, help="Show unfinished rebuilds and their progress.")
@click.option("--drop", is_flag=True, help="Discard the partial result of an interrupted rebuild.")
@as_json
@command
def rebuild(
    context: Context,
    names: tuple[str, ...],
    *,
    every: bool,
    status: bool,
    drop: bool,
    as_json: bool,
) -> None:
    """Build projections again from the events, beside the live ones, and swap them.

    \b
    ledger rebuild jobs state_counts
    ledger rebuild --all
    ledger rebuild --status
    ledger rebuild --drop jobs

    `ledger status` lists the names. Readers use the old rows until the rebuild is done, and
    writers continue. A rebuild that fails or is interrupted changes nothing, and the next
    one continues from where it stopped. Differences between old and new rows are printed.
    """
    with context.system(any_rows=True) as system:
        if status:
            if names or every or drop:
                raise click.UsageError("--status cannot be combined with NAME, --all or --drop")
            _print_status(system, as_json=as_json)
            return
        chosen = _chosen(system, names, every=every)
        if drop:
            rebuilding.drop(system.database, chosen)
            click.echo(f"discarded any unfinished rebuild of {_names(chosen)}")
            return
        differences: list[Difference] = []
        try:
            with output.progress("Rebuilding") as advance:
                number = rebuilding.rebuild(
                    system.database,
                    chosen,
                    advance,
                    differs=differences.append,
                    phase=advance.phase,
                )
        except KeyboardInterrupt:
            raise click.ClickException(
                "interrupted; nothing has changed. Run the same command to continue, or run it "
                "with --drop to discard the partial result"
            ) from None
    if as_json:
        names = tuple(model.name for model in chosen)
        shown = {"rebuilt": names, "position": number, "differences": differences}
        output.json_line(json_out.encode(shown))
        return
    for each in differences:
        output.line(f"{each.where}: was {each.found}; is {each.expected}")
    click.echo(f"{_names(chosen)} rebuilt from {number} events")


def _chosen(system: System, names: Sequence[str], *, every: bool) -> list[Projection | Follower]:
    known = system.models
    if any(name not in known for name in names) or bool(names) == every:
        got = " ".join([*map(repr, names), *(["--all"] if every else [])]) or "neither"
        raise click.UsageError(f"expected --all, or names from {', '.join(known)}; got {got}")
    return [model for name, model in known.items() if every or name in names]


def _names(models: Sequence[Projection | Follower]) -> str:
    return ", ".join(model.name for model in models)


def _position(system: System, model: Projection | Follower) -> int | None:
    if isinstance(model, Follower):
        return model.replacement_checkpoint()
    return Build(system.database, [model]).begun()


def _print_status(system: System, *, as_json: bool) -> None:
    with system.database.read() as connection:
        head = store.read_position(connection)
    begun = {
        name: position
        for name, model in system.models.items()
        if (position := _position(system, model)) is not None
    }
    if as_json:
        output.json_line(json_out.encode({"position": head, "rebuilds": begun}))
    elif not begun:
        click.echo("no unfinished rebuilds")
    else:
        rows = [(name, done, head, f"{_share(done, head):.0%}") for name, done in begun.items()]
        output.table(("rebuild", "position", "head", "done"), rows)


def _share(done: int, total: int) -> float:
    return done / total if total else 1.0

"""The commands that list workers, and pause and resume types of jobs."""

import click

from ledger.api.http import json_out
from ledger.cli import output
from ledger.cli.context import Context, actor, as_json, cause, command
from ledger.cli.late import print_late
from ledger.queue.presence import ListedWorker
from ledger.rules.commands import Pause, Resume


@click.command()
@as_json
@command
def workers(context: Context, *, as_json: bool) -> None:
    """List the workers, their jobs and their last heartbeats.

    \b
    ledger workers
    ledger workers --json | jq -r '.[] | select(.state == "silent").name'

    A worker that is silent for longer than its lease is considered lost. Its attempts
    fail, and the jobs are tried again if they have attempts left. Warnings say whether
    the sweeper, or a read model, is late.
    """
    with context.reading() as (system, connection):
        now_ms = system.ledger.time_ms(connection)
        listed = system.read_models.workers(connection, now_ms=now_ms)
        late = system.late(system.lags())
    print_late(late, err=True)
    if as_json:
        output.json_line(json_out.encode([_fields(worker) for worker in listed]))
        return
    if not listed:
        click.echo("no workers")
        return
    rows = [
        (
            seen.name,
            state,
            ", ".join(f"{type_} x{number}" for type_, number in seen.types.items()),
            held,
            output.age(now_ms - seen.started_at_ms),
            output.age(seen.silent_ms(now_ms)),
        )
        for seen, state, held in listed
    ]
    output.table(("worker", "state", "types", "running", "up for", "silent for"), rows)


def _fields(worker: ListedWorker) -> dict[str, object]:
    """Return what ``--json`` prints of a worker."""
    seen = worker.seen
    return {
        "name": seen.name,
        "state": worker.state,
        "types": seen.types,
        "running": worker.held,
        "started_at_ms": seen.started_at_ms,
        "seen_at_ms": seen.seen_at_ms,
        "lease_ms": seen.lease_ms,
    }


@click.command()
@click.argument("type_", metavar="TYPE")
@command
def pause(context: Context, type_: str) -> None:
    """Pause TYPE: no worker starts its jobs; running jobs continue.

    \b
    ledger pause email      # the mail server is down
    ledger resume email     # it is back; waiting jobs run by priority

    Jobs of a paused type can still be created. `ledger events --job 0` shows who paused and
    resumed which type, and when.
    """
    with context.system() as system:
        outcome = system.ledger.execute(Pause(type=type_), actor=actor(), cause=cause())
    output.line(
        f"{type_} is paused; resume it with `ledger resume {type_}`"
        if outcome.events
        else f"{type_} was already paused"
    )


@click.command()
@click.argument("type_", metavar="TYPE")
@command
def resume(context: Context, type_: str) -> None:
    """Resume TYPE after `ledger pause`.

    \b
    ledger resume email

    `ledger stats` lists the paused types.
    """
    with context.system() as system:
        outcome = system.ledger.execute(Resume(type=type_), actor=actor(), cause=cause())
    output.line(f"{type_} resumed" if outcome.events else f"{type_} was not paused")

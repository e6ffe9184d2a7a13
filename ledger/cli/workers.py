"""The commands that list workers, and pause and resume types of jobs."""

import shlex
from collections.abc import Iterator, Sequence

import click
from sqlalchemy import Connection

from ledger.api.http import json_out
from ledger.cli import output
from ledger.cli.context import Context, actor, as_json, cause, command
from ledger.cli.jobs import MOST_ROWS
from ledger.cli.late import print_late
from ledger.cli.parameters import Text, Whole
from ledger.queue import presence
from ledger.queue.arguments import LARGEST_PAGE
from ledger.queue.presence import ListedWorker
from ledger.queue.read_models import ReadModels
from ledger.rules.commands import LARGEST_INTEGER, Pause, Resume


@click.command()
@click.option(
    "--limit",
    type=Whole(1, LARGEST_PAGE),
    help=f"Maximum number of workers.  [default: {MOST_ROWS}; with --json all]",
)
@click.option(
    "--after", type=Text(), metavar="NAME", default="", help="Only workers that follow this one."
)
@as_json
@command
def workers(context: Context, *, limit: int | None, after: str, as_json: bool) -> None:
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
        # A program that uses only Python needs no server, and then nothing follows.
        followed = [lag for lag in system.lags() if lag.position != 0]
        print_late(system.late(followed), err=True)
        if as_json:
            pages = _pages(system.read_models, connection, now_ms, after, limit)
            output.json_array(
                json_out.encode([_fields(worker) for worker in page]).decode()[1:-1]
                for page in pages
            )
            return
        listed = [
            worker
            for page in _pages(system.read_models, connection, now_ms, after, limit or MOST_ROWS)
            for worker in page
        ]
        last = listed[-1].seen.name if listed else after
        left = presence.count_after(connection, last)
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
    output.rest(left, "workers", f"--after {shlex.quote(last)}")


def _pages(
    read_models: ReadModels, connection: Connection, now_ms: int, after: str, limit: int | None
) -> Iterator[Sequence[ListedWorker]]:
    """Yield the workers that follow a name, in parts; all of them, or as many as *limit*."""
    left = LARGEST_INTEGER if limit is None else limit
    while left > 0:
        page = read_models.workers(
            connection, now_ms=now_ms, after=after, limit=min(left, LARGEST_PAGE)
        )
        if not page:
            return
        yield page
        left -= len(page)
        after = page[-1].seen.name


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

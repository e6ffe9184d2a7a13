"""Run what keeps running, and prepare the database for it."""

import errno
import logging
import os
import socket
import sys
import threading
from pathlib import Path
from typing import Final

import click

from api.server import run
from ledger import migration
from ledger.cli import output
from ledger.cli.bring_up import bring_up
from ledger.cli.context import Context, command
from ledger.cli.parameters import Whole
from ledger.composition import compose, create_registered, prepare
from ledger.errors import Unavailable
from ledger.settings import Settings
from ledger.sweeper import Sweeper
from projections.catch_up import Following

_DEFAULT: Final = Settings()


@click.command()
@click.option("--bind", metavar="HOST:PORT", help=f"Where to listen.  [default: {_DEFAULT.bind}]")
@click.option(
    "--workers",
    type=Whole(1, 1_000),
    help=f"Server processes.  [default: {_DEFAULT.workers}]",
)
@click.option(
    "--threads", type=Whole(1, 1_000), help=f"Threads in each.  [default: {_DEFAULT.threads}]"
)
@command
def serve(context: Context, *, bind: str | None, workers: int | None, threads: int | None) -> None:
    """Serve Kue's JSON API; creates the ledger if the SQLite file is new or empty."""
    settings = context.settings(bind=bind, workers=workers, threads=threads)
    database = compose(settings).database
    try:
        prepare(database)
    except Unavailable as error:
        if database.is_embedded:
            raise
        # It answers 503 until the database is there.
        click.echo(f"Warning: {error}", err=True)
    finally:
        # Connections must not cross the fork into the server's processes.
        database.close()
    _require_free(settings.bind)
    serves = f"Ledger serves {database.shown_url} on {settings.bind}; Ctrl-C stops it."
    run(settings, lambda: click.echo(serves))


def _require_free(address: str) -> None:
    """Say so if nobody can listen there; gunicorn would try again and again, in ten lines."""
    host, _, port = address.rpartition(":")
    if address.startswith("unix:"):
        _require_writable(Path(address.removeprefix("unix:")).absolute().parent)
        return
    if port == "0":
        return
    host = host.strip("[]")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        socket.create_server((host, int(port)), family=family).close()
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise click.ClickException(
                # Behind that, Python repeats the address.
                f"cannot listen on {address}: {str(error.strerror).partition(' (while')[0]}; "
                "choose an address of this machine, and a port that this user may have, such "
                f"as --bind {_DEFAULT.bind}"
            ) from error
        raise click.ClickException(
            f"{address} is in use; stop what listens there, or choose another address with "
            f"--bind {host}:{int(port) + 1}"
        ) from error


def _require_writable(directory: Path) -> None:
    if not os.access(directory, os.W_OK | os.X_OK):
        raise click.ClickException(
            f"cannot create a socket in {directory}: it must exist, and this user be allowed to "
            "write in it"
        )


@click.command()
@command
def migrate(context: Context) -> None:
    """Bring the database's tables to this version; creates them if there are none."""
    system = compose(context.settings())
    database = system.database
    try:
        before, after = migration.migrate(database)
        created = create_registered(system)
    finally:
        database.close()
    for name in created:
        click.echo(f"tables of {name} created")
    if before == after:
        click.echo(f"{database.shown_url} is at revision {after} already")
    else:
        click.echo(f"{database.shown_url} brought from {before or 'nothing'} to revision {after}")


@click.command()
@click.option("--once", is_flag=True, help="Do what is due now, and end.")
@command
def sweep(context: Context, *, once: bool) -> None:
    """Promote delayed jobs that are due and fail those past their ttl, until Ctrl-C.

    The server does this by itself; this is for ledgers without one. It also brings
    the read models forward that catch up, such as activity. One sweeper a database
    works at a time, the others stand by.
    """
    logging.basicConfig(format="%(asctime)s %(message)s")
    with context.system() as system:
        sweeper = Sweeper(system.ledger, system.jobs, lease_ms=context.settings().lease_ms)
        if once:
            click.echo(f"{sweeper.sweep()} jobs changed")
            for follower in system.followers:
                bring_up(system.database, follower)
            return
        followings = system.followings()
        for following in followings:
            following.start()
        try:
            sweeper.run()
        except KeyboardInterrupt:
            click.echo("stopped", err=True)
        finally:
            for following in followings:
                following.stop()


# Below what answers requests: an index that is late keeps only searches waiting.
NICENESS: Final = 5


@click.command()
@click.option("--once", is_flag=True, help="Index what there is now, and end.")
@click.option("--with-parent", is_flag=True, hidden=True)
@command
def index(context: Context, *, once: bool, with_parent: bool) -> None:
    """Keep the search index up to date, until Ctrl-C.

    The server does this by itself, and so does a search where nobody else does; this
    is for ledgers without a server that are searched often. One process of a machine
    indexes at a time, the others stand by.
    """
    logging.basicConfig(format="%(asctime)s %(message)s")
    with context.system() as system:
        engine = system.search.engine
        if engine is None:
            raise click.UsageError("LEDGER_SEARCH is off: there is nothing to index")
        if once:
            with output.progress("Indexing") as advance:
                position = bring_up(system.database, engine, advance)
            indexed = f"indexed up to event {position}"
            click.echo("another process indexes" if position is None else indexed)
            return
        following = Following(system.database, engine, system.bell)
        if with_parent:
            os.nice(NICENESS)
            threading.Thread(target=_end_with_parent, args=(following,), daemon=True).start()
        try:
            following.run()
        except KeyboardInterrupt:
            click.echo("stopped", err=True)


def _end_with_parent(following: Following) -> None:
    """Stop once the parent has ended, which closes the pipe that we read from."""
    while os.read(sys.stdin.fileno(), 4096):
        pass
    following.stop()

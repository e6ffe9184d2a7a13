"""Run what keeps running, and prepare the database for it."""

import logging

import click

from api.server import run
from ledger import migration
from ledger.cli.context import Context, command
from ledger.composition import compose, create_registered, prepare
from ledger.errors import Unavailable
from ledger.sweeper import Sweeper


@click.command()
@click.option("--bind", metavar="HOST:PORT", help="Where to listen.  [default: 127.0.0.1:3000]")
@click.option("--workers", type=click.IntRange(1), help="Server processes.  [default: 2]")
@click.option("--threads", type=click.IntRange(1), help="Threads in each.  [default: 8]")
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
    serves = f"Ledger serves {database.shown_url} on {settings.bind}; Ctrl-C stops it."
    run(settings, lambda: click.echo(serves))


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

"""The long-running commands ``serve``, ``sweep`` and ``follow``, and ``migrate``."""

import errno
import logging
import os
import socket
import stat
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import click

from ledger.cli import output
from ledger.cli.catch_up_once import catch_up_once
from ledger.cli.context import Context, command
from ledger.cli.parameters import Whole
from ledger.database import migration
from ledger.errors import Unavailable
from ledger.processes.composition import System, compose, create_plug_ins, prepare
from ledger.processes.hosts import bound_host, is_loopback, is_wildcard
from ledger.processes.log_format import PlainFormatter
from ledger.processes.lost_output import survive_lost_output
from ledger.processes.parent_connection import ParentConnection
from ledger.processes.settings import Settings
from ledger.processes.stop_requests import interrupts
from ledger.processes.unknown_variables import leave_to_parent
from ledger.projections.follower import Follower
from ledger.projections.following import Following
from ledger.projections.model_versions import record_versions
from ledger.worker.sweeper import Sweeper

_DEFAULT: Final = Settings()


@click.command()
@click.option(
    "--bind",
    metavar="ADDRESS",
    help=f"HOST:PORT or unix:PATH to listen on.  [default: {_DEFAULT.bind}]",
)
@click.option(
    "--processes",
    type=Whole(1, 1_000),
    help=f"Number of server processes.  [default: {_DEFAULT.server_processes}]",
)
@click.option("--workers", "formerly", type=Whole(1, 1_000), hidden=True)
@click.option(
    "--threads",
    type=Whole(1, 1_000),
    help=f"Threads in each server process.  [default: {_DEFAULT.threads}]",
)
@command
def serve(
    context: Context,
    *,
    bind: str | None,
    processes: int | None,
    formerly: int | None,
    threads: int | None,
) -> None:
    """Serve the JSON API; create the tables if the SQLite file is new or empty.

    \b
    ledger serve
    ledger serve --bind 127.0.0.1:8000 --processes 4
    ledger serve --bind unix:/run/ledger.sock

    The server also promotes delayed jobs, fails jobs of lost workers, and updates the read
    models that follow. It runs no jobs: use `ledger work`, or a worker over HTTP. There is
    no authentication yet, so keep the address local; see docs/access.md.

    On SIGTERM it answers the requests in progress, and ends. On SIGHUP, as when its
    terminal is closed, it replaces its processes in the same way and continues to serve.
    """
    from ledger.api.server.run import run

    if formerly is not None:
        click.echo("Warning: --workers: this option was renamed to --processes", err=True)
    settings = context.settings(bind=bind, server_processes=processes or formerly, threads=threads)
    system = compose(settings)
    database = system.database
    try:
        prepare(system)
    except Unavailable as error:
        if database.is_embedded:
            raise
        # The server answers 503 until the database is available.
        output.line(f"Warning: {error}", err=True)
    finally:
        # Connections must not cross the fork into the server's processes.
        database.close()
    _require_free(settings.bind)
    _print_names(settings)
    serves = f"Serving {database.shown_url} on {settings.bind}; press Ctrl-C to stop."
    run(settings, lambda: output.line(serves))


def _require_free(address: str) -> None:
    """Refuse an address that is in use or unusable; gunicorn would retry and log ten lines."""
    from gunicorn.systemd import listen_fds

    if listen_fds(unset_environment=False):
        # systemd passes a socket that already listens.
        return
    host, _, port = address.rpartition(":")
    if address.startswith("unix:"):
        path = Path(address.removeprefix("unix:").removeprefix("//"))
        _require_writable(path.absolute().parent)
        _require_unused(path)
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
                # After that, Python repeats the address.
                f"cannot listen on {address}: {str(error.strerror).partition(' (while')[0]}; "
                "choose an address of this machine, and a port that this user may bind, such "
                f"as --bind {_DEFAULT.bind}"
            ) from error
        raise click.ClickException(
            f"{address} is in use; stop the process that listens on it, or choose another "
            f"address with --bind {host}:{int(port) + 1}"
        ) from error


def _require_writable(directory: Path) -> None:
    if not os.access(directory, os.W_OK | os.X_OK):
        raise click.ClickException(
            f"cannot create a socket in {directory}: the directory must exist and be writable "
            "by this user"
        )


def _require_unused(path: Path) -> None:
    """Refuse a path that gunicorn must not replace: it would remove any socket at the path."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode):
        problem = "it exists and is not a socket"
    elif found.st_uid != os.geteuid():
        problem = "it is the socket of another user"
    elif not _is_dead(path):
        problem = "it is the socket of a running process"
    else:
        return
    raise click.ClickException(
        f"cannot create a socket at {path}: {problem}; choose another path with --bind unix:PATH, "
        "or stop the process that uses it and remove it"
    )


def _is_dead(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        # A process that is too busy to accept the connection is not dead.
        client.settimeout(0)
        try:
            client.connect(str(path))
        except OSError as error:
            return error.errno == errno.ECONNREFUSED
    return False


def _print_names(settings: Settings) -> None:
    """Print the server's names if other machines may reach it, perhaps by other names."""
    bound = bound_host(settings.bind)
    if settings.hosts or bound is None or is_loopback(bound):
        return
    known = "IP addresses" if is_wildcard(bound) else bound
    click.echo(
        f"The server accepts requests for localhost and {known}; it answers 421 for other names "
        "until LEDGER_HOSTS lists them.",
        err=True,
    )


@click.command()
@command
def migrate(context: Context) -> None:
    """Upgrade the tables of the database to this version, or create them.

    \b
    ledger migrate
    ledger --database postgresql+psycopg://app@db/app migrate

    Stop servers and workers before an upgrade. All steps are committed together, or none;
    only a step that cannot run in a transaction commits by itself. If a step fails, solve
    what the error names and run the command again.
    Other tables in the database are not changed.
    """
    system = compose(context.settings())
    database = system.database
    try:
        before, after = migration.migrate(database)
        record_versions(database, system.projections)
        created = create_plug_ins(system)
    finally:
        database.close()
    for name in created:
        output.line(f"tables of {name} created")
    if before == after:
        output.line(f"{database.shown_url} is already at revision {after}")
    elif before is None:
        output.line(f"{database.shown_url}: created the tables of revision {after}")
    else:
        output.line(f"{database.shown_url}: upgraded from revision {before} to {after}")


def _log_to_stderr() -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(PlainFormatter("%(asctime)s %(message)s"))
    logging.basicConfig(handlers=[handler])


@click.command()
@click.option("--once", is_flag=True, help="Process what is due now, then exit.")
@command
def sweep(context: Context, *, once: bool) -> None:
    """Promote due jobs and fail expired ones, until Ctrl-C.

    `ledger serve` and `ledger work` include a sweeper; use this command if neither runs.
    One sweeper of a ledger is active at a time; the others take over when it ends.
    SIGTERM and, except under nohup, SIGHUP end it as Ctrl-C does.
    """
    survive_lost_output()
    _log_to_stderr()
    with context.system() as system:
        sweeper = Sweeper(system.ledger, system.jobs, lease_ms=context.settings().lease_ms)
        if once:
            click.echo(f"{sweeper.sweep()} jobs changed")
            return
        thread = None
        try:
            with interrupts():
                # In a thread, so that no signal interrupts a transaction.
                thread = sweeper.start()
                threading.Event().wait()
        except KeyboardInterrupt:
            sweeper.stop()
            if thread is not None:
                thread.join(LONGEST_END_S)
            click.echo("stopped", err=True)


# How long a step of a sweeper that is stopped may still take.
LONGEST_END_S: Final = 10.0
# A lower priority than the processes that answer requests: only searches wait for a late index.
NICENESS: Final = 5


@click.command()
@click.argument("names", metavar="[NAME]...", nargs=-1)
@click.option("--once", is_flag=True, help="Catch up with the current head, then exit.")
@click.option("--parent", type=int, hidden=True)
@click.option("--output", "read_end", type=int, hidden=True)
@command
def follow(
    context: Context,
    *,
    names: Sequence[str],
    once: bool,
    parent: int | None,
    read_end: int | None,
) -> None:
    """Update the read models that follow, until Ctrl-C.

    \b
    ledger follow
    ledger follow activity --once

    These are search, activity and read models of your own. `ledger serve` updates all of
    them, and `ledger work` all except search; use this command if neither runs. One process
    at a time updates a read model; the others take over when it ends. SIGTERM and, except
    under nohup, SIGHUP end it as Ctrl-C does.
    """
    survive_lost_output()
    _log_to_stderr()
    if parent is not None:
        leave_to_parent()
        os.nice(NICENESS)
    wait = (
        _wait_for_interrupt if parent is None else ParentConnection(parent, read_end).wait_for_stop
    )
    with context.system() as system:
        followers = _chosen(system, names)
        if once:
            for follower in followers:
                with output.progress(f"Following: {follower.name}") as advance:
                    position = catch_up_once(system.database, follower, advance)
                reached = f"caught up to event {position}"
                said = "is kept up to date by another process" if position is None else reached
                output.line(f"{follower.name} {said}")
            return
        followings = [
            Following(system.database, each, system.commit_notifier) for each in followers
        ]
        for following in followings:
            following.start()
        try:
            wait()
        finally:
            for following in followings:
                following.stop()


def _chosen(system: System, names: Sequence[str]) -> list[Follower]:
    """Return the followers with these names, or all if *names* is empty."""
    known = {follower.name: follower for follower in system.followers}
    for name in names:
        if name not in known:
            off = "; LEDGER_SEARCH is off" if name == "search" else ""
            raise click.UsageError(f"NAME: expected {' or '.join(known)}, got {name!r}{off}")
    return [known[name] for name in names or known]


def _wait_for_interrupt() -> None:
    try:
        with interrupts():
            threading.Event().wait()
    except KeyboardInterrupt:
        click.echo("stopped", err=True)

"""Be the ``ledger`` command; with ``api/wsgi.py`` one of two composition roots.

A module a question: ``jobs`` asks and changes jobs, ``work`` does them, ``workers``
tells who does, ``history`` asks history, ``rebuild`` builds read models anew, ``activity``
shows what happened of late, ``server`` runs what keeps running.
"""

import click

from ledger.cli import history, jobs, rebuild, server, workers
from ledger.cli.activity import activity
from ledger.cli.context import Context
from ledger.cli.work import work

COMMANDS = (
    server.serve,
    server.migrate,
    work,
    jobs.create,
    jobs.show,
    jobs.jobs,
    jobs.search,
    jobs.stats,
    activity,
    jobs.restart,
    jobs.remove,
    jobs.erase,
    workers.workers,
    workers.pause,
    workers.resume,
    history.events,
    history.replay,
    history.verify,
    rebuild.rebuild,
    history.status,
    server.sweep,
    server.follow,
)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option(
    "--database",
    "database_url",
    metavar="URL",
    help="The ledger: sqlite:///PATH or postgresql+psycopg://USER@HOST/NAME. "
    "Default: LEDGER_DATABASE_URL, or sqlite:///ledger.db in the working directory.",
)
@click.version_option(package_name="ledger-queue", prog_name="ledger")
@click.pass_context
def main(context: click.Context, database_url: str | None) -> None:
    """Run a job queue whose database is its own audit trail.

    \b
    Start a server on a new SQLite file, give it a job, see what happened:
      ledger serve
      ledger create email '{"to": "tj@learnboost.com"}' --priority high
      ledger jobs
      ledger events --job 1

    Every command but serve and migrate reads or writes the database directly;
    no server needs to run. Settings come from LEDGER_* variables, see docs/settings.md.
    """
    context.obj = Context(database_url)


for command in COMMANDS:
    main.add_command(command)

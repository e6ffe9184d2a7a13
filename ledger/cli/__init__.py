"""The ``ledger`` command; with ``api/wsgi.py`` one of two composition roots.

One module per subject: ``create`` creates jobs, ``jobs`` shows and changes them, ``work`` runs
them, ``workers`` lists workers and pauses types, ``history`` reads and verifies events,
``rebuild`` rebuilds read models, ``activity`` shows jobs per minute, ``server`` contains the
long-running commands and ``migrate``.
"""

import click

from ledger.cli.context import Context
from ledger.cli.listed import Listed, ListedCommands

# In the order of docs/commands.md.
COMMANDS = (
    Listed(
        "serve",
        "server",
        "Serve the JSON API; create the tables if the SQLite file is new or empty.",
    ),
    Listed(
        "migrate", "server", "Upgrade the tables of the database to this version, or create them."
    ),
    Listed(
        "work",
        "work",
        "Run the jobs of the queue TARGET, such as myapp.jobs:queue, until it is stopped.",
    ),
    Listed(
        "create",
        "create",
        "Create a job of TYPE with DATA, a JSON value; - reads it from standard input.",
    ),
    Listed("show", "jobs", "Show a job and its log; `ledger events --job ID` shows its history."),
    Listed("jobs", "jobs", "List jobs, newest first."),
    Listed("search", "jobs", "Find jobs whose data contains all WORDs, newest first."),
    Listed("stats", "jobs", "Count the jobs of each type in each state."),
    Listed(
        "activity",
        "activity",
        "Show the jobs created, started, completed and failed in each minute.",
    ),
    Listed("restart", "jobs", "Queue jobs again, regardless of their state."),
    Listed("remove", "jobs", "Remove jobs from every view; their history stays."),
    Listed(
        "erase", "jobs", "Erase the content of a job permanently: data, results, errors, log lines."
    ),
    Listed("workers", "workers", "List the workers, their jobs and their last heartbeats."),
    Listed("pause", "workers", "Pause TYPE: no worker starts its jobs; running jobs continue."),
    Listed("resume", "workers", "Resume TYPE after `ledger pause`."),
    Listed(
        "events", "history", "Print events, one per line; all events without --after and --limit."
    ),
    Listed("replay", "history", "Show the counts, or one job, as of a position or a time."),
    Listed(
        "verify",
        "history",
        "Replay every event and compare: chain, content, every row, tables and triggers.",
    ),
    Listed(
        "rebuild",
        "rebuild",
        "Build projections again from the events, beside the live ones, and swap them.",
    ),
    Listed(
        "status", "history", "Show the database, its position, and the progress of the read models."
    ),
    Listed("sweep", "server", "Promote due jobs and fail expired ones, until Ctrl-C."),
    Listed("follow", "server", "Update the read models that follow, until Ctrl-C."),
)


@click.group(
    cls=ListedCommands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.option(
    "--database",
    "database_url",
    metavar="URL",
    help="The ledger: sqlite:///PATH or postgresql+psycopg://USER@HOST/NAME. "
    "Default: LEDGER_DATABASE_URL, or sqlite:///ledger.db in the working directory.",
)
@click.version_option(package_name="ledger-queue")
@click.pass_context
def main(context: click.Context, database_url: str | None) -> None:
    """Run a job queue whose database is its own audit trail.

    \b
    Create a ledger in the working directory, create a job, show its history:
      ledger migrate
      ledger create email '{"to": "tj@learnboost.com"}' --priority high
      ledger jobs
      ledger events --job 1

    No command needs a running server: each uses the database directly. Settings are
    LEDGER_* variables; docs/settings.md lists them.
    """
    context.obj = Context(database_url)


for command in COMMANDS:
    main.add_command(command)

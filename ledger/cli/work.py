"""The command ``work``, which runs an application's handlers."""

import os
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from typing import Final

import click

from ledger.cli.context import Context, command
from ledger.cli.parameters import Seconds, Whole
from ledger.cli.summary import Summary, is_watched
from ledger.processes.composition import STARTER, followed_for
from ledger.processes.counters import Count, Tally
from ledger.processes.follower_process import FollowerProcess
from ledger.processes.import_target import Target, TargetError, load, slots
from ledger.processes.log_format import say, send_lines
from ledger.processes.settings import Settings
from ledger.processes.worker_processes import Crew, Requests, observing, work_here
from ledger.queue.queue import Queue
from ledger.worker.sweeper import Sweeper
from ledger.worker.worker import GRACE_S, Worker

MOST_PROCESSES: Final = 1_000
MOST_AT_ONCE: Final = 10_000


@click.command()
@click.argument("name", metavar="TARGET")
@click.option(
    "--processes",
    type=Whole(1, MOST_PROCESSES),
    default=1,
    show_default=True,
    help="Number of worker processes.",
)
@click.option(
    "--type",
    "types",
    metavar="TYPE",
    multiple=True,
    help="Run only jobs of this type; may be repeated.",
)
@click.option(
    "--concurrency",
    type=Whole(1, MOST_AT_ONCE),
    help="Jobs of each type that a process runs at once.  [default: set by the handlers]",
)
@click.option(
    "--grace",
    "grace_s",
    metavar="SECONDS",
    type=Seconds(),
    default=GRACE_S,
    show_default=True,
    help="Time for running jobs to end after the command is stopped.",
)
@click.option(
    "--json", "as_json", is_flag=True, help="Log one JSON object per line, even on a terminal."
)
@command
def work(
    context: Context,
    *,
    name: str,
    processes: int,
    types: tuple[str, ...],
    concurrency: int | None,
    grace_s: float,
    as_json: bool,
) -> None:
    """Run the jobs of the queue TARGET, such as myapp.jobs:queue, until it is stopped.

    \b
    jobs.py:                                   then, beside it:
      import ledger                              ledger work jobs:queue
      queue = ledger.connect()                   ledger create email '{"to": "tj"}'
      @queue.process("email", concurrency=20)    ledger jobs
      def send(job):
          job.log("to %s", job.data["to"])

    The module is imported with the working directory on the path. If it calls
    ledger.connect() without a URL, --database applies. A process that dies is
    replaced. One `ledger work` of a ledger at a time also promotes delayed jobs, fails
    jobs whose worker is lost, and starts a process that updates the read models that
    follow, except search; so no server needs to run.

    On Ctrl-C or SIGTERM no more jobs start, and running jobs have --grace seconds to
    end. Jobs that have not ended by then are returned to the queue, which uses up no
    attempt. A second signal returns them at once. On a terminal the command shows its
    progress; otherwise it logs starts, stops and failed attempts.
    """
    os.environ["LEDGER_DATABASE_URL"] = context.settings().database_url
    target = Target(name=name, types=types, concurrency=concurrency, grace_s=grace_s)
    try:
        queue = load(target)
    except TargetError as error:
        raise click.UsageError(str(error)) from error
    queue.open()
    watched = is_watched() and not as_json
    requests = Requests()
    with ExitStack() as stack:
        stack.enter_context(requests.heard())
        show: Callable[[Count], None] = _not_shown
        if watched:
            title = f"{name} on {queue.database.shown_url}"
            screen = stack.enter_context(Summary(queue, title, tuple(queue.handlers)))
            show = screen.show
        send_lines(as_json=as_json)
        stack.callback(_sweeping(queue).stop)
        following = _following(queue, context.settings())
        following.start()
        stack.callback(following.stop)
        say(
            "work started",
            target=name,
            database=queue.database.shown_url,
            processes=processes,
            types=",".join(f"{type_}:{number}" for type_, number in slots(queue).items()),
        )
        if processes == 1:
            tally = Tally()
            worker = Worker(queue, grace_s=grace_s, observer=observing(tally))
            work_here(
                worker, tally, asked=lambda: requests.number, tick=lambda: show(tally.count())
            )
            count = tally.count()
        else:
            crew = Crew(target, processes, as_json=as_json)
            crew.run(asked=lambda: requests.number, tick=lambda: show(crew.count))
            count = crew.count
        show(count)
        say(
            "work ended",
            completed=count.completed,
            failed=count.failed,
            returned=count.returned,
        )


def _sweeping(queue: Queue) -> Sweeper:
    sweeper = Sweeper(queue.ledger, queue.read_models, lease_ms=queue.lease_ms)
    sweeper.start()
    return sweeper


def _following(queue: Queue, settings: Settings) -> FollowerProcess:
    database = queue.database
    url = database.engine.url.render_as_string(hide_password=False)
    return FollowerProcess(
        followed_for(queue),
        lambda: database.leadership(STARTER),
        replace(settings, database_url=url, schema=database.schema or ""),
    )


def _not_shown(count: Count) -> None:
    pass

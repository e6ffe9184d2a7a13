"""The command ``work``, which runs an application's handlers."""

import logging
import os
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Final, TypedDict

import click

from ledger.cli.context import Context, command
from ledger.cli.output import is_terminal
from ledger.cli.parameters import Seconds, Whole
from ledger.processes.child_output import ChildOutput
from ledger.processes.child_process import Output
from ledger.processes.composition import STARTER, followed_for
from ledger.processes.counters import Count, Counters
from ledger.processes.follower_process import FollowerProcess
from ledger.processes.import_target import Target, TargetError, load, slots
from ledger.processes.late_log import LateLog
from ledger.processes.log_format import say, send_lines
from ledger.processes.lost_output import survive_lost_output
from ledger.processes.parent_connection import ParentConnection
from ledger.processes.settings import Settings
from ledger.processes.stop_requests import StopRequests
from ledger.processes.unknown_variables import leave_to_parent
from ledger.processes.worker_process import run_child, run_worker
from ledger.processes.worker_processes import WorkerProcesses, hung_after_s
from ledger.projections.follower import Follower
from ledger.projections.lag import Late, lags
from ledger.queue.overdue import late_work
from ledger.queue.queue import Queue
from ledger.worker.sweeper import start_sweeper
from ledger.worker.worker import GRACE_S

if TYPE_CHECKING:
    from ledger.cli.screen import Screen


MOST_PROCESSES: Final = 1_000
MOST_AT_ONCE: Final = 10_000


class _ChildOutput(TypedDict):
    """Arguments that say where the output of child processes goes."""

    output: ChildOutput | None
    stderr: Output


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
@click.option("--parent", type=int, hidden=True)
@click.option("--output", "read_end", type=int, hidden=True)
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
    parent: int | None,
    read_end: int | None,
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

    On Ctrl-C, SIGTERM or SIGHUP (a closed terminal) no more jobs start, and running jobs
    have --grace seconds to end. Jobs that have not ended by then are returned to the
    queue, which uses up no attempt. A further Ctrl-C or SIGTERM returns them at once.
    Under nohup, SIGHUP is ignored.

    On a terminal, handlers run in child processes whose standard input is empty, also
    with one process, and the command shows its progress below what they print.
    Elsewhere it logs starts, stops and failed attempts.
    """
    target = Target(name=name, types=types, concurrency=concurrency, grace_s=grace_s)
    # Before the application is imported, which may keep a reference to a stream.
    survive_lost_output()
    if parent is not None:
        leave_to_parent()
        run_child(ParentConnection(parent, read_end), target, as_json=as_json)
        return
    settings = context.settings()
    os.environ["LEDGER_DATABASE_URL"] = settings.database_url
    try:
        queue = load(target)
    except TargetError as error:
        raise click.UsageError(str(error)) from error
    queue.open()
    _work(queue, target, settings, processes=processes, as_json=as_json)


def _work(
    queue: Queue, target: Target, settings: Settings, *, processes: int, as_json: bool
) -> None:
    stop_requests = StopRequests()
    with ExitStack() as stack:
        stack.enter_context(stop_requests.handled())
        screen = None
        if is_terminal(sys.stdout) and not as_json:
            screen = stack.enter_context(_make_screen(queue, target.name))
        log_to = logging.StreamHandler(sys.stdout) if screen is None else screen.log_handler()
        send_lines(log_to, as_json=as_json)
        stack.callback(start_sweeper(queue).stop)
        followers = followed_for(queue)
        stack.callback(_start_follower_process(queue, followers, settings, screen).stop)
        stack.callback(_start_late_log(queue, followers).stop)
        say(
            "work started",
            target=target.name,
            database=queue.database.shown_url,
            processes=processes,
            types=",".join(f"{type_}:{number}" for type_, number in slots(queue).items()),
        )
        if processes == 1 and screen is None:
            count = _run_here(queue, target.grace_s, stop_requests)
        else:
            workers = WorkerProcesses(
                target,
                processes,
                as_json=as_json,
                hung_after_s=hung_after_s(queue.lease_ms),
                **_output(screen),
            )
            count = _run_processes(workers, screen, stop_requests)
        say("work ended", completed=count.completed, failed=count.failed, returned=count.returned)


def _make_screen(queue: Queue, name: str) -> "Screen":
    # Rich is slow to import, and the child processes have no screen.
    from ledger.cli.screen import Screen  # noqa: PLC0415

    return Screen(queue, f"{name} on {queue.database.shown_url}", tuple(queue.handlers))


def _output(screen: "Screen | None") -> _ChildOutput:
    """Return where the output of child processes goes: what would go to a terminal, to *screen*."""
    if screen is None:
        return {"output": None, "stderr": "inherited"}
    captured = is_terminal(sys.stderr)
    return {"output": screen.child_output, "stderr": "captured" if captured else "inherited"}


def _start_late_log(queue: Queue, followers: Sequence[Follower]) -> LateLog:
    def late() -> list[Late]:
        lagging = lags(queue.database, followers, (), time_ms=queue.ledger.time_ms)
        return late_work(queue.ledger, queue.read_models, lagging)

    late_log = LateLog(late)
    late_log.start()
    return late_log


def _start_follower_process(
    queue: Queue, followers: Sequence[Follower], settings: Settings, screen: "Screen | None"
) -> FollowerProcess:
    database = queue.database
    url = database.engine.url.render_as_string(hide_password=False)
    follower_process = FollowerProcess(
        [each.name for each in followers],
        lambda: database.leadership(STARTER),
        replace(settings, database_url=url, schema=database.schema or ""),
        **_output(screen),
    )
    follower_process.start()
    return follower_process


def _run_here(queue: Queue, grace_s: float, stop_requests: StopRequests) -> Count:
    counters = Counters()
    run_worker(
        queue,
        counters,
        grace_s=grace_s,
        stop_requests=lambda: stop_requests.number,
        tick=lambda: None,
    )
    return counters.count()


def _run_processes(
    workers: WorkerProcesses, screen: "Screen | None", stop_requests: StopRequests
) -> Count:
    def show() -> None:
        if screen is not None:
            screen.show(workers.count)

    workers.run(stop_requests=lambda: stop_requests.number, tick=show)
    show()
    return workers.count

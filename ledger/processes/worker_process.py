"""One worker in this process, which is ``ledger work`` itself or a child of it."""

import io
import logging
import sys
import threading
from collections.abc import Callable
from typing import Final

import msgspec

from ledger.errors import NameTaken, SchemaMismatch, Unavailable, WorkerFailed
from ledger.processes.counters import Counters
from ledger.processes.import_target import Target, TargetError, load
from ledger.processes.log_format import log, log_end, say, send_lines
from ledger.processes.parent_connection import ParentConnection
from ledger.queue.queue import Queue
from ledger.worker.worker import Worker, WorkerReport

TICK_S: Final = 0.25


def run_worker(
    queue: Queue,
    counters: Counters,
    *,
    grace_s: float,
    stop_requests: Callable[[], int],
    tick: Callable[[], object],
) -> None:
    """Run a worker in a thread until it has stopped on request.

    Args:
        queue: The queue whose handlers it calls.
        counters: Count what it does.
        grace_s: How long running jobs may take to end after the first stop request.
        stop_requests: Returns the number of stop requests so far.
        tick: Called a few times a second, in the calling thread.
    """

    def observe(report: WorkerReport) -> None:
        counters.record(report)
        log_end(report)

    worker = Worker(queue, grace_s=grace_s, observer=observe)
    errors: list[BaseException] = []
    thread = threading.Thread(target=_run, args=(worker, errors), name=worker.name, daemon=True)
    say("worker started", worker=worker.name)
    processed = 0
    while thread.ident is None or thread.is_alive():
        if (number := stop_requests()) > processed:
            say("worker stopping", worker=worker.name, at_once=number > 1, running=worker.running)
            worker.stop(grace_s=None if number == 1 else 0)
            processed = number
        if thread.ident is None:
            # Started after the check, so that a request during startup prevents all jobs.
            thread.start()
        thread.join(TICK_S)
        counters.steps = worker.steps
        tick()
    count = counters.count()
    say(
        "worker stopped",
        worker=worker.name,
        completed=count.completed,
        failed=count.failed,
        returned=count.returned,
    )
    if errors:
        raise errors[0]


def _run(worker: Worker, errors: list[BaseException]) -> None:
    try:
        worker.run()
    except BaseException as error:  # noqa: BLE001 - raised again where it is waited for
        errors.append(error)


def run_child(parent: ParentConnection, target: Target, *, as_json: bool) -> None:
    """Run a worker in this child process until its parent asks it to stop."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        # Show the output of handlers at once, and in order with our log.
        sys.stdout.reconfigure(line_buffering=True)
    send_lines(logging.StreamHandler(sys.stdout), as_json=as_json)
    counters = Counters()

    def report() -> bytes:
        return msgspec.json.encode(counters.count())

    try:
        run_worker(
            load(target),
            counters,
            grace_s=target.grace_s,
            stop_requests=lambda: parent.stop_requests,
            tick=lambda: parent.report(report()),
        )
    except (NameTaken, SchemaMismatch, TargetError, Unavailable, WorkerFailed) as error:
        # It says what is wrong, such as that the database is unavailable.
        say("process failed", level=logging.ERROR, reason=str(error))
        sys.exit(1)
    except Exception:  # noqa: BLE001 - the edge of the process
        log.exception("process failed")
        sys.exit(1)
    finally:
        parent.report_last(report())

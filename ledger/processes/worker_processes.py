"""Workers in this process, or in several child processes that are replaced if they die.

Children are spawned, not forked.  Through a pipe the parent sends each child the number of
stop requests so far, which the child treats as that many signals.  Only these count: a
terminal's Ctrl-C and a service manager's SIGTERM reach the children too, and are not counted
a second time.  Children end by themselves when the parent dies, however it dies.  Through the
same pipe they send their counters; their output goes where the parent's goes.
"""

import io
import logging
import multiprocessing
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from types import FrameType
from typing import Any, Final

from ledger.processes.counters import Count, Tally, total
from ledger.processes.import_target import Target, load
from ledger.processes.log_format import log, log_ends, say, send_lines
from ledger.processes.unknown_variables import leave_to_parent
from ledger.worker.worker import Worker, WorkerReport

TICK_S: Final = 0.25
STOPS: Final = (signal.SIGINT, signal.SIGTERM)
# Pause before a child that died is replaced.  It doubles with each death, and starts again
# after a child that lived longer than _LIVED_S.
_FIRST_PAUSE_S: Final = 0.5
_LONGEST_PAUSE_S: Final = 30.0
_LIVED_S: Final = 30.0
# How long children that must stop at once may take to return their jobs.
_AT_ONCE_S: Final = 5.0
_NOTHING: Final = Count()


class Requests:
    """The number of requests to stop: the first is a graceful stop, the second immediate."""

    def __init__(self) -> None:
        self.number = 0

    @contextmanager
    def heard(self) -> Iterator[None]:
        """Handle SIGINT and SIGTERM; a third signal has its default action and ends the process."""
        before = {number: signal.signal(number, self._hear) for number in STOPS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _hear(self, number: int, frame: FrameType | None) -> None:
        # Do nothing else here: the interrupted thread may hold any lock.
        self.number += 1
        if self.number > 1:
            signal.signal(number, signal.SIG_DFL)


def work_here(
    worker: Worker, tally: Tally, *, asked: Callable[[], int], tick: Callable[[], None]
) -> None:
    """Run *worker* until it has stopped on request.

    Args:
        worker: The worker to run.
        tally: Its counters.
        asked: Returns the number of stop requests so far.
        tick: Called a few times a second, in the calling thread.
    """
    errors: list[BaseException] = []
    thread = threading.Thread(target=_run, args=(worker, errors), name=worker.name, daemon=True)
    say("worker started", worker=worker.name)
    heeded = 0
    while thread.ident is None or thread.is_alive():
        if (number := asked()) > heeded:
            say("worker stopping", worker=worker.name, at_once=number > 1, running=worker.running)
            worker.stop(grace_s=None if number == 1 else 0)
            heeded = number
        if thread.ident is None:
            # Started after the check, so that a request during startup prevents all jobs.
            thread.start()
        thread.join(TICK_S)
        tick()
    done = tally.count()
    say(
        "worker stopped",
        worker=worker.name,
        completed=done.completed,
        failed=done.failed,
        returned=done.returned,
    )
    if errors:
        raise errors[0]


def _run(worker: Worker, errors: list[BaseException]) -> None:
    try:
        worker.run()
    except BaseException as error:  # noqa: BLE001 - raised again where it is waited for
        errors.append(error)


# --- in a child ----------------------------------------------------------------------


def _child(pipe: Connection, target: Target, as_json: bool) -> None:  # noqa: FBT001 - spawned
    """Run a worker in a child, controlled by the parent at the other end of *pipe*."""
    leave_to_parent()
    orders = _Orders(pipe)
    tally = Tally()
    if isinstance(sys.stdout, io.TextIOWrapper):
        # Show the output of handlers at once, and in order with our log.
        sys.stdout.reconfigure(line_buffering=True)
    send_lines(as_json=as_json)
    try:
        worker = Worker(load(target), grace_s=target.grace_s, observer=observing(tally))
        work_here(
            worker,
            tally,
            asked=lambda: orders.number,
            tick=lambda: orders.report(tally.count()),
        )
    except Exception:  # noqa: BLE001 - the edge of the process
        log.exception("process failed")
        sys.exit(1)


class _Orders:
    """The connection of a child to its parent."""

    def __init__(self, pipe: Connection) -> None:
        self.number = 0
        self._pipe = pipe
        self._reported = _NOTHING
        signal.signal(signal.SIGINT, self._ignore)
        signal.signal(signal.SIGTERM, self._recycle)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)
        threading.Thread(target=self._listen, name="ledger-orders", daemon=True).start()

    def report(self, count: Count) -> None:
        """Send the counters to the parent if they have changed."""
        if count != self._reported:
            # The parent may have died.
            with suppress(OSError):
                self._pipe.send(count)
            self._reported = count

    def _listen(self) -> None:
        try:
            while True:
                self.number = max(self.number, self._pipe.recv())
        except (EOFError, OSError):
            # The parent has died.
            self.number = max(self.number, 1)

    def _ignore(self, number: int, frame: FrameType | None) -> None:
        """Ignore SIGINT, which a terminal sends to the parent too.

        SIG_IGN is not used, because processes that handlers start would inherit it.
        """

    def _recycle(self, number: int, frame: FrameType | None) -> None:
        """Stop gracefully; the parent starts a replacement unless it was told to stop too."""
        self.number = max(self.number, 1)


# --- in the parent -------------------------------------------------------------------


@dataclass(slots=True)
class _Place:
    """The place of one child and of those that replace it.

    Attributes:
        count: Counters that the current child has sent.
        before: Counters of the children that have ended.
        again_at_s: When to replace a child that died.
        deaths: Number of children that died soon after their start, without a break.
    """

    number: int
    process: SpawnProcess | None = None
    pipe: Connection | None = None
    began_s: float = 0.0
    count: Count = _NOTHING
    before: Count = _NOTHING
    again_at_s: float = 0.0
    deaths: int = 0


class Crew:
    """Several worker processes.

    Args:
        target: The queue, and what they run of it.
        processes: Number of processes.
        as_json: Whether they log JSON.
    """

    def __init__(self, target: Target, processes: int, *, as_json: bool) -> None:
        self._target = target
        self._as_json = as_json
        self._places = [_Place(number) for number in range(1, processes + 1)]
        self._asked = 0
        self._kill_at_s = float("inf")

    @property
    def count(self) -> Count:
        """Return the sum of their counters."""
        return total(one for place in self._places for one in (place.before, place.count))

    def run(self, *, asked: Callable[[], int], tick: Callable[[], None]) -> None:
        """Keep the processes running until they have stopped on request; see ``work_here``."""
        tick_at_s = 0.0
        try:
            while not self._asked or self._alive():
                self._start_missing()
                self._hear()
                self._pass_on(asked())
                self._bury()
                # The processes may report more often than anyone could read.
                if time.monotonic() >= tick_at_s:
                    tick()
                    tick_at_s = time.monotonic() + TICK_S
        finally:
            # If we end for another reason: children stop when their pipe is closed.
            for place in self._alive():
                _close(place)

    def _alive(self) -> list[_Place]:
        return [place for place in self._places if place.process is not None]

    def _start_missing(self) -> None:
        for place in self._places:
            if place.process is None and not self._asked and time.monotonic() >= place.again_at_s:
                self._start(place)

    def _start(self, place: _Place) -> None:
        context = multiprocessing.get_context("spawn")
        place.pipe, theirs = context.Pipe()
        process = context.Process(target=_child, args=(theirs, self._target, self._as_json))
        # Started first, because its start unblocks the signals.
        resource_tracker.ensure_running()
        # The child inherits the mask, and unblocks the signals once it has set its handlers.
        signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)
        try:
            process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)
        theirs.close()
        place.process, place.began_s = process, time.monotonic()

    def _hear(self) -> None:
        """Receive the children's counters; wait for them for at most a tick."""
        alive = self._alive()
        sources: list[Any] = [place.pipe for place in alive if place.pipe is not None]
        sources += [place.process.sentinel for place in alive if place.process is not None]
        if sources:
            wait(sources, timeout=TICK_S)
        else:
            time.sleep(TICK_S)
        for place in alive:
            _take(place)

    def _pass_on(self, asked: int) -> None:
        """Pass new stop requests on to all children; kill those that do not stop in time."""
        if asked > self._asked:
            say("work stopping", at_once=asked > 1, processes=len(self._alive()))
            self._asked = asked
            if asked > 1:
                self._kill_at_s = time.monotonic() + _AT_ONCE_S
            for place in self._alive():
                with suppress(OSError):
                    if place.pipe is not None:
                        place.pipe.send(asked)
        if time.monotonic() > self._kill_at_s:
            for place in self._alive():
                if place.process is not None:
                    place.process.kill()

    def _bury(self) -> None:
        """Reap children that have ended, and schedule their replacement."""
        for place in self._alive():
            process = place.process
            if process is None or process.exitcode is None:
                continue
            _take(place)
            _close(place)
            process.join()
            code = process.exitcode
            place.process = None
            ended = place.count._replace(running=0, longest=())
            place.before, place.count = total([place.before, ended]), _NOTHING
            if not self._asked:
                self._say_died(place, process, code)

    def _say_died(self, place: _Place, process: SpawnProcess, code: int) -> None:
        now_s = time.monotonic()
        place.deaths = 1 if now_s - place.began_s > _LIVED_S else place.deaths + 1
        pause_s = min(_FIRST_PAUSE_S * 2 ** (place.deaths - 1), _LONGEST_PAUSE_S)
        place.again_at_s = now_s + pause_s
        ended = {"signal": signal.Signals(-code).name} if code < 0 else {"exit": code}
        say(
            "process died",
            level=logging.WARNING,
            process=process.pid,
            **ended,
            replaced_in_s=pause_s,
        )


def _take(place: _Place) -> None:
    """Receive everything that a child has sent so far."""
    try:
        while place.pipe is not None and place.pipe.poll():
            place.count = place.pipe.recv()
    except (EOFError, OSError):
        # The child is ending.  An open pipe at its end would make every wait return at once.
        _close(place)


def _close(place: _Place) -> None:
    if place.pipe is not None:
        place.pipe.close()
        place.pipe = None


def observing(tally: Tally) -> Callable[[WorkerReport], None]:
    """Return an observer that updates the counters and logs attempts that did not complete."""

    def told(told: WorkerReport) -> None:
        tally.told(told)
        log_ends(told)

    return told

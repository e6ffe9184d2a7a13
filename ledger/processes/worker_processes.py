"""Run workers: one in this process, or one each in several that are replaced if they die.

Children are spawned, not forked, and hear from their parent through a pipe: a number
of requests to stop, as if each had come as a signal.  So they obey it alone, although
a terminal's Ctrl-C and a service manager's SIGTERM reach them too, and they end by
themselves when it dies, however it does.  Through the same pipe they tell what they
have done; what they print goes where it goes with us.
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
from ledger.worker.worker import Told, Worker

TICK_S: Final = 0.25
STOPS: Final = (signal.SIGINT, signal.SIGTERM)
# Until a child that died is replaced: twice as long each time, unless it had lived.
_FIRST_PAUSE_S: Final = 0.5
_LONGEST_PAUSE_S: Final = 30.0
_LIVED_S: Final = 30.0
# What ends at once may take to give back its jobs.
_AT_ONCE_S: Final = 5.0
_NOTHING: Final = Count()


class Requests:
    """Count the requests to stop: the first is heeded in good order, the second at once."""

    def __init__(self) -> None:
        self.number = 0

    @contextmanager
    def heard(self) -> Iterator[None]:
        """Hear SIGINT and SIGTERM; a third one ends the process as if nobody heard."""
        before = {number: signal.signal(number, self._hear) for number in STOPS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _hear(self, number: int, frame: FrameType | None) -> None:
        # Nothing else: the thread that it interrupts may hold any lock.
        self.number += 1
        if self.number > 1:
            signal.signal(number, signal.SIG_DFL)


def work_here(
    worker: Worker, tally: Tally, *, asked: Callable[[], int], tick: Callable[[], None]
) -> None:
    """Run *worker* until it was *asked* to stop, and has.

    Args:
        worker: What to run.
        tally: What it tells.
        asked: How often it was asked so far.
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
            # Not before: asked while this process came up, it begins no job at all.
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
    """Be a child: work, and obey the parent at the other end of *pipe*."""
    leave_to_parent()
    orders = _Orders(pipe)
    tally = Tally()
    if isinstance(sys.stdout, io.TextIOWrapper):
        # What handlers print is seen when they print it, and in order with what we log.
        sys.stdout.reconfigure(line_buffering=True)
    send_lines(as_json=as_json)
    try:
        worker = Worker(load(target), grace_s=target.grace_s, told=telling(tally))
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
    """Be the parent, as a child sees it."""

    def __init__(self, pipe: Connection) -> None:
        self.number = 0
        self._pipe = pipe
        self._reported = _NOTHING
        signal.signal(signal.SIGINT, self._ignore)
        signal.signal(signal.SIGTERM, self._recycle)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)
        threading.Thread(target=self._listen, name="ledger-orders", daemon=True).start()

    def report(self, count: Count) -> None:
        """Tell the parent what was done, if it does not know."""
        if count != self._reported:
            # If it is no more, there is nobody to tell.
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
        """Leave it to the parent, to which a terminal sends it as well.

        Not with SIG_IGN, which whatever the handlers start would inherit.
        """

    def _recycle(self, number: int, frame: FrameType | None) -> None:
        """End in good order, to be replaced unless the parent was told as well."""
        self.number = max(self.number, 1)


# --- in the parent -------------------------------------------------------------------


@dataclass(slots=True)
class _Place:
    """Be a child's place, which outlives it.

    Attributes:
        count: What its children have told.
        before: What those did that are no more.
        again_at_s: When to replace a child that died.
        deaths: How many died one soon after the other.
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
    """Be several processes that work.

    Args:
        target: What they work for.
        processes: How many.
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
        """Return what they have done together."""
        return total(one for place in self._places for one in (place.before, place.count))

    def run(self, *, asked: Callable[[], int], tick: Callable[[], None]) -> None:
        """Keep them running until *asked* to stop, and they have; as ``work_here``."""
        tick_at_s = 0.0
        try:
            while not self._asked or self._alive():
                self._start_missing()
                self._hear()
                self._pass_on(asked())
                self._bury()
                # They may have more to tell than anyone could read.
                if time.monotonic() >= tick_at_s:
                    tick()
                    tick_at_s = time.monotonic() + TICK_S
        finally:
            # Should we end otherwise: they stop when nobody is at the other end.
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
        # First, since to start this one takes the signals off the mask.
        resource_tracker.ensure_running()
        # It inherits the mask, and hears signals once it knows what to do with them.
        signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)
        try:
            process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)
        theirs.close()
        place.process, place.began_s = process, time.monotonic()

    def _hear(self) -> None:
        """Take what the children say, or wait a moment for it."""
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
        """Tell all children to stop, if we were."""
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
        """Take leave of children that have ended."""
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
    """Take all that a child has said so far."""
    try:
        while place.pipe is not None and place.pipe.poll():
            place.count = place.pipe.recv()
    except (EOFError, OSError):
        # It ends; a pipe that is at its end would be ready at once, every time.
        _close(place)


def _close(place: _Place) -> None:
    if place.pipe is not None:
        place.pipe.close()
        place.pipe = None


def telling(tally: Tally) -> Callable[[Told], None]:
    """Return what counts, and logs what did not end well."""

    def told(told: Told) -> None:
        tally.told(told)
        log_ends(told)

    return told

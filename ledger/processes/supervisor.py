"""The supervisor of child processes, for ``ledger work`` and ``ledger serve``.

A child that ends without being asked to is replaced.  The pause before that doubles with each
death, so that a child that cannot work does not occupy the machine.
"""

import logging
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import wait
from typing import Final

from ledger.processes.child_output import ChildOutput
from ledger.processes.child_process import ChildProcess, ChildSpec
from ledger.processes.log_format import say

FIRST_PAUSE_S: Final = 0.5
LONGEST_PAUSE_S: Final = 30.0
# How often to check for the end of children that have closed their connection.
_CHECK_S: Final = 0.05


@dataclass(slots=True)
class _Child:
    """One child and those that replace it.

    Attributes:
        process: None while it does not run.
        again_at_s: When to replace a child that died.
        deaths: Number of deaths since a child last lived for long.
    """

    number: int
    spec: ChildSpec
    process: ChildProcess | None = None
    again_at_s: float = 0.0
    deaths: int = 0


class Supervisor:
    """Child processes that are kept running until they are asked to stop.

    Its methods are called by one thread at a time.

    Args:
        specs: One per child.
        output: Reads the output of children whose output is captured.
        on_report: Called with the number of a child, from 0, and a report of it.
        on_end: Called with the number of a child that has ended.
        first_pause_s: Pause before a child that died is replaced; it doubles with each death.
        longest_pause_s: The longest pause.  After a child that lived longer than this, the
            pauses begin again with the first.
    """

    def __init__(
        self,
        specs: Sequence[ChildSpec],
        *,
        output: ChildOutput | None = None,
        on_report: Callable[[int, bytes], object] = lambda _number, _report: None,
        on_end: Callable[[int], object] = lambda _number: None,
        first_pause_s: float = FIRST_PAUSE_S,
        longest_pause_s: float = LONGEST_PAUSE_S,
    ) -> None:
        self._output = output
        self._on_report = on_report
        self._on_end = on_end
        self._first_pause_s = first_pause_s
        self._longest_pause_s = longest_pause_s
        self._children = [_Child(number, spec) for number, spec in enumerate(specs)]
        self._stop_requests = 0
        self._kill_at_s = float("inf")

    @property
    def running(self) -> int:
        """Return the number of children that have not been reaped."""
        return sum(child.process is not None for child in self._children)

    def run_once(self, *, timeout_s: float) -> None:
        """Start missing children, receive reports and reap children that have ended.

        Args:
            timeout_s: How long to wait for a report or an end at most.
        """
        if not self._stop_requests:
            self._start_missing()
        self._wait(timeout_s)
        for child, process in self._alive():
            # Asked before the last reports are received.
            exit_code = process.exit_code
            for report in process.receive():
                self._on_report(child.number, report)
            if exit_code is not None:
                self._end(child, process, exit_code)
            elif time.monotonic() >= self._kill_at_s:
                process.kill()

    def kill(self, number: int) -> int | None:
        """Kill a child, which is replaced as one that died; return its process id.

        Args:
            number: The number of the child, from 0.

        Returns:
            None if the child does not run.
        """
        process = self._children[number].process
        if process is None:
            return None
        process.kill()
        return process.pid

    def request_stop(self, number: int, *, kill_after_s: float = float("inf")) -> None:
        """Send the children the number of stop requests; from now on, replace none.

        Args:
            number: 1 is a request for a graceful stop, 2 for an immediate one.
            kill_after_s: How long they may take; ``run_once`` kills those that take longer.
        """
        self._stop_requests = number
        self._kill_at_s = min(self._kill_at_s, time.monotonic() + kill_after_s)
        for _, process in self._alive():
            process.request_stop(number)

    def stop(self, *, kill_after_s: float) -> None:
        """Stop the children gracefully, kill those that take longer, and reap all of them."""
        self.request_stop(max(1, self._stop_requests), kill_after_s=kill_after_s)
        while self.running:
            self.run_once(timeout_s=_CHECK_S)

    def forget(self) -> None:
        """Drop the children in a forked process: its parent has them.

        A copy of the connection would keep them alive when that parent dies.
        """
        for child, process in self._alive():
            process.disconnect()
            child.process = None

    def _alive(self) -> Iterator[tuple[_Child, ChildProcess]]:
        for child in self._children:
            if child.process is not None:
                yield child, child.process

    def _start_missing(self) -> None:
        for child in self._children:
            if child.process is None and time.monotonic() >= child.again_at_s:
                try:
                    child.process = ChildProcess(child.spec, self._output)
                except OSError as error:
                    # The machine may be out of memory, processes or files for the moment.
                    self._replace_later(child, "cannot start", error=error)

    def _wait(self, timeout_s: float) -> None:
        """Wait until there may be a report or an end, and at most *timeout_s*."""
        connections = [process.connection for _, process in self._alive()]
        if None in connections:
            # That child is ending, and there is nothing of it left to wait for.
            timeout_s = min(timeout_s, _CHECK_S)
        if any(connections):
            wait([each for each in connections if each is not None], timeout=timeout_s)
        elif connections or not self._stop_requests:
            time.sleep(timeout_s)

    def _end(self, child: _Child, process: ChildProcess, exit_code: int) -> None:
        """Clear up after a child that has ended, and schedule its replacement."""
        process.disconnect()
        # Before the log says that it died.
        process.show_rest()
        child.process = None
        self._on_end(child.number)
        if self._stop_requests:
            return
        if time.monotonic() - process.began_s > self._longest_pause_s:
            child.deaths = 0
        ended = {"exit": exit_code} if exit_code >= 0 else {"signal": _name_of(-exit_code)}
        self._replace_later(child, "died", process=process.pid, **ended)

    def _replace_later(self, child: _Child, what: str, **facts: object) -> None:
        """Schedule the next start of a child, and log *what* happened to the last one."""
        # 2 to the power of all deaths would become too large for a float.
        pause_s = min(self._first_pause_s * 2 ** min(child.deaths, 16), self._longest_pause_s)
        child.deaths += 1
        child.again_at_s = time.monotonic() + pause_s
        say(f"{child.spec.name} {what}", level=logging.WARNING, **facts, replaced_in_s=pause_s)


def _name_of(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        # Most real-time signals have no name.
        return str(number)

"""The worker processes of ``ledger work``, and the sum of what they do.

They are in our process group, so that Ctrl-Z and ``fg`` affect all of them.  Ctrl-C reaches
them too, but they count only the stop requests that we send: see ``parent_connection``.
"""

import logging
import math
import time
from collections.abc import Callable
from typing import Final

import msgspec

from ledger.processes.child_output import ChildOutput
from ledger.processes.child_process import ChildSpec, Output
from ledger.processes.counters import Count, total
from ledger.processes.import_target import Target
from ledger.processes.log_format import say
from ledger.processes.supervisor import Supervisor
from ledger.processes.worker_process import TICK_S

AT_ONCE_S: Final = 5.0
# A step may have to wait for several locks of the database.
_SHORTEST_HANG_S: Final = 60.0
# A pause of our own loop, which looks several times a second, after which times tell nothing.
_SUSPENDED_S: Final = 5.0
_NOTHING: Final = Count()


class WorkerProcesses:
    """Child processes that each run a worker, and are replaced if they die.

    Args:
        target: The queue, and what they run of it.
        processes: Number of processes.
        as_json: Whether they log JSON.
        output: Reads their standard output; None if it goes where ours goes.
        stderr: Where their standard error goes.
        at_once_s: How long processes that must stop at once may take to return their jobs; 5 s by
            default.
        hung_after_s: How long the loop of a process that has begun may take for a step; a process
            that takes longer is killed and replaced.  By default, for ever.
    """

    def __init__(
        self,
        target: Target,
        processes: int,
        *,
        as_json: bool,
        output: ChildOutput | None = None,
        stderr: Output = "inherited",
        at_once_s: float = AT_ONCE_S,
        hung_after_s: float = math.inf,
    ) -> None:
        spec = ChildSpec(
            name="process",
            arguments=_arguments(target, as_json=as_json),
            stdout="inherited" if output is None else "captured",
            stderr=stderr,
        )
        self._grace_s = target.grace_s
        self._at_once_s = at_once_s
        self._hung_after_s = hung_after_s
        self._counts = [_NOTHING] * processes
        # When each has reported a further step; none of one that has not begun.
        self._stepped_s = [math.inf] * processes
        self._looked_s = time.monotonic()
        self._ended = _NOTHING
        self._supervisor = Supervisor(
            [spec] * processes, output=output, on_report=self._record, on_end=self._end
        )

    @property
    def count(self) -> Count:
        """Return the sum of their counters, including those of processes that have ended."""
        return total([*self._counts, self._ended])

    def run(self, *, stop_requests: Callable[[], int], tick: Callable[[], object]) -> None:
        """Keep the processes running until they have stopped on request; see ``run_worker``."""
        supervisor = self._supervisor
        sent = 0
        tick_at_s = 0.0
        try:
            while not sent or supervisor.running:
                if (number := stop_requests()) > sent:
                    say("work stopping", at_once=number > 1, processes=supervisor.running)
                    limit_s = self._at_once_s if number > 1 else float("inf")
                    supervisor.request_stop(number, kill_after_s=limit_s)
                    sent = number
                supervisor.run_once(timeout_s=TICK_S)
                self._kill_hung()
                # The processes may report more often than anyone could read.
                if time.monotonic() >= tick_at_s:
                    tick()
                    tick_at_s = time.monotonic() + TICK_S
        finally:
            # If we end for another reason.
            supervisor.stop(kill_after_s=self._grace_s + self._at_once_s)

    def _kill_hung(self) -> None:
        """Kill the processes whose loop has hung; their attempts are lost already."""
        now_s = time.monotonic()
        if now_s - self._looked_s > _SUSPENDED_S:
            # We were stopped, and they most likely with us: they get as much time again.
            self._stepped_s = [max(stepped_s, now_s) for stepped_s in self._stepped_s]
        self._looked_s = now_s
        for number, stepped_s in enumerate(self._stepped_s):
            if now_s - stepped_s > self._hung_after_s:
                process = self._supervisor.kill(number)
                self._stepped_s[number] = math.inf
                say(
                    "process hangs",
                    level=logging.ERROR,
                    process=process,
                    no_step_for_s=round(now_s - stepped_s),
                )

    def _record(self, number: int, report: bytes) -> None:
        before, count = self._counts[number], msgspec.json.decode(report, type=Count)
        self._counts[number] = count
        if count.steps != before.steps:
            self._stepped_s[number] = time.monotonic()

    def _end(self, number: int) -> None:
        self._stepped_s[number] = math.inf
        ended = self._counts[number]._replace(running=0, longest=())
        self._counts[number], self._ended = _NOTHING, total([self._ended, ended])


def _arguments(target: Target, *, as_json: bool) -> list[str]:
    """Return the arguments with which ``ledger`` runs one of the processes."""
    return [
        "work",
        *(f"--type={type_}" for type_ in target.types),
        *([] if target.concurrency is None else [f"--concurrency={target.concurrency}"]),
        f"--grace={target.grace_s}",
        *(["--json"] if as_json else []),
        *("--", target.name),
    ]


def hung_after_s(lease_ms: int) -> float:
    """Return how long a step may take before its process is considered hung.

    By then the process has been silent for twice its lease: its attempts are lost, and others may
    have them.
    """
    return max(_SHORTEST_HANG_S, 2 * lease_ms / 1000)

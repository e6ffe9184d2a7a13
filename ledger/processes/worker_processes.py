"""The worker processes of ``ledger work``, and the sum of what they do.

They are in our process group, so that Ctrl-Z and ``fg`` affect all of them.  Ctrl-C reaches
them too, but they count only the stop requests that we send: see ``parent_connection``.
"""

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
    ) -> None:
        spec = ChildSpec(
            name="process",
            arguments=_arguments(target, as_json=as_json),
            stdout="inherited" if output is None else "captured",
            stderr=stderr,
        )
        self._grace_s = target.grace_s
        self._at_once_s = at_once_s
        self._counts = [_NOTHING] * processes
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
                # The processes may report more often than anyone could read.
                if time.monotonic() >= tick_at_s:
                    tick()
                    tick_at_s = time.monotonic() + TICK_S
        finally:
            # If we end for another reason.
            supervisor.stop(kill_after_s=self._grace_s + self._at_once_s)

    def _record(self, number: int, report: bytes) -> None:
        self._counts[number] = msgspec.json.decode(report, type=Count)

    def _end(self, number: int) -> None:
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

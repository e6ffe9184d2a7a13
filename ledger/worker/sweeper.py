"""The sweeper, which applies the passage of time: to delays, late attempts, silent workers.

One sweeper per database works at a time; the others stand by and take over when it dies.
It needs no worker: every server process has one, and ``ledger sweep`` runs one on its own.
"""

import threading
import time
from typing import TYPE_CHECKING, Final

from ledger.database.leader_loop import LeaderLoop
from ledger.errors import Unavailable
from ledger.log.answers import Outcome
from ledger.log.ledger import Ledger
from ledger.queue import presence
from ledger.queue.lease import LEASE_MS
from ledger.queue.overdue import SWEEPER
from ledger.queue.read_models import DueJobs
from ledger.rules.commands import Elapse, Lose

if TYPE_CHECKING:
    from ledger.queue.queue import Queue

# A job is promoted within a second of being due: four sweeps a second leave time for the work.
INTERVAL_S: Final = 0.25
LARGEST_SWEEP: Final = 1_000
# How often workers that died long ago are removed from the list.
FORGET_EVERY_S: Final = 600.0
JUMP_MS: Final = 1_000


def start_sweeper(queue: "Queue") -> "Sweeper":
    """Start a sweeper of a queue's ledger, in a thread that ends with the process."""
    sweeper = Sweeper(queue.ledger, queue.read_models, lease_ms=queue.lease_ms)
    sweeper.start()
    return sweeper


class Sweeper:
    """A sweeper of one database, which works while no other one does.

    Args:
        ledger: Where the effects of time are recorded.
        jobs: The jobs that are due, and the attempts that workers hold.
        lease_ms: How long a worker may be silent of which no heartbeat, with a lease of its
            own, is recorded.
        jump_ms: If the database's clock and this machine's monotonic clock differ by more between
            two sweeps, the clock was set or a machine was suspended; 1 s by default.
    """

    def __init__(
        self, ledger: Ledger, jobs: DueJobs, *, lease_ms: int = LEASE_MS, jump_ms: int = JUMP_MS
    ) -> None:
        self._ledger = ledger
        self._jobs = jobs
        self._jump_ms = jump_ms
        self._lost_workers = presence.LostWorkers(lease_ms=lease_ms)
        self._was_unavailable = False
        # The monotonic and the database's clock at the last step.
        self._last_step: tuple[float, int] | None = None
        self._forget_at_s = 0.0
        self._loop = LeaderLoop(
            "sweeper",
            lambda: ledger.database.leadership(SWEEPER),
            self._step,
            on_error=self._on_error,
        )

    def sweep(self) -> int:
        """Apply everything that is due; return how many jobs changed."""
        changed = self._fail_lost()
        self._forget_dead()
        while True:
            with self._ledger.database.read() as connection:
                now_ms = self._ledger.time_ms(connection)
                due = self._jobs.due(connection, now_ms=now_ms, limit=LARGEST_SWEEP)
            commands = [Elapse(job_id=job_id) for job_id in due]
            answers = self._ledger.submit(commands, actor="sweeper", cause="time")
            moved = sum(1 for a in answers if isinstance(a, Outcome) and a.events)
            changed += moved
            if not moved or len(due) < LARGEST_SWEEP:
                return changed

    def _fail_lost(self) -> int:
        """Fail the attempts of silent workers; return how many."""
        with self._ledger.database.read() as connection:
            now_ms = self._ledger.time_ms(connection)
            if self._last_step is not None:
                self._excuse_silence(now_ms)
            holders = self._jobs.holders(connection)
            lost = self._lost_workers.among(connection, holders, now_ms=now_ms)
            held = {name: self._jobs.held_by(connection, name) for name in lost}
            if lost:
                # One of them may have come back meanwhile, and claimed some of these.
                lost = self._lost_workers.among(connection, holders, now_ms=now_ms)
        lose = [
            Lose(job_id=job_id, attempt=attempt, worker=name, silent_ms=silent_ms)
            for name, silent_ms in lost.items()
            for job_id, attempt in held.get(name, ())
        ]
        parts = self._ledger.submit_in_parts(lose, actor="sweeper", cause="lease")
        return sum(
            1 for part in parts for each in part if isinstance(each, Outcome) and each.events
        )

    def _forget_dead(self) -> None:
        """Remove dead workers from the list, which would otherwise grow."""
        now_s = time.monotonic()
        if now_s < self._forget_at_s:
            return
        self._forget_at_s = now_s + FORGET_EVERY_S
        with self._ledger.database.read() as connection:
            holders = self._jobs.holders(connection)
        presence.forget(self._ledger, holders)

    def run(self) -> None:
        """Sweep until ``stop`` is called, even while the database is unavailable."""
        self._loop.run()

    def start(self) -> threading.Thread:
        """Run in a thread that ends with the process; return the thread."""
        return self._loop.start()

    def stop(self) -> None:
        """Make ``run`` return soon."""
        self._loop.stop()

    def _step(self) -> float:
        if self._last_step is None:
            with self._ledger.database.read() as connection:
                self._last_step = time.monotonic(), self._ledger.time_ms(connection)
        self.sweep()
        return INTERVAL_S

    def _on_error(self, error: Exception) -> None:
        if isinstance(error, Unavailable):
            self._was_unavailable = True

    def _excuse_silence(self, now_ms: int) -> None:
        """Ignore silence that is not the workers' fault.

        The database was unavailable: no worker could report either.  Or its clock was set, or a
        machine was suspended.

        Args:
            now_ms: The time by which silence is judged.  It is passed in because the clock could
                be set between two readings.
        """
        now_s = time.monotonic()
        before_s, before_ms = self._last_step or (now_s, now_ms)
        self._last_step = now_s, now_ms
        jumped_ms = abs((now_ms - before_ms) - (now_s - before_s) * 1000)
        if self._was_unavailable or jumped_ms > self._jump_ms:
            self._lost_workers.ignore_silence_before(now_ms)
        self._was_unavailable = False

"""The sweeper, which applies the passage of time: to delays, late attempts, silent workers.

One sweeper per database works at a time; the others stand by and take over when it dies.
It needs no worker: every server process has one, and ``ledger sweep`` runs one on its own.
"""

import time
from typing import Final

from ledger.database.leader_loop import LeaderLoop
from ledger.errors import LedgerError, Unavailable
from ledger.log.answers import Outcome
from ledger.log.ledger import Ledger
from ledger.queue import heartbeats
from ledger.queue.lease import LEASE_MS
from ledger.queue.read_models import DueJobs
from ledger.rules.commands import Elapse, Lose

# A job is promoted within a second of being due: four sweeps a second leave time for the work.
INTERVAL_S: Final = 0.25
LARGEST_SWEEP: Final = 1_000
# How often workers that died long ago are removed from the list.
FORGET_EVERY_S: Final = 600.0
# If wall clock and monotonic clock differ by more, the clock was set or the machine was
# suspended.
_JUMP_MS: Final = 1_000


class Sweeper:
    """A sweeper of one database, which works while no other one does.

    Args:
        ledger: Where the effects of time are recorded.
        jobs: The jobs that are due, and the attempts that workers hold.
        lease_ms: How long a worker may be silent of which no heartbeat, with a lease of its
            own, is recorded.
    """

    def __init__(self, ledger: Ledger, jobs: DueJobs, *, lease_ms: int = LEASE_MS) -> None:
        self._ledger = ledger
        self._jobs = jobs
        self._lease_ms = lease_ms
        # Holders whose last heartbeat does not tell how long they are silent: there is none, or
        # it is in the future, because the clock was set back.  And when that was first noticed.
        self._missed: dict[tuple[str, int | None], int] = {}
        # Silence before this time is ignored: while the database was unavailable or the clock
        # jumped, live workers could not report either.
        self._silent_since_ms = 0
        self._looked = time.monotonic(), ledger.now_ms()
        self._forget_at_s = 0.0
        self._loop = LeaderLoop(
            "sweeper",
            lambda: ledger.database.leadership("sweeper"),
            self._step,
            on_error=self._heard,
        )

    def sweep(self) -> int:
        """Apply everything that is due; return how many jobs changed."""
        changed = self._fail_lost()
        self._forget_dead()
        while True:
            now_ms = self._ledger.now_ms()
            with self._ledger.database.read() as connection:
                due = self._jobs.due(connection, now_ms=now_ms, limit=LARGEST_SWEEP)
            commands = [Elapse(job_id=job_id) for job_id in due]
            answers = self._ledger.submit(commands, actor="sweeper", cause="time")
            moved = sum(1 for a in answers if isinstance(a, Outcome) and a.events)
            changed += moved
            if not moved or len(due) < LARGEST_SWEEP:
                return changed

    def _fail_lost(self) -> int:
        """Fail the attempts of silent workers; return how many."""
        now_ms = self._ledger.now_ms()
        with self._ledger.database.read() as connection:
            held = self._jobs.held(connection)
            if not held:
                self._missed.clear()
                return 0
            # Read after the attempts: a worker is listed before it holds one.
            seen = {worker.name: worker for worker in heartbeats.seen(connection)}
        commands = []
        missed = {}
        for attempt in held:
            worker = seen.get(attempt.worker)
            seen_at_ms = None if worker is None else worker.seen_at_ms
            lease_ms = self._lease_ms if worker is None else worker.lease_ms
            if seen_at_ms is None or seen_at_ms > now_ms:
                key = (attempt.worker, seen_at_ms)
                since_ms = missed[key] = self._missed.get(key, now_ms)
            else:
                since_ms = max(seen_at_ms, self._silent_since_ms)
            if now_ms - since_ms > lease_ms:
                commands.append(
                    Lose(
                        job_id=attempt.job_id,
                        attempt=attempt.attempt,
                        worker=attempt.worker,
                        silent_ms=now_ms - since_ms,
                    )
                )
        self._missed = missed
        answers = self._ledger.submit(commands, actor="sweeper", cause="lease")
        return sum(1 for answer in answers if isinstance(answer, Outcome) and answer.events)

    def _forget_dead(self) -> None:
        """Remove dead workers from the list, which would otherwise grow."""
        now_s = time.monotonic()
        if now_s < self._forget_at_s:
            return
        self._forget_at_s = now_s + FORGET_EVERY_S
        database = self._ledger.database
        with database.read() as connection:
            holders = {attempt.worker for attempt in self._jobs.held(connection)}
        heartbeats.forget(database, holders, now_ms=self._ledger.now_ms())

    def run(self) -> None:
        """Sweep until ``stop`` is called, even while the database is unavailable."""
        self._loop.run()

    def start(self) -> None:
        """Run in a thread that ends with the process."""
        self._loop.start()

    def stop(self) -> None:
        """Make ``run`` return soon."""
        self._loop.stop()

    def _step(self) -> float:
        self._heed_jumps()
        self.sweep()
        return INTERVAL_S

    def _heard(self, error: LedgerError) -> None:
        """Ignore silence while the database is unavailable: no worker can report either."""
        if isinstance(error, Unavailable):
            self._forgive()

    def _heed_jumps(self) -> None:
        """Ignore silence if the clock was set or the machine was suspended."""
        (before_s, before_ms), self._looked = (
            self._looked,
            (time.monotonic(), self._ledger.now_ms()),
        )
        now_s, now_ms = self._looked
        if abs((now_ms - before_ms) - (now_s - before_s) * 1000) > _JUMP_MS:
            self._forgive()

    def _forgive(self) -> None:
        self._silent_since_ms = self._ledger.now_ms()
        self._missed.clear()

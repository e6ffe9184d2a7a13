"""A worker's entry in the list of workers, which makes its name its own.

Attempts are held in a worker's name.  If two live workers had the same one, each would end
the attempts that the other runs.  So a worker begins by entering its name, and claims
nothing before that.  It replaces the entry of another worker only once that one has been
silent for longer than its lease: then its attempts are lost, whoever notices first.

Its silence may be nobody's fault: the database was away, its clock was set, or all machines
were suspended.  So we also watch the entry ourselves, for long enough that a live worker would
send a heartbeat.

A worker that was suspended for longer than its lease may find that another one has its name
now.  It stops: the other one has failed its attempts.
"""

import logging
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Final

from sqlalchemy import Connection, exc

from ledger.errors import NameTaken
from ledger.queue import presence
from ledger.queue.presence import WorkerSeen
from ledger.queue.queue import Queue

# How often to look again at the entry of another worker of our name.
_LOOK_AGAIN_S: Final = 1.0
# How long we watch it at least; a short lease is over before we have looked twice.
_SHORTEST_WATCH_MS: Final = 2_000

_log = logging.getLogger(__name__)


class Registration:
    """The entry of a worker in the list of workers.

    It is used by the worker's loop only.

    Args:
        queue: The queue in whose database the list is.
        name: The worker's name.
        slots: How many jobs of each type it runs at once.

    Attributes:
        next_beat_s: When the next heartbeat is due, on the monotonic clock.
        predecessor_silent_ms: How long the worker whose entry was replaced had been silent; 0 if
            there was none.
    """

    def __init__(self, queue: Queue, name: str, slots: Mapping[str, int]) -> None:
        self.next_beat_s = 0.0
        self.predecessor_silent_ms = 0
        self._queue = queue
        self._name = name
        self._slots = dict(slots)
        # Tells our entry from that of another worker of this name; None before there is one.
        self._started_at_ms: int | None = None
        # The entry of another worker, and since when it has not changed, on the monotonic clock.
        self._other: WorkerSeen | None = None
        self._unchanged_since_s = 0.0
        self._looked_at_s = 0.0

    @property
    def is_ours(self) -> bool:
        """Return whether the name is ours, so that jobs may be claimed in it."""
        return self._started_at_ms is not None

    @property
    def is_due(self) -> bool:
        """Return whether a heartbeat is due."""
        return time.monotonic() >= self.next_beat_s

    def beat(self) -> None:
        """Record a heartbeat; enter the name first, if no other live worker has it.

        Raises:
            NameTaken: Another live worker has the name.
            Unavailable: The database is unavailable.
        """
        now_s = time.monotonic()
        lease_ms = self._queue.lease_ms
        # Another worker may enter the name a moment before us: it is found the next time.
        with suppress(exc.IntegrityError), self._queue.database.write() as tx:
            now_ms = self._queue.ledger.time_ms(tx)
            seen = WorkerSeen(
                self._name, self._slots, self._started_at_ms or now_ms, now_ms, lease_ms
            )
            if self._started_at_ms is None or not presence.renew(tx, seen):
                self._enter(tx, seen._replace(started_at_ms=now_ms))
        pause_s = presence.beat_interval_ms(lease_ms) / 1000
        self.next_beat_s = now_s + (pause_s if self.is_ours else min(pause_s, _LOOK_AGAIN_S))

    def leave(self) -> None:
        """Remove the entry, if there still is one of ours."""
        if self._started_at_ms is not None:
            with self._queue.database.write() as tx:
                presence.leave(tx, self._name, started_at_ms=self._started_at_ms)

    def _enter(self, tx: Connection, new: WorkerSeen) -> None:
        """Enter the name, or remember who has it."""
        other = presence.find(tx, self._name)
        silent_ms = 0
        if other is not None:
            watched_ms = self._watch(other)
            # After the database's clock was set back, its last heartbeat is in the future.
            silent_ms = max(other.silent_ms(new.seen_at_ms), watched_ms)
            is_lost = presence.is_silent(silent_ms, lease_ms=other.lease_ms)
            if not is_lost or watched_ms < _watch_ms(other):
                self._wait_for(other, silent_ms)
                return
        if presence.enter(tx, new, in_place_of=other):
            self._started_at_ms = new.started_at_ms
            self.predecessor_silent_ms = silent_ms

    def _watch(self, other: WorkerSeen) -> int:
        """Return for how many milliseconds we have seen another worker's entry unchanged."""
        now_s = time.monotonic()
        # While we could not look, it could not send a heartbeat either.
        could_look = (now_s - self._looked_at_s) * 1000 < _watch_ms(other)
        if other != self._other or not could_look:
            self._unchanged_since_s = now_s
        self._looked_at_s = now_s
        return round((now_s - self._unchanged_since_s) * 1000)

    def _wait_for(self, other: WorkerSeen, silent_ms: int) -> None:
        if self._other is None and not self.is_ours:
            _log.warning(
                "worker %s waits: a worker of this name was last heard from %s ms ago; the name "
                "is free once it has been silent for its lease, %s ms, and its entry has not "
                "changed while we watched it for %d ms",
                *(self._name, silent_ms, other.lease_ms, _watch_ms(other)),
            )
            self._other = other
        elif other != self._other:
            raise NameTaken(
                f"worker {self._name}: another worker of this name is alive, last heard from "
                f"{silent_ms} ms ago; give each worker a name of its own, or none"
            )


def _watch_ms(other: WorkerSeen) -> float:
    """Return how long another worker's entry must not change while we watch it."""
    # Longer than the time between two heartbeats.
    return max(_SHORTEST_WATCH_MS, other.lease_ms / 2)

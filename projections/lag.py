"""The lag of each follower, and what stops it.

A follower that lacks an event for longer than LATE_MS is *late*, for whatever reason: no
process follows it, the one that does hangs, or there is more to do than it can.  An error that
keeps it from applying an event *stops* it; that is reported at once.
"""

from collections.abc import Callable, Iterable
from typing import Final, NamedTuple

from sqlalchemy import Connection

from ledger.database.clock import current_time_ms
from ledger.database.contract import Database
from ledger.errors import LedgerError
from ledger.log import store
from ledger.projections.follower import Follower
from ledger.projections.following import Failure, read_failures
from ledger.projections.plugins import BrokenPlugIn

# A follower process that dies is replaced within seconds.
LATE_MS: Final = 10_000


class Late(NamedTuple):
    """Work in the background that should have been done.

    Attributes:
        name: The read model, or ``sweeper``.
        ms: How long ago the oldest of it should have been done, in milliseconds.
        reason: What it is, and whether a process does such work.
    """

    name: str
    ms: int
    reason: str


class Lag(NamedTuple):
    """How far a follower has come.

    Attributes:
        position: The ledger's position up to which it has followed; None if it cannot be read.
        behind: Number of events that it has not applied yet.
        stopped: Why it is stopped; None if it is not.
        late: Since when, and why, it lacks events; None unless it is late.
    """

    name: str
    position: int | None
    behind: int
    stopped: str | None
    late: Late | None = None

    def __str__(self) -> str:
        if self.stopped is not None:
            return f"stopped: {self.stopped}"
        if not self.behind:
            return f"up to date, at position {self.position}"
        return f"at position {self.position}, {self.behind} events behind"


class _Lags:
    """The lags of followers at one moment.

    A follower reads for itself, and closes this thread's connection if that has failed.  So none
    is asked anything while this reads.

    Args:
        database: The ledger's database.
        failures: The events that stop followers.
        time_ms: Returns the current time, UTC milliseconds.
        late_ms: A follower that lacks an event for longer is late.
    """

    def __init__(
        self,
        database: Database,
        failures: Iterable[Failure],
        time_ms: Callable[[Connection], int],
        late_ms: int,
    ) -> None:
        self._database = database
        self._failures = {failure.name: failure for failure in failures}
        self._time_ms = time_ms
        self._late_ms = late_ms
        with database.read() as connection:
            self.head = store.read_position(connection)

    def of(self, follower: Follower) -> Lag:
        """Return the lag of a follower."""
        try:
            position = follower.reached()
        except LedgerError as error:
            return self.unknown(follower.name, str(error))
        except Exception as error:  # noqa: BLE001 - it may be an application's code
            return self.unknown(follower.name, f"{type(error).__name__}: {error}")
        behind = max(0, self.head - position)
        stopped = self._failure(follower.name, position)
        return Lag(follower.name, position, behind, stopped, self._late(follower, position, behind))

    def unknown(self, name: str, reason: str) -> Lag:
        """Return the lag of a follower whose position cannot be read."""
        return Lag(name, None, self.head, reason)

    def _failure(self, name: str, position: int) -> str | None:
        failure = self._failures.get(name)
        # It is over once a rebuild, or another process, has passed its event; and an event that
        # is not recorded cannot be the one that stops it.
        if failure is None or not position < failure.position <= self.head:
            return None
        return f"event {failure.position} cannot be applied: {failure.reason}"

    def _late(self, follower: Follower, position: int, behind: int) -> Late | None:
        if not behind:
            return None
        with self._database.read() as connection:
            since_ms = store.read_time(connection, position + 1)
            if since_ms is None:
                # Another ledger was put in the place of this one.
                return None
            late_ms = self._time_ms(connection) - since_ms
        if late_ms <= self._late_ms:
            return None
        lacks = f"event {position + 1} is not applied"
        return Late(follower.name, late_ms, f"{lacks}; {_who_follows(follower)}")


def _who_follows(follower: Follower) -> str:
    """Return whether a process follows, as a clause."""
    try:
        if follower.is_followed():
            return "the process that follows it hangs, or has more to do than it can"
    except LedgerError as error:
        return str(error)
    except Exception as error:  # noqa: BLE001 - it may be an application's code
        return f"{type(error).__name__}: {error}"
    return f"no process follows it; run `ledger serve` or `ledger follow {follower.name}`"


def lags(
    database: Database,
    followers: Iterable[Follower],
    broken: Iterable[BrokenPlugIn],
    *,
    time_ms: Callable[[Connection], int] = current_time_ms,
    late_ms: int = LATE_MS,
) -> list[Lag]:
    """Return the lag of each follower, and of each plug-in that cannot be loaded.

    Args:
        database: The ledger's database.
        followers: The followers.
        broken: The plug-ins that cannot be loaded.
        time_ms: Returns the current time; by default, of the database's clock.
        late_ms: A follower that lacks an event for longer is late; 10 s by default.
    """
    known = _Lags(database, read_failures(database), time_ms, late_ms)
    found = [known.of(each) for each in followers]
    return found + [known.unknown(each.name, each.reason) for each in broken]

"""The lag of each follower, and what stops it."""

from collections.abc import Iterable
from typing import NamedTuple

from ledger.database.contract import Database
from ledger.errors import LedgerError
from ledger.log import store
from ledger.projections.follower import Failure, Follower, read_failures
from ledger.projections.plugins import BrokenPlugIn


class Lag(NamedTuple):
    """How far a follower has come.

    Attributes:
        position: The ledger's position up to which it has followed; None if it cannot be read.
        behind: Number of events that it has not applied yet.
        stopped: Why it is stopped; None if it is not.
    """

    name: str
    position: int | None
    behind: int
    stopped: str | None

    def __str__(self) -> str:
        if self.stopped is not None:
            return f"stopped: {self.stopped}"
        if not self.behind:
            return f"up to date, at position {self.position}"
        return f"at position {self.position}, {self.behind} events behind"


def lags(
    database: Database, followers: Iterable[Follower], broken: Iterable[BrokenPlugIn]
) -> list[Lag]:
    """Return the lag of each follower, and of each plug-in that cannot be loaded."""
    failures = {failure.name: failure for failure in read_failures(database)}
    with database.read() as connection:
        head = store.read_position(connection)
    found = [_lag(each, head, failures.get(each.name)) for each in followers]
    return found + [Lag(each.name, None, head, each.reason) for each in broken]


def _lag(follower: Follower, head: int, failure: Failure | None) -> Lag:
    try:
        position = follower.reached()
    except LedgerError as error:
        return Lag(follower.name, None, head, str(error))
    except Exception as error:  # noqa: BLE001 - it may be an application's code
        return Lag(follower.name, None, head, f"{type(error).__name__}: {error}")
    stopped = None
    # The failure is over once a rebuild, or another process, has passed its event.
    if failure is not None and position < failure.position:
        stopped = f"event {failure.position} cannot be applied: {failure.reason}"
    return Lag(follower.name, position, max(0, head - position), stopped)

"""Say how far each read model has come, and what stops it."""

from collections.abc import Iterable
from typing import NamedTuple

from ledger.database.contract import Database
from ledger.errors import LedgerError
from ledger.log import store
from ledger.projections.follower import Failure, Follower, read_failures
from ledger.projections.plugins import Broken


class Standing(NamedTuple):
    """Be how far a read model that catches up has come.

    Attributes:
        position: The ledger's position up to which it has followed; None if it cannot
            be asked.
        behind: How many events it has not been told yet.
        stopped: What stops it; None if nothing does.
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


def standings(
    database: Database, followers: Iterable[Follower], broken: Iterable[Broken]
) -> list[Standing]:
    """Return the standing of each follower, and of those that cannot be had."""
    failures = {failure.name: failure for failure in read_failures(database)}
    with database.read() as connection:
        head = store.read_position(connection)
    found = [_standing(each, head, failures.get(each.name)) for each in followers]
    return found + [Standing(each.name, None, head, each.reason) for each in broken]


def _standing(follower: Follower, head: int, failure: Failure | None) -> Standing:
    try:
        position = follower.reached()
    except LedgerError as error:
        return Standing(follower.name, None, head, str(error))
    except Exception as error:  # noqa: BLE001 - it may be somebody else's code
        return Standing(follower.name, None, head, f"{type(error).__name__}: {error}")
    stopped = None
    # Mended by a rebuild, or told by another process meanwhile, it is a failure no more.
    if failure is not None and position < failure.position:
        stopped = f"event {failure.position} cannot be applied: {failure.reason}"
    return Standing(follower.name, position, max(0, head - position), stopped)

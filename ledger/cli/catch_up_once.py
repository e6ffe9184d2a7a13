"""Bring a read model that catches up to the head, once, for a command that needs it so."""

from ledger.database.contract import Database
from ledger.projections.follower import Follower, catch_up
from ledger.projections.replay import Advance


def bring_up(database: Database, follower: Follower, advance: Advance | None = None) -> int | None:
    """Return the position reached, None if another process leads it and does so anyway.

    Raises:
        Stuck: It cannot be told an event.
        Unavailable: The database, or the read model, is away.
    """
    leadership = follower.leadership()
    try:
        if not leadership.held():
            return None
        return catch_up(database, follower, advance=advance)
    finally:
        leadership.release()

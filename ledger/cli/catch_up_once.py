"""A single catch-up of a follower, for commands that read it."""

from ledger.database.contract import Database
from ledger.projections.follower import Follower, catch_up
from ledger.projections.replay import Advance


def catch_up_once(
    database: Database, follower: Follower, advance: Advance | None = None
) -> int | None:
    """Bring *follower* to the head, unless another process keeps it there.

    Returns:
        The position reached, or None if another process leads the follower.

    Raises:
        Stuck: The follower cannot apply an event.
        Unavailable: The database or the read model is unavailable.
    """
    leadership = follower.leadership()
    try:
        if not leadership.held():
            return None
        return catch_up(database, follower, advance=advance)
    finally:
        leadership.release()

"""Build inline projections anew from history.

All in one transaction that holds the head's lock: writers wait, readers go on
seeing the old rows until the commit, and a rebuild that fails or is interrupted
changes nothing.
"""

from collections.abc import Sequence

from ledger import store
from ledger.database import Database
from projections.projection import Projection
from projections.replay import Advance, replay


def rebuild(database: Database, projections: Sequence[Projection], advance: Advance) -> int:
    """Replace the rows of *projections* by what history says they are.

    Args:
        database: The ledger's.
        projections: Which to rebuild, in one pass over history.
        advance: Told after each batch: events done, events in all.

    Returns:
        The number of events replayed.

    Raises:
        Corrupt: History contradicts itself; nothing was changed.
        Unavailable: The database is away; nothing was changed.
    """
    with database.write() as tx:
        through = store.lock_head(tx).position
        advance(0, through)
        for projection in projections:
            projection.clear(tx)
        for changes in replay(tx, through=through):
            for projection in projections:
                projection.apply(tx, changes)
            advance(changes[-1].recorded.position, through)
        for projection in projections:
            projection.complete(tx)
    return through

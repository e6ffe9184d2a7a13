"""Build green twins of projections, a batch a transaction.

Each batch commits with the position up to which it brought the twin, so a build that is
interrupted goes on where it was.  A batch is as long as it may be without anybody noticing
that the database was held for it: how many events that is, the batches before it tell.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from sqlalchemy import Connection, bindparam, delete, insert, select, update
from sqlalchemy.dialects import postgresql, sqlite

from ledger.database.contract import Database, Leadership
from ledger.errors import Overtaken
from ledger.log import store
from ledger.log.recorded import AnyChange
from ledger.log.schema import checkpoints, failures, rebuilds
from ledger.projections.follower import Told
from ledger.projections.projection import Projection
from ledger.projections.rebuild import table_swap

# What a batch may hold the database for; a writer waits for at most one batch.
HELD_S: Final = 0.2
FIRST_BATCH: Final = 2_000
SMALLEST_BATCH: Final = 100
LARGEST_BATCH: Final = 40_000
# A batch that was quick says little about the next one.
_GROWTH: Final = 2.0

_POSITION: Final = select(rebuilds.c.position, rebuilds.c.fingerprint).where(
    rebuilds.c.name == bindparam("name")
)
_MOVE: Final = (
    update(rebuilds)
    .where(rebuilds.c.name == bindparam("name_"))
    .values(position=bindparam("position_"))
)
_FORGET: Final = delete(rebuilds).where(rebuilds.c.name == bindparam("name_"))
_CHECKPOINT: Final = select(checkpoints.c.position, checkpoints.c.fingerprint).where(
    checkpoints.c.name == bindparam("name")
)
_MENDED: Final = delete(failures).where(failures.c.name == bindparam("name_"))


@dataclass(slots=True, kw_only=True)
class Twin:
    """Be a projection and its green twin.

    Attributes:
        limit: Position that the twin must not pass yet; None if there is none.
    """

    live: Projection
    green: Projection
    limit: int | None = None


class Build(Told):
    """Be the green twins of some projections, on their way to the head.

    Args:
        database: The ledger's.
        lives: Whose twins; they are built in one pass over history.
    """

    def __init__(self, database: Database, lives: Sequence[Projection]) -> None:
        self.twins = [Twin(live=live, green=live.twin(green=True)) for live in lives]
        self.wants_content = any(live.wants_content for live in lives)
        self.wants_envelope = any(live.wants_envelope for live in lives)
        self.batch = FIRST_BATCH
        self._database = database
        self._title = "rebuild"

    @property
    def title(self) -> str:
        return self._title

    def begin(self) -> None:
        """Create the twins that are not there, and those of another version anew."""
        for twin in self.twins:
            table_swap.drop_old(self._database, twin.live)
            with self._database.write() as tx:
                begun = tx.execute(_POSITION, {"name": twin.live.name}).first()
                if (
                    begun is not None
                    and begun.fingerprint == twin.green.fingerprint
                    and begun.position <= store.read_position(tx)
                ):
                    continue
                _drop(tx, twin)
                table_swap.create_tables(tx, twin.green)
                tx.execute(
                    insert(rebuilds),
                    {
                        "name": twin.live.name,
                        "position": 0,
                        "fingerprint": twin.green.fingerprint,
                        "begun_at_ms": time.time_ns() // 1_000_000,
                    },
                )

    def finish(self) -> None:
        """Create the indexes, which are quicker built at once than row by row."""
        for twin in self.twins:
            table_swap.create_indexes(self._database, twin.green)

    # --- as a follower

    def checkpoint(self) -> int:
        with self._database.read() as connection:
            return min(self.positions(connection))

    def follow(self, changes: Sequence[AnyChange], *, through: int) -> None:
        with self._database.write() as tx:
            began_s = time.monotonic()
            self.tell(tx, changes)
        # With the commit, which at times writes more than the batch: the log of SQLite.
        self._pace(time.monotonic() - began_s, len(changes))

    def tell(self, tx: Connection, changes: Sequence[AnyChange]) -> None:
        """Apply to each twin those of *changes* that it does not have yet.

        Raises:
            Overtaken: Somebody has thrown it away.
        """
        if not changes:
            return
        first, last = changes[0].recorded.position, changes[-1].recorded.position
        for twin in self.twins:
            # Should it be what stops the build, it is named.
            self._title = twin.live.name
            position = self._position(tx, twin)
            through = last if twin.limit is None else min(last, twin.limit)
            if position >= through:
                continue
            twin.green.apply_all(tx, changes[position + 1 - first : through + 1 - first])
            tx.execute(_MOVE, {"name_": twin.live.name, "position_": through})

    def positions(self, connection: Connection) -> list[int]:
        """Return how far each twin has come."""
        return [self._position(connection, twin) for twin in self.twins]

    def _position(self, connection: Connection, twin: Twin) -> int:
        row = connection.execute(_POSITION, {"name": twin.live.name}).first()
        if row is None:
            raise Overtaken(twin.live.name, 0)
        position: int = row.position
        return position

    def _pace(self, held_s: float, events: int) -> None:
        """Let the next batch be as long as it may be held for."""
        right = int(events * min(_GROWTH, HELD_S / max(held_s, 0.001)))
        self.batch = max(SMALLEST_BATCH, min(LARGEST_BATCH, right))

    def leadership(self) -> Leadership:
        """Return the claim to rebuild, whatever it is: one process at a time does."""
        return self._database.leadership("rebuild")

    # --- in the live ones' place

    def put_in_place(self, tx: Connection, position: int) -> None:
        """Swap the tables, which are all at *position*.

        Raises:
            InUse: Somebody reads them, and *tx* has failed.
        """
        tables = [table for twin in self.twins for table in twin.live.tables]
        with table_swap.locked_for_swap(tx, tables):
            for twin in self.twins:
                name = twin.live.name
                table_swap.swap(tx, twin.live)
                tx.execute(_FORGET, {"name_": name})
                if not twin.live.is_inline:
                    set_checkpoint(tx, twin.live, position)
                    tx.execute(_MENDED, {"name_": name})

    def drop_old(self) -> None:
        """Drop what was replaced."""
        for twin in self.twins:
            table_swap.drop_old(self._database, twin.live)

    def drop(self) -> None:
        """Throw away what was built so far."""
        for twin in self.twins:
            with self._database.write() as tx:
                _drop(tx, twin)
            table_swap.drop_old(self._database, twin.live)

    def begun(self) -> int | None:
        """Return how far the twins have come, None if there are none."""
        with self._database.read() as connection:
            found = [
                connection.execute(_POSITION, {"name": twin.live.name}).first()
                for twin in self.twins
            ]
        positions = [row.position for row in found if row is not None]
        return min(positions, default=None)


def _drop(tx: Connection, twin: Twin) -> None:
    table_swap.drop_tables(tx, twin.green)
    tx.execute(_FORGET, {"name_": twin.live.name})


def read_checkpoint(connection: Connection, name: str) -> tuple[int, str | None] | None:
    """Return position and fingerprint of a follower, None if it has never followed."""
    row = connection.execute(_CHECKPOINT, {"name": name}).first()
    return None if row is None else (row.position, row.fingerprint)


def begin_checkpoint(tx: Connection, projection: Projection) -> None:
    """Say that *projection* has come to position 0, unless it has come further."""
    statement = _insert_checkpoint(tx, projection, 0)
    tx.execute(statement.on_conflict_do_nothing(index_elements=["name"]))


def set_checkpoint(tx: Connection, projection: Projection, position: int) -> None:
    """Say that *projection* has come to *position*."""
    statement = _insert_checkpoint(tx, projection, position)
    moved = {"position": position, "fingerprint": projection.fingerprint}
    tx.execute(statement.on_conflict_do_update(index_elements=["name"], set_=moved))


def _insert_checkpoint(
    tx: Connection, projection: Projection, position: int
) -> sqlite.Insert | postgresql.Insert:
    row = {"name": projection.name, "position": position, "fingerprint": projection.fingerprint}
    if tx.dialect.name == "sqlite":
        return sqlite.insert(checkpoints).values(row)
    return postgresql.insert(checkpoints).values(row)

"""Building of replacement tables, one batch per transaction.

Each batch commits together with the position that it reached, so an interrupted build
continues where it stopped.  Batch size adapts so that a batch holds the database for about
HELD_S: it is computed from the size and the duration of the batch before.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from sqlalchemy import Connection, Table, bindparam, delete, insert, select, update
from sqlalchemy.dialects import postgresql, sqlite

from ledger.database.clock import current_time_ms
from ledger.database.contract import Database, Leadership
from ledger.database.fast_sql import Query
from ledger.errors import Overtaken
from ledger.log import store
from ledger.log.recorded import AnyChange
from ledger.log.schema import checkpoints, failures, rebuilds
from ledger.projections.follower import ChangeConsumer
from ledger.projections.projection import Projection
from ledger.projections.rebuild import table_swap
from ledger.projections.rebuild.dependents import require_no_dependents
from ledger.projections.rebuild.steps import STEPS, Steps

# Time that a batch should hold the database for; a writer waits for at most one batch.
HELD_S: Final = 0.2
# A fast batch predicts little about the next one, so a batch at most doubles in size.
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
_CHECKPOINT: Final = Query(
    select(checkpoints.c.position, checkpoints.c.fingerprint).where(
        checkpoints.c.name == bindparam("name")
    )
)
_MENDED: Final = delete(failures).where(failures.c.name == bindparam("name_"))


@dataclass(slots=True, kw_only=True)
class Twin:
    """A projection and its replacement.

    Attributes:
        limit: Position that the replacement must not pass yet; None if there is no limit.
    """

    live: Projection
    replacement: Projection
    limit: int | None = None


class Build(ChangeConsumer):
    """The replacements of some projections, on their way to the head.

    Args:
        database: The ledger's database.
        lives: The projections to replace; one pass over history builds all replacements.
        steps: The sizes of batches, and of the steps in which old tables are dropped.
    """

    def __init__(
        self, database: Database, lives: Sequence[Projection], *, steps: Steps = STEPS
    ) -> None:
        self.twins = [Twin(live=live, replacement=live.twin(replacement=True)) for live in lives]
        self.wants_content = any(live.wants_content for live in lives)
        self.wants_envelope = any(live.wants_envelope for live in lives)
        self.batch = steps.first_batch
        self._steps = steps
        self._database = database
        self._title = "rebuild"

    @property
    def title(self) -> str:
        return self._title

    def begin(self) -> None:
        """Create the replacements that do not exist; recreate those that cannot be continued.

        A replacement cannot be continued if it is of another version, or ahead of the ledger.

        Raises:
            HasDependents: The tables could not be swapped afterwards.
        """
        with self._database.read() as connection:
            require_no_dependents(connection, self._live_tables())
        for twin in self.twins:
            table_swap.drop_old(self._database, twin.live, self._steps)
            with self._database.write() as tx:
                begun = tx.execute(_POSITION, {"name": twin.live.name}).first()
                if (
                    begun is not None
                    and begun.fingerprint == twin.replacement.fingerprint
                    and begun.position <= store.read_position(tx)
                ):
                    continue
                _drop(tx, twin)
                table_swap.create_tables(tx, twin.replacement)
                tx.execute(
                    insert(rebuilds),
                    {
                        "name": twin.live.name,
                        "position": 0,
                        "fingerprint": twin.replacement.fingerprint,
                        "begun_at_ms": current_time_ms(tx),
                    },
                )

    def finish(self) -> None:
        """Create the indexes, which is faster at once than row by row."""
        for twin in self.twins:
            table_swap.create_indexes(self._database, twin.replacement, self._steps)

    # --- as a follower

    def checkpoint(self) -> int:
        with self._database.read() as connection:
            return min(self.positions(connection))

    def follow(self, changes: Sequence[AnyChange], *, through: int) -> None:
        with self._database.write() as tx:
            began_s = time.monotonic()
            self.tell(tx, changes)
        # Include the commit, which at times writes more than the batch: SQLite's log.
        self._pace(time.monotonic() - began_s, len(changes))

    def tell(self, tx: Connection, changes: Sequence[AnyChange]) -> None:
        """Apply to each replacement those of *changes* that it does not have yet.

        Raises:
            Overtaken: The replacement has been dropped.
        """
        if not changes:
            return
        first, last = changes[0].recorded.position, changes[-1].recorded.position
        for twin in self.twins:
            # If this replacement stops the build, the error names it.
            self._title = twin.live.name
            position = self._position(tx, twin)
            through = last if twin.limit is None else min(last, twin.limit)
            if position >= through:
                continue
            twin.replacement.apply_all(tx, changes[position + 1 - first : through + 1 - first])
            tx.execute(_MOVE, {"name_": twin.live.name, "position_": through})

    def positions(self, connection: Connection) -> list[int]:
        """Return the position that each replacement has reached."""
        return [self._position(connection, twin) for twin in self.twins]

    def _position(self, connection: Connection, twin: Twin) -> int:
        row = connection.execute(_POSITION, {"name": twin.live.name}).first()
        if row is None:
            raise Overtaken(twin.live.name, 0)
        position: int = row.position
        return position

    def _pace(self, held_s: float, events: int) -> None:
        """Set the size of the next batch so that it takes about HELD_S."""
        right = int(events * min(_GROWTH, HELD_S / max(held_s, 0.001)))
        self.batch = max(self._steps.smallest_batch, min(self._steps.largest_batch, right))

    def leadership(self) -> Leadership:
        """Return the claim to rebuild; one process at a time may rebuild, whichever read models."""
        return self._database.leadership("rebuild")

    # --- the swap with the live tables

    def put_in_place(self, tx: Connection, position: int) -> None:
        """Swap the tables, whose replacements are all at *position*.

        Raises:
            InUse: Another transaction reads the tables; *tx* has failed.
            HasDependents: An application refers to them since the build has begun.
        """
        tables = self._live_tables()
        with table_swap.locked_for_swap(tx, tables):
            require_no_dependents(tx, tables)
            for twin in self.twins:
                name = twin.live.name
                table_swap.swap(tx, twin.live)
                tx.execute(_FORGET, {"name_": name})
                set_checkpoint(tx, twin.live, position)
                if twin.live.is_inline:
                    store.count_inline_rebuild(tx)
                if not twin.live.is_inline:
                    tx.execute(_MENDED, {"name_": name})

    def _live_tables(self) -> list[Table]:
        return [table for twin in self.twins for table in twin.live.tables]

    def drop_old(self) -> None:
        """Drop the tables that were replaced."""
        for twin in self.twins:
            table_swap.drop_old(self._database, twin.live, self._steps)

    def drop(self) -> None:
        """Drop what has been built so far."""
        for twin in self.twins:
            with self._database.write() as tx:
                _drop(tx, twin)
            table_swap.drop_old(self._database, twin.live, self._steps)

    def begun(self) -> int | None:
        """Return the lowest position that a replacement has reached, or None if there are none."""
        with self._database.read() as connection:
            found = [
                connection.execute(_POSITION, {"name": twin.live.name}).first()
                for twin in self.twins
            ]
        positions = [row.position for row in found if row is not None]
        return min(positions, default=None)


def _drop(tx: Connection, twin: Twin) -> None:
    table_swap.drop_tables(tx, twin.replacement)
    tx.execute(_FORGET, {"name_": twin.live.name})


def read_checkpoint(connection: Connection, name: str) -> tuple[int, str | None] | None:
    """Return position and fingerprint of a follower, or None if it has never followed."""
    row = _CHECKPOINT.first(connection, name=name)
    return None if row is None else (row[0], row[1])


def begin_checkpoint(tx: Connection, projection: Projection) -> None:
    """Insert a checkpoint of *projection* at position 0, unless it has one."""
    statement = _insert_checkpoint(tx, projection, 0)
    tx.execute(statement.on_conflict_do_nothing(index_elements=["name"]))


def set_checkpoint(tx: Connection, projection: Projection, position: int) -> None:
    """Set the checkpoint of *projection* to *position*."""
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

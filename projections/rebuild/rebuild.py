"""Rebuilding of read models from history, while the live ones stay in use.

Replacement tables
------------------
Beside the live tables, replacement tables are built from the first event on, in batches, each
a short transaction.  Meanwhile, readers and writers use the live tables.  Near the head, the
replacement is compared with the live tables.  Differences are reported, and the replacement
wins, because history is the truth.  Then the head is locked, the last few events are applied,
and the tables are renamed.

History before the head does not change, so it is read without a lock or a snapshot.

A build that fails or is interrupted has changed nothing that a reader sees.  Each batch
commits with the position that it reached, so the next rebuild continues from there, unless
the projection's definition has changed since.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from sqlalchemy import Connection

from ledger.database.contract import Database
from ledger.errors import Corrupt, Stuck, Unavailable
from ledger.log import store
from ledger.projections.follower import CatchUp, Follower, catch_up
from ledger.projections.projection import Projection
from ledger.projections.rebuild import table_swap
from ledger.projections.rebuild.build import Build, Twin, read_checkpoint
from ledger.projections.rebuild.compare import compare
from ledger.projections.rebuild.steps import STEPS, Steps
from ledger.projections.replay import Advance, replay, uncollected
from ledger.projections.report import Difference, Report

# Number of events that can be applied while all writers wait.
NEAR: Final = 500
# A live follower that is further behind is not compared, as its replacement would wait for it.
FAR_BEHIND: Final = 100_000
# How long to wait for readers of the tables to be swapped, and between two tries.
PATIENCE_S: Final = 300.0
PAUSE_S: Final = 0.2

# Phases of a rebuild after it has read history.
INDEXING: Final = "Creating indexes"
COMPARING: Final = "Comparing with the live tables"
SWAPPING: Final = "Swapping"
WAITING: Final = "Waiting for readers of the live tables"

Differs = Callable[[Difference], None]
Phase = Callable[[str], None]


def rebuild(
    database: Database,
    models: Sequence[Projection | Follower],
    advance: Advance,
    *,
    differs: Differs | None = None,
    phase: Phase | None = None,
    patience_s: float = PATIENCE_S,
    steps: Steps = STEPS,
) -> int:
    """Replace *models* with what history says they are.

    Args:
        database: The ledger's database.
        models: The read models to rebuild; those in tables share one pass over history.
        advance: Called after each batch with the number of events done and the total.
        differs: Called with each difference of the live tables, before they are replaced.
        phase: Called with the name of each phase after the build, and when a swap has to wait.
        patience_s: Time for which a swap waits for readers of the live tables; 300 s by default.
        steps: The sizes of its steps.

    Returns:
        The position up to which they are built.

    Raises:
        Corrupt: History contradicts itself; nothing was changed.
        Stuck: A read model cannot apply an event; nothing was changed.
        HasDependents: An application's views or foreign keys refer to the live tables; nothing
            was changed.
        Unavailable: The database is not available, another rebuild is running, or readers hold
            the live tables too long; nothing was changed.
    """
    try:
        with _alone(database):
            done = 0
            tables = [model for model in models if isinstance(model, Projection)]
            if tables:
                build = Build(database, tables, steps=steps)
                build.begin()
                with database.read_once():
                    done = complete(
                        database,
                        build,
                        advance,
                        differs=differs,
                        phase=phase,
                        patience_s=patience_s,
                    )
            for model in models:
                if not isinstance(model, Projection):
                    done = catch_up(database, model.replacement(), advance=advance)
                    (phase or _untold)(SWAPPING)
                    model.swap()
    except Stuck as error:
        if isinstance(error.__cause__, Corrupt):
            raise error.__cause__ from None
        raise
    return done


def drop(database: Database, models: Sequence[Projection | Follower]) -> None:
    """Drop what an interrupted rebuild has built of *models*.

    Raises:
        Unavailable: The database is not available, or a rebuild is running, which would lose
            what it has built.
    """
    with _alone(database):
        for model in models:
            if isinstance(model, Follower):
                model.drop_replacement()
            else:
                Build(database, [model]).drop()


@contextmanager
def _alone(database: Database) -> Iterator[None]:
    """Keep all other processes from rebuilding."""
    leadership = database.leadership("rebuild")
    if not leadership.held():
        raise Unavailable("another rebuild is running; try again when it has finished")
    try:
        yield
    finally:
        leadership.release()


def complete(
    database: Database,
    build: Build,
    advance: Advance,
    *,
    differs: Differs | None = None,
    phase: Phase | None = None,
    patience_s: float = PATIENCE_S,
) -> int:
    """Bring *build* to the head, and put it in the place of the live tables; see ``rebuild``."""
    completion = _Completion(database, build, advance, phase or _untold, patience_s=patience_s)
    return completion.run(differs or _untold)


class _Completion:
    def __init__(
        self,
        database: Database,
        build: Build,
        advance: Advance,
        phase: Phase,
        *,
        patience_s: float,
    ) -> None:
        self._database = database
        self._build = build
        self._advance = advance
        self._phase = phase
        self._patience_s = patience_s
        self._catching_up = CatchUp(database, build)

    def run(self, differs: Differs) -> int:
        self._hold_back()
        self._advance(self._build.checkpoint(), self._head())
        with uncollected():
            self._catch_up()
        self._phase(INDEXING)
        self._build.finish()
        self._catch_up()
        self._phase(COMPARING)
        for difference in self._differences():
            differs(difference)
        for twin in self._build.twins:
            twin.limit = None
        self._phase(SWAPPING)
        position = self._swap()
        self._advance(position, position)
        self._build.drop_old()
        return position

    def _head(self) -> int:
        with self._database.read() as connection:
            return store.read_position(connection)

    def _hold_back(self) -> None:
        """Limit the replacements of followers to the followers' checkpoints, to compare them."""
        with self._database.read() as connection:
            head = store.read_position(connection)
            for twin in self._build.twins:
                if not twin.live.is_inline:
                    live = read_checkpoint(connection, twin.live.name)
                    if live is not None and head - live[0] < FAR_BEHIND:
                        twin.limit = live[0]

    def _catch_up(self) -> None:
        """Bring the build so close to the head that the rest takes little time."""
        position = self._catching_up.run(advance=self._advance)
        while self._head() - position > NEAR:
            position = self._catching_up.run(advance=self._advance)

    def _apply_rest(self, tx: Connection, head: int) -> None:
        after = min(self._build.positions(tx))
        build = self._build
        for changes in replay(
            tx,
            after=after,
            through=head,
            content=build.wants_content,
            envelope=build.wants_envelope,
        ):
            self._build.tell(tx, changes)

    # --- comparing

    def _differences(self) -> Sequence[Difference]:
        """Return the differences of the live tables from their replacements, at one moment."""

        def write(tx: Connection) -> None:
            for twin in self._build.twins:
                if twin.limit is not None:
                    live = read_checkpoint(tx, twin.live.name)
                    twin.limit = live[0] if live else None
            self._apply_rest(tx, store.read_position(tx))

        report = Report()
        with self._database.settled(write) as connection:
            for twin, position in zip(
                self._build.twins, self._build.positions(connection), strict=True
            ):
                if _can_be_compared(connection, twin, position):
                    compare(connection, twin.live, twin.replacement, report)
        return report.differences

    # --- swapping

    def _swap(self) -> int:
        deadline_s = time.monotonic() + self._patience_s
        while True:
            self._catch_up()
            try:
                position = self._try_to_swap()
            except table_swap.InUse as error:
                if time.monotonic() > deadline_s:
                    raise Unavailable(
                        f"{error} for {self._patience_s:.0f} s; the partial result is kept, "
                        "so try again"
                    ) from error
                self._phase(WAITING)
                # Let transactions that wait behind our lock request proceed.
                time.sleep(PAUSE_S)
            else:
                if position is not None:
                    return position

    def _try_to_swap(self) -> int | None:
        """Swap; return the position, or None if too many events have been appended meanwhile."""
        with self._database.write() as tx:
            head = store.lock_head(tx).position
            if head - min(self._build.positions(tx)) > 2 * NEAR:
                return None
            self._apply_rest(tx, head)
            self._build.put_in_place(tx, head)
        return head


def _can_be_compared(connection: Connection, twin: Twin, position: int) -> bool:
    if not table_swap.are_there(connection, twin.live.tables):
        return False
    if twin.live.is_inline:
        return True
    live = read_checkpoint(connection, twin.live.name)
    return live == (position, twin.live.fingerprint)


def _untold(_: object) -> None:
    pass

"""Build read models anew from history, without anyone noticing.

Blue and green
--------------
Beside the live tables, green ones are built from the first event on, in batches, each a
short transaction.  Readers are served by the live ones, to which writers go on writing.
Near the head, the green ones are compared with the live ones; if they differ, that is
told, and the green ones win, as history is the truth.  Then the head is locked, the last
few events are applied, and the tables change their names.

History behind the head does not change, so it is read without a lock or a snapshot.

A build that fails or is interrupted has changed nothing that anyone reads.  Each batch
commits with the position it reached, so the next rebuild goes on from there, unless the
projection is defined otherwise by then.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from sqlalchemy import Connection

from ledger.database.contract import Database
from ledger.errors import Corrupt, Stuck, Unavailable
from ledger.log import store
from ledger.projections.follower import Catching, Follower, catch_up
from ledger.projections.projection import Projection
from ledger.projections.rebuild import table_swap
from ledger.projections.rebuild.build import Build, Twin, read_checkpoint
from ledger.projections.rebuild.compare import compare
from ledger.projections.replay import Advance, replay, uncollected
from ledger.projections.report import Difference, Report

# As many events as can be applied while everybody waits.
NEAR: Final = 500
# A live read model that is so far behind is not waited for to be compared.
FAR_BEHIND: Final = 100_000
# How long to wait for those who read what is to be swapped, and between two tries.
PATIENCE_S: Final = 300.0
PAUSE_S: Final = 0.2

# What a rebuild does when it has read history.
INDEXING: Final = "Creating indexes"
COMPARING: Final = "Comparing with what is live"
SWAPPING: Final = "Swapping"
WAITING: Final = "Waiting for those who read what is to be swapped"

Differs = Callable[[Difference], None]
Phase = Callable[[str], None]


def rebuild(
    database: Database,
    models: Sequence[Projection | Follower],
    advance: Advance,
    *,
    differs: Differs | None = None,
    phase: Phase | None = None,
) -> int:
    """Replace *models* by what history says they are.

    Args:
        database: The ledger's.
        models: Which to rebuild; those in tables in one pass over history.
        advance: Told after each batch: events done, events in all.
        differs: Told what was otherwise in the live ones, before they are replaced.
        phase: Told what begins once most is built, or holds it up.

    Returns:
        The position up to which they are built.

    Raises:
        Corrupt: History contradicts itself; nothing was changed.
        Stuck: One cannot be told an event; nothing was changed.
        Unavailable: The database is away, another rebuild runs, or somebody reads the
            live ones without end; nothing was changed.
    """
    try:
        with _alone(database):
            done = 0
            tables = [model for model in models if isinstance(model, Projection)]
            if tables:
                build = Build(database, tables)
                build.begin()
                with database.read_once():
                    done = complete(database, build, advance, differs=differs, phase=phase)
            for model in models:
                if not isinstance(model, Projection):
                    done = catch_up(database, model.green(), advance=advance)
                    (phase or _untold)(SWAPPING)
                    model.swap()
    except Stuck as error:
        if isinstance(error.__cause__, Corrupt):
            raise error.__cause__ from None
        raise
    return done


def drop(database: Database, models: Sequence[Projection | Follower]) -> None:
    """Throw away what an interrupted rebuild has built of *models*.

    Raises:
        Unavailable: The database is away, or a rebuild runs, which would lose what it has built.
    """
    with _alone(database):
        for model in models:
            if isinstance(model, Follower):
                model.drop_green()
            else:
                Build(database, [model]).drop()


@contextmanager
def _alone(database: Database) -> Iterator[None]:
    """Keep all other processes from rebuilding."""
    leadership = database.leadership("rebuild")
    if not leadership.held():
        raise Unavailable("another process is rebuilding; try again when it has done so")
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
) -> int:
    """Bring *build* to the head, and put it in the live ones' place; as ``rebuild``."""
    return _Completion(database, build, advance, phase or _untold).run(differs or _untold)


class _Completion:
    def __init__(self, database: Database, build: Build, advance: Advance, phase: Phase) -> None:
        self._database = database
        self._build = build
        self._advance = advance
        self._phase = phase
        self._catching = Catching(database, build)

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
        """Keep the twins of those that are behind the head where they can be compared."""
        with self._database.read() as connection:
            head = store.read_position(connection)
            for twin in self._build.twins:
                if not twin.live.is_inline:
                    live = read_checkpoint(connection, twin.live.name)
                    if live is not None and head - live[0] < FAR_BEHIND:
                        twin.limit = live[0]

    def _catch_up(self) -> None:
        """Come so near to the head that the rest is soon done."""
        position = self._catching.up(advance=self._advance)
        while self._head() - position > NEAR:
            position = self._catching.up(advance=self._advance)

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
        """Return what is otherwise in the live ones, at one moment."""

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
                    compare(connection, twin.live, twin.green, report)
        return report.differences

    # --- swapping

    def _swap(self) -> int:
        deadline_s = time.monotonic() + PATIENCE_S
        while True:
            self._catch_up()
            try:
                position = self._try_to_swap()
            except table_swap.InUse as error:
                if time.monotonic() > deadline_s:
                    raise Unavailable(
                        f"{error}, and has for {PATIENCE_S:.0f} s; what was built is kept, "
                        "so try again"
                    ) from error
                self._phase(WAITING)
                # Whoever waits behind us is let pass.
                time.sleep(PAUSE_S)
            else:
                if position is not None:
                    return position

    def _try_to_swap(self) -> int | None:
        """Swap; return the position, None if too much has happened meanwhile."""
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

"""Let read models follow the ledger by position, a little behind it.

A *follower* remembers the position up to which it has come, in the same commit as what
it made of the events up to there.  Positions have no gaps and rise in commit order, so
going on behind the checkpoint is all that exactly-once takes: whatever a crash undoes,
it undoes together.

One process of all leads a follower at a time.  Should two believe they do, the second
finds that the checkpoint is not where it left it, and is ``Overtaken``.

An event that a follower cannot be told stops it there, loudly.  It is found by halves:
what came before it is kept, and its position is known.
"""

import logging
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import ClassVar, Final, NamedTuple

from sqlalchemy import bindparam, delete, insert, select

from ledger.database.contract import Database, Leadership
from ledger.database.leader_loop import STANDBY_S, LeaderLoop
from ledger.errors import Corrupt, LedgerError, Overtaken, SchemaMismatch, Stuck, Unavailable
from ledger.log import store
from ledger.log.commit_notifier import Bell
from ledger.log.recorded import AnyChange
from ledger.log.schema import failures
from ledger.projections.replay import Advance, Memory

# The bell may have been deaf for a moment; and who leads has to look whether it still does.
LONGEST_WAIT_S: Final = 2.0
# How soon one that is stuck tries again: its code may have been mended, in another process.
STUCK_S: Final = 10.0
# Of who wants content, a batch ends behind so many characters: a job may hold a megabyte,
# and what is made of it takes several.  How large they are is seen in first reads of few.
MOST_CONTENT: Final = 8 * 1024 * 1024
FIRST_READ: Final = 16
_LONGEST_END_S: Final = 10.0

_log = logging.getLogger(__name__)


class Told(ABC):
    """Be what is told the changes in order, and keeps how far it was.

    Attributes:
        wants_content: Whether it is told ``recorded.event.content``.
        wants_envelope: Whether it is told ``recorded.stored``, and so can compute
            ``recorded.leaf``.
        batch: How many events it is told at once, at most.
    """

    wants_content: bool = False
    wants_envelope: bool = False
    batch: int = 2_000

    @property
    @abstractmethod
    def title(self) -> str:
        """Return what it is called in messages."""

    @abstractmethod
    def checkpoint(self) -> int:
        """Return the position up to which it has followed; 0 at first.

        Raises:
            Unavailable: It is away.
            SchemaMismatch: It was made by another version, and has to be rebuilt.
        """

    @abstractmethod
    def follow(self, changes: Sequence[AnyChange], *, through: int) -> None:
        """Apply *changes* and move the checkpoint to *through*, in one commit.

        Args:
            changes: In order, the first one right behind the checkpoint.
            through: Position of the last one.

        Raises:
            Overtaken: The checkpoint is elsewhere; nothing was changed.
            Unavailable: It is away; nothing was changed.
        """


class Follower(Told):
    """Be a read model that follows the ledger by position, a little behind it.

    Attributes:
        name: Its name, in tables, on the command line and in messages.
        pause_s: How long to gather events after some came, before it is told them.
    """

    name: ClassVar[str]
    pause_s: float = 0.02

    @property
    def title(self) -> str:
        return self.name

    @abstractmethod
    def leadership(self) -> Leadership:
        """Return the claim to be the one who calls ``follow``."""

    def reached(self) -> int:
        """Return the checkpoint, for those who only look: nothing is begun or mended.

        Raises:
            Unavailable: It is away.
            SchemaMismatch: It was made by another version, and has to be rebuilt.
        """
        return self.checkpoint()

    # --- the twin that a rebuild builds beside the live one

    @abstractmethod
    def green(self) -> Told:
        """Return the twin that is built beside the live one; begun, or continued."""

    @abstractmethod
    def swap(self) -> None:
        """Put the twin in the live one's place, and drop the old one."""

    @abstractmethod
    def drop_green(self) -> None:
        """Throw away a twin that was begun, if there is one."""

    @abstractmethod
    def green_checkpoint(self) -> int | None:
        """Return how far the twin has come, None if there is none."""


class Catching:
    """Bring a follower forward, again and again; it keeps the jobs it met last at hand.

    Args:
        database: The ledger's.
        follower: Whom.
    """

    def __init__(self, database: Database, follower: Told) -> None:
        self._database = database
        self._follower = follower
        self._memory = Memory()
        self._remembered_at = -1

    def up(
        self,
        *,
        batch: int | None = None,
        through: int | None = None,
        advance: Advance | None = None,
        stopped: Callable[[], bool] = lambda: False,
    ) -> int:
        """Bring the follower to the head, or *through*; return the position reached.

        Args:
            batch: How many events to tell it at once; None is as it says.
            through: Where to end; None is the head as it is now.
            advance: Told after each batch: events done, events in all.
            stopped: Asked before each batch; whether to end there.

        Raises:
            Stuck: It cannot be told an event; it has been told all before that.
            Overtaken: Somebody else leads it.
            Unavailable: The database, or the follower, is away.
        """
        position = self._follower.checkpoint()
        with self._database.read() as connection:
            end = store.read_position(connection)
        end = end if through is None else min(through, end)
        while position < end and not stopped():
            position = self._step(position, min(end, position + (batch or self._follower.batch)))
            if advance is not None:
                advance(position, end)
        return position

    def _step(self, after: int, through: int) -> int:
        if after != self._remembered_at:
            self._memory = Memory()
        # Until it is told, what is remembered is ahead of it.
        self._remembered_at = -1
        changes = self._changes(after, through)
        self._tell(changes)
        self._remembered_at = position = changes[-1].recorded.position
        self._memory.forget()
        return position

    def _changes(self, after: int, through: int) -> list[AnyChange]:
        """Return the changes behind *after*, fewer if their content is large.

        What has happened needs no snapshot.
        """
        follower = self._follower
        changes: list[AnyChange] = []
        room = MOST_CONTENT
        number = FIRST_READ if follower.wants_content else through - after
        with self._database.read() as connection:
            try:
                while after < through and room > 0:
                    end = min(through, after + number)
                    for recorded in store.replay(
                        connection,
                        after=after,
                        through=end,
                        batch=number,
                        content=follower.wants_content,
                        envelope=follower.wants_envelope,
                    ):
                        changes += self._memory.fold(connection, recorded)
                        room -= sum(len(each.event.content or "") for each in recorded)
                    after, number = end, number * 2
            except Corrupt as error:
                raise Stuck(follower.title, error.position or after + 1, str(error)) from error
        return changes

    def _tell(self, changes: Sequence[AnyChange]) -> None:
        """Tell the follower, by halves if it cannot be told all at once."""
        position = changes[-1].recorded.position
        try:
            self._follower.follow(changes, through=position)
        except (Unavailable, Overtaken, SchemaMismatch, Stuck):
            raise
        except Exception as error:
            if len(changes) == 1:
                reason = f"{type(error).__name__}: {error}"
                raise Stuck(self._follower.title, position, reason) from error
            half = len(changes) // 2
            self._tell(changes[:half])
            self._tell(changes[half:])


def catch_up(
    database: Database,
    follower: Told,
    *,
    batch: int | None = None,
    through: int | None = None,
    advance: Advance | None = None,
) -> int:
    """Bring *follower* to the head, or *through*; as ``Catching.up``."""
    return Catching(database, follower).up(batch=batch, through=through, advance=advance)


class Failure(NamedTuple):
    """Be the event that a follower cannot be told, and why."""

    name: str
    position: int
    reason: str
    at_ms: int


_SELECT_FAILURES: Final = select(*(failures.c[name] for name in Failure._fields)).order_by(
    failures.c.name
)
_DELETE_FAILURE: Final = delete(failures).where(failures.c.name == bindparam("name_"))


def read_failures(database: Database) -> list[Failure]:
    """Return what stops followers, whichever process leads them."""
    with database.read() as connection:
        return [Failure(*row) for row in connection.execute(_SELECT_FAILURES)]


class Following:
    """A thread that keeps a follower near the head, if no other process does.

    Args:
        database: The ledger's.
        follower: What it keeps near the head.
        bell: Rings for every commit.
        stuck_s: How long to wait before an event that stopped it is tried again, in seconds.
        standby_s: How long to wait after any other failure, and for the role, in seconds.

    Attributes:
        failure: What stops it; None if nothing does.
    """

    def __init__(
        self,
        database: Database,
        follower: Follower,
        bell: Bell,
        *,
        stuck_s: float = STUCK_S,
        standby_s: float = STANDBY_S,
    ) -> None:
        self.follower = follower
        self.failure: Failure | None = None
        self._database = database
        self._catching = Catching(database, follower)
        self._stuck_s, self._standby_s = stuck_s, standby_s
        self._woken = threading.Event()
        self._loop = LeaderLoop(
            follower.name,
            # Where it is kept may not be there yet, or not be writable.
            follower.leadership,
            self._step,
            leading=lambda: bell.subscribed(self._woken.set),
            standby_s=standby_s,
        )
        self._thread: threading.Thread | None = None
        # What is told of a failure stays in the database when its process has died.
        self._may_be_told = True

    def run(self) -> None:
        """Follow until ``stop`` is called, through every absence of the database."""
        try:
            self._loop.run()
        finally:
            self._database.release()

    def start(self) -> None:
        """Run in a thread that ends with the process."""
        self._thread = threading.Thread(
            target=self.run, name=f"ledger-{self.follower.name}", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        """Make ``run`` return, and wait for the thread that ``start`` started."""
        self._loop.stop()
        self._woken.set()
        if self._thread is not None:
            self._thread.join(_LONGEST_END_S)

    def _step(self) -> float:
        """Catch up, then wait for news; return the seconds to wait besides."""
        self._woken.clear()
        try:
            self._catching.up(stopped=self._loop.stopped.is_set)
            self._note(None)
        except Stuck as error:
            self._fail(error)
            return self._stuck_s
        except Overtaken as error:
            _log.info("%s", error)
            return self._standby_s
        # Rung for, it lets others come: one commit does for all of them.
        if not self._loop.stopped.is_set():
            self._woken.wait(LONGEST_WAIT_S)
        return self.follower.pause_s

    def _fail(self, error: Stuck) -> None:
        known = self.failure
        if known is None or (known.position, known.reason) != (error.position, error.reason):
            _log.error("%s", error)
            failure = Failure(
                error.follower, error.position, error.reason, time.time_ns() // 1_000_000
            )
            try:
                self._note(failure)
            except LedgerError as unheard:
                _log.warning("nobody can be told: %s", unheard)

    def _note(self, failure: Failure | None) -> None:
        """Keep what stops it, for us and for ``ledger status``."""
        told, self.failure = self.failure, failure
        if failure is None and told is None and not self._may_be_told:
            return
        with self._database.write() as tx:
            tx.execute(_DELETE_FAILURE, {"name_": self.follower.name})
            if failure is not None:
                tx.execute(insert(failures), failure._asdict())
        self._may_be_told = failure is not None

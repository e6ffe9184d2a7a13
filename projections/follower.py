"""Read models that follow the ledger by position, shortly behind it.

A *follower* stores the position that it has reached, in the same commit as the result of the
events up to that position.  Positions have no gaps and rise in commit order, so continuing
after the checkpoint is enough for exactly-once processing: a crash undoes the result and the
checkpoint together.

One process at a time leads a follower.  If two processes believe that they lead, the second
one finds that the checkpoint has moved, and raises ``Overtaken``.

An event that a follower cannot apply stops it at that event.  The batch is halved until the
event is found: all earlier events are applied, and the position of the event is known.
``following`` logs the failure and records it in the database.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import ClassVar, Final

from sqlalchemy import Connection

from ledger.database.contract import Database, Leadership
from ledger.errors import Corrupt, Overtaken, SchemaMismatch, Stuck, Unavailable
from ledger.log import store
from ledger.log.history import read_recorded
from ledger.log.recorded import AnyChange
from ledger.projections.replay import Advance, Memory

# With `wants_content`, a batch ends after this many characters of content: a job may hold a
# megabyte, and what a follower builds from it takes several.  Sizes are known only once events
# are read, so the first read is small and each further one twice as large.
MOST_CONTENT: Final = 8 * 1024 * 1024
FIRST_READ: Final = 16
# A position and its chain value that no ledger has.
_NOWHERE: Final[tuple[int, bytes | None]] = (-1, None)


class ChangeConsumer(ABC):
    """A consumer of changes, which come in order, that stores how far it has come.

    Attributes:
        wants_content: Whether ``recorded.event.content`` is filled.
        wants_envelope: Whether ``recorded.stored`` is filled, which ``recorded.leaf`` needs.
        batch: Maximum number of events in one call of ``follow``.
    """

    wants_content: bool = False
    wants_envelope: bool = False
    batch: int = 2_000

    @property
    @abstractmethod
    def title(self) -> str:
        """Return the name to use in messages."""

    @abstractmethod
    def checkpoint(self) -> int:
        """Return the position up to which changes have been applied; 0 at first.

        Raises:
            Unavailable: The consumer's storage is not available.
            SchemaMismatch: Another version created it; it must be rebuilt.
        """

    def recover(self) -> None:  # noqa: B027 - most have nothing to complete
        """Complete what a process that was killed has left undone.

        It is called by the process that follows, before anything else.

        Raises:
            Unavailable: The consumer's storage is not available.
        """

    @abstractmethod
    def follow(self, changes: Sequence[AnyChange], *, through: int) -> None:
        """Apply *changes* and move the checkpoint to *through*, in one commit.

        Args:
            changes: In order; the first one directly follows the checkpoint.
            through: Position of the last one.

        Raises:
            Overtaken: The checkpoint is at another position; nothing was changed.
            Unavailable: The consumer's storage is not available; nothing was changed.
        """


class Follower(ChangeConsumer):
    """A read model that follows the ledger by position, shortly behind it.

    Attributes:
        name: Its name in tables, on the command line and in messages.
        pause_s: Seconds to gather further events after the first one, before they are applied.
    """

    name: ClassVar[str]
    pause_s: float = 0.02

    @property
    def title(self) -> str:
        return self.name

    @abstractmethod
    def leadership(self) -> Leadership:
        """Return the claim to be the process that calls ``follow``."""

    def is_followed(self) -> bool:
        """Return whether any process follows, without starting or repairing anything.

        Raises:
            Unavailable: It cannot be determined; this process could not follow either.
        """
        leadership = self.leadership()
        try:
            return leadership.taken()
        finally:
            leadership.release()

    def reached(self) -> int:
        """Return the checkpoint without starting or repairing anything, for monitoring.

        Raises:
            Unavailable: The read model's storage is not available.
            SchemaMismatch: Another version created it; it must be rebuilt.
        """
        return self.checkpoint()

    # --- the replacement that a rebuild builds beside the live read model

    @abstractmethod
    def replacement(self) -> ChangeConsumer:
        """Return the replacement for the live read model, begun or continued."""

    @abstractmethod
    def swap(self) -> None:
        """Put the replacement in the place of the live read model, and drop the old one."""

    @abstractmethod
    def drop_replacement(self) -> None:
        """Drop an unfinished replacement, if there is one."""

    @abstractmethod
    def replacement_checkpoint(self) -> int | None:
        """Return the position that the replacement has reached, or None if there is none."""


class CatchUp:
    """The catch-up of one follower, which can be run repeatedly; it caches recently seen jobs.

    Args:
        database: The ledger's database.
        follower: The consumer to bring forward.
        most_content: Characters of content in a batch, after which it takes no more events.
        first_read: Events read at first if the follower wants content; each read doubles it.
    """

    def __init__(
        self,
        database: Database,
        follower: ChangeConsumer,
        *,
        most_content: int = MOST_CONTENT,
        first_read: int = FIRST_READ,
    ) -> None:
        self._database = database
        self._follower = follower
        self._most_content = most_content
        self._first_read = first_read
        self._memory = Memory()
        self._remembered_at = _NOWHERE
        self._has_recovered = False

    def run(
        self,
        *,
        batch: int | None = None,
        through: int | None = None,
        advance: Advance | None = None,
        stopped: Callable[[], bool] = lambda: False,
    ) -> int:
        """Bring the follower to the head, or to *through*; return the position reached.

        Args:
            batch: Maximum number of events in a call of ``follow``; None is the follower's own.
            through: Position at which to end; None is the head at the time of the call.
            advance: Called after each batch with the number of events done and the total.
            stopped: Called before each batch; the run ends if it returns true.

        Raises:
            Stuck: The follower cannot apply an event; all earlier events are applied.
            Overtaken: Another process leads the follower.
            Unavailable: The database, or the follower's storage, is not available.
        """
        if not self._has_recovered:
            self._follower.recover()
            self._has_recovered = True
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
        with self._database.read() as connection:
            # Another ledger may have been put in this one's place, and be as long.
            remembered, chain = self._remembered_at
            if after != remembered or store.read_chain(connection, after) != chain:
                self._memory = Memory()
            # Until the follower has applied the changes, the cached jobs are ahead of it.
            self._remembered_at = _NOWHERE
            changes = self._changes(connection, after, through)
            position = changes[-1].recorded.position
            chain = store.read_chain(connection, position)
        self._tell(changes)
        self._remembered_at = position, chain
        self._memory.forget()
        return position

    def _changes(self, connection: Connection, after: int, through: int) -> list[AnyChange]:
        """Return the changes after *after*, fewer than asked for if their content is large.

        History does not change, so reading it needs no snapshot.
        """
        follower = self._follower
        changes: list[AnyChange] = []
        room = self._most_content
        number = self._first_read if follower.wants_content else through - after
        try:
            while after < through and room > 0:
                end = min(through, after + number)
                for recorded in read_recorded(
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
        """Pass *changes* to the follower; halve the batch if the follower fails."""
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
    follower: ChangeConsumer,
    *,
    batch: int | None = None,
    through: int | None = None,
    advance: Advance | None = None,
) -> int:
    """Bring *follower* to the head, or to *through*; see ``CatchUp.run``."""
    return CatchUp(database, follower).run(batch=batch, through=through, advance=advance)

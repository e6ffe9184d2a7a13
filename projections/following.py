"""Keeping a follower near the head, and recording what stops it.

The failure of a follower is logged, and recorded in the database: those who are asked for the
state of the ledger are other processes.  It is deleted with the first step that succeeds.
"""

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final, NamedTuple

from sqlalchemy import bindparam, delete, insert, select

from ledger.database.clock import current_time_ms
from ledger.database.contract import Database
from ledger.database.fast_sql import Query
from ledger.database.leader_loop import STANDBY_S, LeaderLoop
from ledger.errors import LedgerError, Overtaken, Stuck
from ledger.log.commit_notifier import CommitNotifier
from ledger.log.schema import failures
from ledger.projections.follower import CatchUp, Follower

# The commit notifier may be reconnecting, and a leader must check that it still leads.
LONGEST_WAIT_S: Final = 2.0
# Delay before a stuck follower tries again: another process may run fixed code by then.
STUCK_S: Final = 10.0
_LONGEST_END_S: Final = 10.0
# So many errors in a row are recorded; a single one is most often over at the next step.
_LASTING: Final = 2

_log = logging.getLogger(__name__)


class Failure(NamedTuple):
    """An event that a follower cannot apply, and the reason."""

    name: str
    position: int
    reason: str
    at_ms: int


_SELECT_FAILURES: Final = Query(
    select(*(failures.c[name] for name in Failure._fields)).order_by(failures.c.name)
)
_DELETE_FAILURE: Final = delete(failures).where(failures.c.name == bindparam("name_"))


def read_failures(database: Database) -> list[Failure]:
    """Return the events that stop followers, whichever process leads them."""
    with database.read() as connection:
        return [Failure(*row) for row in _SELECT_FAILURES.all(connection)]


class Following:
    """A thread that keeps a follower near the head, if no other process does.

    A failure at step after step, such as a full disk, is recorded as one of the next event: the
    steps of this process are visible to the others in the database only.

    Args:
        database: The ledger's database.
        follower: The read model to keep near the head.
        commit_notifier: The commit notifier.
        stuck_s: Seconds to wait before an event that stopped the follower is tried again.
        standby_s: Seconds to wait after any other failure, and between two tries to lead.

    Attributes:
        failure: The event that stops the follower; None if none does.
    """

    def __init__(
        self,
        database: Database,
        follower: Follower,
        commit_notifier: CommitNotifier,
        *,
        stuck_s: float = STUCK_S,
        standby_s: float = STANDBY_S,
    ) -> None:
        self.follower = follower
        self.failure: Stuck | None = None
        self._database = database
        self._commit_notifier = commit_notifier
        self._catch_up = CatchUp(database, follower)
        self._stuck_s, self._standby_s = stuck_s, standby_s
        self._woken = threading.Event()
        self._loop = LeaderLoop(
            follower.name,
            # Called later: the follower's storage may not exist yet, or not be writable.
            follower.leadership,
            self._step,
            leading=self._leading,
            on_error=self._on_error,
            standby_s=standby_s,
        )
        self._thread: threading.Thread | None = None
        # A recorded failure outlives its process, so the first success must delete it.
        self._may_be_stored = True
        # Errors in a row that were not about an event.
        self._errors = 0

    def run(self) -> None:
        """Follow until ``stop`` is called; the database may be unavailable in between."""
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

    @contextmanager
    def _leading(self) -> Iterator[None]:
        # Another process may have led meanwhile, and died.
        self._catch_up = CatchUp(self._database, self.follower)
        with self._commit_notifier.subscribed(self._woken.set):
            yield

    def _step(self) -> float:
        """Catch up, then wait for a commit; return the seconds to wait before the next step."""
        self._woken.clear()
        try:
            self._catch_up.run(stopped=self._loop.stopped.is_set)
            self._recover()
        except Stuck as error:
            self._fail(error)
            return self._stuck_s
        except Overtaken as error:
            _log.info("%s", error)
            return self._standby_s
        # After a notification, the pause lets further events come: one commit applies them all.
        if not self._loop.stopped.is_set():
            self._woken.wait(LONGEST_WAIT_S)
        return self.follower.pause_s

    def _recover(self) -> None:
        failure, errors = self.failure, self._errors
        self._errors = 0
        self._note(None)
        # The loop logs the end of errors.
        if failure is not None and not errors:
            _log.warning("%s continues: event %d is applied", failure.follower, failure.position)

    def _fail(self, error: Stuck) -> None:
        self._errors = 0
        if self._is_new(error):
            _log.error("%s", error)
            try:
                self._note(error)
            except LedgerError as unrecorded:
                _log.warning("cannot record the failure: %s", unrecorded)

    def _on_error(self, error: Exception) -> None:
        """Record an error that the loop has logged, unless it is the first in a row."""
        self._errors += 1
        if self._errors < _LASTING:
            return
        # If even this fails, whoever asks for the lag meets the same error.
        with suppress(Exception):
            reason = str(error) if isinstance(error, LedgerError) else _named(error)
            stuck = Stuck(self.follower.name, self.follower.reached() + 1, reason)
            if self._is_new(stuck):
                self._note(stuck)

    def _is_new(self, error: Stuck) -> bool:
        known = self.failure
        return known is None or (known.position, known.reason) != (error.position, error.reason)

    def _note(self, failure: Stuck | None) -> None:
        """Store the failure, or that there is none, for this object and for ``ledger status``."""
        previous, self.failure = self.failure, failure
        if failure is None and previous is None and not self._may_be_stored:
            return
        with self._database.write() as tx:
            tx.execute(_DELETE_FAILURE, {"name_": self.follower.name})
            if failure is not None:
                row = Failure(
                    failure.follower, failure.position, failure.reason, current_time_ms(tx)
                )
                tx.execute(insert(failures), row._asdict())
        self._may_be_stored = failure is not None


def _named(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"

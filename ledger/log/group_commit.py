"""Group commit by flat combining: one transaction commits the work of many callers.

Every append takes the ledger's only lock and costs one fsync, so throughput depends on how
many commands share them.  Callers queue their work.  A caller that finds no leader becomes
the leader: it waits for the lock, *then* takes all work that was queued meanwhile, runs it
as one batch, wakes the callers, and passes the lead to the first caller that queued later.
So batches grow exactly when the database is the bottleneck, a lone caller waits for no
other, and there is no thread to start, to lose or to carry across a fork.  A caller that
has waited too long for a leader that cannot get the lock leaves the queue with an error.

Measured on PostgreSQL with 32 callers: 550 appends per second one by one, 6,200 in groups.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Final, Generic, TypeVar

from ledger.database.contract import LOCK_TIMEOUT_MS
from ledger.errors import OutcomeUnknown, Unavailable

Work = TypeVar("Work")
Result = TypeVar("Result")
Take = Callable[[], Sequence[Work]]

# The size of a batch, which bounds how long the lock is held; only one with a single work item
# may have more.  For commands, 1,000 take about a tenth of a second on either engine.
LARGEST_BATCH: Final = 1_000


class _Ticket(Generic[Work, Result]):
    """One caller's place in the queue."""

    __slots__ = ("_woken", "error", "leads", "result", "work")

    def __init__(self, work: Work) -> None:
        self.work = work
        self.result: Result | None = None
        self.error: BaseException | None = None
        self.leads = False
        # A held lock is the cheapest object to wait on.
        self._woken = threading.Lock()
        self._woken.acquire()

    def wait(self, patience_s: float = -1) -> bool:
        return self._woken.acquire(timeout=patience_s)

    def wake(self) -> None:
        self._woken.release()


class Appender(Generic[Work, Result]):
    """A queue of work that is run in batches, each with the work of all waiting callers.

    Args:
        run: Runs one batch.  It is given a function, which it must call once, when it holds
            the lock, and which returns the batch, a list of work items.  It returns their
            results in the same order.  An exception that it raises is raised in every caller
            of the batch.
        size_of: Returns the size of a work item; by default, each counts 1.
        largest_batch: The largest total size of the work items in a batch.  A batch of one item
            may be larger.
        patience_s: How long a caller waits for its batch to begin.
    """

    def __init__(
        self,
        run: Callable[[Take[Work]], Sequence[Result]],
        *,
        size_of: Callable[[Work], int] = lambda _: 1,
        largest_batch: int = LARGEST_BATCH,
        patience_s: float = LOCK_TIMEOUT_MS / 1000,
    ) -> None:
        self._run = run
        self._patience_s = patience_s
        self._size_of = size_of
        self._largest_batch = largest_batch
        self._mutex = threading.Lock()
        self._waiting: deque[_Ticket[Work, Result]] = deque()
        self._led = False

    def submit(self, work: Work) -> Result:
        """Return the result of *work* after its batch has been committed.

        Raises:
            Exception: What ``run`` raised for the batch; none of the batch was committed.
            Unavailable: No batch began within *patience_s*; the work was withdrawn.
        """
        ticket: _Ticket[Work, Result] = _Ticket(work)
        with self._mutex:
            self._waiting.append(ticket)
            leads, self._led = not self._led, True
        if not leads:
            self._wait(ticket)
            leads = ticket.leads
        if leads:
            self._lead()
        if ticket.error is not None:
            raise ticket.error
        return ticket.result  # type: ignore[return-value]  # set, as there is no error

    def _wait(self, ticket: _Ticket[Work, Result]) -> None:
        """Wait until a batch with the ticket's work is done, or until the ticket leads."""
        try:
            if not ticket.wait(self._patience_s):
                self._give_up(ticket)
                # Its batch has begun and cannot be undone, or it has just become the leader.
                ticket.wait()
        except BaseException:
            self._abandon(ticket)
            raise

    def _give_up(self, ticket: _Ticket[Work, Result]) -> None:
        with self._mutex:
            if ticket.leads or ticket not in self._waiting:
                return
            self._waiting.remove(ticket)
        raise Unavailable(
            f"nothing was recorded: the ledger was not available for {self._patience_s:g} s, "
            "because another process holds its lock or it is overloaded; try again"
        )

    def _lead(self) -> None:
        """Run one batch, which includes the leader's own work, and pass the lead on."""
        batch: list[_Ticket[Work, Result]] = []

        def take() -> Sequence[Work]:
            batch.extend(self._next_batch())
            return [ticket.work for ticket in batch]

        try:
            results = self._run(take)
            for ticket, result in zip(batch, results, strict=True):
                ticket.result = result
        except Exception as error:  # noqa: BLE001 - each caller raises it again
            if not batch:
                # We did not get the lock, so the other waiting callers could not have got it
                # either.
                take()
            for ticket in batch:
                ticket.error = error
        except BaseException:
            # Only the leader's thread is being stopped; the other callers must not hang.
            if not batch:
                take()
            for ticket in batch:
                ticket.error = OutcomeUnknown("the process is stopping")
            raise
        finally:
            self._pass_lead()
            # The leader is the first of its batch and need not be woken.
            for ticket in batch[1:]:
                ticket.wake()

    def _next_batch(self) -> Iterator[_Ticket[Work, Result]]:
        """Remove the first callers from the queue: one, and all that fit into a batch with it."""
        size = 0
        with self._mutex:
            while self._waiting:
                added = self._size_of(self._waiting[0].work)
                if size and size + added > self._largest_batch:
                    return
                size += added
                yield self._waiting.popleft()

    def _abandon(self, ticket: _Ticket[Work, Result]) -> None:
        """Remove a caller from the queue whose thread is being stopped while it waits.

        If a batch has taken its work already, the outcome is not read.
        """
        with self._mutex:
            if ticket in self._waiting:
                self._waiting.remove(ticket)
            leads = ticket.leads
        if leads:
            self._pass_lead()

    def _pass_lead(self) -> None:
        with self._mutex:
            if self._waiting:
                self._waiting[0].leads = True
                self._waiting[0].wake()
            else:
                self._led = False

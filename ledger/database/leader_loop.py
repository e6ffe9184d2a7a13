"""A step that one process at a time repeats: the leader does, the others stand by.

Sweeping, following and starting the follower process are each done by one process at a
time.  Each is a thread that takes a role when it is free, takes a step, waits, and repeats
until it is stopped.  Neither an unavailable database nor a failing step ends the thread:
the work would stop, and no one would notice.
"""

import logging
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Final

from ledger.database.contract import Leadership
from ledger.errors import LedgerError

# How often to retry when standing by, and when the database is unavailable.
STANDBY_S: Final = 0.5

_log = logging.getLogger(__name__)


class LeaderLoop:
    """A thread that repeats a step while it holds a role.

    Args:
        name: Its name, in the log and as a thread.
        leadership: Returns the claim to the role; called again after a claim failed.
        step: Takes one step and returns how long to wait before the next, in seconds.
        leading: A context that is entered when the role is taken, and left when it is lost.
        on_error: Called with each error of the claim or the step; it must not raise.
        standby_s: How often to try for the role, in seconds.

    Attributes:
        stopped: Set when the loop must end; a step that waits by itself must check it.
    """

    def __init__(
        self,
        name: str,
        leadership: Callable[[], Leadership],
        step: Callable[[], float],
        *,
        leading: Callable[[], AbstractContextManager[object]] = nullcontext,
        on_error: Callable[[Exception], object] | None = None,
        standby_s: float = STANDBY_S,
    ) -> None:
        self.stopped = threading.Event()
        self._name = name
        self._leadership = leadership
        self._step = step
        self._leading = leading
        self._on_error = on_error
        self._standby_s = standby_s
        self._claim: Leadership | None = None
        self._complaint = ""
        # How many steps in a row have failed.
        self._failures = 0

    def start(self) -> threading.Thread:
        """Run in a thread that ends with the process; return the thread."""
        thread = threading.Thread(target=self.run, name=f"ledger-{self._name}", daemon=True)
        thread.start()
        return thread

    def stop(self) -> None:
        """Make ``run`` return soon."""
        self.stopped.set()

    def run(self) -> None:
        """Run until ``stop`` is called, even while the database is unavailable."""
        try:
            while not self.stopped.is_set():
                if self.leads():
                    with self._leading():
                        while not self.stopped.wait(self.attempt()) and self.leads():
                            pass
                else:
                    self.stopped.wait(self._standby_s)
        finally:
            self._give_back()

    def leads(self) -> bool:
        """Take the role if it is free; return whether we hold it."""
        try:
            self._claim = self._claim or self._leadership()
            holds = self._claim.held()
        except LedgerError as error:
            # The file or session behind the claim may be gone, so the next try makes a new claim.
            self._give_back()
            self.complain(error)
        except Exception as error:  # noqa: BLE001 - must not end the thread
            self._fail(error, "%s cannot take its role; retrying")
            self._give_back()
        else:
            if not holds:
                # It stands by again: the next failure is another one.
                self._complaint, self._failures = "", 0
            return holds
        return False

    def attempt(self) -> float:
        """Take one step; return how long to wait before the next, in seconds."""
        try:
            wait_s = self._step()
        except LedgerError as error:
            self.complain(error)
        except Exception as error:  # noqa: BLE001 - must not end the thread
            self._fail(error, "%s failed; retrying")
        else:
            self._recover()
            return wait_s
        return self._standby_s

    def complain(self, error: LedgerError) -> None:
        """Log *error*, once while it stays the same."""
        if self._is_new(error):
            _log.warning("%s cannot run, will retry: %s", self._name, error)
        if self._on_error is not None:
            self._on_error(error)

    def _fail(self, error: Exception, text: str) -> None:
        self._note(error, text)
        if self._on_error is not None:
            self._on_error(error)

    def _note(self, error: Exception, text: str) -> None:
        """Log an unforeseen error with its traceback, once while it stays the same."""
        if self._is_new(error):
            _log.error(text, self._name, exc_info=error)

    def _is_new(self, error: Exception) -> bool:
        complaint = f"{type(error).__name__}: {error}"
        is_new = complaint != self._complaint
        self._complaint = complaint
        self._failures += 1
        return is_new

    def _recover(self) -> None:
        if self._failures > 1:
            _log.warning("%s runs again, after %d failures", self._name, self._failures)
        self._complaint, self._failures = "", 0

    def _give_back(self) -> None:
        claim, self._claim = self._claim, None
        if claim is not None:
            try:
                claim.release()
            except Exception as error:  # noqa: BLE001 - must not end the thread
                # Its descriptor was closed, or its session has ended: the role is free.
                self._note(error, "%s could not return its role")

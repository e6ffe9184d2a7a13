"""The opening of a queue's database at the first use, in threads and across forks.

A queue is made when a module is imported, often before the process forks, and its database is
opened by the first thread that uses it.  What can go wrong in between is handled here: two
threads that open it at once, a thread that forks while another opens it, a forked child that
has its parent's connections.

This module must not import SQLAlchemy, nor what imports it: see ``queue.py``.
"""

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, NamedTuple

from ledger.queue.read_models import ReadModels

if TYPE_CHECKING:
    from ledger.log.commit_notifier import CommitNotifier
    from ledger.log.ledger import Ledger

# Longest time that a forking thread waits for a thread that is opening the database.
_LONGEST_OPENING_S: Final = 10.0


class Parts(NamedTuple):
    """The objects of a queue whose database is open.

    Attributes:
        ledger: Carries out commands.
        read_models: Reads the read models.
        commit_notifier: The commit notifier.
        forget: Resets these objects in a forked child.
        close: Closes all connections.
    """

    ledger: "Ledger"
    read_models: ReadModels
    commit_notifier: "CommitNotifier"
    forget: Callable[[], None]
    close: Callable[[], None]


class Opening:
    """The parts of a queue, made at the first use.

    Args:
        make_parts: Opens the database, or raises an error; called at the first use, and at
            the next use if it failed.

    Attributes:
        parts: None until the database is open.
    """

    def __init__(self, make_parts: Callable[[], Parts]) -> None:
        self.parts: Parts | None = None
        self._make_parts = make_parts
        self._create_locks()

    def _create_locks(self) -> None:
        # Reentrant: a thread may fork, or use the queue, while it opens the database.
        self._mutex = threading.RLock()
        self._locked_to_fork = False

    def opened(self) -> Parts:
        """Return the parts; open the database if it is not open."""
        if self.parts is None:
            with self._mutex:
                if self.parts is None:
                    self.parts = self._make_parts()
                return self.parts
        return self.parts

    def before_fork(self) -> None:
        """Keep other threads, until ``after_fork``, from states that would block a forked child."""
        self._locked_to_fork = self._mutex.acquire(timeout=_LONGEST_OPENING_S)
        if self.parts is not None:
            self.parts.ledger.database.before_fork()

    def after_fork(self) -> None:
        """Undo ``before_fork`` in the process that has forked."""
        if self.parts is not None:
            self.parts.ledger.database.after_fork()
        if self._locked_to_fork:
            self._locked_to_fork = False
            self._mutex.release()

    def forget(self) -> None:
        """Reset the parts in a forked child, which must not share its parent's connections."""
        self._create_locks()
        if self.parts is not None:
            self.parts.forget()

    def close(self) -> None:
        """Close all connections."""
        if self.parts is not None:
            self.parts.close()

"""The log of work in the background that is late: a line when it becomes so, and one at the end.

Each process that serves or works asks for itself.  If one process of all did it, and hung, the
log would be silent just when something hangs.
"""

import logging
import threading
from collections.abc import Callable, Iterable
from typing import Final

from ledger.errors import LedgerError
from ledger.projections.lag import Late

_EVERY_S: Final = 5.0

_log = logging.getLogger(__name__)


class LateLog:
    """A thread that logs what becomes late, and what no longer is.

    Args:
        late: Returns what is late.
        every_s: Seconds between two calls of it; 5 s by default.
    """

    def __init__(self, late: Callable[[], Iterable[Late]], *, every_s: float = _EVERY_S) -> None:
        self._late = late
        self._every_s = every_s
        self._stopped = threading.Event()
        self._known: dict[str, Late] = {}

    def start(self) -> None:
        """Run in a thread that ends with the process."""
        threading.Thread(target=self._run, name="ledger-late-log", daemon=True).start()

    def stop(self) -> None:
        """End the thread soon."""
        self._stopped.set()

    def _run(self) -> None:
        while not self._stopped.wait(self._every_s):
            try:
                self.check()
            except LedgerError:
                # Those who cannot work without the database log that.
                continue
            except Exception:  # noqa: BLE001 - must not end the thread
                _log.exception("cannot determine what is late; retrying")

    def check(self) -> None:
        """Log what has become late since the last call, and what no longer is.

        Raises:
            Unavailable: The database is unavailable.
        """
        late = {each.name: each for each in self._late()}
        for name, each in late.items():
            if name not in self._known:
                _log.warning("%s is late by %d s: %s", name, each.ms // 1000, each.reason)
        for name in self._known.keys() - late.keys():
            _log.warning("%s is no longer late", name)
        self._known = late

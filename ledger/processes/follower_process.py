"""Keep a process that brings the read models forward, as long as a server or a worker runs.

To follow is to run Python for some milliseconds at a time, an application's own too, for
which the threads of a web server, or of a worker, would stand still.  So they do not
follow: one of these processes starts a child that does, at a lower priority, and starts
another when that dies.  The others stand by to take over when the process itself dies.

The child ends with its parent, however that ends: it reads from a pipe whose other end
is the parent's, and the kernel closes it.
"""

import logging
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Final

from ledger.database.contract import Leadership
from ledger.errors import LedgerError
from ledger.processes.settings import SETTINGS, Settings

_LOOK_S: Final = 1.0
# By then a process that builds the app in order to fork has forked.
_SETTLED_S: Final = 0.2
# What the child must see as this process does, whatever it was told on the command line.
_PASSED_ON: Final = (
    *("database_url", "schema", "sqlite_synchronous"),
    *("search", "search_directory"),
)

_log = logging.getLogger(__name__)


class FollowerProcess:
    """Start a process that follows whenever there is none, if it is ours to do.

    Args:
        names: The read models that it brings forward.
        starter: Returns the claim to be the one who starts it.
        settings: Those of the process that starts it.
    """

    def __init__(
        self, names: Sequence[str], starter: Callable[[], Leadership], settings: Settings
    ) -> None:
        self._names = names
        self._starter = starter
        self._settings = settings
        self._stopped = threading.Event()
        self._complaint = ""

    def start(self) -> None:
        """Look after it in a thread that ends with the process."""
        threading.Thread(target=self.run, name="ledger-follower-process", daemon=True).start()

    def stop(self) -> None:
        """Make ``run`` return soon, and end the process that it started."""
        self._stopped.set()

    def run(self) -> None:
        """Look after it until ``stop`` is called."""
        if self._stopped.wait(_SETTLED_S):
            return
        starter: Leadership | None = None
        child: subprocess.Popen[bytes] | None = None
        while not self._stopped.is_set():
            try:
                # The database may be away.
                starter = starter or self._starter()
                if starter.held() and (child is None or child.poll() is not None):
                    _close(child)
                    child = self._start()
                self._complaint = ""
            except LedgerError as error:
                # Asked for anew: where an index cannot be kept any more, it is another one.
                _release(starter)
                starter = None
                # Once, as long as it is the same.
                if str(error) != self._complaint:
                    self._complaint = str(error)
                    _log.warning("nothing follows: %s", error)
            except Exception:  # noqa: BLE001 - the edge of its thread
                # If it ended here, searches would find nothing new any more.
                _log.exception("nothing follows; trying again")
            self._stopped.wait(_LOOK_S)
        _close(child)
        _release(starter)

    def _start(self) -> "subprocess.Popen[bytes]":
        variables = {
            setting.variable: str(getattr(self._settings, setting.field))
            for setting in SETTINGS
            if setting.field in _PASSED_ON and getattr(self._settings, setting.field)
        }
        return subprocess.Popen(  # noqa: S603 - no shell, and names that were checked
            # Not what is called ledger in the working directory.
            [sys.executable, "-P", "-m", "ledger", "follow", "--with-parent", *self._names],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            env=os.environ | variables,
            # Ctrl-C is for the server, with which it ends.
            process_group=0,
        )


def _close(child: "subprocess.Popen[bytes] | None") -> None:
    """Close the pipe to a child, which ends it, and wait until it has."""
    if child is not None:
        child.communicate()


def _release(starter: Leadership | None) -> None:
    if starter is not None:
        starter.release()

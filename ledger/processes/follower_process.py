"""Keep a process that brings the read models forward, as long as a server or a worker runs.

To follow is to run Python for some milliseconds at a time, an application's own too, for
which the threads of a web server, or of a worker, would stand still.  So they do not
follow: one of these processes starts a child that does, at a lower priority, and starts
another when that dies.  The others stand by to take over when the process itself dies.

The child ends with its parent, however that ends: it reads from a pipe whose other end
is the parent's, and the kernel closes it.
"""

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Final

from ledger.database.contract import Leadership
from ledger.database.leader_loop import LeaderLoop
from ledger.processes.settings import SETTINGS, Settings

_LOOK_S: Final = 1.0
# By then a process that builds the app in order to fork has forked.
_SETTLED_S: Final = 0.2
# What the child must see as this process does, whatever it was told on the command line.
_PASSED_ON: Final = (
    *("database_url", "schema", "sqlite_synchronous"),
    *("search", "search_directory"),
)


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
        self._settings = settings
        self._child: subprocess.Popen[bytes] | None = None
        self._loop = LeaderLoop("the follower process", starter, self._look, standby_s=_LOOK_S)

    def start(self) -> None:
        """Look after it in a thread that ends with the process."""
        threading.Thread(target=self.run, name="ledger-follower-process", daemon=True).start()

    def stop(self) -> None:
        """Make ``run`` return soon, and end the process that it started."""
        self._loop.stop()

    def run(self) -> None:
        """Look after it until ``stop`` is called."""
        if self._loop.stopped.wait(_SETTLED_S):
            return
        try:
            self._loop.run()
        finally:
            _close(self._child)

    def _look(self) -> float:
        if self._child is None or self._child.poll() is not None:
            _close(self._child)
            self._child = self._start()
        return _LOOK_S

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

"""The follower process, which updates the read models while a server or a worker runs.

Following runs Python code, including the application's, for some milliseconds at a time,
during which the other threads of a process stand still.  So servers and workers do not follow
themselves: one of them starts a child process that follows at a lower priority, and starts
another if that dies.  The others stand by to take over if the starter itself dies.

The child ends with its parent, however the parent ends: it reads from a pipe whose other end
belongs to the parent, and the kernel closes that end.
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
# Delay after which a process that builds the app and then forks has forked.
_SETTLED_S: Final = 0.2
# The settings that the child must share with this process, which may come from its command line.
_PASSED_ON: Final = (
    *("database_url", "schema", "sqlite_synchronous"),
    *("search", "search_directory"),
)


class FollowerProcess:
    """A thread that keeps a follower process running while it holds the starter's role.

    Args:
        names: The read models that the follower process updates.
        starter: Returns the claim to the starter's role.
        settings: The settings of this process.
    """

    def __init__(
        self, names: Sequence[str], starter: Callable[[], Leadership], settings: Settings
    ) -> None:
        self._names = names
        self._settings = settings
        self._child: subprocess.Popen[bytes] | None = None
        self._loop = LeaderLoop("the follower process", starter, self._look, standby_s=_LOOK_S)

    def start(self) -> None:
        """Run in a thread that ends with the process."""
        threading.Thread(target=self.run, name="ledger-follower-process", daemon=True).start()

    def stop(self) -> None:
        """Make ``run`` return soon, after ending the follower process."""
        self._loop.stop()

    def run(self) -> None:
        """Keep the follower process running until ``stop`` is called."""
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
            # -P: do not import a module named ledger from the working directory.
            [sys.executable, "-P", "-m", "ledger", "follow", "--with-parent", *self._names],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            env=os.environ | variables,
            # Ctrl-C must reach only the parent; the child ends with it.
            process_group=0,
        )


def _close(child: "subprocess.Popen[bytes] | None") -> None:
    """Close the pipe to a child, which ends the child, and wait for that."""
    if child is not None:
        child.communicate()

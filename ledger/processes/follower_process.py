"""The follower process, which updates the read models while a server or a worker runs.

Following runs Python code, including the application's, for some milliseconds at a time,
during which the other threads of a process stand still.  So servers and workers do not follow
themselves: one of them starts a child process that follows at a lower priority, and starts
another if that dies.  The others stand by to take over if the starter itself dies.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from ledger.database.contract import Leadership
from ledger.database.leader_loop import LeaderLoop
from ledger.processes.child_output import ChildOutput
from ledger.processes.child_process import ChildSpec, Output
from ledger.processes.settings import SETTINGS, Settings
from ledger.processes.supervisor import Supervisor

_CHECK_S: Final = 1.0
# How often to check whether it is time to replace a follower process that died.
_CHECK_DEAD_S: Final = 0.1
# Delay after which a process that builds the app and then forks has forked.
_SETTLED_S: Final = 0.2
# How long the follower process may take to finish the batch that it is applying.  A batch that
# is killed is rolled back, and applied again by the next follower.
_STOP_S: Final = 5.0
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
        output: Reads what the follower process sends to it.
        stderr: Where the standard error of the follower process goes.
    """

    def __init__(
        self,
        names: Sequence[str],
        starter: Callable[[], Leadership],
        settings: Settings,
        *,
        output: ChildOutput | None = None,
        stderr: Output = "inherited",
    ) -> None:
        self._output = output
        self._spec = ChildSpec(
            name="follower process",
            arguments=["follow", *names],
            variables=_variables(settings),
            stdout="discarded",
            stderr=stderr,
            # Ctrl-C must reach only the parent, which stops the child.
            own_group=True,
        )
        self._supervisor: Supervisor | None = None
        self._loop = LeaderLoop(
            "the follower process",
            starter,
            self._check,
            leading=self._supervising,
            standby_s=_CHECK_S,
        )

    def start(self) -> None:
        """Run in a thread that ends with the process."""
        threading.Thread(target=self.run, name="ledger-follower-process", daemon=True).start()

    def stop(self) -> None:
        """Make ``run`` return soon, after ending the follower process."""
        self._loop.stop()

    def run(self) -> None:
        """Keep the follower process running until ``stop`` is called."""
        if not self._loop.stopped.wait(_SETTLED_S):
            self._loop.run()

    def forget(self) -> None:
        """Leave the follower process to our parent; called in a forked process."""
        if self._supervisor is not None:
            self._supervisor.forget()

    @contextmanager
    def _supervising(self) -> Iterator[None]:
        """Stop the follower process as soon as another process may start one."""
        self._supervisor = Supervisor([self._spec], output=self._output)
        try:
            yield
        finally:
            self._supervisor.stop(kill_after_s=_STOP_S)

    def _check(self) -> float:
        if self._supervisor is None:
            return _CHECK_S
        self._supervisor.run_once(timeout_s=0)
        return _CHECK_S if self._supervisor.running else _CHECK_DEAD_S


def _variables(settings: Settings) -> dict[str, str]:
    values = {setting.variable: getattr(settings, setting.field) for setting in SETTINGS}
    passed_on = {setting.variable for setting in SETTINGS if setting.field in _PASSED_ON}
    return {name: str(value) for name, value in values.items() if name in passed_on and value}

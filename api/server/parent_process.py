"""gunicorn's parent process, which starts the server's processes and replaces those that die.

What it uses of gunicorn is checked by ``gunicorn_needs.unmet_needs``; without it, gunicorn's own
parent process runs.
"""

import os
import time
from mmap import mmap
from typing import Final

from gunicorn.app.base import BaseApplication
from gunicorn.arbiter import Arbiter
from gunicorn.errors import HaltServer

from ledger.api.server.gunicorn_needs import unmet_needs

# The pause before a process that could not start is started again.
RETRY_S: Final = 1.0


class Started:
    """Whether any process of the server has started; the parent and its children share it."""

    def __init__(self) -> None:
        self._shared = mmap(-1, 1)

    def set(self) -> None:
        """Note that this process has started."""
        self._shared[0] = 1

    def __bool__(self) -> bool:
        """Return whether any process has."""
        return self._shared[0] == 1


def run_server(application: BaseApplication, started: Started) -> None:
    """Run gunicorn's parent process, ours if possible; do not return.

    Args:
        application: What gunicorn runs.
        started: To be set in each process that has started.
    """
    parent = Arbiter(application) if unmet_needs() else _Parent(application, started)
    parent.run()


class _Parent(Arbiter):  # type: ignore[misc]  # gunicorn ships no types
    """gunicorn's parent process, with two differences.

    It removes only its own Unix sockets.  When gunicorn stops, it removes any file at the path of
    its socket.  By then, that may be the socket of the server that has replaced this one.

    It goes on when a process cannot start.  gunicorn then stops the whole server.  That is right
    for a server that never worked, but not for one that is short of memory or files for a moment.
    """

    def __init__(self, application: BaseApplication, started: Started) -> None:
        self._started = started
        self._umask = os.umask(0o077)
        os.umask(self._umask)
        super().__init__(application)

    def start(self) -> None:
        super().start()
        self._bound = self._found()

    def stop(self, *graceful: bool) -> None:
        if self._found() != self._bound:
            # Sockets that systemd opened are left alone.
            self.systemd = True
        super().stop(*graceful)

    def spawn_worker(self) -> object:
        try:
            return super().spawn_worker()
        except (OSError, MemoryError) as error:
            if os.getpid() != self.pid or not self._started:
                raise
            # gunicorn sets another one for its temporary file, and leaves it so if that fails.
            os.umask(self._umask)
            self.log.warning("cannot start a server process, will retry: %s", error)
            time.sleep(RETRY_S)
            return None

    def reap_workers(self) -> None:
        before = dict(self.WORKERS)
        try:
            super().reap_workers()
        except HaltServer as halt:
            if not self._started:
                raise
            # gunicorn stops before it forgets the process, or closes its file, or both.
            for pid, worker in before.items():
                if not _exists(pid):
                    self.WORKERS.pop(pid, None)
                    worker.tmp.close()
            self.log.warning("a server process could not start, will retry: %s", halt.reason)
            time.sleep(RETRY_S)
            # Others may have ended too.
            self.reap_workers()

    def _found(self) -> list[tuple[int, int] | None]:
        """Return device and inode of the file at the path of each Unix socket.

        While a socket is open, no other file gets its inode.
        """
        paths = [listener.getsockname() for listener in self.LISTENERS]
        return [_file_at(path) for path in paths if isinstance(path, str)]


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def _file_at(path: str) -> tuple[int, int] | None:
    try:
        found = os.lstat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino

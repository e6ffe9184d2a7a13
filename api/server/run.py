"""Build the app of some settings, and serve it with gunicorn."""

import gc
import logging
import os
from collections.abc import Callable, Collection
from typing import Any

from gunicorn.app.base import BaseApplication
from gunicorn.arbiter import Arbiter

from ledger.api.app import App, create_app
from ledger.api.http.long_poll import LongPolls
from ledger.api.server.gunicorn_worker import LingeringWorker
from ledger.errors import Unavailable
from ledger.processes.composition import System, compose, prepare
from ledger.processes.follower_process import FollowerProcess
from ledger.processes.hosts import bound_host
from ledger.processes.settings import Settings
from ledger.worker.sweeper import Sweeper

# Kue's UIs poll every second or five; a connection should live from poll to poll.
KEEPALIVE_S = 30

_log = logging.getLogger(__name__)


def build(settings: Settings) -> App:
    """Return the app of *settings*, and start what works beside it: see ``_Background``.

    Raises:
        SchemaMismatch: The database's tables are not those of this version.
        InvalidInput: The database's URL is none.
    """
    system = compose(settings, indexes=False)
    try:
        prepare(system.database)
    except Unavailable as error:
        # The server starts all the same, answers 503, and recovers by itself.
        _log.warning("%s", error)
    _Background(system, settings).start()
    return create_app(
        system.ledger,
        system.jobs,
        system.state_counts,
        system.pauses,
        system.activity,
        system.search,
        system.standings,
        # The other half goes on answering while these wait.
        LongPolls(system.bell, most=settings.threads // 2),
        lease_ms=settings.lease_ms,
        largest_body_bytes=settings.largest_body_bytes,
        largest_page=settings.largest_page,
        hosts=_hosts(settings),
        cors_origins=settings.cors_origins,
    )


def _hosts(settings: Settings) -> Collection[str]:
    """Return the hosts by which clients may reach the server."""
    bound = bound_host(settings.bind)
    return settings.hosts if bound is None else (*settings.hosts, bound)


class _Background:
    """Be the threads of a server process: the sweeper, and who starts what follows.

    A forked child gets connections, locks and threads of its own: gunicorn's --preload
    builds the app before it forks.  It takes every child that ends for a worker, so the
    process that forks must have no other.
    """

    def __init__(self, system: System, settings: Settings) -> None:
        self._system = system
        self._settings = settings
        self._following: FollowerProcess | None = None

    def start(self) -> None:
        """Start all, here and in each forked child."""
        self._start()
        os.register_at_fork(
            before=self._system.database.before_fork,
            after_in_parent=self._forked,
            after_in_child=self._start_anew,
        )

    def _start(self) -> None:
        system, settings = self._system, self._settings
        if settings.sweep:
            Sweeper(system.ledger, system.jobs, lease_ms=settings.lease_ms).start()
        names = [
            model.name
            for model in system.followers
            if settings.sweep or model is system.search.engine
        ]
        if names:
            self._following = FollowerProcess(names, system.starter, settings)
            self._following.start()

    def _forked(self) -> None:
        self._system.database.after_fork()
        if self._following is not None:
            self._following.stop()

    def _start_anew(self) -> None:
        self._system.forget()
        self._start()


def _settle() -> None:
    """Take what was loaded out of the garbage collector's sight: it stays for good.

    Batches allocate enough to set it off, and it would walk all modules each time.
    """
    gc.collect()
    gc.freeze()


def run(settings: Settings, ready: Callable[[], None]) -> None:
    """Serve until told to stop; does not return.

    Args:
        settings: What to serve, and where.
        ready: Called once, when the address is bound.
    """
    _Server(settings, ready).run()


class _Server(BaseApplication):  # type: ignore[misc]  # gunicorn ships no types
    def __init__(self, settings: Settings, ready: Callable[[], None]) -> None:
        self._settings = settings
        self._ready = ready
        super().__init__(prog="ledger serve")

    def load_config(self) -> None:
        settings = self._settings
        options: dict[str, Any] = {
            "bind": settings.bind,
            "workers": settings.server_processes,
            "threads": settings.threads,
            "worker_class": LingeringWorker,
            "keepalive": KEEPALIVE_S,
            # All that it allows: a search may have thousands of characters.
            "limit_request_line": 8190,
            "loglevel": "warning",
            # gunicorn would open a socket for its own control in the home directory.
            "control_socket_disable": True,
            # No answer depends on what a proxy says of its client, so nobody may say it,
            # and nobody's address need be compared for every request.
            "forwarded_allow_ips": "*",
            "secure_scheme_headers": {},
            "forwarder_headers": "",
            "when_ready": lambda _: self._ready(),
            "post_worker_init": lambda _: _settle(),
        }
        for name, value in options.items():
            if name in self.cfg.settings:
                self.cfg.set(name, value)

    def run(self) -> None:
        """Run gunicorn's parent process, ours in place of its own."""
        _Arbiter(self).run()

    def load(self) -> App:
        return build(self._settings)


class _Arbiter(Arbiter):  # type: ignore[misc]  # gunicorn ships no types
    """gunicorn's parent process, which removes no Unix socket but its own.

    gunicorn removes whatever lies at its path when it stops: by then that may be the
    socket of a server that was started in our place.
    """

    def start(self) -> None:
        super().start()
        self._bound = self._found()

    def stop(self, *graceful: bool) -> None:
        if self._found() != self._bound:
            # Sockets that systemd opened are left alone.
            self.systemd = True
        super().stop(*graceful)

    def _found(self) -> list[tuple[int, int] | None]:
        """Return device and inode of what lies at the path of each Unix socket.

        While a socket is open, no other file gets its inode.
        """
        paths = [listener.getsockname() for listener in self.LISTENERS]
        return [_file_at(path) for path in paths if isinstance(path, str)]


def _file_at(path: str) -> tuple[int, int] | None:
    try:
        found = os.lstat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino

"""The app for given settings, and the gunicorn server that runs it."""

import gc
import logging
import os
import resource
from collections.abc import Callable, Collection
from typing import Any, Final

from gunicorn.app.base import BaseApplication

from ledger.api.app import App, create_app
from ledger.api.http.long_poll import LongPolls
from ledger.api.server.gunicorn_worker import LingeringWorker
from ledger.api.server.parent_process import Started, run_server
from ledger.errors import Unavailable
from ledger.processes.composition import System, compose, prepare
from ledger.processes.follower_process import FollowerProcess
from ledger.processes.hosts import bound_host
from ledger.processes.late_log import LateLog
from ledger.processes.log_format import PlainFormatter
from ledger.processes.settings import Settings
from ledger.worker.sweeper import Sweeper

# Kue's UIs poll every one or five seconds; a connection should stay open between two polls.
KEEPALIVE_S = 30

# Connections of a process, as gunicorn has it.
_MOST_CONNECTIONS: Final = 1_000
# Files that a process has open for itself: sockets, locks, the index, and more in a search.
_OWN_FILES: Final = 100
# A thread's database connection, and what it opens while it waits for a request.
_FILES_A_THREAD: Final = 4

_log = logging.getLogger(__name__)


def build(settings: Settings) -> App:
    """Return the app for *settings*, and start its background threads: see ``_Background``.

    Raises:
        SchemaMismatch: The database's tables are not those of this version.
        InvalidInput: The database's URL is invalid.
    """
    system = compose(settings, indexes=False)
    try:
        prepare(system)
    except Unavailable as error:
        # The server starts nevertheless, answers 503, and recovers by itself.
        _log.warning("%s", error)
    _Background(system, settings).start()
    return create_app(
        system.ledger,
        system.read_models,
        system.jobs,
        system.state_counts,
        system.activity,
        system.search,
        system.lags,
        # Half of the threads may wait; the other half continues to answer.
        LongPolls(
            system.commit_notifier,
            most=settings.threads // 2,
            most_searches=max(1, settings.threads // 4),
        ),
        lease_ms=settings.lease_ms,
        largest_body_bytes=settings.largest_body_bytes,
        largest_page=settings.largest_page,
        hosts=_hosts(settings),
        cors_origins=settings.cors_origins,
        kue_lenient=settings.kue_lenient,
        client_timeout_ms=settings.client_timeout_ms,
    )


def _hosts(settings: Settings) -> Collection[str]:
    """Return the hosts by which clients may reach the server."""
    bound = bound_host(settings.bind)
    return settings.hosts if bound is None else (*settings.hosts, bound)


class _Background:
    """The threads of a server process: the sweeper, the starter of the follower process, a log.

    A forked child gets its own connections, locks and threads, because gunicorn's --preload
    builds the app before it forks.  gunicorn reaps every child as one of its workers, so the
    forking process must have no child of its own.
    """

    def __init__(self, system: System, settings: Settings) -> None:
        self._system = system
        self._settings = settings
        self._following: FollowerProcess | None = None

    def start(self) -> None:
        """Start the threads, here and in each forked child."""
        self._start()
        os.register_at_fork(
            before=self._system.database.before_fork,
            after_in_parent=self._forked,
            after_in_child=self._start_again,
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
        # Another process of ours may be the one that hangs.
        LateLog(lambda: system.late(system.lags())).start()
        if names:
            self._following = FollowerProcess(names, system.starter, settings)
            self._following.start()

    def _forked(self) -> None:
        self._system.database.after_fork()
        if self._following is not None:
            self._following.stop()

    def _start_again(self) -> None:
        self._system.forget()
        if self._following is not None:
            self._following.forget()
        self._start()


def _settle() -> None:
    """Exclude loaded modules from garbage collection, because they are never freed.

    Batches allocate enough to trigger collections, each of which would visit all modules.
    """
    gc.collect()
    gc.freeze()


def _most_connections(threads: int) -> int:
    """Return how many connections a process has at most.

    The threads must still be able to open what they answer from, however many connections
    there are.
    """
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if allowed == resource.RLIM_INFINITY:
        return _MOST_CONNECTIONS
    rest = allowed - _OWN_FILES - threads * _FILES_A_THREAD
    return max(threads, min(rest, _MOST_CONNECTIONS))


def run(settings: Settings, ready: Callable[[], None]) -> None:
    """Serve until the process is stopped; do not return.

    Args:
        settings: The settings of the app and the server.
        ready: Called once, when the address is bound.
    """
    if logging.lastResort is not None:
        # It prints the log of our modules, whose messages may quote a stranger's text.
        logging.lastResort.setFormatter(PlainFormatter())
    _Server(settings, ready).run()


class _Server(BaseApplication):  # type: ignore[misc]  # gunicorn ships no types
    def __init__(self, settings: Settings, ready: Callable[[], None]) -> None:
        self._settings = settings
        self._ready = ready
        self._started = Started()
        super().__init__(prog="ledger serve")

    def load_config(self) -> None:
        settings = self._settings
        options: dict[str, Any] = {
            "bind": settings.bind,
            "workers": settings.server_processes,
            "threads": settings.threads,
            "worker_connections": _most_connections(settings.threads),
            "worker_class": LingeringWorker,
            "keepalive": KEEPALIVE_S,
            # gunicorn's maximum: a search may have thousands of characters.
            "limit_request_line": 8190,
            "loglevel": "warning",
            # A Unix socket is for this user alone; a proxy's user gets one from systemd.
            "umask": 0o177,
            # Otherwise gunicorn opens a control socket in the home directory.
            "control_socket_disable": True,
            # No answer depends on what a proxy states about its client.  These settings skip the
            # check of the client's address for every request, and the headers have no effect.
            "forwarded_allow_ips": "*",
            "secure_scheme_headers": {},
            "forwarder_headers": "",
            "when_ready": lambda _: self._ready(),
            "post_worker_init": lambda _: self._has_started(),
        }
        for name, value in options.items():
            if name in self.cfg.settings:
                self.cfg.set(name, value)

    def _has_started(self) -> None:
        """Settle a process that has just started."""
        self._started.set()
        _settle()

    def run(self) -> None:
        run_server(self, self._started)

    def load(self) -> App:
        return build(self._settings)

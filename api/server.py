"""Build the app of some settings, and serve it with gunicorn."""

import gc
import logging
import os
from collections.abc import Callable
from typing import Any

from gunicorn.app.base import BaseApplication

from api.app import App, create_app
from api.gunicorn_worker import LingeringWorker
from api.waiting import LongPolls
from ledger.composition import System, compose, prepare
from ledger.errors import Unavailable
from ledger.settings import Settings
from ledger.sweeper import Sweeper

# Kue's UIs poll every second or five; a connection should live from poll to poll.
KEEPALIVE_S = 30

_log = logging.getLogger(__name__)


def build(settings: Settings) -> App:
    """Return the app of *settings*, with a sweeper and what follows the ledger beside it.

    Raises:
        SchemaMismatch: The database's tables are not those of this version.
        InvalidInput: The database's URL is none.
    """
    system = compose(settings)
    try:
        prepare(system.database)
    except Unavailable as error:
        # The server starts all the same, answers 503, and recovers by itself.
        _log.warning("%s", error)
    _start_background(system, settings)
    _survive_forks(system, settings)
    return create_app(
        system.ledger,
        system.jobs,
        system.state_counts,
        system.pauses,
        system.activity,
        # The other half goes on answering while these wait.
        LongPolls(system.bell, most=settings.threads // 2),
        lease_ms=settings.lease_ms,
        largest_body_bytes=settings.largest_body_bytes,
        largest_page=settings.largest_page,
        cors_origins=settings.cors_origins,
    )


def _start_background(system: System, settings: Settings) -> None:
    """Start what works beside the requests, in threads that end with the process."""
    if settings.sweep:
        Sweeper(system.ledger, system.jobs, lease_ms=settings.lease_ms).start()
        for following in system.followings():
            following.start()


def _survive_forks(system: System, settings: Settings) -> None:
    """Give a forked child connections, locks and background threads of its own.

    gunicorn's --preload builds the app before it forks.
    """

    def start_anew() -> None:
        system.ledger.forget()
        system.bell.forget()
        _start_background(system, settings)

    os.register_at_fork(after_in_child=start_anew)


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
            "workers": settings.workers,
            "threads": settings.threads,
            "worker_class": LingeringWorker,
            "keepalive": KEEPALIVE_S,
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

    def load(self) -> App:
        return build(self._settings)

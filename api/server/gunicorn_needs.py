"""What Ledger uses of gunicorn that gunicorn does not document, and whether it is there.

All such uses are in ``gunicorn_worker`` and ``parent_process``.  They may change with each release
of gunicorn, so each is checked before the server starts.  If one is missing, the server runs with
plain ``gthread`` and logs a warning.
"""

import inspect
import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from importlib.metadata import requires
from operator import attrgetter
from types import SimpleNamespace
from typing import Final, NamedTuple

import gunicorn
from gunicorn import http, sock, util
from gunicorn.arbiter import Arbiter
from gunicorn.config import Config
from gunicorn.http import wsgi
from gunicorn.workers import gthread

_REQUEST: Final = b"GET / HTTP/1.1\r\n\r\n"


class Need(NamedTuple):
    """A function or attribute of gunicorn that Ledger uses and gunicorn does not document.

    Attributes:
        path: Its dotted path, which starts at one of the objects that ``_installed`` yields.
        arguments: The number of arguments of a call; None if it is not called.
    """

    path: str
    arguments: int | None = None


NEEDS: Final = (
    Need("util.http_date", 1),
    Need("util.write_error", 4),
    Need("wsgi.WSGIErrorsWrapper", 1),
    Need("arbiter.LISTENERS"),
    Need("arbiter.WORKERS"),
    Need("arbiter.reap_workers", 1),
    Need("arbiter.spawn_worker", 1),
    Need("arbiter.start", 1),
    Need("get_parser", 3),
    Need("ssl_context", 1),
    Need("worker.accept", 1),
    Need("worker.alive"),
    Need("worker.cfg.http_protocols"),
    Need("worker.cfg.is_ssl"),
    Need("worker.cfg.protocol"),
    Need("worker.cfg.proxy_protocol"),
    Need("worker.cfg.settings"),
    Need("worker.enqueue_req", 1),
    Need("worker.finish_request", 2),
    Need("worker.handle", 1),
    Need("worker.handle_request", 2),
    Need("worker.nr_conns"),
    Need("worker.poller"),
    Need("worker.tpool"),
    Need("worker.wait_for_and_dispatch_events", 1),
    Need("thread_pool._work_queue.empty", 0),
    Need("connection.initialized"),
    Need("connection.parser.unreader.buf.getvalue", 0),
    Need("connection.sock"),
    Need("request.body.reader.read", 1),
    Need("request.force_close", 0),
    Need("request._expected_100_continue"),
)


@lru_cache
def unmet_needs(needs: tuple[Need, ...] = NEEDS) -> tuple[str, ...]:
    """Return the needs that the installed gunicorn does not meet."""
    try:
        with _installed() as installed:
            return tuple(need.path for need in needs if not _is_met(need, installed))
    except Exception as error:  # noqa: BLE001 - another gunicorn may raise anything here
        return (f"a worker and a connection to check: {error!r}",)


@contextmanager
def _installed() -> Iterator[SimpleNamespace]:
    """Yield the objects that the needs are checked on, in the state of a running server."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        worker = gthread.ThreadWorker(0, os.getpid(), [], None, 0, Config(), None)
        connection = gthread.TConn(worker.cfg, ours, ("", 0), ("", 0))
        connection.init()
        thread_pool = worker.get_thread_pool()
        yield SimpleNamespace(
            util=util,
            wsgi=wsgi,
            get_parser=http.get_parser,
            ssl_context=sock.ssl_context,
            arbiter=Arbiter,
            worker=worker,
            thread_pool=thread_pool,
            connection=connection,
            request=next(http.get_parser(worker.cfg, iter([_REQUEST]), ("", 0))),
        )
        thread_pool.shutdown()
        worker.tmp.close()


def _is_met(need: Need, installed: SimpleNamespace) -> bool:
    try:
        found = attrgetter(need.path)(installed)
        if need.arguments is not None:
            inspect.signature(found).bind(*(None,) * need.arguments)
    except (AttributeError, TypeError):
        return False
    return True


def misfit(unmet: Sequence[str]) -> str:
    """Return the warning about a gunicorn that does not meet these needs."""
    lines = requires("ledger-queue") or ()
    required = next((line for line in lines if line.startswith("gunicorn")), "gunicorn")
    return (
        f"gunicorn {gunicorn.__version__} lacks functions that Ledger's worker class uses "
        f"({', '.join(unmet)}): gunicorn's gthread runs instead, and takes longer for each "
        f"request; install a version that Ledger supports, {required}"
    )

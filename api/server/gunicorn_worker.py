"""gunicorn's threaded worker class, with a lower cost per request and the same answers.

After every request, ``gthread`` returns the connection to its main thread, which waits for the
next request and passes the connection to a thread again.  This costs two thread switches, a
pipe and four more system calls per request.  Here, a thread that has answered waits for the
next request on its connection for a moment, unless another connection waits for a thread.
After that, it returns the connection as ``gthread`` does.

Measured on ``GET /stats`` with 16 connections, in turns: keeping the connection is 1.15 times
as fast.  One write per answer instead of two, and settings that are plain attributes (gunicorn
looks them up 22 times per request), are another 1.2 times as fast.  Formatting the date for
every answer, and opening the error log for every request, took a tenth of the rest.

Connections are distributed evenly to the processes: see ``connection_balance``.

Most methods and attributes that this uses are not documented by gunicorn, and may change with
each release.  All such uses are in this file and in ``parent_process``, and ``unmet_needs``
checks each of them before the server starts.  If one is missing, the server runs with plain
``gthread`` and logs a warning.
"""

import inspect
import os
import select
import signal
import socket
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from email.utils import formatdate
from functools import lru_cache
from importlib.metadata import requires
from operator import attrgetter
from types import FrameType, SimpleNamespace
from typing import Any, ClassVar, Final, NamedTuple

import gunicorn
from gunicorn import util
from gunicorn.arbiter import Arbiter
from gunicorn.config import Config
from gunicorn.http import wsgi
from gunicorn.workers import gthread

from ledger.api.http.long_poll import LongPolls
from ledger.api.server.connection_balance import Share, Shares
from ledger.api.server.malformed_requests import answer_malformed
from ledger.database import shortages

# Programs send their next request within this time.  It also limits the wait of a new connection
# when all threads wait for a next request.
LINGER_MS: Final = 5
# A process with more connections than another accepts none for this time, but only once per
# interval, because the other processes may be stopped or busy.
STAND_BACK_S: Final = 0.05
STAND_BACK_EVERY_S: Final = 1.0
# The pause before it looks at the counts again.
_LOOK_S: Final = 0.001
# The pause while there are no descriptors for further connections, and how often that is logged.
_FULL_S: Final = 0.05
_COMPLAIN_EVERY_S: Final = 60.0
# A larger body is sent in a write of its own, rather than copied behind the headers.
_JOINED_BYTES: Final = 64 * 1024


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
    Need("worker.accept", 1),
    Need("worker.alive"),
    Need("worker.cfg.is_ssl"),
    Need("worker.cfg.settings"),
    Need("worker.handle", 1),
    Need("worker.nr_conns"),
    Need("worker.tpool"),
    Need("worker.wait_for_and_dispatch_events", 1),
    Need("thread_pool._work_queue.empty", 0),
    Need("connection.initialized"),
    Need("connection.is_http2"),
    Need("connection.parser.unreader.buf.getvalue", 0),
    Need("connection.sock"),
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
            arbiter=Arbiter,
            worker=worker,
            thread_pool=thread_pool,
            connection=connection,
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


def _misfit(unmet: Sequence[str]) -> str:
    """Return the warning about a gunicorn that does not meet these needs."""
    lines = requires("ledger-queue") or ()
    required = next((line for line in lines if line.startswith("gunicorn")), "gunicorn")
    return (
        f"gunicorn {gunicorn.__version__} lacks functions that Ledger's worker class uses "
        f"({', '.join(unmet)}): gunicorn's gthread runs instead, and takes longer for each "
        f"request; install a version that Ledger supports, {required}"
    )


class StoppableWorker(gthread.ThreadWorker):  # type: ignore[misc]  # gunicorn ships no types
    """``gthread``, with long polls that are answered as soon as the worker stops."""

    def init_signals(self) -> None:
        """Stop gracefully on SIGHUP too, which a closed terminal sends to every process.

        gunicorn's parent process replaces all workers on SIGHUP.  Its stock workers would die of
        the signal and drop the requests that they are answering.
        """
        super().init_signals()
        signal.signal(signal.SIGHUP, self.handle_exit)
        signal.siginterrupt(signal.SIGHUP, False)  # noqa: FBT003 - as gunicorn for SIGTERM

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Answer waiting requests, so that they do not delay the end."""
        LongPolls.stop()
        super().handle_exit(sig, frame)

    def handle_quit(self, sig: int, frame: FrameType | None) -> None:
        """End at once; waiting requests are answered, because Python joins their threads."""
        LongPolls.stop()
        super().handle_quit(sig, frame)


class LingeringWorker(StoppableWorker):
    """``gthread``, with threads that keep their connection for a moment.

    If the installed gunicorn does not meet the needs, creating one returns a ``StoppableWorker``.
    """

    needs: ClassVar[tuple[Need, ...]] = NEEDS
    _shares = Shares()
    _share: Share

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - gunicorn's own
        """Return a worker that the installed gunicorn can run."""
        if unmet_needs(cls.needs):
            return StoppableWorker(*args, **kwargs)
        return super().__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - gunicorn's own
        """Join the shared connection counts; gunicorn calls this in the parent process."""
        super().__init__(*args, **kwargs)
        self._share = self._shares.join(self)
        self._stood_back_s = 0.0
        self._complain_again_s = 0.0

    @classmethod
    def check_config(cls, cfg: Config, log: Any) -> None:  # noqa: ANN401 - gunicorn's own
        """Warn if plain ``gthread`` runs instead; gunicorn calls this once, when it starts."""
        super().check_config(cfg, log)
        unmet = unmet_needs(cls.needs)
        if unmet:
            log.warning("%s", _misfit(unmet))

    def accept(self, listener: socket.socket) -> None:
        """Accept a connection, or leave it to another process for a moment."""
        if self._share.is_ahead() and self._stands_back():
            time.sleep(_LOOK_S)
            return
        try:
            super().accept(listener)
        except OSError as error:
            if error.errno not in shortages.PASSING:
                raise
            # gunicorn would end the process, which can still answer its clients and so free files.
            self._complain(error)
            time.sleep(_FULL_S)

    def _complain(self, error: OSError) -> None:
        now_s = time.monotonic()
        if now_s >= self._complain_again_s:
            self._complain_again_s = now_s + _COMPLAIN_EVERY_S
            why = shortages.in_words(error, "it will retry")
            self.log.warning("cannot accept connections, will retry: %s", why)

    def _stands_back(self) -> bool:
        now_s = time.monotonic()
        if now_s - self._stood_back_s > STAND_BACK_EVERY_S:
            self._stood_back_s = now_s
        return now_s - self._stood_back_s < STAND_BACK_S

    def wait_for_and_dispatch_events(self, timeout: float) -> None:
        """Publish the number of connections, then continue as ``gthread``."""
        self._share.publish(self.nr_conns)
        super().wait_for_and_dispatch_events(timeout)

    def init_process(self) -> None:
        """Start, with settings that no longer change."""
        _settle(self.cfg)
        super().init_process()

    def handle(self, conn: Any) -> Any:  # noqa: ANN401 - gunicorn's own
        """Answer requests of *conn* until it pauses or another connection waits for a thread."""
        if not (conn.initialized or self.cfg.is_ssl):
            conn.sock = _JoinedWrites.of(conn.sock)
        again = self._answer(conn)
        while again is True and self._comes_more(conn):
            again = self._answer(conn)
        return again

    def _answer(self, conn: Any) -> Any:  # noqa: ANN401 - gunicorn's own
        again = super().handle(conn)
        if isinstance(conn.sock, _JoinedWrites):
            try:
                conn.sock.flush()
            except OSError:
                return False  # The client is gone.
        return again

    def _comes_more(self, conn: Any) -> bool:  # noqa: ANN401 - gunicorn's own
        if not self.alive or conn.is_http2 or self._others_wait():
            return False
        if conn.parser.unreader.buf.getvalue():
            return True  # The next request came with the last one.
        poll = select.poll()
        poll.register(conn.sock, select.POLLIN)
        return bool(poll.poll(LINGER_MS))

    def _others_wait(self) -> bool:
        return not self.tpool._work_queue.empty()  # noqa: SLF001 - it has no other name


class _JoinedWrites(socket.socket):
    """A connection that sends the headers of an answer together with the start of its body.

    gunicorn writes the headers alone, which wakes the client twice.  Here, they are held until
    the body or its first chunk is written.  Each further chunk is sent when it is written.
    """

    _held: bytes

    @classmethod
    def of(cls, connection: socket.socket) -> "_JoinedWrites":
        """Return *connection* as one of these; the old object must no longer be used."""
        timeout = connection.gettimeout()
        joined = cls(connection.family, connection.type, connection.proto, connection.detach())
        joined.settimeout(timeout)
        joined.start()
        return joined

    def start(self) -> None:
        """Hold the next write, which is the headers of an answer."""
        self._held, self._is_head = b"", True

    def sendall(self, data: bytes, flags: int = 0) -> None:  # type: ignore[override]  # a buffer is bytes here
        if self._is_head:
            self._held, self._is_head = data, False
        elif self._held and len(data) <= _JOINED_BYTES:
            held, self._held = self._held, b""
            super().sendall(held + data)
        else:
            self._send_held()
            super().sendall(data)

    def sendfile(self, file: Any, offset: int = 0, count: int | None = None) -> int:  # noqa: ANN401 - any file
        # socket.sendfile writes to the descriptor directly.
        self._send_held()
        return super().sendfile(file, offset, count)

    def recv(self, bufsize: int, flags: int = 0) -> bytes:
        # The client may send more only after it has received the headers.
        self._send_held()
        return super().recv(bufsize, flags)

    def flush(self) -> None:
        """Send held data at the end of an answer."""
        self._send_held()
        self._is_head = True

    def _send_held(self) -> None:
        if self._held:
            held, self._held = self._held, b""
            super().sendall(held)


def _settle(cfg: Config) -> None:
    """Make the settings plain attributes, which are faster to read than gunicorn's own."""
    vars(cfg).update({name: setting.get() for name, setting in cfg.settings.items()})
    util.http_date = _http_date
    util.write_error = answer_malformed
    wsgi.WSGIErrorsWrapper = _Errors


class _Errors:
    """The stream ``wsgi.errors``, which opens the error log at the first write."""

    def __init__(self, cfg: Config) -> None:
        self._cfg = cfg

    def write(self, text: str) -> None:
        _ErrorsWrapper(self._cfg).write(text)

    def writelines(self, lines: Iterable[str]) -> None:
        self.write("".join(lines))

    def flush(self) -> None:
        """Do nothing: every write is flushed already."""


# None, and then unused, in a gunicorn that does not meet the needs.
_ErrorsWrapper: Final[Any] = getattr(wsgi, "WSGIErrorsWrapper", None)


def _http_date(timestamp: float | None = None) -> str:
    """Return the text of ``gunicorn.util.http_date``, formatted once per second."""
    return _date_of(int(time.time() if timestamp is None else timestamp))  # noqa: TID251 - HTTP's Date is this machine's


@lru_cache(maxsize=1)
def _date_of(second: int) -> str:
    return formatdate(second, usegmt=True)

"""gunicorn's threaded worker, which spends less on each request and answers the same.

``gthread`` gives a connection back to its main thread after every request, which waits
for the next one and passes it to a thread again: two switches of threads, a pipe and
four more system calls for each.  A client that asks again at once is better served
where it is.  So a thread that has answered waits a moment for more, as long as nobody
else waits for a thread; then all is as it was.

Measured on ``GET /stats``, 16 connections, in turns: staying is 1.15 times as fast,
one write in place of two and a configuration that is not looked up 22 times a request
another 1.2 times; the date, made anew for every answer, and the way to the error log,
looked for by every request, were a tenth of the rest.

Connections are shared out evenly between the processes: see ``connection_balance``.

gunicorn documents few of the methods and attributes that this uses, and changes them from
release to release.  All such uses are in this file, and ``unmet_needs`` looks for each of
them before the server starts.  If one is missing, ``gthread`` serves as it is, and a
warning says so.
"""

import inspect
import os
import select
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
from gunicorn.app.base import BaseApplication
from gunicorn.arbiter import Arbiter
from gunicorn.config import Config
from gunicorn.http import wsgi
from gunicorn.workers import gthread

from ledger.api.http.long_poll import LongPolls
from ledger.api.server.connection_balance import Share, Shares

# A program asks again within this time; who takes longer is not in a hurry.  It bounds
# what a newcomer waits if all threads wait like this.
LINGER_MS: Final = 5
# How long a process that is ahead leaves connections to the others, and how often, for
# these may be stopped or busy; and between two looks.
STAND_BACK_S: Final = 0.05
STAND_BACK_EVERY_S: Final = 1.0
_LOOK_S: Final = 0.001
# A larger body is not copied behind its head: it is sent on its own.
_JOINED_BYTES: Final = 64 * 1024


class Need(NamedTuple):
    """Something of gunicorn's that Ledger uses and gunicorn does not document.

    Attributes:
        path: Where it is, from one of the objects that ``_installed`` gives.
        arguments: With how many arguments it is called; None if it is not called.
    """

    path: str
    arguments: int | None = None


NEEDS: Final = (
    Need("util.http_date", 1),
    Need("wsgi.WSGIErrorsWrapper", 1),
    Need("arbiter.LISTENERS"),
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
    """Return what the installed gunicorn lacks, or wants to be called in another way."""
    try:
        with _installed() as installed:
            return tuple(need.path for need in needs if not _is_met(need, installed))
    except Exception as error:  # noqa: BLE001 - another gunicorn may raise anything here
        return (f"a worker and a connection to look at: {error!r}",)


@contextmanager
def _installed() -> Iterator[SimpleNamespace]:
    """Give the objects in which needs are looked for, as they are while a server runs."""
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
    """Return what to say of a gunicorn that does not meet these needs."""
    lines = requires("ledger-queue") or ()
    required = next((line for line in lines if line.startswith("gunicorn")), "gunicorn")
    return (
        f"gunicorn {gunicorn.__version__} lacks what Ledger's worker class uses "
        f"({', '.join(unmet)}): gunicorn's gthread serves in its place, and takes longer for each "
        f"request; install the version that Ledger requires, {required}"
    )


class StoppableWorker(gthread.ThreadWorker):  # type: ignore[misc]  # gunicorn ships no types
    """``gthread``, which answers long polls at once when it has to stop."""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Answer what waits, so that it need not be waited for."""
        LongPolls.stop()
        super().handle_exit(sig, frame)

    def handle_quit(self, sig: int, frame: FrameType | None) -> None:
        """End at once; Python waits for the threads all the same."""
        LongPolls.stop()
        super().handle_quit(sig, frame)


class LingeringWorker(StoppableWorker):
    """``gthread``, with threads that stay with their connection for a moment.

    It is a ``StoppableWorker`` if the installed gunicorn does not meet its needs.
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
        """Take part in what the processes share; called in their parent."""
        super().__init__(*args, **kwargs)
        self._share = self._shares.join(self)
        self._stood_back_s = 0.0

    @classmethod
    def check_config(cls, cfg: Config, log: Any) -> None:  # noqa: ANN401 - gunicorn's own
        """Warn if ``gthread`` serves as it is; gunicorn calls this once, as it starts."""
        super().check_config(cfg, log)
        unmet = unmet_needs(cls.needs)
        if unmet:
            log.warning("%s", _misfit(unmet))

    def accept(self, listener: socket.socket) -> None:
        """Accept a connection, or leave it for the next look, or for another process."""
        if self._share.is_ahead() and self._stands_back():
            time.sleep(_LOOK_S)
        else:
            super().accept(listener)

    def _stands_back(self) -> bool:
        now_s = time.monotonic()
        if now_s - self._stood_back_s > STAND_BACK_EVERY_S:
            self._stood_back_s = now_s
        return now_s - self._stood_back_s < STAND_BACK_S

    def wait_for_and_dispatch_events(self, timeout: float) -> None:
        """Tell the others how many connections there are, and go on as ``gthread``."""
        self._share.publish(self.nr_conns)
        super().wait_for_and_dispatch_events(timeout)

    def init_process(self) -> None:
        """Start, with a configuration that is final."""
        _settle(self.cfg)
        super().init_process()

    def handle(self, conn: Any) -> Any:  # noqa: ANN401 - gunicorn's own
        """Serve requests of *conn* as long as they come, and nobody else waits."""
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
    """A connection that sends the head of an answer with what comes next of it.

    gunicorn writes the head alone, which wakes the client twice.  The body, or the first
    chunk of it, follows at once; each further chunk is sent when it is written.
    """

    _held: bytes

    @classmethod
    def of(cls, connection: socket.socket) -> "_JoinedWrites":
        """Return *connection* as one of these; the old object is closed to all use."""
        timeout = connection.gettimeout()
        joined = cls(connection.family, connection.type, connection.proto, connection.detach())
        joined.settimeout(timeout)
        joined.start()
        return joined

    def start(self) -> None:
        """Hold what is written next: it is the head of an answer."""
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
        # It writes to the connection's descriptor, past all of this.
        self._send_held()
        return super().sendfile(file, offset, count)

    def recv(self, bufsize: int, flags: int = 0) -> bytes:
        # A client may wait for the answer before it sends on.
        self._send_held()
        return super().recv(bufsize, flags)

    def flush(self) -> None:
        """Send what is held, at the end of an answer."""
        self._send_held()
        self._is_head = True

    def _send_held(self) -> None:
        if self._held:
            held, self._held = self._held, b""
            super().sendall(held)


def _settle(cfg: Config) -> None:
    """Make the settings plain attributes, which are found without being searched for."""
    vars(cfg).update({name: setting.get() for name, setting in cfg.settings.items()})
    util.http_date = _http_date
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
        """Do nothing: what was written is flushed."""


# None in a gunicorn that does not fit, and then unused.
_ErrorsWrapper: Final[Any] = getattr(wsgi, "WSGIErrorsWrapper", None)


def _http_date(timestamp: float | None = None) -> str:
    """Return what ``gunicorn.util.http_date`` does, made once a second."""
    return _date_of(int(time.time() if timestamp is None else timestamp))


@lru_cache(maxsize=1)
def _date_of(second: int) -> str:
    return formatdate(second, usegmt=True)


def run_server(application: BaseApplication) -> None:
    """Run gunicorn's parent process, ours in place of its own if it can be; does not return."""
    (Arbiter if unmet_needs() else _Arbiter)(application).run()


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

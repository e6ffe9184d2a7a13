"""Spend less on each request than gunicorn's threads do, and answer the same.

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
"""

import select
import socket
import time
from collections.abc import Iterable
from email.utils import formatdate
from functools import lru_cache
from types import FrameType
from typing import Any, Final

from gunicorn import util
from gunicorn.config import Config
from gunicorn.http import wsgi
from gunicorn.workers.gthread import TConn, ThreadWorker

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
# A larger answer is sent as it comes.
_HELD_BYTES: Final = 64 * 1024


class LingeringWorker(ThreadWorker):  # type: ignore[misc]  # gunicorn ships no types
    """Be ``gthread``, with threads that stay with their connection for a moment."""

    _shares = Shares()
    _share: Share

    def __init__(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - gunicorn's own
        """Take part in what the processes share; called in their parent."""
        super().__init__(*args, **kwargs)
        self._share = self._shares.join(self)
        self._stood_back_s = 0.0

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

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Answer what waits, so that it need not be waited for."""
        LongPolls.stop()
        super().handle_exit(sig, frame)

    def handle_quit(self, sig: int, frame: FrameType | None) -> None:
        """End at once; Python waits for the threads all the same."""
        LongPolls.stop()
        super().handle_quit(sig, frame)

    def handle(self, conn: TConn) -> Any:  # noqa: ANN401 - gunicorn's own marks
        """Serve requests of *conn* as long as they come, and nobody else waits."""
        if not (conn.initialized or self.cfg.is_ssl):
            conn.sock = _OneWrite.of(conn.sock)
        again = self._answer(conn)
        while again is True and self._comes_more(conn):
            again = self._answer(conn)
        return again

    def _answer(self, conn: TConn) -> Any:  # noqa: ANN401 - gunicorn's own marks
        again = super().handle(conn)
        if isinstance(conn.sock, _OneWrite):
            try:
                conn.sock.flush()
            except OSError:
                return False  # The client is gone.
        return again

    def _comes_more(self, conn: TConn) -> bool:
        if not self.alive or conn.is_http2 or self._others_wait():
            return False
        if conn.parser.unreader.buf.getvalue():
            return True  # The next request came with the last one.
        poll = select.poll()
        poll.register(conn.sock, select.POLLIN)
        return bool(poll.poll(LINGER_MS))

    def _others_wait(self) -> bool:
        return not self.tpool._work_queue.empty()  # noqa: SLF001 - it has no other name


class _OneWrite(socket.socket):
    """Be a connection that sends the head and the body of an answer in one call.

    gunicorn writes them one after the other, which wakes the client twice.
    """

    _held: bytes

    @classmethod
    def of(cls, connection: socket.socket) -> "_OneWrite":
        """Return *connection* as one of these; the old object is closed to all use."""
        timeout = connection.gettimeout()
        one = cls(connection.family, connection.type, connection.proto, connection.detach())
        one.settimeout(timeout)
        one._held = b""
        return one

    def sendall(self, data: bytes, flags: int = 0) -> None:  # type: ignore[override]  # a buffer is bytes here
        self._held += data
        if len(self._held) > _HELD_BYTES:
            self.flush()

    def recv(self, bufsize: int, flags: int = 0) -> bytes:
        # A client may wait for the answer before it sends on.
        self.flush()
        return super().recv(bufsize, flags)

    def flush(self) -> None:
        """Send what was written."""
        if self._held:
            held, self._held = self._held, b""
            super().sendall(held)


def _settle(cfg: Config) -> None:
    """Make the settings plain attributes, which are found without being searched for."""
    vars(cfg).update({name: setting.get() for name, setting in cfg.settings.items()})
    util.http_date = _http_date
    wsgi.WSGIErrorsWrapper = _Errors


class _Errors:
    """Be ``wsgi.errors``: look for the error log when something is written, not before."""

    def __init__(self, cfg: Config) -> None:
        self._cfg = cfg

    def write(self, text: str) -> None:
        _ErrorsWrapper(self._cfg).write(text)

    def writelines(self, lines: Iterable[str]) -> None:
        self.write("".join(lines))

    def flush(self) -> None:
        """Do nothing: what was written is flushed."""


_ErrorsWrapper: Final = wsgi.WSGIErrorsWrapper


def _http_date(timestamp: float | None = None) -> str:
    """Return what ``gunicorn.util.http_date`` does, made once a second."""
    return _date_of(int(time.time() if timestamp is None else timestamp))


@lru_cache(maxsize=1)
def _date_of(second: int) -> str:
    return formatdate(second, usegmt=True)

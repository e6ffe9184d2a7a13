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

A connection has a thread only while a whole request of it is answered; before and after that, it
waits in the main thread: see ``connection_loop``.  Connections are distributed evenly to the
processes: see ``connection_balance``.

Most methods and attributes that this uses are not documented by gunicorn: see ``gunicorn_needs``.
If one is missing, or if gunicorn is configured for anything but HTTP/1, plain ``gthread`` runs.
"""

import signal
import socket
import ssl
import time
from collections.abc import Iterable
from concurrent.futures import Future
from email.utils import formatdate
from functools import lru_cache
from types import FrameType
from typing import Any, ClassVar, Final

from gunicorn import http, sock, util
from gunicorn.config import Config
from gunicorn.http import wsgi
from gunicorn.workers import gthread

from ledger.api.http.client_limits import ClientLimits
from ledger.api.http.long_poll import LongPolls
from ledger.api.server.client_connection import Came, ClientConnection, RequestSource
from ledger.api.server.connection_balance import Share, Shares
from ledger.api.server.connection_loop import LARGEST_HELD_BYTES, ConnectionLoop, LoopLimits
from ledger.api.server.gunicorn_needs import NEEDS, Need, misfit, unmet_needs
from ledger.api.server.malformed_requests import answer_malformed
from ledger.api.server.request_arrival import ArrivalLimits
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
# The longest time between two looks for connections whose time is over.
_LATE_S: Final = 0.5
# gunicorn's limit of the request line if the setting asks for none.
_LONGEST_LINE: Final = 8190
_MOST_FIELDS: Final = 32_768


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
        cfg = kwargs.get("cfg") or args[5]
        if unmet_needs(cls.needs) or not _is_plain(cfg):
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
            log.warning("%s", misfit(unmet))
        elif not _is_plain(cfg):
            log.warning(
                "Ledger's worker class serves HTTP/1 only: gunicorn's gthread runs instead, whose "
                "threads wait for slow clients"
            )

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
            self._loop.make_room()
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

    def init_process(self) -> None:
        """Start, with settings that no longer change."""
        _settle(self.cfg)
        super().init_process()

    def load_wsgi(self) -> None:
        """Load the app, which carries what it requires of clients."""
        super().load_wsgi()
        limits: ClientLimits = getattr(self.wsgi, "client_limits", ClientLimits())
        self._arrival_limits = _arrival_limits(self.cfg, limits)
        if self.cfg.is_ssl:
            # Once, as this reads the certificate.
            self._ssl_context: ssl.SSLContext = sock.ssl_context(self.cfg)
        self._timeout_s = limits.timeout_s
        self._late_at_s = 0.0
        self._loop = ConnectionLoop(
            self.poller,
            LoopLimits(
                limits.timeout_s,
                self.cfg.keepalive,
                held_bytes=max(LARGEST_HELD_BYTES, 8 * limits.largest_body_bytes),
            ),
            submit=super().enqueue_req,
            closed=self._note_closed,
        )

    # --- in the main thread

    def wait_for_and_dispatch_events(self, timeout: float) -> None:
        """Continue as ``gthread``, and look after the connections that wait."""
        self._share.publish(self.nr_conns)
        super().wait_for_and_dispatch_events(min(timeout, _LATE_S))
        if self.nr_conns >= self.worker_connections:
            self._loop.make_room()
        if not self.alive:
            self._loop.stop()
        now_s = time.monotonic()
        if now_s >= self._late_at_s:
            self._late_at_s = now_s + _LATE_S
            self._loop.close_late()

    def enqueue_req(self, conn: Any) -> None:  # noqa: ANN401 - gunicorn's own
        """Wait for the first request of a connection that was accepted."""
        secure = self._secure if self.cfg.is_ssl else None
        client = ClientConnection(
            conn.sock, self._arrival_limits, timeout_s=self._timeout_s, secure=secure
        )
        conn.sock = client
        conn.parser = http.get_parser(self.cfg, RequestSource(client), conn.client)
        conn.initialized = True
        self._loop.begin(conn)

    def _secure(self, connection: socket.socket) -> ssl.SSLSocket:
        return self._ssl_context.wrap_socket(
            connection,
            server_side=True,
            suppress_ragged_eofs=self.cfg.suppress_ragged_eofs,
            do_handshake_on_connect=False,
        )

    def finish_request(self, conn: Any, fs: Future[Any]) -> None:  # noqa: ANN401 - gunicorn's own
        """Take a connection back from a thread."""
        failed = fs.cancelled() or fs.exception() is not None
        self._loop.resume(conn, keep=not failed and fs.result() is True)

    def _note_closed(self) -> None:
        self.nr_conns -= 1

    # --- in a thread

    def handle(self, conn: Any) -> bool:  # noqa: ANN401 - gunicorn's own
        """Answer requests of *conn* until it pauses or another connection waits for a thread."""
        keep = self._answer(conn)
        while keep and self._comes_more(conn.sock):
            keep = self._answer(conn)
        return keep

    def _answer(self, conn: Any) -> bool:  # noqa: ANN401 - gunicorn's own
        """Answer a request; return whether the connection can be used for the next one."""
        client: ClientConnection = conn.sock
        keep = super().handle(conn) is True
        try:
            client.flush()
        except OSError:
            return False  # The client is gone.
        if not keep:
            return False
        if not client.arrival.is_read or conn.parser.unreader.buf.getvalue():
            # gunicorn has found another end of the request, or did not read it to its end.
            client.arrival.is_last = True
            return False
        client.begin_next()
        return True

    def handle_request(self, req: Any, conn: Any) -> bool:  # noqa: ANN401 - gunicorn's own
        """Answer *req*; return whether the connection can be used for the next one."""
        client: ClientConnection = conn.sock
        # It was sent to the client if the client waits for it.
        req._expected_100_continue = False  # noqa: SLF001 - it has no other name
        if client.arrival.is_last:
            req.force_close()
        if not client.arrival.has_chunks:
            return super().handle_request(req, conn) is True
        reader = req.body.reader = _CheckedReader(req.body.reader)
        return super().handle_request(req, conn) is True and not reader.has_failed

    def _comes_more(self, client: ClientConnection) -> bool:
        if not self.alive or client.unsent_bytes or self._others_wait():
            return False
        if client.arrival.is_complete:
            return True  # The next request came with the last one.
        return client.comes_within(LINGER_MS) and client.receive() is Came.ALL

    def _others_wait(self) -> bool:
        return not self.tpool._work_queue.empty()  # noqa: SLF001 - it has no other name


def _is_plain(cfg: Config) -> bool:
    """Return whether clients speak HTTP/1 from their first byte on, or after TLS's handshake."""
    is_http = cfg.protocol == "http" and list(cfg.http_protocols) == ["h1"]
    return is_http and cfg.proxy_protocol == "off"


class _CheckedReader:
    """The reader of a request's body, which notes whether it has failed.

    gunicorn before 27 keeps a connection after an invalid body, although the start of the next
    request is then unknown.
    """

    def __init__(self, reader: Any) -> None:  # noqa: ANN401 - gunicorn's own
        self._reader = reader
        self.has_failed = False

    def read(self, size: int) -> bytes:
        try:
            data: bytes = self._reader.read(size)
        except Exception:
            self.has_failed = True
            raise
        return data


def _arrival_limits(cfg: Config, limits: ClientLimits) -> ArrivalLimits:
    """Return the sizes from which gunicorn refuses a request, or more."""
    line = cfg.limit_request_line or _LONGEST_LINE
    head = line + (cfg.limit_request_fields or _MOST_FIELDS) * (
        (cfg.limit_request_field_size or _LONGEST_LINE) + 2
    )
    return ArrivalLimits(line + 4, head + _LONGEST_LINE, limits.largest_body_bytes)


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

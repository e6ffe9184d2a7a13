"""A site that attacks its visitor's own machine, and records the results.

It forwards every request to the ledger, with all headers, except requests for its own pages.
For a browser a page and the API then have the same origin, as after DNS rebinding, when the
name of a site begins to resolve to 127.0.0.1.  Under any other name than the page's, the site
is the ledger with a record of its requests.
"""

import json
import threading
from email.message import Message
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final, NamedTuple, Self

from tests.integration.servers import DEADLINE_S, HOST, wait_until

PAGES: Final = Path(__file__).parent / "pages"


class Asked(NamedTuple):
    """A request that was forwarded to the ledger, with the status of its answer.

    Attributes:
        site: The request's ``Sec-Fetch-Site``.
        origin: The request's ``Origin``.
    """

    method: str
    path: str
    site: str | None
    origin: str | None
    status: int


class HostileSite:
    """The site, on its own port, under every name of this machine.

    Attributes:
        ledger_port: The ledger's port.
        asked: Forwarded requests, in the order of their answers.
    """

    def __init__(self) -> None:
        self.ledger_port = 0
        self.asked: list[Asked] = []
        self._report: Any = None
        self._server = ThreadingHTTPServer((HOST, 0), self._handler())
        self.port: int = self._server.server_port
        self._thread = threading.Thread(target=self._server.serve_forever)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def report(self) -> Any:
        """Wait until a page has tried all its attacks; return its report."""
        wait_until(lambda: self._report is not None, "the page reports")
        return self._report

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        site = self

        class Handler(BaseHTTPRequestHandler):
            def answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                page = PAGES / f"{self.path.partition('?')[0].strip('/')}.html"
                if page.is_file():
                    self.reply(200, [("Content-Type", "text/html")], page.read_bytes())
                elif self.path == "/report":
                    site._report = json.loads(body)
                    self.reply(204, [], b"")
                elif self.path == "/favicon.ico":
                    self.reply(404, [], b"")
                else:
                    self.reply(*site._pass_on(self.command, self.path, self.headers, body))

            do_GET = do_HEAD = do_OPTIONS = do_POST = do_PUT = do_DELETE = answer  # noqa: N815

            def reply(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
                self.send_response(status)
                for name, value in headers:
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """Do not log."""

        return Handler

    def _pass_on(
        self, method: str, path: str, headers: "Message[str, str]", body: bytes
    ) -> tuple[int, list[tuple[str, str]], bytes]:
        connection = HTTPConnection(HOST, self.ledger_port, timeout=DEADLINE_S)
        connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
        for name, value in headers.items():
            connection.putheader(name, value)
        connection.endheaders(body)
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        self.asked.append(
            Asked(method, path, headers["Sec-Fetch-Site"], headers["Origin"], answer.status)
        )
        return answer.status, answer.getheaders(), content

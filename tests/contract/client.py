"""A client that calls the app as a server does: with the raw target, and WSGI's validator."""

import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple
from urllib.parse import unquote_to_bytes
from wsgiref.validate import WSGIWarning

from falcon import testing

from ledger.api.app import App, create_app
from ledger.api.http.long_poll import LongPolls
from ledger.database.answer_bytes import ANSWER_BYTES
from ledger.log import store
from ledger.processes.composition import System

JSON_TYPE = "application/json; charset=utf-8"
LARGEST_BODY_BYTES = 1024 * 1024
LARGEST_PAGE = 10_000
LEASE_MS = 30_000
MOST_WAITING = 8
HOST = "127.0.0.1"
PORT = 3000


class Answer(NamedTuple):
    """An answer of the app; the names of *headers* are in lower case."""

    status: int
    headers: Mapping[str, str]
    content: bytes

    @property
    def media_type(self) -> str | None:
        return self.headers.get("content-type")

    @property
    def json(self) -> Any:
        return json.loads(self.content)


class Client:
    """A client of the app on one system."""

    def __init__(
        self,
        system: System,
        *,
        largest_body_bytes: int = LARGEST_BODY_BYTES,
        largest_page: int = LARGEST_PAGE,
        answer_bytes: int = ANSWER_BYTES,
        hosts: Sequence[str] = (),
        cors_origins: Sequence[str] = (),
        kue_lenient: bool = False,
        most_waiting: int = MOST_WAITING,
    ) -> None:
        self.system = system
        self.app: App = create_app(
            system.ledger,
            system.read_models,
            system.jobs,
            system.state_counts,
            system.activity,
            system.search,
            system.lags,
            LongPolls(system.commit_notifier, most=most_waiting, most_searches=most_waiting),
            lease_ms=LEASE_MS,
            largest_body_bytes=largest_body_bytes,
            largest_page=largest_page,
            answer_bytes=answer_bytes,
            hosts=hosts,
            cors_origins=tuple(cors_origins),
            kue_lenient=kue_lenient,
        )

    @property
    def tag(self) -> str:
        """Return the ETag of the ledger's newest version, computed without the API's help."""
        with self.system.database.read() as connection:
            head = store.read_head(connection)
        return f'W/"{head.position}-{head.chain.hex()[:16]}"'

    @property
    def position(self) -> int:
        """Return the ledger's position."""
        with self.system.database.read() as connection:
            return store.read_position(connection)

    @property
    def newest(self) -> int:
        """Return the id of the job that was created last, even if it was removed."""
        with self.system.database.read() as connection:
            return store.read_head(connection).last_job_id

    def ask(self, method: str, target: str, body: bytes | str = b"", /, **headers: str) -> Answer:
        """Send a request; ``X_Request_ID="7"`` is the header ``X-Request-ID``."""
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.send(method, target, body, names)

    def send(
        self,
        method: str,
        target: str,
        body: bytes | str = b"",
        headers: Mapping[str, str] | None = None,
        *,
        chunked: bool = False,
        http_version: str = "1.1",
    ) -> Answer:
        """Send a request.

        Args:
            method: The method, as on the wire.
            target: The target, as on the wire: it is not decoded, encoded or checked.
            body: Sent with a Content-Length, unless *chunked*.
            headers: Headers by name; without Host among them, Host is ``127.0.0.1:3000``.
            chunked: Whether to send the body with ``Transfer-Encoding: chunked``.
            http_version: With 1.0, Host is sent only if it is among *headers*.
        """
        path, _, query = target.partition("?")
        if "://" in path:
            path = "/" + path.partition("://")[2].partition("/")[2]
        raw = body.encode() if isinstance(body, str) else body
        extras = {
            "RAW_URI": target,
            "PATH_INFO": unquote_to_bytes(path.encode("latin-1")).decode("latin-1"),
            "QUERY_STRING": query,
        }
        if chunked:
            extras |= {"HTTP_TRANSFER_ENCODING": "chunked", "CONTENT_LENGTH": ""}
        with warnings.catch_warnings():
            # wsgiref knows fewer methods than HTTP has.
            warnings.simplefilter("ignore", WSGIWarning)
            result = testing.simulate_request(
                self.app,
                method,
                "/",
                headers=dict(headers or {}),
                body=raw,
                extras=extras,
                host=HOST,
                port=PORT,
                http_version=http_version,
            )
        lowered = {name.lower(): value for name, value in result.headers.items()}
        return Answer(result.status_code, lowered, result.content)

    def post(self, body: Any, target: str = "/job", /, **headers: str) -> Answer:
        """POST *body*: JSON text, or a value to encode as JSON."""
        text = body if isinstance(body, bytes | str) else json.dumps(body, ensure_ascii=False)
        return self.ask("POST", target, text, **{"Content_Type": "application/json"} | headers)

    def get(self, target: str, /, **headers: str) -> Answer:
        return self.ask("GET", target, **headers)

    def put(self, target: str, /, **headers: str) -> Answer:
        return self.ask("PUT", target, **headers)

    def delete(self, target: str, /, **headers: str) -> Answer:
        return self.ask("DELETE", target, **headers)

    @contextmanager
    def unchanged(self) -> Iterator[None]:
        """Require that the block records no events."""
        before = self.position
        yield
        after = self.position
        assert after == before, f"position moved from {before} to {after}"

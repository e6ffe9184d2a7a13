"""Answers in JSON to requests that are not valid HTTP; gunicorn's own answers are HTML."""

from typing import Final, Protocol

from ledger.api.http.errors import JSON_TYPE
from ledger.api.http.json_out import encode

_TEXTS: Final = {
    400: "the request is not valid HTTP: {}",
    414: "the request line is too long: {}",
    431: "the request has too many headers, or too long ones: {}",
    500: "internal error; the server's log has the details",
}
# Long enough to recognise the part of the request that is wrong.
_LONGEST_SHOWN: Final = 200


class Connection(Protocol):
    """What is needed of a connection."""

    def sendall(self, data: bytes, /) -> None:
        """Send *data*."""

    def gettimeout(self) -> float | None:
        """Return how long a write may wait."""

    def settimeout(self, value: float | None, /) -> None:
        """Set how long a write may wait."""


def answer_malformed(connection: Connection, status: int, reason: str, detail: str) -> None:
    """Answer a request that gunicorn could not read, as ``gunicorn.util.write_error``.

    Args:
        connection: Where the request came from; gunicorn closes it.
        status: The HTTP status.
        reason: Its name.
        detail: What is wrong, in gunicorn's words.
    """
    text = _TEXTS.get(status, f"{reason}: {{}}").format(detail[:_LONGEST_SHOWN])
    body = encode({"error": text})
    head = (
        f"HTTP/1.1 {status} {reason}\r\n"
        "Connection: close\r\n"
        f"Content-Type: {JSON_TYPE}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    timeout_s = connection.gettimeout()
    # A client that reads nothing must not keep the thread.
    connection.settimeout(0)
    try:
        connection.sendall(head.encode("latin-1") + body)
    finally:
        connection.settimeout(timeout_s)

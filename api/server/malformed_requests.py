"""Answers in JSON to requests that no app has seen; gunicorn's own answers are HTML."""

from typing import Final, Protocol

from ledger.api.http.errors import JSON_TYPE
from ledger.api.http.json_out import encode

_TEXTS: Final = {
    400: "the request is not valid HTTP: {}",
    408: "the request has not come in time; send it again, or raise LEDGER_CLIENT_TIMEOUT_MS",
    414: "the request line is too long: {}",
    431: "the request has too many headers, or too long ones: {}",
    500: "internal error; the server's log has the details",
    503: "the server has too many unfinished requests; try again",
}
_RETRY_S: Final = 1
# Long enough to recognise the part of the request that is wrong.
_LONGEST_SHOWN: Final = 200


class Connection(Protocol):
    """What is needed of a connection."""

    def sendall(self, data: bytes, /) -> None:
        """Send *data*."""


def answer_malformed(connection: Connection, status: int, reason: str, detail: str) -> None:
    """Answer a request that could not be read, as ``gunicorn.util.write_error``.

    Args:
        connection: Where the request came from; the caller closes it.
        status: The HTTP status.
        reason: Its name.
        detail: What is wrong, in gunicorn's words.
    """
    text = _TEXTS.get(status, f"{reason}: {{}}").format(detail[:_LONGEST_SHOWN])
    body = encode({"error": text})
    retry = f"Retry-After: {_RETRY_S}\r\n" if status == 503 else ""  # noqa: PLR2004 - HTTP's
    head = (
        f"HTTP/1.1 {status} {reason}\r\n"
        "Connection: close\r\n"
        f"{retry}"
        f"Content-Type: {JSON_TYPE}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    connection.sendall(head.encode("latin-1") + body)

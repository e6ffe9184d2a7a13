"""A WSGI application that streams its answers, for gunicorn to serve.

``/stream`` sends a chunk, and the next one only after a request for ``/next``, so a client
that had to wait for the whole answer would wait for ever.
"""

import threading
from collections.abc import Callable, Iterator
from typing import Any, Final

CHUNKS: Final = (b"one", b"two", b"three")

_asked = threading.Semaphore(0)


def app(
    environ: dict[str, Any], start_response: Callable[[str, list[tuple[str, str]]], Any]
) -> Iterator[bytes]:
    """Answer ``/stream``, ``/known`` (the same with Content-Length), ``/next`` and other paths."""
    path = environ["PATH_INFO"]
    headers = [("Content-Type", "text/plain")]
    if path == "/known":
        headers.append(("Content-Length", str(len(b"".join(CHUNKS)))))
    start_response("200 OK", headers)
    if path in {"/stream", "/known"}:
        return _stream()
    if path == "/next":
        _asked.release()
    return iter([b"1"])


def _stream() -> Iterator[bytes]:
    for number, chunk in enumerate(CHUNKS):
        if number:
            _asked.acquire()
        yield chunk

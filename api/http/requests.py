"""Requests: content negotiation, the cause, and the bytes of bodies."""

import codecs
import zlib
from typing import Final

import falcon

from ledger.database import shortages
from ledger.errors import InvalidInput

JSON: Final = "application/json"
# The actor of every request, because there is no authentication yet.
ACTOR: Final = "anonymous"
LONGEST_REQUEST_ID: Final = 200

_CHARSETS: Final = ("utf-8", "utf-16", "utf-16-le", "utf-16-be", "utf-32")
_WINDOW_BITS: Final = {"gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}


class Negotiation:
    """The middleware that refuses clients that do not accept JSON."""

    def process_request(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Answer 406 where ``Accept`` excludes JSON."""
        accept = req.env.get("HTTP_ACCEPT")
        if not accept or accept == "*/*":
            return
        req.env["HTTP_ACCEPT"] = accept.lower()
        if not req.client_accepts(JSON):
            raise falcon.HTTPNotAcceptable(
                description=f"this API answers {JSON} only, got Accept: {accept}"
            )


def cause(req: falcon.Request) -> str | None:
    """Return the cause that the ledger records for the request, or None if it names none."""
    given = req.get_header("X-Request-ID")
    if not given:
        return None
    printable = "".join(c for c in given if c.isprintable())[:LONGEST_REQUEST_ID]
    return f"request {printable}"


def body(req: falcon.Request, largest_bytes: int) -> bytes:
    """Return the request's JSON in UTF-8; empty if it has no body.

    Raises:
        falcon.HTTPContentTooLarge: It is larger than *largest_bytes*.
        falcon.HTTPUnsupportedMediaType: Its content type is not JSON, or its charset or its
            encoding is not supported.
        InvalidInput: It is not encoded as its headers state, or the client has left.
    """
    length = req.content_length
    if length is None and "HTTP_TRANSFER_ENCODING" not in req.env:
        return b""
    if length is not None and length > largest_bytes:
        raise _too_large(largest_bytes)
    raw = _read(req, largest_bytes + 1 if length is None else length)
    if not raw:
        return b""
    if len(raw) > largest_bytes:
        raise _too_large(largest_bytes)
    charset = _charset(req.content_type or "")
    encoding = (req.get_header("Content-Encoding") or "identity").lower()
    if encoding != "identity":
        raw = _inflated(raw, encoding, largest_bytes)
    return _in_utf8(raw, charset)


def _read(req: falcon.Request, most: int) -> bytes:
    try:
        raw: bytes = req.stream.read(most)
    except MemoryError:
        raise
    except Exception as error:
        # Each WSGI server has errors of its own for chunks that are invalid or do not arrive.
        if isinstance(error, OSError) and error.errno in shortages.PASSING:
            raise
        raise InvalidInput("body", f"body: cannot be read: {error}") from error
    return raw


def _too_large(largest_bytes: int) -> falcon.HTTPError:
    return falcon.HTTPContentTooLarge(
        description=f"body: expected at most {largest_bytes} bytes; send it in several "
        "requests, or raise LEDGER_LARGEST_BODY_BYTES"
    )


def _charset(content_type: str) -> str:
    """Return the charset of a JSON content type."""
    media_type, options = falcon.parse_header(content_type)
    if media_type.lower() != JSON:
        raise falcon.HTTPUnsupportedMediaType(
            description=f"Content-Type: expected {JSON}, got {content_type or 'none'!r}"
        )
    charset = options.get("charset", "utf-8")
    try:
        name = codecs.lookup(charset).name
    except LookupError:
        name = ""
    if name not in _CHARSETS:
        raise falcon.HTTPUnsupportedMediaType(
            description=f"charset: expected utf-8, utf-16 or utf-32, got {charset!r}"
        )
    return name


def _inflated(raw: bytes, encoding: str, largest_bytes: int) -> bytes:
    if encoding not in _WINDOW_BITS:
        raise falcon.HTTPUnsupportedMediaType(
            description=f"Content-Encoding: expected gzip or deflate, got {encoding!r}"
        )
    inflater = zlib.decompressobj(_WINDOW_BITS[encoding])
    try:
        inflated = inflater.decompress(raw, largest_bytes + 1)
    except zlib.error as error:
        raise InvalidInput("body", f"body: expected {encoding}, got: {error}") from error
    if len(inflated) > largest_bytes:
        raise _too_large(largest_bytes)
    if not inflater.eof:
        raise InvalidInput("body", f"body: expected {encoding}, got only its beginning")
    return inflated


def _in_utf8(raw: bytes, charset: str) -> bytes:
    if charset == "utf-8":
        return raw.removeprefix(codecs.BOM_UTF8)
    try:
        return raw.decode(charset).encode()
    except UnicodeError as error:
        raise InvalidInput("body", f"body: expected {charset}, got: {error}") from error

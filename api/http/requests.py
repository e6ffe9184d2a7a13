"""Requests: content negotiation, bodies, and the jobs in them."""

import codecs
import re
import zlib
from typing import Any, Final

import falcon
import msgspec
from msgspec.structs import replace

from ledger.errors import InvalidInput, JobNotFound
from ledger.queue.kue_options import create_command
from ledger.rules import json_text
from ledger.rules.commands import LARGEST_INTEGER, LONGEST_KEY, Create

JSON: Final = "application/json"
# The actor of every request, because there is no authentication yet.
ACTOR: Final = "anonymous"
LONGEST_REQUEST_ID: Final = 200

_NOTHING: Final = re.compile(rb"\s*(\{\s*\}|\[\s*\])\s*")
_JOB_ID: Final = re.compile(r"[1-9][0-9]{0,18}", re.ASCII)
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


def job_id(text: str) -> int:
    """Return *text* as a job's id.

    Raises:
        JobNotFound: It is not a positive decimal number, or too large, so no job has it.
    """
    if not _JOB_ID.fullmatch(text) or int(text) > LARGEST_INTEGER:
        raise JobNotFound(text)
    return int(text)


def cause(req: falcon.Request) -> str | None:
    """Return the cause that the ledger records for the request, or None if it names none."""
    given = req.get_header("X-Request-ID")
    if not given:
        return None
    shown = "".join(c for c in given if c.isprintable())[:LONGEST_REQUEST_ID]
    return f"request {shown}"


def idempotency_key(req: falcon.Request) -> str | None:
    """Return the request's ``Idempotency-Key``, or None if it has none.

    Raises:
        InvalidInput: It is empty, longer than 240 characters, or not printable ASCII.
    """
    key = req.get_header("Idempotency-Key")
    if key is not None and not (_KEY.fullmatch(key)):
        raise InvalidInput.expected(
            "Idempotency-Key", f"1 to {_LONGEST_GIVEN_KEY} printable ASCII characters", key
        )
    return key


# The rest is for the index in an array: "[12345]".
_LONGEST_GIVEN_KEY: Final = LONGEST_KEY - 15
_KEY: Final = re.compile(rf"[!-~](?:[ -~]{{0,{_LONGEST_GIVEN_KEY - 2}}}[!-~])?")


def flag(req: falcon.Request, name: str) -> bool:
    """Return whether the query parameter *name* is ``true``.

    Raises:
        InvalidInput: It is neither ``true`` nor ``false``.
    """
    value = req.params.get(name, "false")
    if value not in ("true", "false"):  # a list, if it was given twice
        raise InvalidInput.expected(name, "true or false", value)
    return value == "true"


def natural(req: falcon.Request, name: str, *, default: int) -> int:
    """Return the query parameter *name*, a whole number from 0 on.

    Raises:
        InvalidInput: It is not such a number.
    """
    value = req.params.get(name)
    if value is None:
        return default
    if not isinstance(value, str) or not _NATURAL.fullmatch(value):
        raise InvalidInput.expected(name, "a whole number", value)
    return int(value)


_NATURAL: Final = re.compile(r"[0-9]{1,15}", re.ASCII)


def body(req: falcon.Request, largest_bytes: int) -> bytes:
    """Return the request's JSON in UTF-8; empty if it has no body.

    Raises:
        falcon.HTTPContentTooLarge: It is larger than *largest_bytes*.
        falcon.HTTPUnsupportedMediaType: Its content type is not JSON, or its charset or its
            encoding is not supported.
        InvalidInput: It is not encoded as its headers state.
    """
    length = req.content_length
    if length is None and "HTTP_TRANSFER_ENCODING" not in req.env:
        return b""
    if length is not None and length > largest_bytes:
        raise _too_large(largest_bytes)
    raw: bytes = req.stream.read(largest_bytes + 1 if length is None else length)
    if not raw:
        return b""
    if len(raw) > largest_bytes:
        raise _too_large(largest_bytes)
    charset = _charset(req.content_type or "")
    encoding = (req.get_header("Content-Encoding") or "identity").lower()
    if encoding != "identity":
        raw = _inflated(raw, encoding, largest_bytes)
    return _in_utf8(raw, charset)


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


class _Posted(msgspec.Struct):
    """A job as it is posted; fields that Kue ignores are ignored."""

    type: Any = None
    data: msgspec.Raw = msgspec.Raw(b"{}")
    options: Any = None


_decode_array = msgspec.json.Decoder(list[msgspec.Raw]).decode
_decode_posted = msgspec.json.Decoder(_Posted).decode


def posted(raw: bytes, key: str | None) -> Create | list[Create | InvalidInput] | None:
    """Return the job, or the jobs, that a body asks for.

    Args:
        raw: JSON in UTF-8.
        key: The request's idempotency key; a job's own ``unique`` takes precedence.

    Returns:
        One command for an object; a command or an error for each item of an array; None if
        nothing is asked for: no body, ``{}``, ``[]``.

    Raises:
        InvalidInput: The body is not JSON, or neither an object nor an array, or its one job
            is malformed.
    """
    if not raw or _NOTHING.fullmatch(raw):
        return None
    stripped = raw.lstrip()
    if stripped.startswith(b"["):
        items = decoded(_decode_array, raw)
        return [_one(bytes(item), key and f"{key}[{i}]") for i, item in enumerate(items)]
    if not stripped.startswith(b"{"):
        json_text.parse("body", raw)
        raise InvalidInput("body", "body: expected a job, or an array of jobs")
    command = _one(raw, key)
    if isinstance(command, InvalidInput):
        raise command
    return command


def _one(raw: bytes, key: str | None) -> Create | InvalidInput:
    try:
        if not raw.lstrip().startswith(b"{"):
            json_text.parse("body", raw)
            raise InvalidInput("type", "Must provide job type")  # noqa: TRY301 - one way out
        item = decoded(_decode_posted, raw)
        data = json_text.text("data", bytes(item.data))
        command = create_command(item.type, "{}" if data == "null" else data, item.options)
        if key is not None and command.unique is None:
            return replace(command, unique=key)
    except InvalidInput as error:
        return error
    return command


def decoded(decode: Any, raw: bytes) -> Any:  # noqa: ANN401 - msgspec's decoders
    """Return a body decoded by *decode*.

    Raises:
        InvalidInput: It is not JSON, or not of the decoder's type.
    """
    try:
        return decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidInput("body", f"body: expected JSON, got: {error}") from error

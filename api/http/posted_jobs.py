"""The jobs of ``POST /job``: one, an array of jobs, or none."""

import re
from collections.abc import Callable
from typing import Final

import msgspec

from ledger.api.http.bodies import LenientlyPostedJob, PostedJob
from ledger.api.http.json_body import decode_object, decoded
from ledger.errors import InvalidInput
from ledger.queue.kue_options import as_given, create_command
from ledger.rules import json_text
from ledger.rules.commands import Create

# A command for one job; a command or an error for each job of an array; None for no job.
Asked = Create | list[Create | InvalidInput] | None

# They are created in one transaction, and all other writers wait for about a tenth of a second.
MOST_POSTED: Final = 1_000

_NO_TYPE: Final = "Must provide job type"
_NOTHING: Final = re.compile(rb"\s*(\{\s*\}|\[\s*\])\s*")
_FIELDS: Final = PostedJob.__struct_fields__
_decode_array = msgspec.json.Decoder(list[msgspec.Raw]).decode
_decode_posted = msgspec.json.Decoder(PostedJob).decode
_decode_leniently = msgspec.json.Decoder(LenientlyPostedJob).decode


def read_jobs(raw: bytes) -> Asked:
    """Return the commands that create the jobs of a body.

    Args:
        raw: JSON in UTF-8.

    Returns:
        One command for an object; a command or an error for each item of an array; None for no
        body, ``{}`` and ``[]``.

    Raises:
        InvalidInput: The body is not JSON, it is neither an object nor an array, its only job is
            invalid, or it has more than ``MOST_POSTED`` jobs.
    """
    return _read(raw, _command)


def read_jobs_leniently(raw: bytes) -> Asked:
    """Return the commands as ``read_jobs``, but ignore unknown fields and options, as Kue does.

    Raises:
        InvalidInput: As ``read_jobs``.
    """
    return _read(raw, _lenient_command)


def _read(raw: bytes, command_of: Callable[[bytes], Create]) -> Asked:
    if not raw or _NOTHING.fullmatch(raw):
        return None
    stripped = raw.lstrip()
    if stripped.startswith(b"["):
        items = decoded(_decode_array, raw)
        if len(items) > MOST_POSTED:
            raise InvalidInput(
                "body",
                f"body: expected an array of at most {MOST_POSTED:,} jobs, got {len(items):,}; "
                "send them in several requests",
            )
        return [_command_or_error(bytes(item), command_of) for item in items]
    if not stripped.startswith(b"{"):
        json_text.parse("body", raw)
        raise InvalidInput("body", "body: expected a job, or an array of jobs")
    return command_of(raw)


def _command_or_error(raw: bytes, command_of: Callable[[bytes], Create]) -> Create | InvalidInput:
    try:
        _require_object(raw)
        return command_of(raw)
    except InvalidInput as error:
        return error


def _command(raw: bytes) -> Create:
    try:
        job = _decode_posted(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        _require_known_fields(raw)
        job = decoded(_decode_posted, raw)
    return _command_of(job, lenient=False)


def _lenient_command(raw: bytes) -> Create:
    return _command_of(decoded(_decode_leniently, raw), lenient=True)


def _command_of(job: PostedJob, *, lenient: bool) -> Create:
    data = json_text.text("data", bytes(job.data))
    options = as_given(job.options, lenient=lenient) if job.options is not None else None
    return create_command(job.type, "{}" if data == "null" else data, options)


def _require_object(raw: bytes) -> None:
    if not raw.lstrip().startswith(b"{"):
        json_text.parse("body", raw)
        raise InvalidInput("type", _NO_TYPE)


def _require_known_fields(raw: bytes) -> None:
    """Refuse a job with an unknown field; in Kue's words if its type is missing as well."""
    given = decoded(decode_object, raw)
    for name in given:
        if name not in _FIELDS:
            unknown = InvalidInput.unknown("field", name, _FIELDS)
            if "type" in given:
                raise unknown
            raise InvalidInput("type", f"{_NO_TYPE}; {unknown}")

"""The jobs of ``POST /job``: one, an array of jobs, or none."""

import re
from typing import Final

import msgspec

from ledger.api.http.bodies import PostedJob
from ledger.api.http.json_body import decoded
from ledger.errors import InvalidInput
from ledger.queue.kue_options import create_command
from ledger.rules import json_text
from ledger.rules.commands import Create

# A command for one job; a command or an error for each job of an array; None for no job.
Asked = Create | list[Create | InvalidInput] | None

_NOTHING: Final = re.compile(rb"\s*(\{\s*\}|\[\s*\])\s*")
_decode_array = msgspec.json.Decoder(list[msgspec.Raw]).decode
_decode_posted = msgspec.json.Decoder(PostedJob).decode


def read_jobs(raw: bytes) -> Asked:
    """Return the commands that create the jobs of a body.

    Args:
        raw: JSON in UTF-8.

    Returns:
        One command for an object; a command or an error for each item of an array; None for no
        body, ``{}`` and ``[]``.

    Raises:
        InvalidInput: The body is not JSON, it is neither an object nor an array, or its only
            job is invalid.
    """
    if not raw or _NOTHING.fullmatch(raw):
        return None
    stripped = raw.lstrip()
    if stripped.startswith(b"["):
        return [_command_or_error(bytes(item)) for item in decoded(_decode_array, raw)]
    if not stripped.startswith(b"{"):
        json_text.parse("body", raw)
        raise InvalidInput("body", "body: expected a job, or an array of jobs")
    return _command(raw)


def _command_or_error(raw: bytes) -> Create | InvalidInput:
    try:
        return _command(raw)
    except InvalidInput as error:
        return error


def _command(raw: bytes) -> Create:
    if not raw.lstrip().startswith(b"{"):
        json_text.parse("body", raw)
        raise InvalidInput("type", "Must provide job type")
    job = decoded(_decode_posted, raw)
    data = json_text.text("data", bytes(job.data))
    return create_command(job.type, "{}" if data == "null" else data, job.options)

"""The recorded answers of Kue 0.11.6, and the app's answers to the same requests.

``transcripts.jsonl`` contains one recorded request with Kue's answer per line, in sections,
each of which began with an empty store.  It does not contain the text of HTML pages, the
names of the machine on which it was recorded, and records that show only search.
"""

import base64
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final, NamedTuple

from ledger.processes.composition import System
from ledger.rules.commands import Create, Remove
from tests.builders import Clock
from tests.contract.client import Client
from tests.contract.stage import PREPARED, Stage

RECORDINGS: Final = Path(__file__).parent / "transcripts.jsonl"

# Times and durations differ between runs, but are always text.
_TIMES: Final = frozenset(
    {"created_at", "promote_at", "updated_at", "failed_at", "started_at", "duration"}
)
_STEP_MS: Final = 50


class Said(NamedTuple):
    """The part of an answer on which two servers can agree.

    Attributes:
        body: The JSON value with times and names of workers masked; text if it is not JSON;
            None if there is no body.
    """

    status: int
    media_type: str | None
    body: Any


@dataclass(frozen=True, kw_only=True)
class Record:
    """A recorded request and Kue's answer."""

    number: int
    section: str
    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes
    kue: Said


@cache
def records() -> tuple[Record, ...]:
    """Return all records in order."""
    with RECORDINGS.open(encoding="utf-8") as lines:
        return tuple(_record(json.loads(line)) for line in lines)


def _record(line: dict[str, Any]) -> Record:
    request, response = line["request"], line["response"]
    media_type = response["headers"].get("content-type")
    text = response["body"]
    is_json = bool(text) and media_type is not None and "json" in media_type
    body = json.loads(text) if is_json else text or None
    return Record(
        number=line["seq"],
        section=line["section"],
        method=request["method"],
        target=request["path"],
        headers=request["headers"],
        body=_sent(request),
        kue=Said(response["status"], media_type, comparable(body)),
    )


def _sent(request: dict[str, Any]) -> bytes:
    if "body_base64" in request:
        return base64.b64decode(request["body_base64"])
    if "body_parts" in request:
        return "".join(part * times for part, times in request["body_parts"]).encode()
    return (request["body"] or "").encode()


def comparable(body: Any) -> Any:
    """Return a JSON value with the parts masked that differ between runs."""
    if isinstance(body, list):
        return [comparable(item) for item in body]
    if isinstance(body, dict):
        return {key: _blotted(key, value) for key, value in body.items()}
    return body


def _blotted(key: str, value: Any) -> Any:
    if key in _TIMES and isinstance(value, str) and value.isdecimal():
        return "milliseconds"
    if key == "workerId" and isinstance(value, str):
        return "a worker"
    if key == "workTime" and isinstance(value, int):
        return "a number"
    return comparable(value)


def replay(section: str, system: System) -> Iterator[tuple[Record, Said]]:
    """Send the requests of *section* to the app on an empty ledger; yield its answers."""
    clock = Clock()
    system.ledger.clock = clock
    stage = Stage(system, clock)
    client = Client(system)
    for record in records():
        if record.section != section:
            continue
        clock.now_ms += _STEP_MS
        prepare = PREPARED.get(record.number)
        if prepare is not None:
            prepare(stage)
        answer = client.send(record.method, record.target, record.body, record.headers)
        body = comparable(answer.json) if answer.content else None
        yield record, Said(answer.status, answer.media_type, body)
        for _ in range(len(_created(record.kue.body)) - len(_created(body))):
            _skip_an_id(system)


def _created(body: Any) -> list[int]:
    """Return the ids of the created jobs in an answer."""
    items = body if isinstance(body, list) else [body]
    return [
        item["id"] for item in items if isinstance(item, dict) and item.keys() == {"message", "id"}
    ]


def _skip_an_id(system: System) -> None:
    """Use up the id that Kue assigned to a job that we refuse, so that later ids agree."""
    skipped = system.ledger.execute(Create(type="skipped"), actor="test").job_id
    system.ledger.execute(Remove(job_id=skipped), actor="test")

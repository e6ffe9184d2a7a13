"""Every shape an event ever had is read, and written as it was."""

from typing import Any

import pytest
from msgspec.structs import fields

from ledger.errors import Corrupt
from ledger.log import codec
from ledger.rules.events import EVENTS, Completed, Created, Event, Started
from tests.unit.samples import SAMPLES, Sample


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: f"{sample.kind} {sample.body}")
def test_a_stored_body_is_read_as_its_event(sample: Sample) -> None:
    event = codec.decode(sample.kind, sample.schema, sample.body)

    assert (type(event), event) == (type(sample.event), sample.event)


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: f"{sample.kind} {sample.body}")
def test_an_event_is_written_byte_for_byte_as_ever(sample: Sample) -> None:
    assert codec.encode(sample.event) == sample.body


def test_every_kind_and_schema_has_a_sample_that_is_frozen() -> None:
    present = {(event.kind, event.schema) for event in EVENTS}
    past = set(codec.UPCASTERS)

    assert {(sample.kind, sample.schema) for sample in SAMPLES} == present | past


def test_the_names_that_are_stored_are_these() -> None:
    assert [event.kind for event in EVENTS] == [
        "created",
        "started",
        "progressed",
        "logged",
        "completed",
        "failed",
        "removed",
        "promoted",
        "moved",
        "reprioritized",
        "erased",
        "returned",
        "paused",
        "resumed",
    ]


def test_content_is_no_part_of_the_body() -> None:
    assert codec.encode(Completed(attempt=1, content='{"secret": 1}')) == '{"attempt":1}'


def test_fields_that_this_version_does_not_know_are_left_alone() -> None:
    body = '{"attempt":1,"tenant":{"id":7},"worker":"w"}'

    assert codec.decode("started", 1, body) == Started(attempt=1, worker="w")


def test_an_older_schema_is_brought_up_step_by_step() -> None:
    def named(body: dict[str, Any]) -> dict[str, Any]:
        return {"type": body["name"], "urgency": body["urgency"]}

    def ranked(body: dict[str, Any]) -> dict[str, Any]:
        return {"type": body["type"], "priority": -body["urgency"]}

    upcasters = {("created", -1): named, ("created", 0): ranked}

    event = codec.decode("created", -1, '{"name":"email","urgency":10}', upcasters=upcasters)

    assert event == Created(type="email", priority=-10)


def test_an_upcaster_that_makes_no_event_stops_the_reader() -> None:
    with pytest.raises(Corrupt, match="the body of a 'created' event cannot be read"):
        codec.decode("created", 0, "{}", upcasters={("created", 0): lambda _: {"type": 7}})


@pytest.mark.parametrize(
    ("kind", "schema", "body", "text"),
    [
        (
            "teleported",
            1,
            "{}",
            "unknown kind of event 'teleported'; it was written by a newer version: upgrade",
        ),
        (
            "created",
            2,
            '{"type":"email"}',
            "unknown schema 2 of 'created'; this version knows up to 1: upgrade",
        ),
        (
            "created",
            0,
            '{"type":"email"}',
            "unknown schema 0 of 'created'; this version knows up to 1: upgrade",
        ),
    ],
)
def test_what_this_version_does_not_know_stops_the_reader(
    kind: str, schema: int, body: str, text: str
) -> None:
    with pytest.raises(Corrupt) as stop:
        codec.decode(kind, schema, body)

    assert str(stop.value) == text


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("created", "{}"),
        ("created", '{"type":7}'),
        ("created", '{"type":"email"'),
        ("created", '["email"]'),
        ("created", ""),
        ("started", '{"attempt":"1"}'),
        ("failed", '{"attempt":1,"next":"asleep"}'),
        ("failed", '{"attempt":1,"next":"failed","reason":"bored"}'),
        ("returned", '{"attempt":1}'),
        ("paused", "{}"),
        ("moved", '{"to":"removed"}'),
    ],
)
def test_a_body_that_is_not_its_events_stops_the_reader(kind: str, body: str) -> None:
    with pytest.raises(Corrupt, match=f"^the body of a '{kind}' event cannot be read: "):
        codec.decode(kind, 1, body)


@pytest.mark.parametrize("event", EVENTS)
def test_a_field_that_was_added_has_a_default(event: type[Event]) -> None:
    """Without one, the bodies that were written before it could not be read."""
    required: dict[str, set[str]] = {
        "created": {"type"},
        "started": {"attempt"},
        "progressed": {"attempt", "progress"},
        "logged": {"attempt"},
        "completed": {"attempt"},
        "failed": {"attempt", "next"},
        "removed": set(),
        "promoted": set(),
        "moved": {"to"},
        "reprioritized": {"priority"},
        "erased": set(),
        "returned": {"attempt", "reason"},
        "paused": {"type"},
        "resumed": {"type"},
    }

    assert {each.name for each in fields(event) if each.required} == required[event.kind]

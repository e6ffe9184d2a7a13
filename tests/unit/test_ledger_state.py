"""The rules of the ledger itself, against a table that is written out a second time."""

import pytest

from ledger.errors import Corrupt
from ledger.rules import events
from ledger.rules.commands import OnLedger, Pause, Resume
from ledger.rules.events import LedgerEvent
from ledger.rules.ledger_state import (
    INITIAL,
    TRANSITIONS,
    Entry,
    EntryState,
    Key,
    decide,
    evolve,
    initial,
    key_of,
)
from tests.builders import PERMITTED_OF_LEDGER, START_MS

EMAIL = Key(events.Subject.TYPE, "email")
EVENTS: dict[str, LedgerEvent] = {
    "paused": events.Paused(type="email"),
    "resumed": events.Resumed(type="email"),
}
COMMANDS: dict[str, OnLedger] = {"paused": Pause(type="email"), "resumed": Resume(type="email")}
STEPS = [
    (subject, state, kind, exits.get(kind))
    for subject, states in PERMITTED_OF_LEDGER.items()
    for state, exits in states.items()
    for kind in EVENTS
]


def in_state(state: str) -> Entry:
    return initial(EMAIL)._replace(state=EntryState(state))


def test_the_table_is_what_is_written_here() -> None:
    table = {
        (event.subject.value, before.value, event.kind): transition.after.value
        for event, transition in TRANSITIONS.items()
        for before in transition.before
    }

    assert table == {
        (subject, state, kind): after for subject, state, kind, after in STEPS if after
    }


def test_every_event_of_the_ledger_has_its_row() -> None:
    of_ledger = {event for event in events.EVENTS if issubclass(event, LedgerEvent)}

    assert set(TRANSITIONS) == of_ledger
    assert {event.kind for event in of_ledger} == set(EVENTS)
    assert set(INITIAL) == set(events.Subject)


@pytest.mark.parametrize(("subject", "state", "kind", "after"), [s for s in STEPS if s[3]])
def test_an_event_leads_where_it_is_permitted(
    subject: str, state: str, kind: str, after: str
) -> None:
    entry = evolve(in_state(state), EVENTS[kind], position=9, at_ms=START_MS)

    assert entry == Entry(EMAIL.subject, "email", EntryState(after), START_MS, "{}")
    assert entry.is_initial == (after == "running")


@pytest.mark.parametrize(("subject", "state", "kind", "after"), [s for s in STEPS if not s[3]])
def test_an_event_happens_nowhere_else(
    subject: str, state: str, kind: str, after: str | None
) -> None:
    with pytest.raises(Corrupt) as stop:
        evolve(in_state(state), EVENTS[kind], position=9, at_ms=START_MS)

    assert stop.value.position == 9
    assert str(stop.value).startswith(
        f"{subject} 'email': event {kind!r} is not allowed while it is {state}; "
    )


@pytest.mark.parametrize(("subject", "state", "kind", "after"), STEPS)
def test_a_command_causes_its_event_unless_it_is_already_so(
    subject: str, state: str, kind: str, after: str | None
) -> None:
    command = COMMANDS[kind]

    assert key_of(command) == EMAIL
    assert decide(command, in_state(state), at_ms=START_MS) == ((EVENTS[kind],) if after else ())


def test_what_an_event_says_besides_the_name_is_kept_with_the_entry() -> None:
    class Limited(LedgerEvent, frozen=True, kw_only=True, omit_defaults=True):
        kind = "limited"
        subject = events.Subject.TYPE
        named_by = "type"
        type: str
        rate: str
        concurrency: int = 1

    limited = Limited(type="email", rate="100/minute", content="erasable")

    assert (limited.name, limited.facts) == ("email", '{"concurrency":1,"rate":"100/minute"}')

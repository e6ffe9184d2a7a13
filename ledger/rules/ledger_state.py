"""The rules of the ledger itself: the second aggregate, whose stream is number 0.

Theory of operation
-------------------
A job is the result of the events in its stream.  The ledger's own state is the result of
the events in stream 0: a set of named *entries*.  Each event concerns one entry, which is
identified by its subject and its name; for example, the type ``email`` is paused.
``evolve`` applies an event to its entry, ``decide`` answers a command with the events that
follow from it, and ``TRANSITIONS`` is the only statement of what may follow what, as for a
job.

A new event needs a class in ``events``, a command in ``commands``, one row in
``TRANSITIONS`` and one function in ``_DECISIONS``.  The log, replay, verification and the
read model store entries of any subject and need no change.
"""

from collections.abc import Callable, Iterator, Mapping
from enum import StrEnum
from typing import Final, NamedTuple, cast

from ledger.errors import Corrupt
from ledger.rules import commands, events
from ledger.rules.events import LedgerEvent, Subject


class EntryState(StrEnum):
    """A state of an entry."""

    RUNNING = "running"
    PAUSED = "paused"


# The state of an entry that no event has named yet.
INITIAL: Final[Mapping[Subject, EntryState]] = {Subject.TYPE: EntryState.RUNNING}


class Transition(NamedTuple):
    """The effect of an event on its entry.

    Attributes:
        before: The states in which the event may happen.
        after: The state to which it leads.
    """

    before: frozenset[EntryState]
    after: EntryState


# The only statement of what may follow what.
TRANSITIONS: Final[Mapping[type[LedgerEvent], Transition]] = {
    events.Paused: Transition(frozenset({EntryState.RUNNING}), EntryState.PAUSED),
    events.Resumed: Transition(frozenset({EntryState.PAUSED}), EntryState.RUNNING),
}


class Key(NamedTuple):
    """The key of an entry."""

    subject: Subject
    name: str


class Entry(NamedTuple):
    """One entry of the ledger's own state, after its events.

    Attributes:
        since_ms: Time of the event that led to this state, UTC milliseconds; None before
            the first event.
        facts: That event's fields besides the name, as a JSON object.
    """

    subject: Subject
    name: str
    state: EntryState
    since_ms: int | None = None
    facts: str = "{}"

    @property
    def key(self) -> Key:
        """Return the entry's key."""
        return Key(self.subject, self.name)

    @property
    def is_initial(self) -> bool:
        """Return whether the entry is in its initial state."""
        return self.state is INITIAL[self.subject]


def initial(key: Key) -> Entry:
    """Return an entry that no event has named yet."""
    return Entry(key.subject, key.name, INITIAL[key.subject])


def key_of(named: LedgerEvent | commands.OnLedger) -> Key:
    """Return the key of the entry that an event or a command names."""
    return Key(named.subject, named.name)


def evolve(entry: Entry, event: LedgerEvent, *, position: int, at_ms: int) -> Entry:
    """Return *entry* after *event*.

    Args:
        entry: The entry before, ``initial(key)`` if no event has named it.
        event: The event.
        position: The event's position in the ledger.
        at_ms: The event's time, UTC milliseconds.

    Raises:
        Corrupt: The table does not allow the event here.
    """
    transition = TRANSITIONS[type(event)]
    if entry.state not in transition.before:
        raise Corrupt(
            f"{entry.subject} {entry.name!r}: event {event.kind!r} is not allowed while it is "
            f"{entry.state}; the history was altered, or written by a version with other rules",
            position=position,
        )
    return Entry(entry.subject, entry.name, transition.after, at_ms, event.facts)


def decide(command: commands.OnLedger, entry: Entry, *, at_ms: int) -> tuple[LedgerEvent, ...]:
    """Return the events that *command* causes; none if it changes nothing.

    Args:
        command: The command.
        entry: The present state of the entry that it names.
        at_ms: The time at which the events will be recorded.
    """
    return tuple(_DECISIONS[type(command)](command, entry, at_ms))


def _pause(command: commands.Pause, entry: Entry, at_ms: int) -> Iterator[LedgerEvent]:
    if entry.state is EntryState.RUNNING:
        yield events.Paused(type=command.type)


def _resume(command: commands.Resume, entry: Entry, at_ms: int) -> Iterator[LedgerEvent]:
    if entry.state is EntryState.PAUSED:
        yield events.Resumed(type=command.type)


_DECISIONS: Final = cast(
    "Mapping[type[commands.OnLedger], Callable[[commands.OnLedger, Entry, int], "
    "Iterator[LedgerEvent]]]",
    {commands.Pause: _pause, commands.Resume: _resume},
)

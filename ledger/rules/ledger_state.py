"""Rules of the ledger itself: the second aggregate, whose stream is number 0.

Theory of operation
-------------------
A job is what the events of its stream made of it.  The ledger's own state is what the
events of stream 0 made of it: a set of named *entries*.  Each event concerns one entry,
found by its subject and its name: the type of jobs ``email`` is paused.  ``evolve`` folds
an event into its entry, ``decide`` answers a command with the events that follow from it,
and ``TRANSITIONS`` is the only statement of what may follow what; all as for a job.

A new event is a class in ``events``, a command in ``commands``, one row of ``TRANSITIONS``
and one clause of ``decide``.  The log, replay, verification and the read model keep
entries of any subject and need no change.
"""

from collections.abc import Callable, Iterator, Mapping
from enum import StrEnum
from typing import Final, NamedTuple, cast

from ledger.errors import Corrupt
from ledger.rules import commands, events
from ledger.rules.events import LedgerEvent, Subject


class EntryState(StrEnum):
    """Where an entry can be."""

    RUNNING = "running"
    PAUSED = "paused"


# The state of an entry that no event has named yet.
INITIAL: Final[Mapping[Subject, EntryState]] = {Subject.TYPE: EntryState.RUNNING}


class Transition(NamedTuple):
    """What an event does to its entry.

    Attributes:
        before: The states in which it may happen.
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
    """What finds an entry."""

    subject: Subject
    name: str


class Entry(NamedTuple):
    """One entry of the ledger's own state, as its events have made it.

    Attributes:
        since_ms: Time of the event that put it into this state, UTC milliseconds; None
            before the first.
        facts: What that event said besides the name, a JSON object.
    """

    subject: Subject
    name: str
    state: EntryState
    since_ms: int | None = None
    facts: str = "{}"

    @property
    def key(self) -> Key:
        """Return what finds it."""
        return Key(self.subject, self.name)

    @property
    def is_initial(self) -> bool:
        """Tell whether it is as if no event had ever named it."""
        return self.state is INITIAL[self.subject]


def initial(key: Key) -> Entry:
    """Return an entry that no event has named yet."""
    return Entry(key.subject, key.name, INITIAL[key.subject])


def key_of(named: LedgerEvent | commands.OnLedger) -> Key:
    """Return what finds the entry that an event or a command names."""
    return Key(named.subject, named.name)


def evolve(entry: Entry, event: LedgerEvent, *, position: int, at_ms: int) -> Entry:
    """Return *entry* as it is after *event*.

    Args:
        entry: The entry before, ``initial(key)`` if no event has named it.
        event: What happened.
        position: The event's place in the ledger.
        at_ms: The event's time, UTC milliseconds.

    Raises:
        Corrupt: The table does not allow the event here.
    """
    transition = TRANSITIONS[type(event)]
    if entry.state not in transition.before:
        raise Corrupt(
            f"{entry.subject} {entry.name!r}: {event.kind!r} cannot happen while it is "
            f"{entry.state}; the history was changed, or written by rules that this version "
            "does not know",
            position=position,
        )
    return Entry(entry.subject, entry.name, transition.after, at_ms, event.facts)


def decide(command: commands.OnLedger, entry: Entry, *, at_ms: int) -> tuple[LedgerEvent, ...]:
    """Return the events that *command* causes; none if it is already so.

    Args:
        command: What is asked.
        entry: The entry that it names, as it is.
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

"""Answers to a submission that may have been recorded before.

A connection that breaks during a commit leaves its outcome unknown.  A worker submits its
reports again then, and nothing may be recorded twice: a log line would appear twice,
and the report of a completed job would be refused, as if the job had been taken away.

We look for the first submission under the head's lock, when the answer can no longer change:
its transaction either held that lock and has ended, or never reached its commit.  History
needs no mark for this.  Nobody else reports in the worker's name, and an
attempt's number is used once, so an event of that actor and that attempt, after the
position that the worker knew, is the one that its report has caused.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Final

from sqlalchemy import Connection

from ledger.log.answers import Outcome
from ledger.log.history import read_of_actor
from ledger.log.recorded import Recorded
from ledger.rules import commands, events
from ledger.rules.commands import Command, OnAttempt

# The event that each report causes.
_CAUSED: Final[Mapping[type[Command], type[events.Event]]] = {
    commands.Progress: events.Progressed,
    commands.Log: events.Logged,
    commands.Complete: events.Completed,
    commands.FailAttempt: events.Failed,
    commands.Return: events.Returned,
}
_REPORTED: Final = (
    events.Progressed,
    events.Logged,
    events.Completed,
    events.Failed,
    events.Returned,
)


class RepeatedReports:
    """The events that the reports of a submission have caused already.

    Args:
        tx: A transaction that holds the head's lock.
        submitted: The commands, of which only reports are looked up.
        actor: Who submits them.
        since: The position after which the first submission may have been recorded.
    """

    def __init__(
        self, tx: Connection, submitted: Iterable[Command], *, actor: str, since: int
    ) -> None:
        jobs = sorted({each.job_id for each in submitted if isinstance(each, OnAttempt)})
        # By job, attempt and kind, the newest first.
        self._found: dict[tuple[int, int, type[events.Event]], list[Recorded]] = defaultdict(list)
        for recorded in reversed(read_of_actor(tx, jobs, actor=actor, after=since)):
            event = recorded.event
            # A worker also fails attempts whose ttl is over.
            if isinstance(event, _REPORTED) and getattr(event, "reason", "error") != "ttl":
                self._found[recorded.job_id, event.attempt, type(event)].append(recorded)

    def __bool__(self) -> bool:
        """Return whether the first submission was recorded."""
        return bool(self._found)

    def answer(self, command: Command) -> Outcome | None:
        """Return the answer to a report; None if it caused no event.

        Equal reports are answered in the order in which they were recorded.
        """
        if not isinstance(command, OnAttempt) or type(command) not in _CAUSED:
            return None
        found = self._found.get((command.job_id, command.attempt, _CAUSED[type(command)]))
        if not found:
            return None
        recorded = found.pop()
        return Outcome(job_id=recorded.job_id, position=recorded.position, events=(recorded.event,))

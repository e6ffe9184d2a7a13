"""The answers to commands that were not refused, and the type of all answers."""

from msgspec import Struct

from ledger.errors import InvalidInput, Refused
from ledger.log.ports import JobWithData
from ledger.rules.events import Event


class Outcome(Struct, frozen=True, kw_only=True):
    """The answer to a command that was not refused.

    Attributes:
        job_id: The job, new or old; 0 for a command on the ledger itself.
        position: The ledger's position after the command.
        events: What it caused; empty if it changed nothing.
    """

    job_id: int
    position: int
    events: tuple[Event, ...]


class Claimed(Struct, frozen=True, kw_only=True):
    """The answer to a ``Claim``.

    Attributes:
        jobs: What the worker now holds, in the state of the new attempts.
        position: The ledger's position after all attempts were started.
        is_cut: Whether more of the jobs that were asked for wait, but have too many bytes
            together with these.
    """

    jobs: tuple[JobWithData, ...]
    position: int
    is_cut: bool = False


Answer = Outcome | Claimed | Refused | InvalidInput

"""What the write side needs of the inline projections, which are in a higher layer.

Commands are decided on rows that the inline projections keep.  The write side does not know
which projections: these protocols state what it needs, and ``processes.composition`` passes in
the implementations.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple, Protocol

from sqlalchemy import Connection

from ledger.log.inline_versions import Versioned
from ledger.log.recorded import Change, LedgerChange
from ledger.rules.job import JobState
from ledger.rules.ledger_state import Entry, Key


class InlineProjection(Versioned, Protocol):
    """A read model that commits with the events."""

    def apply(self, tx: Connection, changes: Sequence[Change]) -> None:
        """Apply *changes* of jobs, in order, one batch per call."""

    def apply_ledger(self, tx: Connection, changes: Sequence[LedgerChange]) -> None:
        """Apply *changes* of the ledger itself, in order, after the batch's other changes."""


class JobWithData(NamedTuple):
    """A job with what its handler needs.

    Attributes:
        data: Its data, JSON text; None if it was erased, or was not read.
    """

    job: JobState
    data: str | None


class WaitingJob(NamedTuple):
    """A job that waits for a worker.

    Attributes:
        json_bytes: The bytes of its JSON, of which its data is usually the most.
        data: Its data, JSON text; None if it was erased, is long, or was not read.
    """

    job: JobState
    json_bytes: int
    data: str | None


class JobStore(Protocol):
    """All existing jobs, and those among them that wait for a worker."""

    def load(self, tx: Connection, job_ids: Sequence[int]) -> Mapping[int, JobState]:
        """Return the states of those of the jobs that exist; a removed job does not."""

    def claimable(
        self, tx: Connection, type_: str, *, limit: int, with_data: bool
    ) -> Sequence[WaitingJob]:
        """Return waiting jobs of a type, by priority, then by age, with short data if asked."""

    def data(self, tx: Connection, job_ids: Sequence[int]) -> Mapping[int, str | None]:
        """Return the data of existing jobs; None is data that was erased."""


class EntryStore(Protocol):
    """The entries of the ledger's own state."""

    def load(self, tx: Connection, keys: Collection[Key]) -> Mapping[Key, Entry]:
        """Return those of the entries that are not in their initial state."""

    def paused(self, tx: Connection) -> Collection[str]:
        """Return the types whose jobs must not be started."""


class UniqueKeyStore(Protocol):
    """The jobs that were created with unique keys."""

    def find(self, tx: Connection, keys: Sequence[str]) -> Mapping[str, int]:
        """Return the jobs that have *keys*, names of ``key_names``, including removed ones."""


class InlineStores(NamedTuple):
    """Where commands find what they are decided on."""

    jobs: JobStore
    entries: EntryStore
    unique_keys: UniqueKeyStore

"""The jobs that were created with unique keys, so that a retry creates no second job.

A key outlives its job: the retry of a request whose job is complete and removed must not run
the job again.
"""

from collections.abc import Mapping, Sequence

from sqlalchemy import Column, Connection, Text, bindparam, insert, select

from ledger.log.recorded import Change
from ledger.log.schema import BIGINT
from ledger.projections.projection import Projection, in_parts
from ledger.rules.events import Created


class UniqueKeys(Projection):
    """The unique keys of created jobs."""

    name = "unique_keys"

    def __init__(self, *, shadow: bool = False, replacement: bool = False) -> None:
        super().__init__(shadow=shadow, replacement=replacement)
        self._table = table = self._define(
            "ledger_unique_keys",
            Column("key", Text, primary_key=True),
            Column("job_id", BIGINT, nullable=False),
        )
        self._insert = insert(table)
        self._find = select(table.c.key, table.c.job_id).where(
            table.c.key.in_(bindparam("keys", expanding=True))
        )

    def apply(self, tx: Connection, changes: Sequence[Change]) -> None:
        rows = [
            {"key": event.unique, "job_id": recorded.job_id}
            for recorded, before, _ in changes
            if before.version == 0
            and isinstance(event := recorded.event, Created)
            and event.unique is not None
        ]
        if rows:
            tx.execute(self._insert, rows)

    def find(self, tx: Connection, keys: Sequence[str]) -> Mapping[str, int]:
        """Return the jobs that were created with *keys*, including removed ones."""
        found: dict[str, int] = {}
        for some in in_parts(keys):
            rows = tx.execute(self._find, {"keys": some})
            found.update((row.key, row.job_id) for row in rows)
        return found

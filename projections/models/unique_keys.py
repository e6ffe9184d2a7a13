"""The jobs that were created with unique keys, so that a retry creates no second job.

A key outlives its job: the retry of a request whose job is complete and removed must not run
the job again.  ``key_names`` tells how the keys of options and of requests share the table.
"""

from collections.abc import Mapping, Sequence

from sqlalchemy import Column, Connection, Text, bindparam, insert, select
from sqlalchemy.dialects import postgresql, sqlite

from ledger.log.recorded import Change
from ledger.log.schema import BIGINT
from ledger.projections.projection import Projection, in_parts
from ledger.rules.events import Created
from ledger.rules.key_names import name_of_option, name_of_place, name_of_request


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
        # Each job of an array adds the name of its request: the first one's stays.
        self._insert_first = {
            dialect.dialect.name: dialect.insert(table).on_conflict_do_nothing()
            for dialect in (sqlite, postgresql)
        }
        self._find = select(table.c.key, table.c.job_id).where(
            table.c.key.in_(bindparam("keys", expanding=True))
        )

    def apply(self, tx: Connection, changes: Sequence[Change]) -> None:
        rows = []
        requests: dict[str, int] = {}
        for recorded, before, _ in changes:
            event = recorded.event
            if before.version or not isinstance(event, Created):
                continue
            if event.unique is not None:
                rows.append({"key": name_of_option(event.unique), "job_id": recorded.job_id})
            request = event.request
            if request is not None:
                rows.append({"key": name_of_place(request), "job_id": recorded.job_id})
                if request.jobs is not None:
                    requests.setdefault(name_of_request(request), recorded.job_id)
        if rows:
            tx.execute(self._insert, rows)
        if requests:
            first = [{"key": name, "job_id": job_id} for name, job_id in requests.items()]
            tx.execute(self._insert_first[tx.dialect.name], first)

    def find(self, tx: Connection, keys: Sequence[str]) -> Mapping[str, int]:
        """Return the jobs that were created with *keys*, including removed ones."""
        found: dict[str, int] = {}
        for some in in_parts(keys):
            rows = tx.execute(self._find, {"keys": some})
            found.update((row.key, row.job_id) for row in rows)
        return found

"""The ledger's own state: the entries that are not in their initial state."""

from collections.abc import Collection, Sequence

from sqlalchemy import Column, Connection, Text, bindparam, delete, insert, select, tuple_

from ledger.database.fast_sql import Query, Rows
from ledger.log.recorded import Change, LedgerChange
from ledger.log.schema import BIGINT
from ledger.projections.projection import Projection
from ledger.rules.events import Subject
from ledger.rules.ledger_state import Entry, EntryState, Key

_COLUMNS = ("subject", "name", "state", "since_ms", "facts")


class LedgerState(Projection):
    """A row for each entry of the ledger's own state that is not in its initial state."""

    name = "ledger_state"

    def __init__(self, *, shadow: bool = False, replacement: bool = False) -> None:
        super().__init__(shadow=shadow, replacement=replacement)
        self._table = table = self._define(
            "ledger_state",
            Column("subject", Text, primary_key=True),
            Column("name", Text, primary_key=True),
            Column("state", Text, nullable=False),
            Column("since_ms", BIGINT, nullable=False),
            # A JSON object: what the event said besides the name.
            Column("facts", Text, nullable=False),
        )
        self._insert = Rows(insert(table), _COLUMNS)
        self._delete = Rows(
            delete(table).where(
                table.c.subject == bindparam("subject_"), table.c.name == bindparam("name_")
            ),
            ("subject_", "name_"),
        )
        self._paused = Query(
            select(table.c.name, table.c.since_ms)
            .where(
                table.c.subject == bindparam("subject"),
                table.c.state == bindparam("state"),
            )
            .order_by(table.c.name)
        )

    def apply(self, tx: Connection, changes: Sequence[Change]) -> None:
        """Ignore changes of jobs."""

    def apply_ledger(self, tx: Connection, changes: Sequence[LedgerChange]) -> None:
        # Only the last state of each entry in the batch is stored.
        entries = {change.after.key: change.after for change in changes}
        self._delete.execute(tx, list(entries))
        self._insert.execute(tx, [entry for entry in entries.values() if not entry.is_initial])

    def load(self, tx: Connection, keys: Collection[Key]) -> dict[Key, Entry]:
        """Return those of the entries that are not in their initial state."""
        table = self._table
        found = tx.execute(
            select(*(table.c[name] for name in _COLUMNS)).where(
                tuple_(table.c.subject, table.c.name).in_(list(keys))
            )
        )
        entries = [
            Entry(Subject(subject), name, EntryState(state), since_ms, facts)
            for subject, name, state, since_ms, facts in found
        ]
        return {entry.key: entry for entry in entries}

    def paused(self, connection: Connection) -> dict[str, int]:
        """Return the paused types, each with the start of its pause in UTC milliseconds."""
        rows = self._paused.all(
            connection, subject=Subject.TYPE.value, state=EntryState.PAUSED.value
        )
        return dict(tuple(row) for row in rows)

"""The number of jobs in runs of each list, with which the job of a rank is found in a few steps.

A *run* is all jobs of a list that have the same ``id >> id_span`` and the same
``priority >> priority_span``.  A list by age is counted in runs of 131,072 and of 512 ids.  To find
a rank, the counts of the longer runs are added up until the right one is found, then those of the
shorter runs in it; at most 511 jobs are left to be skipped.  Among 10,000,000 ids, these are 77
longer and 256 shorter runs at most.

A list by priority needs the same for each priority.  If it has very many of them, it also needs
runs of priorities, in which only jobs are counted whose priority is not small.  For these, the
shortest runs have 2,048 ids, to write fewer.  As most jobs have priority 0, they are counted once,
and all others also in the runs of all other priorities, so that a list by age is the sum of both.

The counts change in the same transaction as the jobs.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, Final, NamedTuple

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Integer,
    Table,
    Text,
    bindparam,
    delete,
    literal_column,
)

from ledger.database.answer_bytes import ANSWER_BYTES
from ledger.database.fast_sql import Rows
from ledger.log.schema import BIGINT
from ledger.projections.projection import Upsert
from ledger.rules.job import LIVE_STATES, JobState, State

# The type of lists over all types, and the state of the list of all jobs; no job has them.
EVERY: Final = ""
# The span of a run that has all ids, or all priorities but 0.
WHOLE: Final = 62


class ListSizes(NamedTuple):
    """Which runs of a list are counted, and how far a page is walked to.

    Attributes:
        id_spans: Lengths of the runs of ids, as powers of two, ascending.
        large_id_span: The length of the shorter runs of a priority that is not small, not less than
            the shortest of all; the longer ones are as long as the longest of all.
        priority_spans: The same for runs of priorities, but without the small ones.
        small: A priority is small if it is less than this, and not less than the negative of it.
        few: Number of runs of single priorities that are added up without a look at longer ones.
        shallow: Up to this depth, walking is faster than finding the job to start at.
        page_bytes: Bytes of JSON that a page has at most, unless it has a single job.
    """

    id_spans: tuple[int, ...] = (9, 17)
    large_id_span: int = 11
    priority_spans: tuple[int, ...] = (9, 18, 27, 36, 45)
    small: int = 256
    few: int = 128
    shallow: int = 250
    page_bytes: int = ANSWER_BYTES

    @property
    def small_priorities(self) -> range:
        """Return the priorities that are small."""
        return range(-self.small, self.small)

    def id_spans_of(self, priority: int) -> tuple[int, ...]:
        """Return the lengths of the runs of ids of one priority."""
        if -self.small <= priority < self.small:
            return self.id_spans
        return (self.large_id_span, self.id_spans[-1])


LIST_SIZES: Final = ListSizes()


class JobList(NamedTuple):
    """A list of jobs: all, those in a state, of a type, or of a type in a state."""

    state: State | None = None
    type: str | None = None


_Key = tuple[str, str, int, int, int, int]
# An entry takes up to 4 kB.
_KEYS_REMEMBERED: Final = 1024
# Faster than a member's value, which is looked up by functions of Python's.
STATE_TEXTS: Final = {state: state.value for state in LIVE_STATES}


class JobRuns:
    """The counts of all lists.

    Args:
        table: Their table, with ``run_columns``.
        sizes: What is counted; all processes that use the table must agree on it.
    """

    def __init__(self, table: Table, *, sizes: ListSizes = LIST_SIZES) -> None:
        self._sizes = sizes
        self._small = sizes.small_priorities
        # Most jobs that change at about the same time have the same keys.
        self._keys = lru_cache(maxsize=_KEYS_REMEMBERED)(self._made_keys)
        self._add = Upsert(table, adds=("jobs",))
        # Elsewhere, a row of 0 is left.  If each job has its own priority, most rows would be such.
        self._purge = Rows(
            delete(table).where(
                *(column == bindparam(f"{column.name}_") for column in table.primary_key),
                table.c.jobs == literal_column("0"),
            ),
            [f"{column.name}_" for column in table.primary_key],
        )

    # --- following

    def follow(
        self, tx: Connection, before: Mapping[int, JobState], after: Mapping[int, JobState]
    ) -> None:
        """Count the jobs of *after*, which were counted as they are in *before*."""
        fine = self._sizes.id_spans[0]
        # Few jobs of a batch differ in any of this, so little is done for each.
        moves: defaultdict[tuple[str, State, int, State, int, int], int] = defaultdict(int)
        for id_, job in after.items():
            was = before[id_]
            moves[job.type, was.state, was.priority, job.state, job.priority, id_ >> fine] += 1
        counts: defaultdict[_Key, int] = defaultdict(int)
        for (type_, left, old_priority, entered, priority, run), number in moves.items():
            if left is entered and old_priority == priority:
                continue
            old_state, state = STATE_TEXTS.get(left, EVERY), STATE_TEXTS.get(entered, EVERY)
            # The list of all jobs stays as it is while a job exists and keeps its priority.
            stays = old_state and state and old_priority == priority
            for of_state, of_priority, change in (
                (old_state, old_priority, -number),
                (state, priority, number),
            ):
                if not of_state:
                    continue
                in_state, in_any = self._keys(type_, of_state, of_priority, run)
                for key in in_state:
                    counts[key] += change
                if not stays:
                    for key in in_any:
                        counts[key] += change
        changes = [(*key, number) for key, number in sorted(counts.items()) if number]
        self._add.execute(tx, changes)
        emptied = [change[:-1] for change in changes if change[-1] < 0 and self._is_large(change)]
        self._purge.execute(tx, emptied)

    def _made_keys(
        self, type_: str, state: str, priority: int, run: int
    ) -> tuple[Sequence[_Key], Sequence[_Key]]:
        """Return the runs that count a job.

        Args:
            type_: The job's type.
            state: The job's state.
            priority: The job's priority.
            run: The shortest run that has its id.

        Returns:
            Those of lists in its state, and those of lists in any state.
        """
        sizes = self._sizes
        job_id = run << sizes.id_spans[0]
        keys = [(0, span, priority, job_id >> span) for span in sizes.id_spans_of(priority)]
        if priority:
            keys += [(WHOLE, span, 0, job_id >> span) for span in sizes.id_spans]
        if priority not in self._small:
            keys += [(span, WHOLE, priority >> span, 0) for span in sizes.priority_spans]
        in_state = [(of_type, state, *key) for of_type in (type_, EVERY) for key in keys]
        return in_state, [(EVERY, EVERY, *key) for key in keys]

    def _is_large(self, change: tuple[str, str, int, int, int, int, int]) -> bool:
        """Return whether a change is to a run of a single priority that is not small."""
        _, _, priority_span, _, priority_run, _, _ = change
        return priority_span == 0 and priority_run not in self._small


def run_columns() -> Sequence[Column[Any]]:
    """Return the columns of the table."""
    return (
        Column("type", Text, primary_key=True),
        Column("state", Text, primary_key=True),
        Column("priority_span", Integer, primary_key=True, autoincrement=False),
        Column("id_span", Integer, primary_key=True, autoincrement=False),
        Column("priority_run", BIGINT, primary_key=True, autoincrement=False),
        Column("id_run", BIGINT, primary_key=True, autoincrement=False),
        Column("jobs", BigInteger, nullable=False),
    )

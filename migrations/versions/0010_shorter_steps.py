"""Count ``ledger_job_runs`` in runs of other lengths, of which a search has to add up fewer.

A page in the middle of a list of 10,000,000 jobs added up 1,200 runs, and about 8,500 where each
job had a priority of its own.  On SQLite, without HTTP, the former took four to fourteen times the
CPU time of the first page.

A process of the release before, which would go on with the other lengths, is told that another
version has rebuilt the model.
"""

from collections.abc import Sequence
from itertools import pairwise

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

BIGINT = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
WHOLE = 62


def upgrade() -> None:
    count_all(
        id_spans=(9, 17),
        large_id_spans=(11, 17),
        priority_spans=(9, 18, 27, 36, 45),
    )
    rebuilt(before="version 2", now="version 3")


def downgrade() -> None:
    count_all(id_spans=(8, 17), large_id_spans=(8, 17), priority_spans=(12, 24, 36, 48))
    rebuilt(before="version 3", now="version 2")


def count_all(
    *, id_spans: Sequence[int], large_id_spans: Sequence[int], priority_spans: Sequence[int]
) -> None:
    """Count all jobs in a new table.

    Args:
        id_spans: Lengths of the runs of ids, as powers of two, ascending.
        large_id_spans: The same for each priority that is not small.
        priority_spans: The same for runs of priorities that are not small.
    """
    # This keeps appends out, whose jobs would not be counted; they too lock the head first.
    op.execute("UPDATE ledger_head SET position = position")
    for suffix in ("", "_green", "_old"):
        op.execute(f"DROP TABLE IF EXISTS ledger_job_runs{suffix}")
    op.create_table(
        "ledger_job_runs",
        sa.Column("type", sa.Text, primary_key=True),
        sa.Column("state", sa.Text, primary_key=True),
        sa.Column("priority_span", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("id_span", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("priority_run", BIGINT, primary_key=True, autoincrement=False),
        sa.Column("id_run", BIGINT, primary_key=True, autoincrement=False),
        sa.Column("jobs", sa.BigInteger, nullable=False),
        sqlite_with_rowid=False,
    )
    span, large_span = id_spans[0], large_id_spans[0]
    # The shortest runs, of each type, of all types, and of all in any state.
    count(
        f"type, state, 0, {span}, priority, id >> {span}, count(*)",
        "ledger_jobs WHERE priority BETWEEN -256 AND 255",
    )
    count(
        f"type, state, 0, {large_span}, priority, id >> {large_span}, count(*)",
        "ledger_jobs WHERE priority NOT BETWEEN -256 AND 255",
    )
    count(
        f"type, state, {WHOLE}, {span}, 0, id >> {span}, count(*)",
        "ledger_jobs WHERE priority != 0",
    )
    same = "priority_span, id_span, priority_run, id_run, sum(jobs)"
    count(f"'', state, {same}", "ledger_job_runs")
    count(f"'', '', {same}", "ledger_job_runs WHERE type = ''")
    # From them, the longer ones.
    for is_small, spans in (("", id_spans), ("NOT", large_id_spans)):
        for shorter, longer in pairwise(spans):
            count(
                f"type, state, priority_span, {longer}, priority_run, "
                f"id_run >> {longer - shorter}, sum(jobs)",
                f"ledger_job_runs WHERE id_span = {shorter}"
                f" AND priority_run {is_small} BETWEEN -256 AND 255",
            )
    count(
        f"type, state, {priority_spans[0]}, {WHOLE}, priority_run >> {priority_spans[0]}, 0, "
        "sum(jobs)",
        f"ledger_job_runs WHERE priority_span = 0 AND id_span = {large_id_spans[-1]}"
        " AND priority_run NOT BETWEEN -256 AND 255",
    )
    for shorter, longer in pairwise(priority_spans):
        count(
            f"type, state, {longer}, {WHOLE}, priority_run >> {longer - shorter}, 0, sum(jobs)",
            f"ledger_job_runs WHERE priority_span = {shorter}",
        )


def count(columns: str, source: str) -> None:
    """Add runs, summed up from *source*, in the order of the table's key.

    In another order, PostgreSQL reads and writes pages of a large index again and again.
    """
    op.execute(
        f"""
        INSERT INTO ledger_job_runs
            (type, state, priority_span, id_span, priority_run, id_run, jobs)
        SELECT {columns}
        FROM {source}
        GROUP BY 1, 2, 3, 4, 5, 6
        ORDER BY 1, 2, 3, 4, 5, 6
        """  # noqa: S608 - nothing of it comes from outside
    )


def rebuilt(*, before: str, now: str) -> None:
    """Record that the rows of the model are those of another version."""
    for suffix in ("_green", "_old"):
        op.execute(f"DROP TABLE IF EXISTS ledger_jobs{suffix}")
    op.execute("DELETE FROM ledger_rebuilds WHERE name = 'jobs'")
    # Only where a process has stored the version, it may be running.
    op.execute(
        "UPDATE ledger_head SET inline_rebuilds = inline_rebuilds + 1"
        " WHERE EXISTS (SELECT 1 FROM ledger_checkpoints WHERE name = 'jobs')"
    )
    op.execute(
        sa.text(
            "UPDATE ledger_checkpoints SET fingerprint = :now"
            " WHERE name = 'jobs' AND fingerprint = :before"
        ).bindparams(before=before, now=now)
    )

"""${message}.

Rules for a migration of the ledger:

* Never touch a row of ``ledger_events``: a new shape is a new ``schema`` and an upcaster.
* Write the DDL out; import nothing of ``ledger`` or ``projections``, whose tables
  will be others when this runs again in five years.
* On PostgreSQL no statement may scan a large table under an ACCESS EXCLUSIVE lock:
  add constraints NOT VALID and validate in the next migration.
* A projection whose tables change is rebuilt, not converted: say so in the release.
* Every name of a table, index, constraint, trigger or function begins with ``ledger_``.
* Both ways, on both engines; tests/integration/test_migrations.py runs them.
"""

from alembic import op

revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}
branch_labels = None
depends_on = None


def upgrade() -> None:
    ${upgrades if upgrades else "raise NotImplementedError"}


def downgrade() -> None:
    ${downgrades if downgrades else "raise NotImplementedError"}

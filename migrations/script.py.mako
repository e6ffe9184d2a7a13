"""${message}.

Rules for a migration of the ledger:

* Do not change rows of ``ledger_events``: a new shape needs a new ``schema`` and an upcaster.
* Write out the DDL; do not import ``ledger`` or ``projections``, whose tables will have
  changed when this migration runs again in five years.
* On PostgreSQL, no statement may scan a large table under an ACCESS EXCLUSIVE lock:
  add constraints NOT VALID, and validate them in the next migration.
* A projection whose tables change is rebuilt, not converted; the release notes must say so.
* Every name of a table, index, constraint, trigger or function begins with ``ledger_``.
* Upgrade and downgrade must work on both engines; tests/integration/test_migrations.py
  runs them.
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

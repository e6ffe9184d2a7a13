"""${message}.

Rules for a migration of the ledger:

* Do not change rows of ``ledger_events``; a new shape of an event needs a new ``schema`` and an
  upcaster.
* Write out the DDL.  Do not import ``ledger``: its tables will have changed by the time this
  migration runs on an old database.
* On PostgreSQL, no statement may scan a large table under an ACCESS EXCLUSIVE lock:
  add constraints NOT VALID, and validate them in the next migration.
* Do not convert the tables of a projection; users rebuild it.  Say so in the release notes.
* Begin the name of each table, index, constraint, trigger and function with ``ledger_``.
* Upgrade and downgrade must work on both databases; tests/integration/test_migrations.py runs
  them.
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

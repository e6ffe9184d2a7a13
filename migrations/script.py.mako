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
* Migrations run in one transaction, together with those next to them.  What cannot run in a
  transaction, such as CREATE INDEX CONCURRENTLY, VACUUM or PRAGMA foreign_keys, goes into a
  migration of its own, in which the line ``transactional = False`` stands below ``depends_on``.
  Then:

  * All before it is committed first, and its revision is stored after its last statement.  If it
    fails or is killed, it runs again from its first statement, so each statement must be
    repeatable: ``DROP INDEX CONCURRENTLY IF EXISTS`` before ``CREATE INDEX CONCURRENTLY``,
    because a build that was interrupted leaves an invalid index of that name.
  * On PostgreSQL its statements have no time limit, so none of them may take a lock that
    keeps writers waiting.
  * It has a connection of its own, whose settings end with it.
  * Do not use Alembic's ``autocommit_block``: it needs a transaction that Alembic has begun.
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

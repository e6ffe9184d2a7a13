"""An application with tables of its own, and a real Alembic project that migrates them.

Its tables have the names that Ledger's had once, and its revisions their numbers.
"""

import io
import os
import sys
from contextlib import chdir, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Final, NamedTuple
from unittest.mock import patch

from alembic.config import CommandLine
from sqlalchemy import create_engine, text
from sqlalchemy.engine import make_url

FIRST: Final = "0003"
SECOND: Final = "0004"
TABLES: Final = frozenset({"events", "jobs", "workers", "ledger_entries"})

_INI: Final = """
[alembic]
script_location = %(here)s/migrations
"""
_MODELS: Final = """
import sqlalchemy as sa

metadata = sa.MetaData()
sa.Table("events", metadata, sa.Column("id", sa.Integer, primary_key=True),
         sa.Column("title", sa.Text, nullable=False))
sa.Table("workers", metadata, sa.Column("name", sa.String(40), primary_key=True))
sa.Table("jobs", metadata, sa.Column("id", sa.Integer, primary_key=True),
         sa.Column("event_id", sa.Integer, sa.ForeignKey("events.id")),
         sa.Column("worker", sa.String(40), sa.ForeignKey("workers.name")),
         sa.Column("note", sa.Text))
sa.Table("ledger_entries", metadata, sa.Column("id", sa.Integer, primary_key=True),
         sa.Column("amount", sa.Integer, nullable=False))
"""
_ENV: Final = """
import os, sys
from pathlib import Path

import sqlalchemy as sa
from alembic import context

sys.path.insert(0, str(Path(__file__).parents[1]))
import ledger
from models import metadata

leaves_ledger_alone = os.environ["APP_LEAVES_LEDGER_ALONE"] == "yes"
with sa.create_engine(os.environ["APP_URL"], poolclass=sa.NullPool).connect() as connection:
    context.configure(
        connection=connection,
        target_metadata=metadata,
        include_name=ledger.alembic_include_name if leaves_ledger_alone else None,
    )
    with context.begin_transaction():
        context.run_migrations()
"""
_MAKO: Final = """
def upgrade():
    ${upgrades if upgrades else "pass"}
"""
_FIRST: Final = """
import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = None

def upgrade():
    op.create_table("events", sa.Column("id", sa.Integer, primary_key=True),
                    sa.Column("title", sa.Text, nullable=False))
    op.create_table("workers", sa.Column("name", sa.String(40), primary_key=True))
    op.create_table("jobs", sa.Column("id", sa.Integer, primary_key=True),
                    sa.Column("event_id", sa.Integer, sa.ForeignKey("events.id")),
                    sa.Column("worker", sa.String(40), sa.ForeignKey("workers.name")))
    op.create_table("ledger_entries", sa.Column("id", sa.Integer, primary_key=True),
                    sa.Column("amount", sa.Integer, nullable=False))
    op.execute("INSERT INTO events VALUES (1, 'concert'), (2, 'play')")
    op.execute("INSERT INTO workers VALUES ('ann'), ('bob')")
    op.execute("INSERT INTO jobs VALUES (1, 1, 'ann'), (2, 2, 'bob'), (3, 1, 'bob')")
    op.execute("INSERT INTO ledger_entries VALUES (1, 100)")

def downgrade():
    for table in ("ledger_entries", "jobs", "workers", "events"):
        op.drop_table(table)
"""
_SECOND: Final = f"""
import sqlalchemy as sa
from alembic import op

revision = "{SECOND}"
down_revision = "{FIRST}"

def upgrade():
    op.add_column("jobs", sa.Column("note", sa.Text))

def downgrade():
    op.drop_column("jobs", "note")
"""
ROWS: Final[dict[str, list[tuple[object, ...]]]] = {
    "events": [(1, "concert"), (2, "play")],
    "workers": [("ann",), ("bob",)],
    "jobs": [(1, 1, "ann"), (2, 2, "bob"), (3, 1, "bob")],
    "ledger_entries": [(1, 100)],
}


class Ended(NamedTuple):
    """How a command ended."""

    code: int
    output: str


class Application:
    """An Alembic project in a folder.

    Args:
        url: The database that it shares with a ledger.
        folder: Where the project is written.
    """

    def __init__(self, url: str, folder: Path) -> None:
        self.url = url
        self._folder = folder
        versions = folder / "migrations" / "versions"
        versions.mkdir(parents=True)
        (folder / "alembic.ini").write_text(_INI)
        (folder / "models.py").write_text(_MODELS)
        (folder / "migrations" / "env.py").write_text(_ENV)
        (folder / "migrations" / "script.py.mako").write_text(_MAKO)
        (versions / "first.py").write_text(_FIRST)
        (versions / "second.py").write_text(_SECOND)

    def alembic(self, *arguments: str, leaves_ledger_alone: bool = True) -> Ended:
        """Return how a command of Alembic's ended, in this process and the project's folder."""
        url = make_url(self.url)
        if url.get_backend_name() == "postgresql":
            url = url.set(drivername="postgresql+psycopg")
        variables = {
            "APP_URL": url.render_as_string(hide_password=False),
            "APP_LEAVES_LEDGER_ALONE": "yes" if leaves_ledger_alone else "no",
        }
        output = io.StringIO()
        with (
            chdir(self._folder),
            patch.dict(os.environ, variables),
            patch.object(sys, "path", [*sys.path]),
            redirect_stdout(output),
            redirect_stderr(output),
        ):
            try:
                CommandLine(prog="alembic").main(arguments)
            except SystemExit as ended:
                return Ended(int(ended.code or 0), output.getvalue())
            finally:
                sys.modules.pop("models", None)
        return Ended(0, output.getvalue())

    def upgrade(self, to: str = "head") -> None:
        """Migrate the application, which must work."""
        done = self.alembic("upgrade", to)
        assert done.code == 0, done.output

    def downgrade(self) -> None:
        """Take the application's tables away, which must work."""
        done = self.alembic("downgrade", "base")
        assert done.code == 0, done.output

    def proposed(self, *, leaves_ledger_alone: bool = True) -> str:
        """Return what autogenerate would change, on Alembic's own words; none if nothing."""
        done = self.alembic("check", leaves_ledger_alone=leaves_ledger_alone)
        return "" if done.code == 0 else done.output

    def rows(self) -> dict[str, list[tuple[object, ...]]]:
        """Return the rows of its tables, without what the second revision adds."""
        engine = create_engine(self.url)
        with engine.connect() as connection:
            found = {
                table: [
                    tuple(row)[: len(rows[0])]
                    for row in connection.execute(text(f"SELECT * FROM {table} ORDER BY 1"))  # noqa: S608 - a constant
                ]
                for table, rows in ROWS.items()
            }
        engine.dispose()
        return found

    def execute(self, *statements: str) -> None:
        """Do something to the database, as the application might."""
        engine = create_engine(self.url)
        with engine.begin() as connection:
            for statement in statements:
                connection.execute(text(statement))
        engine.dispose()

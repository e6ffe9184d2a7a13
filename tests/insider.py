"""The attacks of an insider, who may run any SQL on the ledger's database and restores guards.

``DEEDS`` is one table for both engines.  It states, for each deed, what ``ledger verify`` must
name; if that is nothing, docs/audit.md must list the deed.
"""

import json
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, NullPool, create_engine

from ledger.log import hash_chain
from ledger.log.answers import Outcome
from ledger.processes.composition import System
from ledger.projections.follower import catch_up
from ledger.rules.commands import (
    Command,
    Complete,
    Create,
    Erase,
    FailAttempt,
    Log,
    Move,
    Pause,
    Progress,
    Remove,
    Start,
)

SQLITE: Final = "sqlite"
POSTGRES: Final = "postgresql"
BOTH: Final = (SQLITE, POSTGRES)

# Positions of events of `fill` that the deeds use.
DATA, RESULT, ERASED_CONTENT, ERASED, NEWEST = 1, 7, 12, 13, 14


def fill(system: System) -> None:
    """Record fourteen events on four jobs with every kind of content; catch up ``activity``."""
    commands: list[Command] = [
        Create(type="email", data='{"to": "ann"}', unique="one"),
        Create(type="sms", priority=-5, attempts=3),
        Create(type="email", data='{"to": "bob"}'),
        Start(job_id=1, worker="w"),
        Progress(job_id=1, attempt=1, progress=50, data='"half"'),
        Log(job_id=1, attempt=1, line='"a line"'),
        Complete(job_id=1, attempt=1, result="110"),
        Start(job_id=2),
        FailAttempt(job_id=2, attempt=1, error='"broken"'),
        Remove(job_id=3),
        Move(job_id=2, to="failed"),
        Create(type="fax", data='{"number": 7}'),
        Erase(job_id=4, reason="asked"),
        Pause(type="sms"),
    ]
    outcomes = system.ledger.submit(commands, actor="test")
    assert all(isinstance(outcome, Outcome) for outcome in outcomes)
    catch_up(system.database, system.activity)


class Insider:
    """An attacker's access to a ledger's database, outside Ledger.

    Args:
        url: URL of the database.
    """

    def __init__(self, url: str) -> None:
        self._engine = create_engine(url, poolclass=NullPool)

    @contextmanager
    def unguarded(self) -> Iterator[Connection]:
        """Yield a transaction without triggers; without CHECKs too on SQLite.  Restore them."""
        with self._engine.connect() as tx:
            if tx.dialect.name == POSTGRES:
                tx.exec_driver_sql("ALTER TABLE ledger_events DISABLE TRIGGER USER")
                yield tx
                tx.exec_driver_sql("ALTER TABLE ledger_events ENABLE TRIGGER USER")
            else:
                tx.exec_driver_sql("PRAGMA ignore_check_constraints = ON")
                guards = tx.exec_driver_sql(
                    "SELECT name, sql FROM sqlite_master WHERE type = 'trigger'"
                ).all()
                for name, _ in guards:
                    tx.exec_driver_sql(f"DROP TRIGGER {name}")
                yield tx
                for _, sql in guards:
                    tx.exec_driver_sql(sql)
            tx.commit()

    def rewrite(self, statements: Sequence[str]) -> None:
        """Change rows, including those of events."""
        with self.unguarded() as tx:
            for statement in statements:
                tx.exec_driver_sql(statement)

    def define(self, statements: Sequence[str]) -> None:
        """Change the definitions of tables, triggers and constraints."""
        with self._engine.connect() as tx:
            if tx.dialect.name == SQLITE:
                driver = tx.connection.driver_connection
                assert isinstance(driver, sqlite3.Connection)
                driver.executescript("PRAGMA writable_schema = ON;\n" + ";\n".join(statements))
                return
            for statement in statements:
                tx.exec_driver_sql(statement)
            tx.commit()

    def forge(self, changes: Sequence[str] = ()) -> None:
        """Change rows, and recompute all digests, the chain and the head."""
        with self.unguarded() as tx:
            for statement in changes:
                tx.exec_driver_sql(statement)
            mark = "%s" if tx.dialect.name == POSTGRES else "?"
            link, row = hash_chain.GENESIS, None
            for row in _events(tx):
                content, salt = row["content"], row["salt"]
                digest = row["digest"] if content is None else hash_chain.digest(salt, content)
                kept = {name: row[name] for name in _IN_LEAF}
                link = hash_chain.link(link, hash_chain.leaf(**kept, digest=digest))
                tx.exec_driver_sql(
                    f"UPDATE ledger_events SET digest = {mark}, chain = {mark} "
                    f"WHERE position = {row['position']}",
                    (digest, link),
                )
            assert row is not None
            tx.exec_driver_sql(
                f"UPDATE ledger_head SET position = {row['position']}, "
                f"at_ms = {row['at_ms']}, chain = {mark}",
                (link,),
            )


def _events(tx: Connection) -> Sequence[Any]:
    return tx.exec_driver_sql("SELECT * FROM ledger_events ORDER BY position").mappings().all()


_IN_LEAF: Final = (
    "position",
    "job_id",
    "version",
    "kind",
    "schema",
    "at_ms",
    "actor",
    "cause",
    "body",
)


@dataclass(frozen=True, kw_only=True)
class Deed:
    """One attack of an insider.

    Attributes:
        name: Description in words.
        how: The method of ``Insider`` that runs it.
        statements: SQL statements, by engine on which the deed is possible.
        names: Beginnings of the names that ``ledger verify`` must report, among others; empty
            for a deed that it cannot detect.
        undone: Statements that undo effects outside the database's tables.
    """

    name: str
    how: str
    statements: dict[str, tuple[str, ...]]
    names: tuple[str, ...] = ()
    undone: tuple[str, ...] = ()

    def on(self, engine: str) -> tuple[str, ...]:
        """Return the statements for *engine*; empty if the deed is not possible there."""
        return self.statements.get(engine, ())


def rows(name: str, *statements: str, names: str, on: Sequence[str] = BOTH) -> Deed:
    """Return a deed that changes rows in the same way on all engines."""
    return Deed(
        name=name,
        how="rewrite",
        statements=dict.fromkeys(on, statements),
        names=tuple(names.split("; ")),
    )


def tables(
    name: str,
    *,
    sqlite: Sequence[str] = (),
    postgres: Sequence[str] = (),
    names: str,
    undone: Sequence[str] = (),
) -> Deed:
    """Return a deed that changes definitions of tables."""
    both = {SQLITE: tuple(sqlite), POSTGRES: tuple(postgres)}
    return Deed(
        name=name,
        how="define",
        statements={engine: some for engine, some in both.items() if some},
        names=tuple(names.split("; ")),
        undone=tuple(undone),
    )


def forged(name: str, *statements: str) -> Deed:
    """Return a deed that recomputes everything that can be computed."""
    return Deed(name=name, how="forge", statements=dict.fromkeys(BOTH, statements))


# On PostgreSQL a CHECK applies to the table's owner too, until it is dropped.
_UNCHECKED: Final = "ALTER TABLE ledger_events DROP CONSTRAINT ledger_events_content_committed"
_CHECKED: Final = (
    "ALTER TABLE ledger_events ADD CONSTRAINT ledger_events_content_committed CHECK "
    "((content IS NULL) = "
    "(salt IS NULL) AND (content IS NULL OR digest IS NOT NULL)) NOT VALID"
)


def unchecked(name: str, statement: str, *, names: str) -> Deed:
    """Return a deed that violates a CHECK, which it drops on PostgreSQL for the moment."""
    return Deed(
        name=name,
        how="rewrite",
        statements={SQLITE: (statement,), POSTGRES: (_UNCHECKED, statement, _CHECKED)},
        names=tuple(names.split("; ")),
    )


_FORGED: Final = json.dumps({"to": "mallory"})
_OF_EVENTS: Final = (
    # --- content
    rows(
        "content changed",
        f"UPDATE ledger_events SET content = '{_FORGED}' WHERE position = {DATA}",
        names="event 1",
    ),
    unchecked(
        "content forged, its salt gone",
        f"UPDATE ledger_events SET content = '{_FORGED}', salt = NULL WHERE position = {DATA}",
        names="event 1",
    ),
    unchecked(
        "content gone, its salt left",
        f"UPDATE ledger_events SET content = NULL WHERE position = {DATA}",
        names="event 1",
    ),
    rows(
        "content cut, the rest moved into its salt",
        f"UPDATE ledger_events SET content = '10', salt = CAST(salt || '1' AS BLOB) "
        f"WHERE position = {RESULT}",
        names="event 7",
        on=[SQLITE],
    ),
    rows(
        "content cut, the rest moved into its salt",
        "UPDATE ledger_events SET content = '10', salt = salt || '1'::bytea WHERE "
        f"position = {RESULT}",
        names="event 7",
        on=[POSTGRES],
    ),
    rows(
        "content of one event erased, and no event says so",
        f"UPDATE ledger_events SET content = NULL, salt = NULL WHERE position = {RESULT}",
        names="event 7",
    ),
    rows(
        "all content erased, and no event says so",
        "UPDATE ledger_events SET content = NULL, salt = NULL",
        names="event 1; event 2; event 3; event 5; event 6; event 7; event 9",
    ),
    rows(
        "erased content put back",
        f"UPDATE ledger_events SET content = '1', salt = chain WHERE position = {ERASED_CONTENT}",
        names="event 12",
    ),
    unchecked(
        "content given to an event without any",
        "UPDATE ledger_events SET content = '1', salt = chain WHERE position = 4",
        names="event 4",
    ),
    rows(
        "content and its digest gone",
        "UPDATE ledger_events SET content = NULL, salt = NULL, digest = NULL WHERE "
        f"position = {DATA}",
        names="event 1",
    ),
    # --- all other columns
    *(
        rows(
            f"{column} of an event changed",
            f"UPDATE ledger_events SET {column} = {value} WHERE position = 4",
            names="event 4",
        )
        for column, value in (
            ("job_id", "99"),
            ("version", "9"),
            ("kind", "'promoted'"),
            ("schema", "2"),
            ("at_ms", "at_ms + 1"),
            ("actor", "'mallory'"),
            ("cause", "'because'"),
            ("body", """'{"attempt":1, "worker":"w"}'"""),
            ("chain", "(SELECT chain FROM ledger_head)"),
        )
    ),
    rows(
        "digest of an event changed",
        f"UPDATE ledger_events SET digest = chain WHERE position = {DATA}",
        names="event 1",
    ),
    rows(
        "a body that cannot be read",
        "UPDATE ledger_events SET body = '{' WHERE position = 4",
        names="event 4",
    ),
    # --- types that SQLite lets into any column
    *(
        rows(
            f"{what} in column {column}",
            f"UPDATE ledger_events SET {column} = {value} WHERE position = 4",
            names="event 4",
            on=[SQLITE],
        )
        for column, value, what in (
            ("at_ms", "'soon'", "text"),
            ("version", "1.5", "a fraction"),
            ("body", "CAST(body AS BLOB)", "bytes"),
            ("chain", "'text'", "text"),
            ("actor", "CAST(x'ff' AS TEXT)", "text that is not UTF-8"),
        )
    ),
    # --- whole events
    rows("an event deleted", "DELETE FROM ledger_events WHERE position = 6", names="event 6"),
    rows(
        "the newest event deleted",
        f"DELETE FROM ledger_events WHERE position = {NEWEST}",
        names="event 14",
    ),
    rows("all events deleted", "DELETE FROM ledger_events", names="event 1"),
    rows(
        "an event added behind the head",
        "INSERT INTO ledger_events (position, job_id, version, kind, schema, at_ms, "
        "actor, body, chain) "
        f"SELECT 15, 2, 5, 'removed', 1, at_ms, actor, '{{}}', chain FROM ledger_events "
        f"WHERE position = {NEWEST}",
        names="head",
    ),
    rows(
        "two events swapped",
        "UPDATE ledger_events SET position = 100 WHERE position = 2",
        "UPDATE ledger_events SET position = 2 WHERE position = 3",
        "UPDATE ledger_events SET position = 3 WHERE position = 100",
        names="event 2; event 3",
    ),
    rows(
        "an erasure deleted, and all behind it moved up",
        f"DELETE FROM ledger_events WHERE position = {ERASED}",
        f"UPDATE ledger_events SET position = {ERASED} WHERE position = {NEWEST}",
        f"UPDATE ledger_head SET position = {ERASED}",
        names="event 13; event 12",
    ),
    Deed(
        name="a digest that content never had, the chain computed anew",
        how="forge",
        statements=dict.fromkeys(
            BOTH,
            (
                (
                    "UPDATE ledger_events SET content = NULL, salt = NULL, digest = chain "
                    f"WHERE position = {RESULT}"
                ),
            ),
        ),
        names=("event 7",),
    ),
    Deed(
        name="a step that the rules forbid, the chain computed anew",
        how="forge",
        statements=dict.fromkeys(
            BOTH, ("UPDATE ledger_events SET kind = 'promoted', body = '{}' WHERE position = 8",)
        ),
        names=("event 8",),
    ),
    Deed(
        name="an erasure of what had not happened yet, the chain computed anew",
        how="forge",
        statements=dict.fromkeys(
            BOTH,
            (
                (
                    """UPDATE ledger_events SET body = '{"versions":[2]}' """
                    f"WHERE position = {ERASED}"
                ),
            ),
        ),
        names=("event 13",),
    ),
)
_SECOND_HEAD: Final = (
    "INSERT INTO ledger_head SELECT 2, position, chain, last_job_id, at_ms, 1, 0 FROM ledger_head"
)
_OF_HEAD: Final = (
    *(
        rows(
            f"{column} of the head changed",
            f"UPDATE ledger_head SET {column} = {value}",
            names=names,
        )
        for column, value, names in (
            ("position", "15", "event 15"),
            ("position", "13", "head; head position"),
            ("chain", "(SELECT chain FROM ledger_events WHERE position = 1)", "head chain"),
            ("last_job_id", "9", "head last_job_id"),
            ("at_ms", "1", "head at_ms"),
        )
    ),
    rows("the head deleted", "DELETE FROM ledger_head", names="head"),
    rows("text in the head", "UPDATE ledger_head SET at_ms = 'x'", names="head at_ms", on=[SQLITE]),
    tables(
        "a second head",
        sqlite=(
            "PRAGMA ignore_check_constraints = ON",
            _SECOND_HEAD,
        ),
        postgres=(
            "ALTER TABLE ledger_head DROP CONSTRAINT ledger_head_single",
            _SECOND_HEAD,
        ),
        names="head",
    ),
)
_OF_PROJECTIONS: Final = (
    *(
        rows(f"all rows of {table} deleted", f"DELETE FROM {table}", names=table)
        for table in (
            "ledger_jobs",
            "ledger_job_runs",
            "ledger_state_counts",
            "ledger_unique_keys",
            "ledger_state",
            "ledger_activity",
        )
    ),
    rows(
        "a job made up in the counts",
        "INSERT INTO ledger_state_counts (type, state, jobs, work_ms) VALUES ('ghost', "
        "'active', 1, 0)",
        names="ledger_state_counts type=ghost state=active",
    ),
    rows(
        "a pause made up",
        "INSERT INTO ledger_state VALUES ('type', 'fax', 'paused', 1, '{}')",
        names="ledger_state subject=type name=fax",
    ),
    rows(
        "a unique key made up",
        "INSERT INTO ledger_unique_keys VALUES ('two', 2)",
        names="ledger_unique_keys key=two",
    ),
    rows(
        "text in a list that is not UTF-8",
        "UPDATE ledger_state SET name = CAST(x'ff' AS TEXT)",
        names="ledger_state",
        on=[SQLITE],
    ),
    rows(
        "a read model said to be behind",
        "UPDATE ledger_checkpoints SET position = 1 WHERE name = 'activity'",
        names="ledger_activity",
    ),
    rows(
        "a read model said to be ahead of the ledger",
        "UPDATE ledger_checkpoints SET position = 99 WHERE name = 'activity'",
        names="checkpoint activity",
    ),
    rows(
        "a read model said to be of another version",
        "UPDATE ledger_checkpoints SET fingerprint = 'other' WHERE name = 'activity'",
        names="activity",
    ),
)
_LET_ALL: Final = "BEGIN RETURN NULL; END"
_OF_TRIGGERS: Final = (
    *(
        tables(
            f"trigger {name} dropped",
            sqlite=(f"DROP TRIGGER {name}",),
            names=f"trigger {name} of ledger_events",
        )
        for name in (
            "ledger_events_no_update",
            "ledger_events_no_delete",
            "ledger_events_no_replace",
        )
    ),
    *(
        tables(
            f"trigger {name} {done}",
            postgres=(statement.format(name),),
            names=f"trigger {name} of ledger_events",
        )
        for name in ("ledger_events_no_change", "ledger_events_no_truncate")
        for done, statement in (
            ("dropped", "DROP TRIGGER {} ON ledger_events"),
            ("disabled", "ALTER TABLE ledger_events DISABLE TRIGGER {}"),
            (
                "made to fire on replicas only",
                "ALTER TABLE ledger_events ENABLE REPLICA TRIGGER {}",
            ),
        )
    ),
    tables(
        "a trigger replaced by one that lets some changes through",
        sqlite=(
            "DROP TRIGGER ledger_events_no_update",
            (
                "CREATE TRIGGER ledger_events_no_update BEFORE UPDATE ON ledger_events "
                "WHEN NEW.actor != 'mallory' "
                "BEGIN SELECT RAISE(ABORT, 'ledger_events is append-only'); END"
            ),
        ),
        names="trigger ledger_events_no_update of ledger_events",
    ),
    tables(
        "a trigger replaced by one that lets some changes through",
        postgres=(
            "DROP TRIGGER ledger_events_no_change ON ledger_events",
            (
                "CREATE TRIGGER ledger_events_no_change BEFORE UPDATE OR DELETE ON ledger_events "
                "FOR EACH ROW "
                "WHEN (OLD.actor <> 'mallory') EXECUTE FUNCTION ledger_events_append_only()"
            ),
        ),
        names="trigger ledger_events_no_change of ledger_events",
    ),
    tables(
        "the triggers' function replaced",
        postgres=(
            (
                "CREATE OR REPLACE FUNCTION ledger_events_append_only() RETURNS trigger LANGUAGE "
                "plpgsql "
                "AS 'BEGIN RETURN NEW; END'"
            ),
        ),
        names="function ledger_events_append_only of ledger_events",
    ),
    *(
        tables(
            f"a trigger planted on {table} that swallows rows",
            sqlite=(
                (
                    f"CREATE TRIGGER planted BEFORE INSERT ON {table} WHEN 1 = 0 "
                    "BEGIN SELECT RAISE(IGNORE); END"
                ),
            ),
            postgres=(
                f"CREATE FUNCTION planted() RETURNS trigger LANGUAGE plpgsql AS '{_LET_ALL}'",
                (
                    f"CREATE TRIGGER planted BEFORE INSERT ON {table} FOR EACH ROW "
                    "WHEN (1 = 0) EXECUTE FUNCTION planted()"
                ),
            ),
            names=f"trigger planted of {table}",
        )
        for table in (
            "ledger_events",
            "ledger_head",
            "ledger_jobs",
            "ledger_activity",
            "ledger_workers",
            "ledger_checkpoints",
        )
    ),
    tables(
        "a trigger planted on the table's name in capitals",
        sqlite=('CREATE TRIGGER planted AFTER INSERT ON "LEDGER_EVENTS" BEGIN SELECT 1; END',),
        names="trigger planted of ledger_events",
    ),
    *(
        tables(
            f"a rule planted on {table}",
            postgres=(
                f"CREATE RULE planted AS ON INSERT TO {table} WHERE 1 = 0 DO INSTEAD NOTHING",
            ),
            names=f"rule planted of {table}",
        )
        for table in ("ledger_events", "ledger_jobs", "ledger_head")
    ),
    tables(
        "triggers switched off for all sessions",
        postgres=(
            (
                "DO $$ BEGIN EXECUTE 'ALTER DATABASE ' || quote_ident(current_database()) || "
                "' SET session_replication_role = replica'; END $$"
            ),
        ),
        undone=(
            (
                "DO $$ BEGIN EXECUTE 'ALTER DATABASE ' || quote_ident(current_database()) || "
                "' RESET session_replication_role'; END $$"
            ),
        ),
        names="setting session_replication_role",
    ),
)


def _in_text(old: str, new: str, of: str = "ledger_events") -> str:
    """Return the statement that changes a table's definition on SQLite."""
    return f"UPDATE sqlite_master SET sql = replace(sql, '{old}', '{new}') WHERE name = '{of}'"


_OF_CONSTRAINTS: Final = (
    tables(
        "a CHECK dropped",
        sqlite=(_in_text("CHECK (position > 0)", "CHECK (1)"),),
        postgres=("ALTER TABLE ledger_events DROP CONSTRAINT ledger_events_position_positive",),
        names="constraint ledger_events_position_positive of ledger_events",
    ),
    tables(
        "a CHECK weakened",
        sqlite=(_in_text("content IS NULL OR digest IS NOT NULL", "1"),),
        postgres=(
            _UNCHECKED,
            (
                "ALTER TABLE ledger_events ADD CONSTRAINT ledger_events_content_committed "
                "CHECK ((content IS NULL) = (salt IS NULL))"
            ),
        ),
        names="constraint ledger_events_content_committed of ledger_events",
    ),
    tables(
        "a CHECK that holds for new rows only",
        postgres=(_UNCHECKED, _CHECKED),
        names="constraint ledger_events_content_committed of ledger_events",
    ),
    tables(
        "the key of a stream dropped",
        postgres=("ALTER TABLE ledger_events DROP CONSTRAINT ledger_events_stream",),
        names="constraint ledger_events_stream of ledger_events",
    ),
    tables(
        "NOT NULL dropped",
        sqlite=(_in_text("type TEXT NOT NULL", "type TEXT", of="ledger_jobs"),),
        postgres=("ALTER TABLE ledger_jobs ALTER COLUMN type DROP NOT NULL",),
        names="column type of ledger_jobs",
    ),
    tables(
        "rows silently replaced by others with their key",
        sqlite=(
            _in_text("UNIQUE (job_id, version)", "UNIQUE (job_id, version) ON CONFLICT REPLACE"),
        ),
        names="constraint ledger_events_stream of ledger_events",
    ),
    tables(
        "a default planted",
        sqlite=(_in_text("lease_ms INTEGER", "lease_ms INTEGER DEFAULT 1", of="ledger_workers"),),
        postgres=("ALTER TABLE ledger_workers ALTER COLUMN lease_ms SET DEFAULT 1",),
        names="column lease_ms of ledger_workers",
    ),
    tables(
        "a column added",
        sqlite=("ALTER TABLE ledger_events ADD COLUMN planted TEXT",),
        postgres=("ALTER TABLE ledger_events ADD COLUMN planted TEXT",),
        names="column planted of ledger_events",
    ),
    tables(
        "a CHECK added",
        postgres=("ALTER TABLE ledger_jobs ADD CONSTRAINT planted CHECK (id < 1000)",),
        sqlite=(
            _in_text(
                "CHECK (made <= max_attempts)",
                "CHECK (made <= max_attempts), CONSTRAINT planted CHECK (id < 1000)",
                of="ledger_jobs",
            ),
        ),
        names="constraint planted of ledger_jobs",
    ),
    tables(
        "a unique index added",
        sqlite=("CREATE UNIQUE INDEX planted ON ledger_jobs (updated_at_ms, id)",),
        postgres=("CREATE UNIQUE INDEX planted ON ledger_jobs (updated_at_ms, id)",),
        names="unique index planted of ledger_jobs",
    ),
    tables(
        "an index dropped",
        sqlite=("DROP INDEX ledger_jobs_by_type",),
        postgres=("DROP INDEX ledger_jobs_by_type",),
        names="index ledger_jobs_by_type of ledger_jobs",
    ),
    tables(
        "history kept where a crash loses it",
        postgres=("ALTER TABLE ledger_events SET UNLOGGED",),
        names="table ledger_events",
    ),
    tables(
        "rows of another table shown among the jobs",
        postgres=("CREATE TABLE ghosts () INHERITS (ledger_jobs)",),
        names="table ledger_jobs",
    ),
    tables(
        "rows hidden from all but the owner",
        postgres=(
            "ALTER TABLE ledger_jobs ENABLE ROW LEVEL SECURITY",
            "CREATE POLICY planted ON ledger_jobs USING (type <> 'sms')",
        ),
        names="table ledger_jobs",
    ),
    tables(
        "history replaced by a view",
        sqlite=(
            "ALTER TABLE ledger_events RENAME TO hidden",
            "CREATE VIEW ledger_events AS SELECT * FROM hidden",
        ),
        postgres=(
            "ALTER TABLE ledger_events RENAME TO hidden",
            "CREATE VIEW ledger_events AS SELECT * FROM hidden",
        ),
        names="table ledger_events",
    ),
)
NAMED: Final = (*_OF_EVENTS, *_OF_HEAD, *_OF_PROJECTIONS, *_OF_TRIGGERS, *_OF_CONSTRAINTS)

# docs/audit.md lists these: only a copy of the head that is kept elsewhere reveals them.
FORGED: Final = (
    forged(
        "content, actor, salt and digest of an event rewritten, and the chain recomputed",
        "UPDATE ledger_events SET actor = 'mallory', content = '{\"to\": \"mallory\"}' "
        f"WHERE position = {DATA}",
    ),
    forged(
        "all events backdated, and the chain recomputed",
        "UPDATE ledger_events SET at_ms = at_ms - 2592000000",
    ),
    forged(
        "the newest events deleted, and the head moved back",
        f"DELETE FROM ledger_events WHERE position = {NEWEST}",
    ),
)

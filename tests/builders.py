"""Builders for tests: a clock, a system, jobs in every state, tampered tables."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Connection, text

from ledger.database.contract import Database
from ledger.database.sqlite import SqliteDatabase
from ledger.database.url import parse_url
from ledger.log import hash_chain
from ledger.log.answers import Outcome
from ledger.processes.composition import System, compose
from ledger.processes.settings import Settings
from ledger.projections.models.job_json import JobJson, JobPage
from ledger.projections.models.jobs import Jobs
from ledger.projections.rebuild.steps import Steps
from ledger.projections.report import Report
from ledger.projections.verify.verify import verify
from ledger.rules.commands import Command, Complete, Create, FailAttempt, Remove, Start
from ledger.rules.events import Event
from ledger.rules.job import JobState, evolve
from ledger.testing import clock as public

START_MS: Final = public.START_MS
Clock = public.Clock

# The permitted transitions, written out independently of ledger.rules.job.TRANSITIONS: for each
# state and event, the possible next states.
PERMITTED: Final[Mapping[str, Mapping[str, frozenset[str]]]] = {
    "absent": {"created": frozenset({"inactive", "delayed"})},
    "inactive": {
        "started": frozenset({"active"}),
        "moved": frozenset({"inactive", "delayed", "active", "complete", "failed"}),
        "reprioritized": frozenset({"inactive"}),
        "removed": frozenset({"removed"}),
        "erased": frozenset({"inactive"}),
    },
    "delayed": {
        "promoted": frozenset({"inactive"}),
        "moved": frozenset({"inactive", "delayed", "active", "complete", "failed"}),
        "reprioritized": frozenset({"delayed"}),
        "removed": frozenset({"removed"}),
        "erased": frozenset({"delayed"}),
    },
    "active": {
        "progressed": frozenset({"active"}),
        "logged": frozenset({"active"}),
        "completed": frozenset({"complete"}),
        "failed": frozenset({"inactive", "delayed", "failed"}),
        "returned": frozenset({"inactive"}),
        "moved": frozenset({"inactive", "delayed", "active", "complete", "failed"}),
        "reprioritized": frozenset({"active"}),
        "removed": frozenset({"removed"}),
        "erased": frozenset({"active"}),
    },
    "complete": {
        "moved": frozenset({"inactive", "delayed", "active", "complete", "failed"}),
        "reprioritized": frozenset({"complete"}),
        "removed": frozenset({"removed"}),
        "erased": frozenset({"complete"}),
    },
    "failed": {
        "moved": frozenset({"inactive", "delayed", "active", "complete", "failed"}),
        "reprioritized": frozenset({"failed"}),
        "removed": frozenset({"removed"}),
        "erased": frozenset({"failed"}),
    },
    "removed": {
        "erased": frozenset({"removed"}),
    },
}
# The same for the ledger's own entries: for each subject, state and event, the next state.
PERMITTED_OF_LEDGER: Final[Mapping[str, Mapping[str, Mapping[str, str]]]] = {
    "type": {"running": {"paused": "paused"}, "paused": {"resumed": "running"}},
}


def open_system(
    url: str,
    clock: Clock | None = None,
    *,
    search_directory: Path | str = "",
    database: Database | None = None,
    jobs: Jobs | None = None,
) -> System:
    """Return a system on *url*; SQLite runs without fsync, because no test cuts the power."""
    system = compose(
        Settings(
            database_url=url, sqlite_synchronous="OFF", search_directory=str(search_directory)
        ),
        database=database,
        jobs=jobs,
    )
    if clock is not None:
        system.ledger.clock = clock
    return system


def open_sqlite(path: Path, **options: Any) -> System:
    """Return a system on the SQLite file at *path*, with other options of its database."""
    url = f"sqlite:///{path}"
    return open_system(url, database=SqliteDatabase(parse_url(url), synchronous="OFF", **options))


def verified(system: System) -> Report:
    """Return the report of a full verification."""
    return verify(system.database, system.compared, silently, tables=system.own_tables)


def silently(done: int, total: int) -> None:
    """Ignore a report of progress."""


def batches_of(events: int) -> Steps:
    """Return the steps of a rebuild whose batches all have the same number of events."""
    return Steps(first_batch=events, smallest_batch=events, largest_batch=events)


def rows(system: System, query: str, **parameters: object) -> list[dict[str, Any]]:
    """Return the rows of *query*."""
    with system.database.read() as connection:
        return [dict(row) for row in connection.execute(text(query), parameters).mappings()]


def carry_out(system: System, *commands: Command, actor: str = "test") -> list[Outcome]:
    """Carry out *commands*, one submission each, and return their outcomes."""
    return [system.ledger.execute(command, actor=actor) for command in commands]


def job_in(system: System, state: str, **fields: Any) -> int:
    """Create a job in *state*; return its id."""
    if state == "delayed":
        fields = {"delay_ms": 60_000} | fields
    (created,) = carry_out(system, Create(**{"type": "email"} | fields))
    job_id = created.job_id
    ways: Mapping[str, Sequence[Command]] = {
        "inactive": (),
        "delayed": (),
        "active": (Start(job_id=job_id),),
        "complete": (Start(job_id=job_id), Complete(job_id=job_id, attempt=1, result="1")),
        "failed": (Start(job_id=job_id), FailAttempt(job_id=job_id, attempt=1, error='"broken"')),
        "removed": (Remove(job_id=job_id),),
    }
    carry_out(system, *ways[state])
    return job_id


def folded(*history: Event, at_ms: int = START_MS, job_id: int = 1) -> JobState:
    """Return the job folded from *history*, from position 1 on, with one time for all events."""
    job = JobState(job_id)
    for position, happened in enumerate(history, start=1):
        job = evolve(job, happened, position=position, at_ms=at_ms)
    return job


@contextmanager
def unguarded(tx: Connection) -> Iterator[None]:
    """Disable the append-only triggers of the events until the block ends."""
    if tx.dialect.name == "sqlite":
        guards = tx.execute(
            text("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'")
        ).all()
        for name, _ in guards:
            tx.exec_driver_sql(f"DROP TRIGGER {name}")
        yield
        for _, sql in guards:
            tx.exec_driver_sql(sql)
    else:
        tx.exec_driver_sql("ALTER TABLE ledger_events DISABLE TRIGGER USER")
        yield
        tx.exec_driver_sql("ALTER TABLE ledger_events ENABLE TRIGGER USER")


def tamper(system: System, *statements: str, **parameters: object) -> None:
    """Run statements that only an administrator could, then restore the triggers."""
    with system.database.write() as tx, unguarded(tx):
        for statement in statements:
            if parameters:
                tx.execute(text(statement), parameters)
            else:
                # Colons in JSON would be taken for parameters.
                tx.exec_driver_sql(statement)


def relink(system: System) -> None:
    """Recompute the whole chain and the head's value, as a forger would."""
    link = hash_chain.GENESIS
    with system.database.write() as tx, unguarded(tx):
        for row in (
            tx.execute(text("SELECT * FROM ledger_events ORDER BY position")).mappings().all()
        ):
            link = hash_chain.link(link, hash_chain.leaf(**{name: row[name] for name in _IN_LEAF}))
            tx.execute(
                text("UPDATE ledger_events SET chain = :chain WHERE position = :position"),
                {"chain": link, "position": row["position"]},
            )
        tx.execute(text("UPDATE ledger_head SET chain = :chain"), {"chain": link})


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
    "digest",
)


def shown_ids(page: JobJson | JobPage) -> list[int]:
    """Return the ids of the jobs on a page, in its order."""
    return [int(job["id"]) for job in json.loads(page.json)]


def make_empty(system: System) -> None:
    """Empty a ledger on PostgreSQL and keep its triggers; faster than creating a database."""
    tables = (
        *("ledger_events", "ledger_jobs", "ledger_job_runs", "ledger_state_counts"),
        *("ledger_unique_keys", "ledger_state", "ledger_workers", "ledger_activity"),
        *("ledger_checkpoints", "ledger_rebuilds", "ledger_failures"),
        *("ledger_search_checkpoints", "ledger_search_words"),
    )
    with system.database.write() as tx:
        tx.execute(text("ALTER TABLE ledger_events DISABLE TRIGGER USER"))
        for table in tables:
            tx.execute(text(f"DELETE FROM {table}"))  # noqa: S608 - the names are above
        tx.execute(text("ALTER TABLE ledger_events ENABLE TRIGGER USER"))
        tx.execute(
            text("UPDATE ledger_head SET position = 0, chain = :chain, last_job_id = 0, at_ms = 0"),
            {"chain": bytes(32)},
        )

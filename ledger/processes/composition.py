"""Put the system together: the one place, with the two front doors, that knows all.

``ledger/cli.py`` and ``api/wsgi.py`` call ``compose``; everything else gets its
collaborators handed in.
"""

import hashlib
import os
import re
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from weakref import WeakMethod

from sqlalchemy import Connection, Table

from ledger.database.contract import Database, Leadership
from ledger.database.migration import migrate, require_current
from ledger.database.sqlite import SqliteDatabase
from ledger.database.url import open_database
from ledger.errors import Unavailable
from ledger.log import schema
from ledger.log.commit_notifier import Bell
from ledger.log.ledger import Ledger
from ledger.processes.settings import Settings
from ledger.projections.follower import Follower
from ledger.projections.lag import Standing, standings
from ledger.projections.models.activity import Activity
from ledger.projections.models.job_lists import JobList
from ledger.projections.models.jobs import Held, Jobs
from ledger.projections.models.jobs_of_type import page_of_type
from ledger.projections.models.pauses import Pauses
from ledger.projections.models.state_counts import StateCounts
from ledger.projections.models.unique_keys import UniqueKeys
from ledger.projections.plugins import Registered
from ledger.projections.projection import Projection
from ledger.projections.search.engine import SearchEngine
from ledger.projections.search.search import Search
from ledger.projections.table_follower import TableFollower
from ledger.queue.queue import Queue
from ledger.queue.read_models import Views
from ledger.rules.job import State

# Who has it starts the process that follows for those that are kept in the database.
STARTER: Final = "followers-starter"


@dataclass(frozen=True, slots=True, kw_only=True)
class System:
    """Be one database with everything that reads and writes it."""

    database: Database
    ledger: Ledger
    jobs: Jobs
    state_counts: StateCounts
    unique_keys: UniqueKeys
    pauses: Pauses
    activity: Activity
    registered: Registered
    bell: Bell
    search: Search

    @property
    def projections(self) -> tuple[Projection, ...]:
        """Return those that commit with the events, in the order in which they are applied."""
        return (self.jobs, self.state_counts, self.unique_keys, self.pauses)

    @property
    def followers(self) -> tuple[Follower, ...]:
        """Return the read models that catch up: ours, then those of applications."""
        search = () if self.search.engine is None else (self.search.engine,)
        return (*search, self.activity, *self.registered.followers)

    @property
    def models(self) -> dict[str, Projection | Follower]:
        """Return all read models by name."""
        models: list[Projection | Follower] = [*self.projections, *self.followers]
        return {model.name: model for model in models}

    @property
    def compared(self) -> list[tuple[Projection, Projection]]:
        """Return what ``ledger verify`` compares: projections in tables, and their shadows."""
        return [
            (model, model.twin(shadow=True))
            for model in self.models.values()
            if isinstance(model, Projection)
        ]

    @property
    def own_tables(self) -> list[Table]:
        """Return the tables that the migrations create, as this version describes them."""
        from ledger.projections.search.sql_engine import SqlEngine  # noqa: PLC0415 - few ask for them

        models = (*self.projections, self.activity)
        return [
            *schema.metadata.sorted_tables,
            *(table for model in models for table in model.tables),
            *SqlEngine(self.database).tables,
        ]

    def starter(self) -> Leadership:
        """Return the claim to be the server process that starts one that follows.

        An index in files is each machine's own, and so is who writes it.

        Raises:
            Unavailable: The database is away.
        """
        if self.search.engine is not None:
            # Where its directory cannot be used, the others are followed all the same.
            with suppress(Unavailable):
                return self.search.engine.starter()
        return self.database.leadership(STARTER)

    @property
    def not_compared(self) -> dict[str, str]:
        """Return what ``ledger verify`` does not compare, and why."""
        others = {
            name: "what it keeps is not compared row by row with a replay; "
            f"`ledger rebuild {name}` builds it anew"
            for name, model in self.models.items()
            if not isinstance(model, Projection)
        }
        return others | {each.name: each.reason for each in self.registered.broken}

    def standings(self) -> list[Standing]:
        """Return how far each read model that catches up has come, and what stops it."""
        return standings(self.database, self.followers, self.registered.broken)

    def close(self) -> None:
        """Close all connections; no thread but the bell's may be using one."""
        self.bell.close()
        self.search.close()
        self.database.close()


class _QueueViews(Views):
    """Answer a queue's questions from the projections."""

    def __init__(self, system: System) -> None:
        self._system = system

    def job(self, connection: Connection, job_id: int) -> str | None:
        shown = self._system.jobs.get(connection, job_id)
        return None if shown is None else shown.json

    def jobs(
        self,
        connection: Connection,
        *,
        state: State | None,
        type_: str | None,
        first: int,
        last: int,
        descending: bool,
    ) -> str:
        lists = self._system.jobs.lists
        if type_ is not None and state is None:
            return page_of_type(lists, connection, type_, first, last, descending=descending)
        chosen = JobList(state, type_)
        return lists.page(connection, chosen, first, last, descending=descending).json

    def stats(self, connection: Connection, type_: str | None) -> dict[str, int]:
        stats = self._system.state_counts.stats(connection, type_)
        return {str(state): jobs for state, jobs in stats.counts.items()} | {
            "work_ms": stats.work_ms
        }

    def types(self, connection: Connection) -> list[str]:
        return self._system.state_counts.types(connection)

    def search(self, query: str, *, limit: int, offset: int) -> Sequence[int]:
        return self._system.search.find(query, limit=limit, offset=offset).job_ids

    def forget(self) -> None:
        self._system.search.forget()

    def close(self) -> None:
        self._system.search.close()

    def paused(self, connection: Connection) -> dict[str, int]:
        return self._system.pauses.paused(connection)

    def any_claimable(self, connection: Connection, types: Collection[str]) -> bool:
        paused = self._system.pauses.paused(connection)
        return any(
            self._system.jobs.any_claimable(connection, type_)
            for type_ in types
            if type_ not in paused
        )

    def due(self, connection: Connection, *, now_ms: int, limit: int) -> list[int]:
        return self._system.jobs.due(connection, now_ms=now_ms, limit=limit)

    def held(self, connection: Connection) -> list[Held]:
        return self._system.jobs.held(connection)

    def held_by(self, connection: Connection, worker: str) -> list[tuple[int, int]]:
        held = self._system.jobs.held(connection)
        return [(one.job_id, one.attempt) for one in held if one.worker == worker]


def open_queue(settings: Settings, *, actor: str) -> Queue:
    """Return the queue on the database of *settings*, whose tables are there.

    Raises:
        InvalidInput: The database's URL is none.
        SchemaMismatch: The tables are not those of this version.
        Unavailable: The database is away.
    """
    system = compose(settings)
    try:
        prepare(system.database)
    except BaseException:
        system.close()
        raise
    queue = queue_of(system, actor=actor, lease_ms=settings.lease_ms)
    os.register_at_fork(
        before=_weakly(queue.database.before_fork),
        after_in_parent=_weakly(queue.database.after_fork),
        after_in_child=_weakly(queue.forget),
    )
    return queue


def _weakly(method: Callable[[], None]) -> Callable[[], None]:
    """Return what calls *method* as long as its object is there, and does not keep it."""
    weak = WeakMethod(method)

    def call() -> None:
        there = weak()
        if there is not None:
            there()

    return call


def queue_of(system: System, *, actor: str, lease_ms: int) -> Queue:
    """Return the queue of a system."""
    return Queue(system.ledger, _QueueViews(system), system.bell, actor=actor, lease_ms=lease_ms)


def compose(settings: Settings, *, indexes: bool = True) -> System:
    """Return the system on the database of *settings*; nothing is connected yet.

    Args:
        settings: Where the ledger is, and what finds its jobs.
        indexes: Whether a search indexes what no other process does.

    Raises:
        InvalidInput: The database's URL is none.
    """
    database = open_database(
        settings.database_url,
        synchronous=settings.sqlite_synchronous,
        schema=settings.schema or None,
    )
    jobs, state_counts, unique_keys, pauses = Jobs(), StateCounts(), UniqueKeys(), Pauses()
    activity, registered = _followers(database)
    ledger = Ledger(
        database,
        jobs=jobs,
        pauses=pauses,
        unique_keys=unique_keys,
        projections=(jobs, state_counts, unique_keys, pauses),
    )
    return System(
        database=database,
        ledger=ledger,
        jobs=jobs,
        state_counts=state_counts,
        unique_keys=unique_keys,
        pauses=pauses,
        activity=activity,
        registered=registered,
        bell=Bell(database),
        search=Search(
            database,
            _search_engine(settings, database),
            wait_ms=settings.search_wait_ms,
            indexes=indexes,
        ),
    )


def _followers(database: Database) -> tuple[Activity, Registered]:
    """Return our read models that catch up, and those of applications."""
    activity = Activity(database)
    inline = (Jobs(), StateCounts(), UniqueKeys(), Pauses())
    taken = {table.name for each in (*inline, activity) for table in each.tables}
    taken.update(each.name for each in (*inline, activity))
    # Those of search, whichever engine it runs on.
    taken |= {SearchEngine.name, "ledger_search_words", "ledger_search_checkpoints"}
    return activity, Registered(database, taken=taken | set(schema.metadata.tables))


def followed_for(queue: Queue) -> list[str]:
    """Return the names of the read models that whoever works for a queue keeps near the head."""
    activity, registered = _followers(queue.database)
    return [follower.name for follower in (activity, *registered.followers)]


def create_registered(system: System) -> list[str]:
    """Create the tables of applications' read models; return the names of those."""
    return [
        follower.name
        for follower in system.registered.followers
        if isinstance(follower, TableFollower) and follower.create()
    ]


def _search_engine(settings: Settings, database: Database) -> SearchEngine | None:
    # Imported where they are used: most commands search for nothing.
    if settings.search == "off":
        return None
    if settings.search == "sql":
        from ledger.projections.search.sql_engine import SqlEngine  # noqa: PLC0415

        return SqlEngine(database)
    from ledger.projections.search.whoosh.engine import WhooshEngine  # noqa: PLC0415

    return WhooshEngine(
        database,
        _search_directory(settings, database),
        with_parent=bool(settings.search_directory),
    )


_LONGEST_NAME: Final = 64


def _search_directory(settings: Settings, database: Database) -> Path:
    """Return the directory of the index, which is this ledger's alone.

    Where it lies among others' files, and perhaps among other ledgers' indexes, it is named
    after the database, and what tells two databases of one name apart.
    """
    if isinstance(database, SqliteDatabase):
        beside = database.path.with_name(f"{database.path.name}-search")
        name, identity = database.path.name, ["sqlite", os.path.realpath(database.path)]
    else:
        url = database.engine.url
        # As the driver does: without a name, it is the user's.
        name = url.database or url.username or "ledger"
        # A server may be named in the query too, also by the directory of its socket.
        host = str(url.query.get("host", url.host or ""))
        port = str(url.query.get("port", url.port or ""))
        identity = [url.get_backend_name(), host, port, name]
        if database.schema is not None:
            name, identity = f"{name}-{database.schema}", [*identity, database.schema]
        beside = None
    if beside is not None and not settings.search_directory:
        return beside
    digest = hashlib.sha256("\0".join(identity).encode("utf-8", "surrogateescape")).hexdigest()
    shown = re.sub(r"[^A-Za-z0-9_.-]", "_", name)[:_LONGEST_NAME]
    # Without a setting, in the working directory.
    return Path(settings.search_directory).absolute() / f"{shown}-search-{digest[:16]}"


def prepare(database: Database) -> None:
    """Create the tables in an empty SQLite file; else require those of this version.

    A server database is somebody's to administer, and so is a file that has an application's
    tables: there, nothing is created unasked.

    Raises:
        SchemaMismatch: The tables are not those of this version.
        Unavailable: The database is away.
    """
    if database.is_embedded and not database.has_tables():
        migrate(database)
    require_current(database)

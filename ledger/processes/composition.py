"""Put the system together: the one place, with the two front doors, that knows all.

``ledger/cli.py`` and ``api/wsgi.py`` call ``compose``; everything else gets its
collaborators handed in.  What takes long to import and few need, Alembic, Whoosh and the
read models that catch up, is imported where it is made.
"""

import hashlib
import os
import re
import threading
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sqlalchemy import Connection, Table

from ledger.database.contract import Database, Leadership
from ledger.database.revision import is_empty, require_current
from ledger.database.sqlite import SqliteDatabase
from ledger.database.url import open_database
from ledger.errors import Unavailable
from ledger.log import schema, store
from ledger.log.commit_notifier import Bell
from ledger.log.ledger import Ledger
from ledger.processes.settings import Settings
from ledger.projections.models.job_lists import JobList
from ledger.projections.models.jobs import Held, Jobs
from ledger.projections.models.jobs_of_type import page_of_type
from ledger.projections.models.pauses import Pauses
from ledger.projections.models.state_counts import StateCounts
from ledger.projections.models.unique_keys import UniqueKeys
from ledger.projections.projection import Projection
from ledger.queue import heartbeats
from ledger.queue.queue import Parts, Queue
from ledger.queue.read_models import Views
from ledger.rules import json_text
from ledger.rules.job import State

if TYPE_CHECKING:
    from ledger.projections.follower import Follower
    from ledger.projections.lag import Standing
    from ledger.projections.models.activity import Activity
    from ledger.projections.plugins import Registered
    from ledger.projections.search.engine import SearchEngine
    from ledger.projections.search.search import Search

# Who has it starts the process that follows for those that are kept in the database.
STARTER: Final = "followers-starter"


@dataclass(frozen=True, kw_only=True)
class System:
    """Be one database with everything that reads and writes it.

    What few commands need is made, and its modules are imported, when it is asked for.

    Attributes:
        make_search: Called once, by whoever searches first.
    """

    database: Database
    ledger: Ledger
    jobs: Jobs
    state_counts: StateCounts
    unique_keys: UniqueKeys
    pauses: Pauses
    bell: Bell
    make_search: Callable[[], "Search"]
    # Threads of an application may search for the first time together.
    _searching: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False)

    @property
    def search(self) -> "Search":
        """Return what finds jobs by their words."""
        with self._searching:
            return self._search

    @cached_property
    def _search(self) -> "Search":
        return self.make_search()

    @cached_property
    def activity(self) -> "Activity":
        """Return what counts by minute what happened."""
        from ledger.projections.models.activity import Activity

        return Activity(self.database)

    @cached_property
    def registered(self) -> "Registered":
        """Return the read models of applications."""
        return _registered(self.database, (*self.projections, self.activity))

    @property
    def projections(self) -> tuple[Projection, ...]:
        """Return those that commit with the events, in the order in which they are applied."""
        return (self.jobs, self.state_counts, self.unique_keys, self.pauses)

    @property
    def followers(self) -> "tuple[Follower, ...]":
        """Return the read models that catch up: ours, then those of applications."""
        search = () if self.search.engine is None else (self.search.engine,)
        return (*search, self.activity, *self.registered.followers)

    @property
    def models(self) -> "dict[str, Projection | Follower]":
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
        from ledger.projections.search.sql_engine import SqlEngine

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
            name: "its contents are not compared with a replay; run "
            f"`ledger rebuild {name}` to rebuild it"
            for name, model in self.models.items()
            if not isinstance(model, Projection)
        }
        return others | {each.name: each.reason for each in self.registered.broken}

    def standings(self) -> "list[Standing]":
        """Return how far each read model that catches up has come, and what stops it."""
        from ledger.projections.lag import standings

        return standings(self.database, self.followers, self.registered.broken)

    def forget(self) -> None:
        """Start anew in a forked child, which has none of its parent's threads."""
        object.__setattr__(self, "_searching", threading.Lock())
        self.ledger.forget()
        self.bell.forget()
        if self._has_searched:
            self.search.forget()

    def close(self) -> None:
        """Close all connections; no thread but the bell's may be using one."""
        self.bell.close()
        if self._has_searched:
            self.search.close()
        self.database.close()

    @property
    def _has_searched(self) -> bool:
        # Where a cached property is kept.
        return "_search" in self.__dict__


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

    def log(self, connection: Connection, job_id: int, *, newest: int) -> list[str]:
        lines = store.read_log(connection, job_id, newest=newest)
        return [json_text.log_line(kind, text) for kind, _, text in lines if text is not None]

    def events(self, connection: Connection, job_id: int, *, after: int) -> list[store.Envelope]:
        return store.read_stream(connection, job_id, after=after)

    def workers(self, connection: Connection) -> list[heartbeats.WorkerSeen]:
        return heartbeats.seen(connection)

    def search(self, query: str, *, limit: int, offset: int) -> Sequence[int]:
        return self._system.search.find(query, limit=limit, offset=offset).job_ids

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


def open_parts(settings: Settings, *, directory: Path | None) -> Parts:
    """Open the database of *settings*, and return what a queue on it works with.

    Raises:
        InvalidInput: The database's URL is none.
        SchemaMismatch: The tables are not those of this version.
        Unavailable: The database is away.
    """
    system = compose(settings, directory=directory)
    try:
        prepare(system.database)
    except BaseException:
        system.close()
        raise
    return parts_of(system)


def parts_of(system: System) -> Parts:
    """Return what a queue on a system works with."""
    return Parts(
        system.ledger,
        _QueueViews(system),
        system.bell,
        forget=system.forget,
        close=system.close,
    )


def queue_of(system: System, *, actor: str, lease_ms: int) -> Queue:
    """Return the queue of a system, on whose database the tables are there."""
    queue = Queue(
        lambda: parts_of(system),
        shown_url=system.database.shown_url,
        actor=actor,
        lease_ms=lease_ms,
    )
    queue.open()
    return queue


def compose(settings: Settings, *, indexes: bool = True, directory: Path | None = None) -> System:
    """Return the system on the database of *settings*; nothing is connected yet.

    Args:
        settings: Where the ledger is, and what finds its jobs.
        indexes: Whether a search indexes what no other process does.
        directory: From where relative paths lead; None is the working directory.

    Raises:
        InvalidInput: The database's URL is none.
    """
    database = open_database(
        settings.database_url, synchronous=settings.sqlite_synchronous, directory=directory
    )
    jobs, state_counts, unique_keys, pauses = Jobs(), StateCounts(), UniqueKeys(), Pauses()
    ledger = Ledger(
        database,
        jobs=jobs,
        entries=pauses,
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
        bell=Bell(database),
        make_search=lambda: _search(settings, database, directory, indexes=indexes),
    )


def _registered(database: Database, ours: Sequence[Projection]) -> "Registered":
    """Return the read models of applications, which have none of the names of *ours*."""
    from ledger.projections.plugins import Registered
    from ledger.projections.search.engine import SearchEngine

    taken = {table.name for each in ours for table in each.tables}
    taken.update(each.name for each in ours)
    # Those of search, whichever engine it runs on.
    taken |= {SearchEngine.name, "search_words", "search_checkpoints"}
    return Registered(database, taken=taken | set(schema.metadata.tables))


def followed_for(queue: Queue) -> list[str]:
    """Return the names of the read models that whoever works for a queue keeps near the head."""
    from ledger.projections.models.activity import Activity

    activity = Activity(queue.database)
    ours = (Jobs(), StateCounts(), UniqueKeys(), Pauses(), activity)
    return [each.name for each in (activity, *_registered(queue.database, ours).followers)]


def create_registered(system: System) -> list[str]:
    """Create the tables of applications' read models; return the names of those."""
    from ledger.projections.table_follower import TableFollower

    return [
        follower.name
        for follower in system.registered.followers
        if isinstance(follower, TableFollower) and follower.create()
    ]


def _search(
    settings: Settings, database: Database, directory: Path | None, *, indexes: bool
) -> "Search":
    from ledger.projections.search.search import Search

    engine = _search_engine(settings, database, directory)
    return Search(database, engine, wait_ms=settings.search_wait_ms, indexes=indexes)


def _search_engine(
    settings: Settings, database: Database, directory: Path | None
) -> "SearchEngine | None":
    if settings.search == "off":
        return None
    if settings.search == "sql":
        from ledger.projections.search.sql_engine import SqlEngine

        return SqlEngine(database)
    from ledger.projections.search.whoosh.engine import WhooshEngine

    return WhooshEngine(
        database,
        _search_directory(settings, database, directory or Path()),
        with_parent=bool(settings.search_directory),
    )


_LONGEST_NAME: Final = 64


def _search_directory(settings: Settings, database: Database, directory: Path) -> Path:
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
        beside = None
    if beside is not None and not settings.search_directory:
        return beside
    digest = hashlib.sha256("\0".join(identity).encode("utf-8", "surrogateescape")).hexdigest()
    shown = re.sub(r"[^A-Za-z0-9_.-]", "_", name)[:_LONGEST_NAME]
    # Without a setting, in the working directory.
    parent = (directory / settings.search_directory).absolute()
    return parent / f"{shown}-search-{digest[:16]}"


def prepare(database: Database) -> None:
    """Create the tables in an empty SQLite file; else require those of this version.

    A server database is somebody's to administer: there, nothing is created unasked.

    Raises:
        SchemaMismatch: The tables are not those of this version.
        Unavailable: The database is away.
    """
    if database.is_embedded and is_empty(database):
        from ledger.database.migration import migrate

        migrate(database)
    require_current(database)

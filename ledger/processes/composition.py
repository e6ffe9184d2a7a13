"""The composition root: it creates the objects of a system and connects them.

The modules of ``ledger/cli`` and ``api/wsgi.py`` call ``compose``; all other modules receive
what they need as arguments.  Modules that are slow to import and seldom needed (Alembic,
Whoosh, the read models that catch up) are imported where they are used.
"""

import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Final
from weakref import WeakKeyDictionary

from sqlalchemy import Table

from ledger.database.contract import Database, Leadership
from ledger.database.revision import require_current
from ledger.database.url import open_database
from ledger.errors import Unavailable
from ledger.log import schema
from ledger.log.commit_notifier import CommitNotifier
from ledger.log.ledger import Ledger
from ledger.processes.queue_read_models import QueueReadModels
from ledger.processes.search_directory import search_directory
from ledger.processes.settings import Settings
from ledger.projections.model_versions import record_versions, require_versions
from ledger.projections.models.jobs import Jobs
from ledger.projections.models.ledger_state import LedgerState
from ledger.projections.models.state_counts import StateCounts
from ledger.projections.models.unique_keys import UniqueKeys
from ledger.projections.projection import Projection
from ledger.queue.opening import Parts
from ledger.queue.overdue import SWEEPER
from ledger.queue.queue import Queue

if TYPE_CHECKING:
    from ledger.projections.follower import Follower
    from ledger.projections.lag import Lag, Late
    from ledger.projections.models.activity import Activity
    from ledger.projections.plugins import PlugIns
    from ledger.projections.search.engine import SearchEngine
    from ledger.projections.search.search import Search

# The role of starting the follower process, if all followers are kept in the database.
STARTER: Final = "followers-starter"


@dataclass(frozen=True, kw_only=True)
class System:
    """One database, and the objects that read and write it.

    Objects that few commands need are created, and their modules imported, at first access.

    Attributes:
        make_search: Called once, at the first access to ``search``.
    """

    database: Database
    ledger: Ledger
    jobs: Jobs
    state_counts: StateCounts
    unique_keys: UniqueKeys
    ledger_state: LedgerState
    commit_notifier: CommitNotifier
    make_search: Callable[[], "Search"]
    # Several threads of an application may access ``search`` for the first time at once.
    _searching: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False)

    @property
    def search(self) -> "Search":
        """Return the search, which finds jobs by the words of their data."""
        with self._searching:
            return self._search

    @cached_property
    def _search(self) -> "Search":
        return self.make_search()

    @cached_property
    def activity(self) -> "Activity":
        """Return the read model that counts events per minute."""
        from ledger.projections.models.activity import Activity

        return Activity(self.database)

    @cached_property
    def plug_ins(self) -> "PlugIns":
        """Return the read models of applications."""
        return _plug_ins(self.database, (*self.projections, self.activity))

    @cached_property
    def read_models(self) -> QueueReadModels:
        """Return the queries that need several read models."""
        return QueueReadModels(self.jobs, self.state_counts, self.ledger_state, lambda: self.search)

    @property
    def projections(self) -> tuple[Projection, ...]:
        """Return the read models that commit with the events, in the order of application."""
        return (self.jobs, self.state_counts, self.unique_keys, self.ledger_state)

    @property
    def followers(self) -> "tuple[Follower, ...]":
        """Return the read models that follow by position: ours, then those of applications."""
        search = () if self.search.engine is None else (self.search.engine,)
        return (*search, self.activity, *self.plug_ins.followers)

    @property
    def models(self) -> "dict[str, Projection | Follower]":
        """Return all read models by name."""
        models: list[Projection | Follower] = [*self.projections, *self.followers]
        return {model.name: model for model in models}

    @property
    def compared(self) -> list[tuple[Projection, Projection]]:
        """Return the projections that ``ledger verify`` compares, each with its shadow."""
        return [
            (model, _shadow_of(model))
            for model in self.models.values()
            if isinstance(model, Projection)
        ]

    @property
    def own_tables(self) -> list[Table]:
        """Return the tables that the migrations create, as defined by this version."""
        from ledger.projections.search.sql_engine import SqlEngine

        models = (*self.projections, self.activity)
        return [
            *schema.metadata.sorted_tables,
            *(table for model in models for table in model.tables),
            *SqlEngine(self.database).tables,
        ]

    def starter(self) -> Leadership:
        """Return the claim to be the server process that starts the follower process.

        An index in files belongs to one machine, so the role then exists once per machine.

        Raises:
            Unavailable: The database is unavailable.
        """
        if self.search.engine is not None:
            # If the index's directory is unusable, the other read models still need a process.
            with suppress(Unavailable):
                return self.search.engine.starter()
        return self.database.leadership(STARTER)

    @property
    def not_compared(self) -> dict[str, str]:
        """Return the read models that ``ledger verify`` does not compare, with the reasons."""
        others = {
            name: "it cannot be compared with a replay; run "
            f"`ledger rebuild {name}` to build it again"
            for name, model in self.models.items()
            if not isinstance(model, Projection)
        }
        return others | {each.name: each.reason for each in self.plug_ins.broken}

    def lags(self) -> "list[Lag]":
        """Return the lag of each follower, and what stops it."""
        from ledger.projections.lag import lags

        return lags(
            self.database, self.followers, self.plug_ins.broken, time_ms=self.ledger.time_ms
        )

    def late(self, lags: "Sequence[Lag]") -> "list[Late]":
        """Return the sweeper if it is late, and the late followers of *lags*."""
        from ledger.queue.overdue import late_work

        return late_work(self.ledger, self.read_models, lags)

    def forget(self) -> None:
        """Reset locks and threads in a forked child, which has none of its parent's threads."""
        object.__setattr__(self, "_searching", threading.Lock())
        self.ledger.forget()
        self.commit_notifier.forget()
        if self._has_searched:
            self.search.forget()

    def close(self) -> None:
        """Close all connections; only the commit notifier's thread may still use one."""
        self.commit_notifier.close()
        if self._has_searched:
            self.search.close()
        self.database.close()

    @property
    def _has_searched(self) -> bool:
        # A cached property stores its value there.
        return "_search" in self.__dict__


def open_parts(settings: Settings, *, directory: Path | None) -> Parts:
    """Open the database of *settings*, and return the parts of a queue on it.

    Raises:
        InvalidInput: The database URL is invalid.
        SchemaMismatch: The tables are not those of this version.
        Unavailable: The database is unavailable.
    """
    system = compose(settings, directory=directory)
    try:
        prepare(system)
    except BaseException:
        system.close()
        raise
    return parts_of(system)


def parts_of(system: System) -> Parts:
    """Return the parts of a queue on *system*."""
    return Parts(
        system.ledger,
        system.read_models,
        system.commit_notifier,
        forget=system.forget,
        close=system.close,
    )


def queue_of(system: System, *, actor: str, lease_ms: int) -> Queue:
    """Return the queue on *system*, whose tables must exist."""
    queue = Queue(
        lambda: parts_of(system),
        shown_url=system.database.shown_url,
        actor=actor,
        lease_ms=lease_ms,
    )
    queue.open()
    return queue


def compose(
    settings: Settings,
    *,
    indexes: bool = True,
    directory: Path | None = None,
    database: Database | None = None,
    jobs: Jobs | None = None,
) -> System:
    """Return the system on the database of *settings*, without connecting to it.

    Args:
        settings: The database, the search engine and its directory.
        indexes: Whether a search updates the index if no other process does.
        directory: Base of relative paths; None is the working directory.
        database: The database; None opens the one that *settings* name.
        jobs: The read model of jobs; None is the one that all systems of this process share.

    Raises:
        InvalidInput: The database URL is invalid.
    """
    database = database or open_database(
        settings.database_url,
        synchronous=settings.sqlite_synchronous,
        schema=settings.schema or None,
        direct_url=settings.database_direct_url or None,
        directory=directory,
        allow_network_file=settings.allow_network_file,
    )
    shared_jobs, state_counts, unique_keys, ledger_state = _inline_projections()
    jobs = jobs or shared_jobs
    ledger = Ledger(
        database,
        jobs=jobs,
        entries=ledger_state,
        unique_keys=unique_keys,
        projections=(jobs, state_counts, unique_keys, ledger_state),
        # A server's clock is its administrator's; we cannot say which of two servers is right.
        refuses_future=database.is_embedded and not settings.allow_future,
    )
    return System(
        database=database,
        ledger=ledger,
        jobs=jobs,
        state_counts=state_counts,
        unique_keys=unique_keys,
        ledger_state=ledger_state,
        commit_notifier=CommitNotifier(database, jobs.claimable_between),
        make_search=lambda: _search(settings, database, directory, indexes=indexes),
    )


@cache
def _inline_projections() -> tuple[Jobs, StateCounts, UniqueKeys, LedgerState]:
    """Return the read models that commit with the events.

    Defining them takes 13 ms.  If two threads are the first at once, each may get its own.
    """
    return Jobs(), StateCounts(), UniqueKeys(), LedgerState()


# Defining them takes as long again.
_shadows: Final = WeakKeyDictionary[Projection, Projection]()


def _shadow_of(model: Projection) -> Projection:
    """Return the same projection on temporary tables, which are compared with its own."""
    shadow = _shadows.get(model)
    if shadow is None:
        shadow = _shadows[model] = model.twin(shadow=True)
    return shadow


def _plug_ins(database: Database, ours: Sequence[Projection]) -> "PlugIns":
    """Return the read models of applications; the names of *ours* are reserved."""
    from ledger.projections.plugins import PlugIns
    from ledger.projections.search.engine import SearchEngine

    taken = {table.name for each in ours for table in each.tables}
    taken.update(each.name for each in ours)
    # The names of both search engines.
    taken |= {SearchEngine.name, "ledger_search_words", "ledger_search_checkpoints"}
    # What is late is told by name.
    taken.add(SWEEPER)
    return PlugIns(database, taken=taken | set(schema.metadata.tables))


def followed_for(queue: Queue) -> "list[Follower]":
    """Return the read models that ``ledger work`` keeps near the head."""
    from ledger.projections.models.activity import Activity

    activity = Activity(queue.database)
    ours = (*_inline_projections(), activity)
    return [activity, *_plug_ins(queue.database, ours).followers]


def create_plug_ins(system: System) -> list[str]:
    """Create the missing tables of applications' read models; return these models' names."""
    from ledger.projections.table_follower import TableFollower

    return [
        follower.name
        for follower in system.plug_ins.followers
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
    from ledger.database.sqlite import SqliteDatabase
    from ledger.projections.search.whoosh.engine import WhooshEngine

    beside = None
    if isinstance(database, SqliteDatabase) and not settings.search_directory:
        beside = database.path
    return WhooshEngine(
        database,
        search_directory(
            database, settings.search_directory, working_directory=directory or Path()
        ),
        with_parent=bool(settings.search_directory),
        beside=beside,
    )


def prepare(system: System) -> None:
    """Create the tables in an empty SQLite file; otherwise require those of this version.

    A database on a server has an administrator, and a file with an application's tables has
    an owner: there, tables are created only on request, by ``ledger migrate``.

    Raises:
        SchemaMismatch: The tables, or the rows of a read model, are not those of this version.
        Unavailable: The database is unavailable.
    """
    database = system.database
    if database.is_embedded and not database.has_tables():
        from ledger.database.migration import migrate

        migrate(database)
    require_current(database)
    require_versions(database, system.projections)
    record_versions(database, system.projections)

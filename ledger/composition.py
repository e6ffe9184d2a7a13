"""Put the system together: the one place, with the two front doors, that knows all.

``ledger/cli.py`` and ``api/wsgi.py`` call ``compose``; everything else gets its
collaborators handed in.
"""

from dataclasses import dataclass

from ledger.database import Database
from ledger.engines import open_database
from ledger.migration import is_empty, migrate, require_current
from ledger.service import Ledger
from ledger.settings import Settings
from projections.jobs import Jobs
from projections.projection import Projection
from projections.state_counts import StateCounts
from projections.unique_keys import UniqueKeys


@dataclass(frozen=True, slots=True, kw_only=True)
class System:
    """Be one database with everything that reads and writes it."""

    database: Database
    ledger: Ledger
    jobs: Jobs
    state_counts: StateCounts
    unique_keys: UniqueKeys

    @property
    def projections(self) -> tuple[Projection, ...]:
        """Return the projections, in the order in which they are applied."""
        return (self.jobs, self.state_counts, self.unique_keys)


def compose(settings: Settings) -> System:
    """Return the system on the database of *settings*; nothing is connected yet.

    Raises:
        InvalidInput: The database's URL is none.
    """
    database = open_database(settings.database_url, synchronous=settings.sqlite_synchronous)
    jobs, state_counts, unique_keys = Jobs(), StateCounts(), UniqueKeys()
    ledger = Ledger(
        database,
        jobs=jobs,
        unique_keys=unique_keys,
        projections=(jobs, state_counts, unique_keys),
    )
    return System(
        database=database,
        ledger=ledger,
        jobs=jobs,
        state_counts=state_counts,
        unique_keys=unique_keys,
    )


def prepare(database: Database) -> None:
    """Create the tables in an empty SQLite file; else require those of this version.

    A server database is somebody's to administer: there, nothing is created unasked.

    Raises:
        SchemaMismatch: The tables are not those of this version.
        Unavailable: The database is away.
    """
    if database.is_embedded and is_empty(database):
        migrate(database)
    require_current(database)

"""Read models that applications have written, found through entry points.

They are the classes in the entry-point group ``ledger.projections``, each called with the
database.  A plug-in that fails to load is reported by name and skipped: neither a server nor
``ledger rebuild jobs`` may fail because of it.
"""

import logging
import re
from collections.abc import Collection, Mapping
from functools import cached_property
from importlib.metadata import EntryPoint, entry_points
from typing import Final, NamedTuple

from ledger.database.contract import Database
from ledger.projections.follower import Follower
from ledger.projections.projection import REPLACEMENT_SUFFIX, Projection
from ledger.projections.rebuild.table_swap import OLD_SUFFIX

GROUP: Final = "ledger.projections"
_NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,39}")

_log = logging.getLogger(__name__)


class BrokenPlugIn(NamedTuple):
    """An entry point that provides no read model, and the reason."""

    name: str
    reason: str


class PlugIns:
    """The read models that applications have registered, loaded on first access.

    Args:
        database: The ledger's database.
        taken: Names and tables that Ledger itself uses.
    """

    def __init__(self, database: Database, *, taken: Collection[str]) -> None:
        self._database = database
        self._taken = frozenset(taken)

    @property
    def followers(self) -> tuple[Follower, ...]:
        """Return the read models that were loaded, in the order of their entry points' names."""
        return self._loaded[0]

    @property
    def broken(self) -> tuple[BrokenPlugIn, ...]:
        """Return the entry points that could not be loaded."""
        return self._loaded[1]

    @cached_property
    def _loaded(self) -> tuple[tuple[Follower, ...], tuple[BrokenPlugIn, ...]]:
        found: dict[str, Follower] = {}
        broken = []
        for entry in sorted(entry_points(group=GROUP), key=lambda entry: entry.name):
            try:
                follower = self._load(entry, found)
            except Exception as error:  # noqa: BLE001 - it is an application's code
                reason = f"{type(error).__name__}: {error}"
                _log.error("the projection %s cannot be loaded: %s", entry.name, reason)
                broken.append(BrokenPlugIn(entry.name, reason))
            else:
                found[follower.name] = follower
        return tuple(found.values()), tuple(broken)

    def _load(self, entry: EntryPoint, found: Mapping[str, Follower]) -> Follower:
        follower = entry.load()(self._database)
        if not isinstance(follower, Follower):
            raise TypeError(f"{entry.value} does not return a ledger.projections.follower.Follower")
        name = follower.name
        if not _NAME.fullmatch(name):
            raise ValueError(
                f"{entry.value}: expected a name that matches {_NAME.pattern}, got {name!r}"
            )
        taken = self._taken.union(*(_names(other) for other in found.values()))
        for each in _names(follower):
            if (
                each in taken
                or each.removesuffix(REPLACEMENT_SUFFIX).removesuffix(OLD_SUFFIX) in taken
            ):
                raise ValueError(f"{entry.value}: the name {each!r} is taken")
        return follower


def _names(follower: Follower) -> list[str]:
    """Return the names that no other read model may use."""
    tables = follower.tables if isinstance(follower, Projection) else ()
    return [follower.name, *(table.name for table in tables)]

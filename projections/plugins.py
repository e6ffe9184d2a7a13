"""Find the read models that applications have written.

They are classes, found through the entry-point group ``ledger.projections``; each is
called with the database.  One that cannot be had is told of by name, and stops nobody
else: neither a server nor ``ledger rebuild jobs`` may fail for want of it.
"""

import logging
import re
from collections.abc import Collection, Mapping
from functools import cached_property
from importlib.metadata import EntryPoint, entry_points
from typing import Final, NamedTuple

from ledger.database.contract import Database
from ledger.projections.follower import Follower
from ledger.projections.projection import GREEN_SUFFIX, Projection
from ledger.projections.rebuild.table_swap import OLD_SUFFIX

GROUP: Final = "ledger.projections"
_NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,39}")

_log = logging.getLogger(__name__)


class Broken(NamedTuple):
    """Be an entry point that leads to no read model, and why."""

    name: str
    reason: str


class Registered:
    """Be the read models that applications have registered; looked for when asked.

    Args:
        database: The ledger's.
        taken: Names and tables that are ours.
    """

    def __init__(self, database: Database, *, taken: Collection[str]) -> None:
        self._database = database
        self._taken = frozenset(taken)

    @property
    def followers(self) -> tuple[Follower, ...]:
        """Return those that can be had, by name."""
        return self._loaded[0]

    @property
    def broken(self) -> tuple[Broken, ...]:
        """Return those that cannot."""
        return self._loaded[1]

    @cached_property
    def _loaded(self) -> tuple[tuple[Follower, ...], tuple[Broken, ...]]:
        found: dict[str, Follower] = {}
        broken = []
        for entry in sorted(entry_points(group=GROUP), key=lambda entry: entry.name):
            try:
                follower = self._load(entry, found)
            except Exception as error:  # noqa: BLE001 - it is somebody else's code
                reason = f"{type(error).__name__}: {error}"
                _log.error("the projection %s cannot be had: %s", entry.name, reason)
                broken.append(Broken(entry.name, reason))
            else:
                found[follower.name] = follower
        return tuple(found.values()), tuple(broken)

    def _load(self, entry: EntryPoint, found: Mapping[str, Follower]) -> Follower:
        follower = entry.load()(self._database)
        if not isinstance(follower, Follower):
            raise TypeError(f"{entry.value} makes no ledger.projections.follower.Follower")
        name = follower.name
        if not _NAME.fullmatch(name):
            raise ValueError(f"{entry.value}: a name is {_NAME.pattern}, got {name!r}")
        taken = self._taken.union(*(_names(other) for other in found.values()))
        for each in _names(follower):
            if each in taken or each.removesuffix(GREEN_SUFFIX).removesuffix(OLD_SUFFIX) in taken:
                raise ValueError(f"{entry.value}: the name {each!r} is taken")
        return follower


def _names(follower: Follower) -> list[str]:
    """Return the names that nothing else may have."""
    tables = follower.tables if isinstance(follower, Projection) else ()
    return [follower.name, *(table.name for table in tables)]

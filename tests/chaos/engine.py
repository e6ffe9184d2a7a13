"""What a database of either kind is to the chaos test."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from random import Random
from typing import Protocol

from tests.chaos.clocks import MachineClock
from tests.chaos.disks import Disk

# Does something to the database, which lasts as long as the call; returns whether it did.
Incident = Callable[[Random], bool]


class Engine(Protocol):
    """A database that things happen to."""

    @property
    def url(self) -> str:
        """Return the URL by which programs use it."""

    @property
    def search_directory(self) -> Path:
        """Return where the search index is."""

    @property
    def disks(self) -> Mapping[str, Disk]:
        """Return the disks that may be full, each with what is on it."""

    @property
    def clocks(self) -> Mapping[str, tuple[MachineClock, int]]:
        """Return the clocks that may be set, each with the seconds that it may be off."""

    @property
    def incidents(self) -> Mapping[str, Incident]:
        """Return what may happen to the database, by name."""

    def start(self) -> None:
        """Start it."""

    def clock_of(self, program: str) -> MachineClock:
        """Return the clock of the machine on which a program runs."""

    def keep(self) -> None:
        """Repair what is broken, as an administrator does; called again and again."""

    def reading(self) -> AbstractContextManager[bool]:
        """Hold a read transaction until the block ends; yield whether there is one."""

    def close(self) -> None:
        """End it."""

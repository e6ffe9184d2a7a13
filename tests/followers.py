"""A follower for tests, which records the changes that it receives."""

from collections.abc import Callable, Sequence
from typing import ClassVar

from ledger.database.contract import Leadership
from ledger.errors import Overtaken
from ledger.log.recorded import AnyChange
from ledger.processes.composition import System
from ledger.projections.follower import ChangeConsumer, Follower


class Remembering(Follower):
    """A follower that keeps its changes in memory, as if each ``follow`` were a commit."""

    name: ClassVar[str] = "remembering"
    pause_s = 0.0

    def __init__(self, system: System, *, content: bool = False) -> None:
        self.wants_content = content
        self.position = 0
        self.told: list[AnyChange] = []
        self.calls: list[tuple[int, int]] = []
        # Called with the changes before they are kept; if it raises, they are not kept.
        self.refuse: Callable[[Sequence[AnyChange]], None] = _nothing
        self._database = system.database

    def checkpoint(self) -> int:
        return self.position

    def follow(self, changes: Sequence[AnyChange], *, through: int) -> None:
        first = changes[0].recorded.position
        if first != self.position + 1:
            raise Overtaken(self.name, self.position)
        self.refuse(changes)
        self.calls.append((first, through))
        self.told += changes
        self.position = through

    def leadership(self) -> Leadership:
        return self._database.leadership(self.name)

    def replacement(self) -> ChangeConsumer:
        raise NotImplementedError

    def swap(self) -> None:
        raise NotImplementedError

    def drop_replacement(self) -> None:
        raise NotImplementedError

    def replacement_checkpoint(self) -> int | None:
        return None


def _nothing(changes: Sequence[AnyChange]) -> None:
    pass

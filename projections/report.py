"""The outcome of a verification, or of the comparison of two read models."""

from dataclasses import dataclass, field
from typing import Final

# Enough to see what is wrong; a ledger that differs everywhere says no more.
MOST_DIFFERENCES: Final = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One thing that is not as it must be.

    Attributes:
        where: ``event 7``, ``head``, ``jobs id=7``, or ``trigger NAME of TABLE``.
        expected: What history, or this version's definition, says it must be.
        found: What is stored.
    """

    where: str
    expected: str
    found: str


@dataclass(slots=True, kw_only=True)
class Report:
    """The outcome of a verification.

    Attributes:
        position: Number of events.
        chain: The chain's end as computed, in hexadecimal.
        erased: Number of events whose content was erased by an ``erased`` event.
        differences: What is wrong, the first ones.
        projections: What was compared with history.
        not_compared: What was not, and why.
    """

    position: int = 0
    chain: str = ""
    erased: int = 0
    differences: list[Difference] = field(default_factory=list)
    projections: list[str] = field(default_factory=list)
    not_compared: dict[str, str] = field(default_factory=dict)

    @property
    def clean(self) -> bool:
        """Tell whether everything is as it must be."""
        return not self.differences

    def differ(self, where: str, expected: object, found: object) -> None:
        """Note a difference, unless there are enough."""
        if len(self.differences) < MOST_DIFFERENCES:
            self.differences.append(
                Difference(where=where, expected=str(expected), found=str(found))
            )

"""The result of a verification, or of a comparison of two read models."""

from dataclasses import dataclass, field
from typing import Final

# Enough to see what is wrong; more would add nothing if a ledger differs everywhere.
MOST_DIFFERENCES: Final = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """A difference between what is stored and what is expected.

    Attributes:
        where: ``event 7``, ``head``, ``jobs id=7``, or ``trigger NAME of TABLE``.
        expected: What history, or this version's definition, requires.
        found: What is stored.
    """

    where: str
    expected: str
    found: str


@dataclass(slots=True, kw_only=True)
class Report:
    """The result of a verification.

    Attributes:
        position: Number of events.
        chain: The computed end of the hash chain, in hexadecimal.
        erased: Number of events whose content was erased by an ``erased`` event.
        differences: The first differences, at most ``MOST_DIFFERENCES``.
        projections: The projections that were compared with history.
        not_compared: The projections that were not, each with the reason.
    """

    position: int = 0
    chain: str = ""
    erased: int = 0
    differences: list[Difference] = field(default_factory=list)
    projections: list[str] = field(default_factory=list)
    not_compared: dict[str, str] = field(default_factory=dict)

    @property
    def clean(self) -> bool:
        """Return whether there are no differences."""
        return not self.differences

    def differ(self, where: str, expected: object, found: object) -> None:
        """Record a difference, unless there are ``MOST_DIFFERENCES`` already."""
        if len(self.differences) < MOST_DIFFERENCES:
            self.differences.append(
                Difference(where=where, expected=str(expected), found=str(found))
            )

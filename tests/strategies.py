"""Hypothesis strategies of submissions; those of commands are in ledger.testing.strategies."""

from collections.abc import Sequence
from typing import NamedTuple

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from ledger.rules.commands import Command
from ledger.testing.strategies import (
    Target,
    actors,
    causes,
    clock_steps_ms,
    creations,
    next_step,
    on_jobs,
)

__all__ = [
    "SHARED_FIXTURES",
    "Target",
    "Words",
    "clock_steps_ms",
    "creations",
    "next_step",
    "submissions",
]

# For tests whose examples may share their fixtures: this check and those suppressed for all tests.
SHARED_FIXTURES = (*settings().suppress_health_check, HealthCheck.function_scoped_fixture)


class Words(NamedTuple):
    """A submission of one caller."""

    commands: Sequence[Command]
    actor: str
    cause: str | None
    atomic: bool


def submissions(targets: Sequence[Target]) -> SearchStrategy[list[Words]]:
    """Return a strategy of lists of simultaneous submissions."""
    one = st.builds(
        Words,
        commands=st.lists(on_jobs(targets), min_size=1, max_size=4),
        actor=actors,
        cause=causes,
        atomic=st.booleans(),
    )
    return st.lists(one, min_size=1, max_size=3)

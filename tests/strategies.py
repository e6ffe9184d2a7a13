"""Hypothesis strategies of submissions, and of what handlers do.

Those of commands are in ledger.testing.strategies.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

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
    json_values,
    next_step,
    on_jobs,
)
from tests.hostile_objects import (
    BEHAVIOURS,
    ERRORS,
    METHODS,
    METHODS_OF_CLASSES,
    OBJECTS,
    ODD_OBJECTS,
    PROPERTIES,
    Hostile,
    Linked,
    Odd,
    Outcome,
)

__all__ = [
    "SHARED_FIXTURES",
    "Target",
    "Words",
    "any_outcomes",
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


def any_outcomes() -> SearchStrategy[Outcome]:
    """Return a strategy of whatever a handler can return or raise."""
    is_raised, is_returned = st.sampled_from([True]), st.sampled_from([False])
    depths = st.sampled_from([*[0] * 20, 1, 100, 5_000])
    return st.one_of(
        st.builds(Outcome, described=_any_objects(), raises=is_returned),
        st.builds(Outcome, described=_any_errors(), raises=is_raised, depth=depths),
    )


def _any_objects() -> SearchStrategy[Any]:
    odd = st.builds(Odd, what=st.sampled_from(list(ODD_OBJECTS)))
    one = st.one_of(json_values(), odd, _hostile(OBJECTS))
    within = st.one_of(
        st.lists(one, max_size=3), st.dictionaries(st.text(max_size=2), one, max_size=3)
    )
    return st.one_of(one, within, _hostile(ERRORS))


def _any_errors() -> SearchStrategy[Any]:
    return st.one_of(
        _hostile(ERRORS),
        st.builds(
            Linked,
            error=_hostile(ERRORS),
            number=st.sampled_from([1, 2, 50, 2_000]),
            by=st.sampled_from(["__cause__", "__context__", "exceptions"]),
            is_circle=st.booleans(),
        ),
        # What is no exception cannot be raised: that is a TypeError.
        st.sampled_from([None, 1, object]),
    )


def _hostile(bases: Mapping[Any, object]) -> SearchStrategy[Hostile]:
    behaviours = st.sampled_from(list(BEHAVIOURS))
    names = ["__notes__", "__module__", "after_ms", "args", "msg", "lineno", "end_offset", "text"]
    values = st.one_of(
        json_values(),
        st.builds(Odd, what=st.sampled_from(list(ODD_OBJECTS))),
        st.sampled_from([0, -1, 2**53, 0.5]),
    )
    return st.builds(
        Hostile,
        base=st.sampled_from(list(bases)),
        methods=st.dictionaries(st.sampled_from(METHODS + PROPERTIES), behaviours, max_size=3),
        attributes=st.dictionaries(st.sampled_from(names), values, max_size=2),
        class_methods=st.dictionaries(st.sampled_from(METHODS_OF_CLASSES), behaviours, max_size=1),
        calls_base=st.booleans(),
    )

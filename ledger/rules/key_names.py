"""The names under which the jobs of unique keys are stored.

A job has a name for its option ``unique``, and one for its place in a request with an
``Idempotency-Key``.  All names are in one table, so the two kinds must not meet: the names of
requests have a prefix, and a ``unique`` that begins like one gets a prefix too.  Other values
of ``unique`` are names as they are.

A request with an array of jobs has a name for each place, and one for itself, which is that of
its first job.  A key has no line break, so none of these is the name of another request.
"""

from collections.abc import Iterator
from typing import Final

from ledger.rules.events import RequestKey

_OF_REQUEST: Final = "Idempotency-Key: "
_OF_OPTION: Final = "unique: "


def name_of_option(unique: str) -> str:
    """Return the name for the option ``unique``."""
    return _OF_OPTION + unique if unique.startswith((_OF_REQUEST, _OF_OPTION)) else unique


def name_of_request(request: RequestKey) -> str:
    """Return the name of a request, whatever its jobs are."""
    return _OF_REQUEST + request.key


def name_of_place(request: RequestKey) -> str:
    """Return the name for the place of one job in its request."""
    name = name_of_request(request)
    return name if request.jobs is None else f"{name}\n{request.place}"


def names(unique: str | None, request: RequestKey | None) -> Iterator[str]:
    """Yield the names of a job, the name of its request last."""
    if unique is not None:
        yield name_of_option(unique)
    if request is not None:
        if request.jobs is not None:
            yield name_of_place(request)
        yield name_of_request(request)

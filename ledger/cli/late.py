"""What several commands print of work in the background that is late."""

from collections.abc import Iterable, Mapping

from ledger.cli import output
from ledger.projections.lag import Late


def late_json(late: Iterable[Late]) -> Mapping[str, Mapping[str, object]]:
    """Return what ``--json`` prints of late work, by name."""
    return {each.name: {"ms": each.ms, "reason": each.reason} for each in late}


def print_late(late: Iterable[Late], *, err: bool = False) -> None:
    """Print a line for each piece of late work.

    Args:
        late: The late work.
        err: Whether to print it to standard error, as a warning.
    """
    for each in late:
        warning = "Warning: " if err else ""
        by = output.age(each.ms)
        output.line(f"{warning}{each.name} is late by {by}: {each.reason}", err=err)

"""The sizes of a rebuild's steps: each is one transaction, and others go on between two of them."""

from typing import Final, NamedTuple


class Steps(NamedTuple):
    """The sizes of a rebuild's steps, and the pause between them.

    Attributes:
        first_batch: Number of events in the first batch.
        smallest_batch: Smallest number of events to which a batch is shortened.
        largest_batch: Largest number of events to which a batch grows.
        rows_at_once: Number of rows of a replaced table that are deleted at once, without a
            noticeable delay for writers.
        give_way_s: Pause between two steps in seconds, on SQLite; long enough for a process to
            wake up on a busy machine.
    """

    first_batch: int = 2_000
    smallest_batch: int = 100
    largest_batch: int = 40_000
    rows_at_once: int = 20_000
    give_way_s: float = 0.02


STEPS: Final = Steps()

"""How long a worker's loop waits."""

from typing import Final, NamedTuple


class Pauses(NamedTuple):
    """The pauses of a worker's loop, in seconds.

    Attributes:
        longest_s: The loop checks for jobs at least this often, even if it is not woken.
        retry_s: Pause between tries while the database is unavailable.
    """

    longest_s: float = 2.0
    retry_s: float = 0.5


PAUSES: Final = Pauses()

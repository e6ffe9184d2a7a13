"""What the server requires of clients; the app carries it to the server that runs it."""

from typing import NamedTuple


class ClientLimits(NamedTuple):
    """How large the requests of clients may be, and how slow the clients.

    Attributes:
        largest_body_bytes: Larger request bodies are refused.
        timeout_s: The time in which a client must make progress.
    """

    largest_body_bytes: int = 1024 * 1024
    timeout_s: float = 30.0

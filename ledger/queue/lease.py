"""The default lease: how long a worker may be silent before its attempts fail."""

from typing import Final

LEASE_MS: Final = 30_000

"""Say how long a worker may be silent before its jobs are failed, where nothing else does."""

from typing import Final

LEASE_MS: Final = 30_000

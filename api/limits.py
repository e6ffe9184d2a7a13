"""The limits of one request; the OpenAPI description states them too."""

from typing import Final

# Log lines in one request: each is an event, and all of them are one commit.
MOST_LINES: Final = 1_000
# Characters in the reason for returning a job, which unlike content is kept for ever.
LONGEST_REASON: Final = 1_000
# Types that one claim may name.
MOST_TYPES: Final = 100
# Jobs that one claim may take.
MOST_CLAIMED: Final = 1_000
# Seconds that a claim may wait for a job.
LONGEST_WAIT_S: Final = 60

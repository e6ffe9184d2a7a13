"""Limits of what one request may ask for; the OpenAPI description states them too."""

from typing import Final

# Log lines of one request: each is an event, and all of them are one commit.
MOST_LINES: Final = 1_000
# Characters of the reason for giving a job back, which unlike content is kept for ever.
LONGEST_REASON: Final = 1_000
# Types that one claim may name.
MOST_TYPES: Final = 100
# Jobs that one claim may take.
MOST_CLAIMED: Final = 1_000
# Seconds that a claim may wait for a job.
LONGEST_WAIT_S: Final = 60

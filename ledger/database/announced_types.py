"""The types of jobs that a commit makes claimable, in the text of a notification.

An empty text stands for all types.  It is sent after an event of the ledger itself, such as the
resumption of a type, and if the types do not fit into a notification.  An earlier release sent it
for every commit.
"""

from collections.abc import Collection, Iterable
from typing import Final

import msgspec

# PostgreSQL takes fewer than 8,000 bytes.
LARGEST_BYTES: Final = 7_000


def encode(types: Collection[str] | None) -> str:
    """Return the text for *types*; None is for all."""
    text = b"" if types is None else msgspec.json.encode(sorted(types))
    return text.decode() if len(text) <= LARGEST_BYTES else ""


def decode(texts: Iterable[str]) -> set[str] | None:
    """Return the types in several texts; None is for all."""
    found: set[str] = set()
    for text in texts:
        try:
            found.update(msgspec.json.decode(text, type=list[str]))
        except msgspec.DecodeError:
            # An empty text, or what a stranger has sent to the channel.
            return None
    return found

"""Chain the events, so that no one can change history unseen.

Each event's *leaf* is a hash of everything that is kept for ever; each *link*
is a hash of the link before it and the leaf::

    digest = SHA-256(salt ‖ content)                       where there is content
    leaf   = SHA-256(0x00 ‖ column ‖ column ‖ …)           each length-prefixed
    chain  = SHA-256(0x01 ‖ previous chain ‖ leaf)

Change, insert, drop or reorder an event and every link after it is wrong; the
prefixes 0x00 and 0x01 keep a leaf from posing as a link (as in RFC 6962, 2.1).
The lengths keep ``("ab", "c")`` and ``("a", "bc")`` apart.

Content is not in the leaf, only its salted digest is.  Erasing content and salt
therefore breaks nothing, and without the 16 random bytes nobody can find short
content by trying.

A chain does not show that its *end* was cut off, nor that its owner wrote it all
anew; for that, keep a copy of the head (``ledger status``) elsewhere.
"""

import hashlib
import os
import struct
from functools import lru_cache
from typing import Final

GENESIS: Final = b"\0" * 32
SALT_BYTES: Final = 16

# A column that is NULL has this for its length, which no column can have.
_NULL: Final = b"\xff" * 8
_length: Final = struct.Struct(">Q").pack
_DIGEST_LENGTH: Final = _length(hashlib.sha256().digest_size)


def salt() -> bytes:
    """Return fresh random bytes for one event's content."""
    return os.urandom(SALT_BYTES)


def digest(salt: bytes, content: str) -> bytes:
    """Return the 32-byte commitment to *content*."""
    return hashlib.sha256(salt + content.encode()).digest()


def leaf(
    *,
    position: int,
    job_id: int,
    version: int,
    kind: str,
    schema: int,
    at_ms: int,
    actor: str,
    cause: str | None,
    body: str,
    digest: bytes | None,
) -> bytes:
    """Return the 32-byte hash of an event's permanent columns.

    Integers count as their decimal text, text as UTF-8, each behind its length
    in bytes as an unsigned 64-bit big-endian integer; NULL is eight bytes 0xff.
    """
    return hashlib.sha256(
        b"".join(
            (
                b"\0",
                _framed(position),
                _framed(job_id),
                _repeated(version),
                _repeated(kind),
                _repeated(schema),
                _repeated(at_ms),
                _repeated(actor),
                _NULL if cause is None else _framed(cause),
                _repeated(body) if len(body) <= _LONGEST_REMEMBERED else _framed(body),
                _NULL if digest is None else _DIGEST_LENGTH + digest,
            )
        )
    ).digest()


def _framed(column: int | str) -> bytes:
    raw = str(column).encode()
    return _length(len(raw)) + raw


# What is remembered is small, whatever somebody posts.
_LONGEST_REMEMBERED: Final = 500
# The events of a batch have most columns in common.
_repeated: Final = lru_cache(maxsize=4096)(_framed)


def link(previous: bytes, leaf: bytes) -> bytes:
    """Return the 32-byte chain value of the event after *previous*."""
    return hashlib.sha256(b"\x01" + previous + leaf).digest()

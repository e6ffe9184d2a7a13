"""The hash chain of the events, which makes any change of history detectable.

Each event's *leaf* is a hash of all columns that are kept forever; each *link* is a hash
of the previous link and the leaf::

    digest = SHA-256(salt ‖ content)                       if there is content
    leaf   = SHA-256(0x00 ‖ column ‖ column ‖ …)           each length-prefixed
    chain  = SHA-256(0x01 ‖ previous chain ‖ leaf)

If an event is changed, inserted, dropped or reordered, every link after it is wrong.  The
prefixes 0x00 and 0x01 prevent a leaf from passing as a link (as in RFC 6962, 2.1).  The
lengths distinguish ``("ab", "c")`` from ``("a", "bc")``.

Content is not in the leaf, only its salted digest is.  Erasing content and salt therefore
breaks no link, and without the 16 random bytes of salt even short content cannot be
guessed from its digest.

A chain does not show that its *end* was cut off, nor that its owner rewrote all of it; to
detect that, keep a copy of the head (``ledger status``) elsewhere.
"""

import hashlib
import os
import struct
from functools import lru_cache
from typing import Final

GENESIS: Final = b"\0" * 32
SALT_BYTES: Final = 16

# Stands for the length of a NULL column; no column is that long.
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

    Integers are hashed as decimal text, text as UTF-8, each after its length in bytes as an
    unsigned 64-bit big-endian integer; NULL is eight bytes 0xff.
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


# In characters: longer bodies are not cached, which bounds the cache's memory.
_LONGEST_REMEMBERED: Final = 500
# The events of a batch have most column values in common.
_repeated: Final = lru_cache(maxsize=4096)(_framed)


def link(previous: bytes, leaf: bytes) -> bytes:
    """Return the 32-byte chain value of the event after *previous*."""
    return hashlib.sha256(b"\x01" + previous + leaf).digest()

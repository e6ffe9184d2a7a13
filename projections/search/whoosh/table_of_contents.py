"""The table of contents of an index, a JSON file.

Whoosh would pickle it, and reading a pickle executes what it says.  JSON does not, and any
unexpected value is an error: numbers without bounds would do harm later.
"""

import re
import secrets
import warnings
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Final, NamedTuple

import msgspec
from msgspec import Meta

from ledger.projections.search.engine import Damaged

with warnings.catch_warnings():
    # About escapes in Whoosh's source; Python warns only when it compiles the file.
    warnings.simplefilter("ignore")
    from whoosh.codec import base
    from whoosh.fields import Schema

# Changes with the layout of a segment, and of this file.
LAYOUT: Final = 2
NAME: Final = "MAIN"
# Enough for the deletions of 400 million documents.
LARGEST_TOC_BYTES: Final = 64 * 1024 * 1024

WRITE_LOCK: Final = f"{NAME}_WRITELOCK"
_TOC_NAME: Final = re.compile(rf"_{NAME}_(0|[1-9][0-9]{{0,17}})\.toc")
_UNFINISHED: Final = re.compile(rf"_{NAME}_[0-9]{{1,18}}\.toc\.[0-9a-f]{{16}}")
_SEGMENT_NAME: Final = re.compile(rf"{NAME}_[0-9a-f]{{16}}\.seg")


class Checkpoint(NamedTuple):
    """The position of a ledger up to which an index has followed it.

    Attributes:
        chain: The chain value of the event at that position, which no other ledger has.
    """

    position: int
    chain: bytes


START: Final = Checkpoint(0, b"")


class _SegmentEntry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A segment's entry in the file.

    Attributes:
        id: The part of its file's name that identifies it.
        deleted: One bit per document, in base64; empty if no document is deleted.
    """

    id: Annotated[str, Meta(pattern=r"\A[0-9a-f]{16}\Z")]
    documents: Annotated[int, Meta(ge=0, lt=1 << 32)]
    deleted: bytes
    deleted_count: Annotated[int, Meta(ge=0, lt=1 << 32)]


class _TocEntry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The contents of the file.

    Attributes:
        chain: In hexadecimal digits.
    """

    layout: int
    generation: Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]
    position: Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]
    chain: Annotated[str, Meta(pattern=r"\A([0-9a-f]{2}){0,64}\Z")]
    segments: Annotated[list[_SegmentEntry], Meta(max_length=10_000)]


class Segment(base.Segment):  # type: ignore[misc]  # Whoosh ships no types
    """A segment of a table of contents: its size, and its deleted documents."""

    def __init__(self, id_: str | None = None) -> None:
        self.indexname = NAME
        # Whoosh's random numbers are slow, and the same in two forked children.
        self.segid = id_ or secrets.token_hex(8)
        self.compound = False
        self._documents = 0
        # One bit per document; empty while no document is deleted.
        self._deleted = b""
        self._deleted_count = 0

    @classmethod
    def of(cls, entry: _SegmentEntry) -> "Segment":
        """Return the segment of an entry.

        Raises:
            Damaged: The entry contradicts itself.
        """
        bits = int.from_bytes(entry.deleted, "little")
        if (
            len(entry.deleted) not in {0, (entry.documents + 7) >> 3}
            or bits >> entry.documents
            or bits.bit_count() != entry.deleted_count
        ):
            raise Damaged(f"the deletions of segment {entry.id} are inconsistent")
        segment = cls(entry.id)
        segment._documents = entry.documents
        segment._deleted = entry.deleted
        segment._deleted_count = entry.deleted_count
        return segment

    def entry(self) -> _SegmentEntry:
        """Return the segment's entry in the file."""
        return _SegmentEntry(
            id=self.segid,
            documents=self._documents,
            deleted=self._deleted,
            deleted_count=self._deleted_count,
        )

    @property
    def file_name(self) -> str:
        """Return the name of its file."""
        return f"{NAME}_{self.segid}.seg"

    def codec(self) -> Any:  # noqa: ANN401 - Whoosh's
        raise NotImplementedError

    def should_assemble(self) -> bool:
        return False

    def set_doc_count(self, count: int) -> None:
        self._documents = count

    def doc_count_all(self) -> int:
        return self._documents

    def deleted_count(self) -> int:
        return self._deleted_count

    def is_deleted(self, number: int) -> bool:
        return bool(self._deleted) and bool(self._deleted[number >> 3] & 1 << (number & 7))

    def deleted_docs(self) -> set[int]:
        return {number for number in range(self._documents) if self.is_deleted(number)}

    def delete_document(self, number: int, delete: bool = True) -> None:  # noqa: FBT001, FBT002 - Whoosh's
        if delete:
            self.delete((number,))

    def delete(self, numbers: Collection[int]) -> None:
        """Mark documents as deleted."""
        bits = bytearray(self._deleted or bytes((self._documents + 7) >> 3))
        for number in numbers:
            bit = 1 << (number & 7)
            if not bits[number >> 3] & bit:
                bits[number >> 3] |= bit
                self._deleted_count += 1
        self._deleted = bytes(bits)

    def kept(self) -> list[int] | None:
        """Return the documents that are not deleted, or None if none is deleted."""
        if not self._deleted_count:
            return None
        return [number for number in range(self._documents) if not self.is_deleted(number)]


@dataclass(slots=True, kw_only=True)
class Toc:
    """The contents of an index at a commit.

    Attributes:
        generation: The commit's number.
        segments: Oldest documents first.
        schema: Whoosh's writer requires one; it has no fields.
    """

    generation: int
    checkpoint: Checkpoint
    segments: list[Segment]
    schema: Schema = field(default_factory=Schema)


def encode(toc: Toc) -> bytes:
    """Return the contents of the file."""
    return msgspec.json.encode(
        _TocEntry(
            layout=LAYOUT,
            generation=toc.generation,
            position=toc.checkpoint.position,
            chain=toc.checkpoint.chain.hex(),
            segments=[segment.entry() for segment in toc.segments],
        )
    )


_decoder: Final = msgspec.json.Decoder(_TocEntry)


def decode(data: bytes, generation: int) -> Toc:
    """Return the table of contents that a file contains.

    Args:
        data: The file's contents.
        generation: The generation in its name.

    Raises:
        Damaged: It is not a table of contents of ours.
    """
    try:
        entry = _decoder.decode(data)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise Damaged(f"the table of contents cannot be read: {error}") from error
    if (entry.layout, entry.generation) != (LAYOUT, generation):
        raise Damaged(
            f"the table of contents has layout {entry.layout} and generation "
            f"{entry.generation}, expected {LAYOUT} and {generation}"
        )
    if len({segment.id for segment in entry.segments}) < len(entry.segments):
        raise Damaged("the table of contents lists a segment twice")
    return Toc(
        generation=generation,
        checkpoint=Checkpoint(entry.position, bytes.fromhex(entry.chain)),
        segments=[Segment.of(segment) for segment in entry.segments],
    )


# --- the names of an index's files


def toc_name(generation: int) -> str:
    """Return the name of a table of contents."""
    return f"_{NAME}_{generation}.toc"


def latest_generation(names: Sequence[str]) -> int:
    """Return the number of the last commit, or -1 if none of the names is a table of contents."""
    found = map(_TOC_NAME.fullmatch, names)
    return max((int(match[1]) for match in found if match), default=-1)


def is_file_of_index(name: str) -> bool:
    """Return whether a name is exactly that of a file that an index has, or had."""
    return name == WRITE_LOCK or any(
        pattern.fullmatch(name) for pattern in (_SEGMENT_NAME, _TOC_NAME, _UNFINISHED)
    )


def left_over(names: Sequence[str], toc: Toc) -> list[str]:
    """Return the names of files that are no longer, or never became, part of an index."""
    parts = {WRITE_LOCK, toc_name(toc.generation)}
    parts.update(segment.file_name for segment in toc.segments)
    return [name for name in names if name not in parts and is_file_of_index(name)]

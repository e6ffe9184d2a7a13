"""Make Whoosh's writer write our segments.

Whoosh asks a *codec* for what writes a segment's parts.  Ours are one file, so its writer
is given nothing to write into, and writes the file itself when the segment is finished.
All else is Whoosh's: the lock, the table of contents, the files that are left over.

The names of the classes here are in the pickles: who moves one has to change ``LAYOUT``.
"""

import os
import warnings
from array import array
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any, Final, NamedTuple

from projections.search import whoosh_segment

with warnings.catch_warnings():
    # Of escapes in its source; once compiled, it says no more.
    warnings.simplefilter("ignore")
    from whoosh.codec import base
    from whoosh.fields import Schema
    from whoosh.filedb.filestore import FileStorage
    from whoosh.filedb.structfile import StructFile
    from whoosh.index import TOC, EmptyIndexError, FileIndex, LockError
    from whoosh.writing import SegmentWriter

__all__ = [
    "LAYOUT",
    "NAME",
    "START",
    "TOC",
    "Checkpoint",
    "Codec",
    "EmptyIndexError",
    "FileIndex",
    "LockError",
    "Schema",
    "Segment",
    "Storage",
    "Writer",
    "without_empty",
]

# Changes with that of a segment, and of what is pickled.
LAYOUT: Final = 1
NAME: Final = "MAIN"
_EXTENSION: Final = ".seg"


class Checkpoint(NamedTuple):
    """Be the place in a ledger up to which an index has followed it.

    Attributes:
        chain: The chain value of the event there, which no other ledger has.
    """

    position: int
    chain: bytes


START: Final = Checkpoint(0, b"")


class Segment(base.Segment):  # type: ignore[misc]  # Whoosh ships no types
    """Be what the table of contents says of a segment: its size, and what is deleted."""

    def __init__(self) -> None:
        super().__init__(NAME)
        self._documents = 0
        # A bit a document, none at all as long as there is none to set.
        self._deleted = b""
        self._deleted_count = 0

    @property
    def file_name(self) -> str:
        """Return the name of its file."""
        return str(self.make_filename(_EXTENSION))

    def codec(self) -> "Codec":
        return Codec()

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
        """Return the documents that are not deleted, None if that is all."""
        if not self._deleted_count:
            return None
        return [number for number in range(self._documents) if not self.is_deleted(number)]


class _Nothing:
    """Be a part of Whoosh's writer that has nothing to write: segments are one file."""

    is_closed = False

    def close(self) -> None:
        self.is_closed = True


class Codec(base.Codec):  # type: ignore[misc]  # as Segment
    """Make Whoosh's writer write our segments."""

    length_stats = False

    def new_segment(self, storage: Any, name: str) -> Segment:  # noqa: ANN401 - Whoosh's
        return Segment()

    def per_document_writer(self, storage: Any, segment: Segment) -> _Nothing:  # noqa: ANN401 - Whoosh's
        return _Nothing()

    def field_writer(self, storage: Any, segment: Segment) -> _Nothing:  # noqa: ANN401 - Whoosh's
        return _Nothing()


class Storage(FileStorage):  # type: ignore[misc]  # as Segment
    """Be a directory in which a renamed file survives a power cut."""

    def open_file(self, name: str, **_: object) -> StructFile:
        # Tables of contents are all that is read so, and one that is damaged would be
        # left open.
        return StructFile(BytesIO(Path(self.folder, name).read_bytes()), name=name)

    def rename_file(self, frm: str, to: str, safe: bool = False) -> None:  # noqa: FBT001, FBT002 - Whoosh's
        folder = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            file = os.open(frm, os.O_RDONLY, dir_fd=folder)
            try:
                os.fsync(file)
            finally:
                os.close(file)
            super().rename_file(frm, to, safe)
            os.fsync(folder)
        finally:
            os.close(folder)


class Writer(SegmentWriter):  # type: ignore[misc]  # as Segment
    """Be Whoosh's writer, but for the postings, which go into our file as they come."""

    def __init__(self, index: FileIndex, codec: Codec) -> None:
        super().__init__(index, codec=codec, compound=False)
        self._job_ids = array("Q")
        self._numbers: defaultdict[str, array[int]] = defaultdict(lambda: array("I"))

    def add(self, job_id: int, words: Iterable[str]) -> None:
        """Add a document."""
        number, numbers = self.docnum, self._numbers
        for word in words:
            numbers[word].append(number)
        self._job_ids.append(job_id)
        self.docnum += 1
        self._added = True

    def _flush_segment(self) -> None:
        postings = sorted((word.encode(), numbers) for word, numbers in self._numbers.items())
        path = Path(self.storage.folder) / self.newsegment.file_name
        whoosh_segment.write(path, self._job_ids, postings)

    def abandon(self) -> None:
        """Change nothing, and free the lock, wherever the writer failed."""
        if not self.is_closed:
            self.cancel()


def without_empty(writer: Writer, segments: Sequence[Segment]) -> list[Segment]:
    """Return the segments to keep; Whoosh asks for it at each commit."""
    return [segment for segment in segments if segment.doc_count()]

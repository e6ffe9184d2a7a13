"""Segments: the words of some documents, in one file that is written once and then mapped.

::

    header    what follows, how much of it, and its checksum
    job ids   8 bytes per document, rising: a document's number is its place here
    postings  4 bytes for each word of each document: the documents' numbers, rising,
              word after word
    starts    4 bytes per word and one more: where its postings begin
    places    4 bytes per word and one more: where it begins among the words
    words     in UTF-8, sorted

Whoosh's own layout decodes a posting list block by block, with the weight and length of every
posting, in order to rank.  Ledger does not rank: the newest documents come first, and a
document's number tells how new it is.  A plain array can be read from its end, bisected and
intersected, and only what is looked at is decoded.  It is smaller too, and joining files
takes a fifth of the time of indexing their documents again.

All numbers are in this machine's byte order.  A file is read only if its length and its
checksum are right.  Any other content could only give wrong results: a number that points
beyond an array raises ``Damaged``, or finds nothing.
"""

import mmap
import os
import struct
import sys
import zlib
from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from heapq import merge
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple

from ledger.database.own_files import Strange
from ledger.projections.search.engine import Damaged
from ledger.projections.search.whoosh.own_directory import open_own

_MAGIC: Final = b"ledger-1" if sys.byteorder == "little" else b"1-regdel"
_CHUNK: Final = 1 << 20
_BEYOND: Final = "a segment refers to documents that it does not have"

Postings = Iterable[tuple[bytes, "array[int]"]]


class _Header(NamedTuple):
    """The header of a file.

    Attributes:
        checksum: CRC-32 of everything after the header.
    """

    magic: bytes
    documents: int
    postings: int
    words: int
    letters: int
    checksum: int

    @property
    def size(self) -> int:
        """Return the length that the file must have, in bytes."""
        arrays = 8 * self.documents + 4 * self.postings + 8 * (self.words + 1)
        return _HEADER_BYTES + arrays + self.letters


_header: Final = struct.Struct("=8sQQQQQ")
_HEADER_BYTES: Final = _header.size


def write(file: BinaryIO, job_ids: "array[int]", postings: Postings) -> None:
    """Write a segment that survives a power failure once this returns.

    Args:
        file: An empty file.
        job_ids: The ids of the documents' jobs, rising; 8 bytes each.
        postings: The words, sorted, each with the numbers of the documents that have it,
            rising; 4 bytes each.
    """
    file.write(bytes(_HEADER_BYTES))
    body = _Body(file)
    body.write(job_ids)
    starts, places, letters = array("I", [0]), array("I", [0]), []
    for word, numbers in postings:
        body.write(numbers)
        starts.append(starts[-1] + len(numbers))
        places.append(places[-1] + len(word))
        letters.append(word)
    body.write(starts)
    body.write(places)
    body.write(b"".join(letters))
    file.seek(0)
    header = _Header(_MAGIC, len(job_ids), starts[-1], len(letters), places[-1], body.checksum)
    file.write(_header.pack(*header))
    file.flush()
    os.fsync(file.fileno())


class _Body:
    """The part of a file after the header, with its checksum."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.checksum = 0

    def write(self, data: "bytes | array[int]") -> None:
        self.checksum = zlib.crc32(data, self.checksum)
        self._file.write(data)


class SegmentFile:
    """A segment that was written; any number of threads may read it.

    Raises:
        Damaged: The file is not what was written.
        FileNotFoundError: It is gone, most likely because it was joined with others.
    """

    def __init__(self, path: Path) -> None:
        try:
            descriptor = open_own(path)
        except Strange as error:
            raise Damaged(f"cannot use {path}: {error}") from error
        try:
            data = memoryview(mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ))
        except ValueError as error:
            raise Damaged(f"{path} is empty") from error
        finally:
            os.close(descriptor)
        if len(data) < _HEADER_BYTES:
            raise Damaged(f"{path} is too short")
        header = _Header._make(_header.unpack_from(data))
        if header.magic != _MAGIC or header.size != len(data):
            raise Damaged(
                f"{path} does not have the size in its header, or is not a segment of this version"
            )
        if _checksum(data[_HEADER_BYTES:]) != header.checksum:
            raise Damaged(f"{path} does not match its checksum")
        arrays = _Cut(data, _HEADER_BYTES)
        self.job_ids = arrays.take("Q", header.documents)
        self._postings = arrays.take("I", header.postings)
        self._starts = arrays.take("I", header.words + 1)
        self._places = arrays.take("I", header.words + 1)
        self._letters = data[header.size - header.letters :]
        self._words = range(header.words)

    def __len__(self) -> int:
        return len(self.job_ids)

    def number(self, job_id: int) -> int | None:
        """Return the number of a job's document, or None if it has none here."""
        number = bisect_left(self.job_ids, job_id)
        if number < len(self.job_ids) and self.job_ids[number] == job_id:
            return number
        return None

    def postings(self, word: bytes) -> "memoryview[int]":
        """Return the numbers of the documents that have a word, rising."""
        place = bisect_left(self._words, word, key=self._word)
        if place < len(self._words) and self._word(place) == word:
            return self._postings[self._starts[place] : self._starts[place + 1]]
        return self._postings[:0]

    def __iter__(self) -> "Iterator[tuple[bytes, memoryview[int]]]":
        """Yield the words, sorted, each with its postings."""
        for place in self._words:
            yield self._word(place), self._postings[self._starts[place] : self._starts[place + 1]]

    def require_sound(self) -> None:
        """Require that all documents that the postings name exist, by a look at every posting.

        Raises:
            Damaged: One does not.
        """
        if max(self._postings, default=-1) >= len(self.job_ids):
            raise Damaged(_BEYOND)

    def _word(self, place: int) -> bytes:
        return bytes(self._letters[self._places[place] : self._places[place + 1]])


class _Cut:
    """A cursor that takes arrays from a file, one after the other."""

    def __init__(self, data: memoryview, offset: int) -> None:
        self._data = data
        self._offset = offset

    def take(self, code: str, number: int) -> "memoryview[int]":
        start = self._offset
        self._offset += number * array(code).itemsize
        return self._data[start : self._offset].cast(code)  # type: ignore[call-overload, no-any-return]  # the code varies


def _checksum(data: memoryview) -> int:
    checksum = 0
    # In parts: other threads run during each of them.
    for start in range(0, len(data), _CHUNK):
        checksum = zlib.crc32(data[start : start + _CHUNK], checksum)
    return checksum


class Source(NamedTuple):
    """A segment to join with others.

    Attributes:
        kept: Its documents that are not deleted; None if all are kept.
    """

    file: SegmentFile
    kept: Sequence[int] | None


def join(create: Callable[[], AbstractContextManager[BinaryIO]], sources: Sequence[Source]) -> int:
    """Write one segment with the documents of *sources*, in their order.

    Args:
        create: Creates the file.
        sources: At least one.

    Raises:
        Damaged: A source names documents that it does not have.

    Returns:
        The number of documents.  If it is 0, nothing is written.
    """
    job_ids = array("Q")
    streams = []
    for order, (file, kept) in enumerate(sources):
        base = len(job_ids)
        if kept is None:
            job_ids.extend(file.job_ids)
            streams.append(_shifted(file, order, base))
        else:
            job_ids.extend(file.job_ids[number] for number in kept)
            new = {old: base + place for place, old in enumerate(kept)}
            streams.append(_renumbered(file, order, new))
    if job_ids:
        try:
            with create() as joined:
                write(joined, job_ids, _joined(merge(*streams, key=itemgetter(0, 1))))
        except OverflowError as error:
            raise Damaged(_BEYOND) from error
    return len(job_ids)


_Streamed = tuple[bytes, int, "array[int]"]


def _shifted(file: SegmentFile, order: int, base: int) -> Iterator[_Streamed]:
    for word, numbers in file:
        yield word, order, array("I", [number + base for number in numbers])


def _renumbered(file: SegmentFile, order: int, new: dict[int, int]) -> Iterator[_Streamed]:
    for word, numbers in file:
        kept = array("I", [new[number] for number in numbers if number in new])
        if kept:
            yield word, order, kept


def _joined(streamed: Iterable[_Streamed]) -> Postings:
    for word, same in groupby(streamed, key=itemgetter(0)):
        numbers = array("I")
        for _, _, some in same:
            numbers.extend(some)
        yield word, numbers

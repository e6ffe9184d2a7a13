"""Make Whoosh's writer write our segments, and our table of contents.

Whoosh asks a *codec* for what writes a segment's parts.  Ours are one file, so its writer
is given nothing to write into, and writes the file itself when the segment is finished.
The order of a commit and the lock are Whoosh's.  Its own files are not: they are pickles,
and it removes whatever has a name that begins as one of them does.
"""

import os
import secrets
import warnings
from array import array
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Final

from ledger.database.file_lock import LockFile
from ledger.database.own_files import NotOurs, Strange
from ledger.projections.search.engine import Damaged
from ledger.projections.search.whoosh import own_directory, segment_file, table_of_contents
from ledger.projections.search.whoosh.table_of_contents import LARGEST_TOC_BYTES, NAME, Segment, Toc

with warnings.catch_warnings():
    # As in ``table_of_contents``.
    warnings.simplefilter("ignore")
    from whoosh.codec import base
    from whoosh.filedb import filestore
    from whoosh.index import FileIndex, LockError
    from whoosh.writing import SegmentWriter

__all__ = ["LockError", "Storage", "Writer", "without_empty"]

_UNFINISHED_BYTES: Final = 8


class _Nothing:
    """A part of Whoosh's writer that has nothing to write: segments are one file."""

    is_closed = False

    def close(self) -> None:
        self.is_closed = True


class _Codec(base.Codec):  # type: ignore[misc]  # Whoosh ships no types
    """What makes Whoosh's writer write our segments."""

    length_stats = False

    def new_segment(self, storage: Any, name: str) -> Segment:  # noqa: ANN401 - Whoosh's
        return Segment()

    def per_document_writer(self, storage: Any, segment: Segment) -> _Nothing:  # noqa: ANN401 - Whoosh's
        return _Nothing()

    def field_writer(self, storage: Any, segment: Segment) -> _Nothing:  # noqa: ANN401 - Whoosh's
        return _Nothing()


class Storage(filestore.Storage):  # type: ignore[misc]  # as _Codec
    """The directory of an index, in which only files of ours are read, written and removed.

    Of Whoosh's it is the base, which can do nothing at all with files.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @contextmanager
    def opened(self) -> Iterator[int]:
        """Give the directory's descriptor.

        Raises:
            Damaged: There is no directory of ours.
        """
        try:
            directory = own_directory.open_directory(self.folder)
        except FileNotFoundError as error:
            raise Damaged(f"there is no index in {self.folder}") from error
        except Strange as error:
            raise Damaged(f"{self.folder} is not Ledger's: {error}") from error
        try:
            if not own_directory.is_marked(directory):
                raise Damaged(
                    f"{self.folder} is not Ledger's: it has no {own_directory.MARKER} of ours"
                )
            yield directory
        finally:
            os.close(directory)

    def generation(self) -> int:
        """Return the number of the last commit, -1 if there is none."""
        with self.opened() as directory:
            return table_of_contents.latest_generation(own_directory.names(directory))

    def read(self) -> Toc:
        """Return the last table of contents.

        Raises:
            Damaged: There is none, or it cannot be read.
            FileNotFoundError: A newer one took its place meanwhile.
        """
        with self.opened() as directory:
            generation = table_of_contents.latest_generation(own_directory.names(directory))
            if generation < 0:
                raise Damaged(f"there is no index in {self.folder}")
            name = table_of_contents.toc_name(generation)
            try:
                data = own_directory.read(directory, name, most=LARGEST_TOC_BYTES + 1)
            except Strange as error:
                raise Damaged(f"{self.folder / name} is not Ledger's: {error}") from error
        if len(data) > LARGEST_TOC_BYTES:
            raise Damaged(f"{self.folder / name} is too long")
        try:
            return table_of_contents.decode(data, generation)
        except Damaged as error:
            raise Damaged(f"{self.folder / name}: {error}") from error

    def write(self, toc: Toc) -> None:
        """Let a table of contents be the last one, and remove what is in none any more.

        Once this returns, it and the segments that it names survive a power cut.
        """
        name = table_of_contents.toc_name(toc.generation)
        unfinished = f"{name}.{secrets.token_hex(_UNFINISHED_BYTES)}"
        with self.opened() as directory:
            with own_directory.created(directory, unfinished) as file:
                file.write(table_of_contents.encode(toc))
                file.flush()
                os.fsync(file.fileno())
            os.rename(unfinished, name, src_dir_fd=directory, dst_dir_fd=directory)
            os.fsync(directory)
            for left in table_of_contents.left_over(own_directory.names(directory), toc):
                own_directory.remove(directory, left)

    @contextmanager
    def create(self, name: str) -> Iterator[BinaryIO]:
        """Give a new file."""
        with self.opened() as directory, own_directory.created(directory, name) as file:
            yield file

    # --- what Whoosh's writer asks for

    def lock(self, name: str) -> "_WriteLock":
        return _WriteLock(self.folder / name)

    def temp_storage(self, name: str | None = None) -> filestore.RamStorage:
        # For postings that do not fit into memory, of which it has none.
        return filestore.RamStorage()


class _WriteLock:
    """What Whoosh takes for one of its locks."""

    def __init__(self, path: Path) -> None:
        self._file = LockFile(path)

    def acquire(self, *, blocking: bool = False) -> bool:
        try:
            return self._file.try_acquire()
        except NotOurs as error:
            raise Damaged(str(error)) from error

    def release(self) -> None:
        self._file.close()


class _Index(FileIndex):  # type: ignore[misc]  # as _Codec
    """What Whoosh's writer takes for its index; the table of contents is ours.

    Attributes:
        toc: The one that was read last.
    """

    toc: Toc

    def __init__(self, storage: Storage) -> None:
        # Whoosh's own would read a table of contents of its own.
        self.storage = storage
        self.indexname = NAME

    def _read_toc(self) -> Toc:
        self.toc = self.storage.read()
        return self.toc


class Writer(SegmentWriter):  # type: ignore[misc]  # as _Codec
    """Whoosh's writer, but for the postings, which go into our file as they come.

    Attributes:
        checkpoint: How far the index is; to be moved before the commit.
        committed: What the index consists of after it.

    Raises:
        LockError: Another process writes.
        Damaged: The index cannot be read.
    """

    def __init__(self, storage: Storage) -> None:
        index = _Index(storage)
        # The lock is made by a name: not in a directory that is somebody else's.
        with storage.opened():
            pass
        try:
            super().__init__(index, codec=_Codec(), compound=False)
        except BaseException:
            if self.writelock is not None:
                self.writelock.release()
            raise
        self.checkpoint = index.toc.checkpoint
        self.committed: Sequence[Segment] = ()
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
        with self.storage.create(self.newsegment.file_name) as file:
            segment_file.write(file, self._job_ids, postings)

    def _commit_toc(self, segments: list[Segment]) -> None:
        self.storage.write(
            Toc(generation=self.generation, checkpoint=self.checkpoint, segments=segments)
        )
        self.committed = segments

    def abandon(self) -> None:
        """Change nothing, and free the lock, wherever the writer failed."""
        if not self.is_closed:
            self.cancel()


def without_empty(writer: Writer, segments: Sequence[Segment]) -> list[Segment]:
    """Return the segments to keep; Whoosh asks for it at each commit."""
    return [segment for segment in segments if segment.doc_count()]

"""Whoosh's writer, made to write our segments and our table of contents.

Whoosh asks a *codec* for the writers of a segment's parts.  Our segments are one file, so
these writers do nothing, and the file is written when the segment is finished.  The order of
a commit and the lock are Whoosh's.  Its own files are not used: they are pickles, and Whoosh
removes any file whose name begins like one of them.
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
    # See ``table_of_contents``.
    warnings.simplefilter("ignore")
    from whoosh.codec import base
    from whoosh.filedb import filestore
    from whoosh.index import FileIndex, LockError
    from whoosh.writing import SegmentWriter

__all__ = ["LockError", "Storage", "Writer", "without_empty"]

_UNFINISHED_BYTES: Final = 8


class _Nothing:
    """A part of Whoosh's writer that writes nothing: segments are one file."""

    is_closed = False

    def close(self) -> None:
        self.is_closed = True


class _Codec(base.Codec):  # type: ignore[misc]  # Whoosh ships no types
    """The codec that makes Whoosh's writer write our segments."""

    length_stats = False

    def new_segment(self, storage: Any, name: str) -> Segment:  # noqa: ANN401 - Whoosh's
        return Segment()

    def per_document_writer(self, storage: Any, segment: Segment) -> _Nothing:  # noqa: ANN401 - Whoosh's
        return _Nothing()

    def field_writer(self, storage: Any, segment: Segment) -> _Nothing:  # noqa: ANN401 - Whoosh's
        return _Nothing()


class Storage(filestore.Storage):  # type: ignore[misc]  # as _Codec
    """The directory of an index, in which only files of ours are read, written and removed.

    Of Whoosh's classes it extends the base, which has no access to files.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @contextmanager
    def opened(self) -> Iterator[int]:
        """Open the directory and yield its descriptor.

        Raises:
            Damaged: There is no directory of ours.
        """
        try:
            directory = own_directory.open_directory(self.folder)
        except FileNotFoundError as error:
            raise Damaged(f"there is no index in {self.folder}") from error
        except Strange as error:
            raise Damaged(f"cannot use {self.folder}: {error}") from error
        try:
            if not own_directory.is_marked(directory):
                raise Damaged(
                    f"cannot use {self.folder}: it has no {own_directory.MARKER} of Ledger's"
                )
            yield directory
        finally:
            os.close(directory)

    def generation(self) -> int:
        """Return the number of the last commit, or -1 if there is none."""
        with self.opened() as directory:
            return table_of_contents.latest_generation(own_directory.names(directory))

    def read(self) -> Toc:
        """Return the last table of contents.

        Raises:
            Damaged: There is none, or it cannot be read.
            FileNotFoundError: A newer one has taken its place meanwhile.
        """
        with self.opened() as directory:
            generation = table_of_contents.latest_generation(own_directory.names(directory))
            if generation < 0:
                raise Damaged(f"there is no index in {self.folder}")
            name = table_of_contents.toc_name(generation)
            try:
                data = own_directory.read(directory, name, most=LARGEST_TOC_BYTES + 1)
            except Strange as error:
                raise Damaged(f"cannot use {self.folder / name}: {error}") from error
        if len(data) > LARGEST_TOC_BYTES:
            raise Damaged(f"{self.folder / name} is too long")
        try:
            return table_of_contents.decode(data, generation)
        except Damaged as error:
            raise Damaged(f"{self.folder / name}: {error}") from error

    def write(self, toc: Toc) -> None:
        """Write a table of contents as the last one; remove index files that it does not list.

        Once this returns, it and the segments that it lists survive a power failure.
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
            self._remove_left_over(directory, toc)

    def remove_left_over(self) -> None:
        """Remove index files that the last table of contents does not list.

        Raises:
            Damaged: There is no table of contents, or it cannot be read.
            FileNotFoundError: A newer one has taken its place meanwhile.
        """
        toc = self.read()
        with self.opened() as directory:
            self._remove_left_over(directory, toc)

    def _remove_left_over(self, directory: int, toc: Toc) -> None:
        for left in table_of_contents.left_over(own_directory.names(directory), toc):
            own_directory.remove(directory, left)

    @contextmanager
    def create(self, name: str) -> Iterator[BinaryIO]:
        """Create a file and yield it for writing."""
        with self.opened() as directory, own_directory.created(directory, name) as file:
            yield file

    # --- what Whoosh's writer asks for

    def lock(self, name: str) -> "_WriteLock":
        return _WriteLock(self.folder / name)

    def temp_storage(self, name: str | None = None) -> filestore.RamStorage:
        # For postings that do not fit into memory, of which Whoosh's writer has none.
        return filestore.RamStorage()


class _WriteLock:
    """The lock that Whoosh's writer uses in place of its own."""

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
    """The index that Whoosh's writer uses; the table of contents is ours.

    Attributes:
        toc: The table of contents that was read last.
    """

    toc: Toc

    def __init__(self, storage: Storage) -> None:
        # Whoosh's constructor would read a table of contents of its own.
        self.storage = storage
        self.indexname = NAME

    def _read_toc(self) -> Toc:
        self.toc = self.storage.read()
        return self.toc


class Writer(SegmentWriter):  # type: ignore[misc]  # as _Codec
    """Whoosh's writer, except that postings are collected here and written to our file.

    Attributes:
        checkpoint: The position of the index; to be moved before the commit.
        committed: The segments of the index after the commit.

    Raises:
        LockError: Another process writes.
        Damaged: The index cannot be read.
    """

    def __init__(self, storage: Storage) -> None:
        index = _Index(storage)
        # Whoosh creates the lock by its path, so check first that the directory is ours.
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
        """Change nothing, and release the lock, at whatever point the writer failed."""
        if not self.is_closed:
            self.cancel()


def without_empty(writer: Writer, segments: Sequence[Segment]) -> list[Segment]:
    """Return the segments to keep; Whoosh calls this at each commit."""
    return [segment for segment in segments if segment.doc_count()]

"""An index kept by Whoosh: its segments, its deleted documents, and its position.

A commit's table of contents is written beside the last one and renamed into its place.  It
lists the segments, with their deleted documents, and the position up to which the ledger was
followed.  So documents, deletions and position are published by one rename, or not at all: a
crash at any moment loses nothing and indexes nothing twice.  The next commit removes what a
crash leaves behind.
"""

import time
from collections.abc import Collection, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

from ledger.errors import Overtaken, Unavailable
from ledger.projections.search.engine import Damaged
from ledger.projections.search.whoosh import segment_file
from ledger.projections.search.whoosh.segment_file import SegmentFile, Source
from ledger.projections.search.whoosh.table_of_contents import (
    START,
    WRITE_LOCK,
    Checkpoint,
    Segment,
    Toc,
)
from ledger.projections.search.whoosh.writer import LockError, Storage, Writer, without_empty

# Number of small segments that are joined to one.
FACTOR: Final = 8
# A larger segment is not rewritten to join it with its neighbours, which takes up to a second.
# A segment is rewritten on its own if more than one of DELETED_SHARE documents is deleted.
LARGEST_JOINED: Final = 100_000
DELETED_SHARE: Final = 4
# The files of a table of contents may be gone when it is read; then there is a newer one.
_TRIES: Final = 8
_BETWEEN_TRIES_S: Final = 0.005


class Contents(NamedTuple):
    """What an index contained at a commit, with its files open.

    Attributes:
        generation: The commit's number.
        segments: Oldest documents first.
    """

    generation: int
    checkpoint: Checkpoint
    segments: Sequence[Segment]
    files: Sequence[SegmentFile]


class Index:
    """An index in a directory.

    Args:
        folder: A directory with our marker; ``create`` makes an index in it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._storage = Storage(folder)
        # Files that are open already; they never change.
        self._files: dict[str, SegmentFile] = {}

    def create(self) -> None:
        """Create an empty index, at position 0."""
        self._storage.write(Toc(generation=0, checkpoint=START, segments=[]))

    def generation(self) -> int:
        """Return the number of the last commit, or -1 if there is no index."""
        try:
            return self._storage.generation()
        except (OSError, Damaged):
            return -1

    def contents(self) -> Contents:
        """Return the contents of the index as of the last commit.

        Raises:
            Damaged: There is no index, or it is not one of ours.
            Unavailable: The operating system does not let us read it.
        """
        for _ in range(_TRIES):
            try:
                toc = self._storage.read()
                files = [self._file(segment) for segment in toc.segments]
            except FileNotFoundError as error:
                missing = error.filename
                time.sleep(_BETWEEN_TRIES_S)
                continue
            except OSError as error:
                # For example, too many open files, which is not damage.
                raise Unavailable(f"the search index cannot be read: {error}") from error
            self._files = {
                segment.file_name: file for segment, file in zip(toc.segments, files, strict=True)
            }
            return Contents(toc.generation, toc.checkpoint, toc.segments, files)
        raise Damaged(f"{missing} is missing")

    def commit(
        self,
        documents: Iterable[tuple[int, Iterable[str]]],
        removed: Collection[int],
        checkpoint: Checkpoint,
        *,
        after: int,
        erased: Collection[int] = (),
    ) -> None:
        """Add and remove documents, and move the checkpoint, all or nothing.

        A removed document's words stay in its segment until that is joined with others.  A
        segment that has the words of an erased document is written again without them, and
        published by the same rename as the checkpoint.  Once the checkpoint is behind an
        erasure, no file that the table of contents lists has the words.

        Args:
            documents: The ids of their jobs, rising and greater than all that are indexed, and
                their words, each once.
            removed: Ids of jobs whose documents must be removed.
            checkpoint: The new checkpoint.
            after: The position at which the checkpoint must be before.
            erased: Ids of jobs, some of *removed*, whose words no file may keep.

        Raises:
            Overtaken: The checkpoint is at another position; nothing was changed.
            Damaged: The index cannot be read.
            Unavailable: Another process writes to it.
        """
        writer = self._writer()
        try:
            # The writer holds the lock, so no other process can move the checkpoint now.
            position = writer.checkpoint.position
            if position != after:
                raise Overtaken("search", position)  # noqa: TRY301 - one way out
            for place, segment in enumerate(writer.segments) if removed else ():
                file = self._file(segment)
                numbers = [file.number(job_id) for job_id in removed]
                found = [number for number in numbers if number is not None]
                if found:
                    segment.delete(found)
                if any(file.number(job_id) is not None for job_id in erased):
                    writer.segments[place] = self._joined([Source(file, segment.kept())])
            for job_id, words in documents:
                writer.add(job_id, words)
            writer.checkpoint = checkpoint
            writer.commit(mergetype=without_empty)
        except BaseException:
            writer.abandon()
            raise
        self._tidy(writer.committed)

    def _tidy(self, segments: Sequence[Segment]) -> None:
        """Join small segments while there are too many; the checkpoint does not move."""
        while (run := to_join(segments)) is not None:
            contents = self.contents()
            sources = [
                Source(file, segment.kept())
                for segment, file in zip(contents.segments[run], contents.files[run], strict=True)
            ]
            joined = self._joined(sources)
            writer = self._writer()
            try:
                writer.segments[run] = [joined]
                writer.commit(mergetype=without_empty)
            except BaseException:
                writer.abandon()
                raise
            segments = writer.committed

    def remove_left_over(self) -> None:
        """Remove what a process that was killed has left behind, unless another one writes.

        It may be a segment with the words of an erased document, whose replacement was published.

        Raises:
            Damaged: The index cannot be read.
        """
        # The lock is created by its path, so check first that the directory is ours.
        with self._storage.opened():
            lock = self._storage.lock(WRITE_LOCK)
        if lock.acquire():
            try:
                self._storage.remove_left_over()
            finally:
                lock.release()

    def _joined(self, sources: Sequence[Source]) -> Segment:
        """Write one segment with the documents of *sources*; return it, which may be empty."""
        joined = Segment()
        create = partial(self._storage.create, joined.file_name)
        joined.set_doc_count(segment_file.join(create, sources))
        return joined

    def _file(self, segment: Segment) -> SegmentFile:
        name = segment.file_name
        file = self._files.get(name) or SegmentFile(self.folder / name)
        if len(file) != segment.doc_count_all():
            raise Damaged(f"{name} has {len(file)} documents, not {segment.doc_count_all()}")
        return file

    def _writer(self) -> Writer:
        try:
            return Writer(self._storage)
        except LockError as error:
            raise Unavailable("another process writes to the search index; try again") from error


def to_join(segments: Sequence[Segment]) -> slice | None:
    """Return which adjacent segments to join, or None if there are none to join.

    Documents keep their order, so only neighbours can be joined.  Each document is rewritten
    once for each growth of the index by a factor of 8, until it is in a segment too large to be
    joined.
    """
    for place, segment in enumerate(segments):
        if segment.deleted_count() * DELETED_SHARE > segment.doc_count_all():
            return slice(place, place + 1)
    small, total = 0, 0
    largest = 1
    for segment in reversed(segments):
        size = segment.doc_count()
        if total + size > LARGEST_JOINED:
            is_full = small > 1 and total * 2 > LARGEST_JOINED >= largest * 2
            return slice(len(segments) - small, len(segments)) if is_full else None
        largest = max(largest, size)
        small, total = small + 1, total + size
        if small >= FACTOR and largest * FACTOR <= total * 2:
            return slice(len(segments) - small, len(segments))
    return None

"""Let Whoosh keep an index: which segments there are, what is deleted, and how far it is.

A commit's table of contents is written beside the last one and renamed into place.  In it
are the segments, with their deleted documents, and the position up to which the ledger was
followed.  So documents, deletions and position become true in one rename, or none of them:
a crash at any moment loses nothing and indexes nothing twice.  What a crash leaves behind,
the next commit removes.
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
from ledger.projections.search.whoosh.table_of_contents import START, Checkpoint, Segment, Toc
from ledger.projections.search.whoosh.writer import LockError, Storage, Writer, without_empty

# So many small segments are joined to one.
FACTOR: Final = 8
# A larger segment is not written again for its neighbours' sake, which takes up to a
# second; and one of which so many documents are deleted is, for its own.
LARGEST_JOINED: Final = 100_000
DELETED_SHARE: Final = 4
# A reader may find a table of contents, and its files gone: a newer one is there then.
_TRIES: Final = 8
_BETWEEN_TRIES_S: Final = 0.005


class Contents(NamedTuple):
    """Be what an index held at a commit, its files open.

    Attributes:
        generation: The commit's number.
        segments: Oldest documents first.
    """

    generation: int
    checkpoint: Checkpoint
    segments: Sequence[Segment]
    files: Sequence[SegmentFile]


class Index:
    """Be an index in a directory.

    Args:
        folder: A directory with our marker; an index is made in it by ``create``.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._storage = Storage(folder)
        # What is open already; files never change.
        self._files: dict[str, SegmentFile] = {}

    def create(self) -> None:
        """Make an empty index; it follows from the beginning."""
        self._storage.write(Toc(generation=0, checkpoint=START, segments=[]))

    def generation(self) -> int:
        """Return the number of the last commit, -1 if there is no index."""
        try:
            return self._storage.generation()
        except (OSError, Damaged):
            return -1

    def contents(self) -> Contents:
        """Return what the last commit made of the index.

        Raises:
            Damaged: It is no index of ours, or there is none.
            Unavailable: The system does not let us read it.
        """
        for _ in range(_TRIES):
            try:
                toc = self._storage.read()
                files = [self._file(segment) for segment in toc.segments]
            except FileNotFoundError as error:
                missing = error
                time.sleep(_BETWEEN_TRIES_S)
                continue
            except OSError as error:
                # Such as too many open files: that is no damage.
                raise Unavailable(f"the search index cannot be read: {error}") from error
            self._files = {
                segment.file_name: file for segment, file in zip(toc.segments, files, strict=True)
            }
            return Contents(toc.generation, toc.checkpoint, toc.segments, files)
        raise Damaged(f"{missing.filename} is missing")

    def commit(
        self,
        documents: Iterable[tuple[int, Iterable[str]]],
        removed: Collection[int],
        checkpoint: Checkpoint,
        *,
        after: int,
    ) -> None:
        """Add and remove documents, and move the checkpoint, all or nothing.

        Args:
            documents: The ids of their jobs, rising and above all that are indexed, and
                their words, each once.
            removed: Ids of jobs whose documents have to go.
            checkpoint: How far the index is now.
            after: How far it must have been.

        Raises:
            Overtaken: It was elsewhere; nothing was changed.
            Damaged: It cannot be read.
            Unavailable: Another process writes to it.
        """
        writer = self._writer()
        try:
            # Only now nobody else can move it.
            position = writer.checkpoint.position
            if position != after:
                raise Overtaken("search", position)  # noqa: TRY301 - one way out
            for segment in writer.segments if removed else ():
                file = self._file(segment)
                numbers = [file.number(job_id) for job_id in removed]
                found = [number for number in numbers if number is not None]
                if found:
                    segment.delete(found)
            for job_id, words in documents:
                writer.add(job_id, words)
            writer.checkpoint = checkpoint
            writer.commit(mergetype=without_empty)
        except BaseException:
            writer.abandon()
            raise
        self._tidy(writer.committed)

    def _tidy(self, segments: Sequence[Segment]) -> None:
        """Join small segments while there are too many; the checkpoint stays."""
        while (run := to_join(segments)) is not None:
            contents = self.contents()
            sources = [
                Source(file, segment.kept())
                for segment, file in zip(contents.segments[run], contents.files[run], strict=True)
            ]
            joined = Segment()
            create = partial(self._storage.create, joined.file_name)
            joined.set_doc_count(segment_file.join(create, sources))
            writer = self._writer()
            try:
                writer.segments[run] = [joined]
                writer.commit(mergetype=without_empty)
            except BaseException:
                writer.abandon()
                raise
            segments = writer.committed

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
    """Return which neighbours should be one segment, None if all is well.

    Documents keep their order, so only neighbours can be joined.  Each document is
    written again once for every factor of 8 by which the index grows, until it is in a
    segment too large to be joined.
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

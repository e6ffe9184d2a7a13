"""Search for the newest documents that have all of some words, without a look at all others.

Posting lists rise, so the newest documents are at their end.  For each segment, the newest
first, the documents of the rarest word are taken from the end, in growing windows.  Those that
every other word has too are kept: by bisection if that word has many more documents, as sets
if it has about as many.  A search for one word that half of all jobs have costs what the page
costs.  A search for two such words that never occur together costs one pass over both, in C.
"""

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import chain, islice
from typing import Final

from ledger.projections.search.engine import Damaged
from ledger.projections.search.whoosh.index import Contents
from ledger.projections.search.whoosh.segment_file import SegmentFile
from ledger.projections.search.whoosh.table_of_contents import Segment

# Number of documents in the first window, and the growth of each further one.
_FIRST_WINDOW: Final = 256
_GROWTH: Final = 4
# A bisection costs about as much as this many steps through an array.
_BISECTION: Final = 32

Numbers = Sequence[int]


def newest(contents: Contents, asked: Sequence[str], *, limit: int, offset: int) -> list[int]:
    """Return the ids of jobs that have all the words, newest first.

    Args:
        contents: The index.
        asked: At least one word.
        limit: Maximum number of ids.
        offset: Number of the newest ids to skip.

    Raises:
        Damaged: A segment names documents that it does not have.
    """
    words = [word.encode() for word in asked]
    segments = zip(reversed(contents.segments), reversed(contents.files), strict=True)
    found = chain.from_iterable(_in_segment(segment, file, words) for segment, file in segments)
    try:
        return list(islice(islice(found, offset, None), limit))
    except IndexError as error:
        raise Damaged("a segment refers to documents that it does not have") from error


def _in_segment(segment: Segment, file: SegmentFile, words: Sequence[bytes]) -> Iterator[int]:
    """Yield the ids of a segment's jobs that have all the words, newest first."""
    lists = []
    for word in words:
        postings = file.postings(word)
        if not postings:
            return
        lists.append(postings)
    lists.sort(key=len)
    job_ids = file.job_ids
    has_deletions = segment.has_deletions()
    for numbers in _common(lists[0], lists[1:]):
        if has_deletions:
            yield from (job_ids[n] for n in numbers if not segment.is_deleted(n))
        else:
            yield from map(job_ids.__getitem__, numbers)


def _common(rarest: Numbers, others: Sequence[Numbers]) -> Iterator[Numbers]:
    """Yield the numbers that are in all the lists, highest first, in lists."""
    end, window = len(rarest), _FIRST_WINDOW
    while end:
        start = max(0, end - window)
        numbers: Numbers = rarest[start:end]
        for other in others:
            numbers = _both(numbers, other)
            if not numbers:
                break
        yield numbers[::-1]
        end, window = start, window * _GROWTH


def _both(numbers: Numbers, other: Numbers) -> Numbers:
    """Return those of *numbers* that are in *other* too."""
    low = bisect_left(other, numbers[0])
    high = bisect_left(other, numbers[-1] + 1, low)
    if high - low <= len(numbers) * _BISECTION:
        return sorted(set(numbers).intersection(other[low:high]))
    found = []
    for number in numbers:
        low = bisect_left(other, number, low, high)
        if low < high and other[low] == number:
            found.append(number)
    return found

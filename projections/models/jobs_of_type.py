"""Lists of the jobs of a type in any state: five lists, merged while they are read.

There is an index for the jobs of a type in a state, but none for the jobs of a type, because
every change of every job would have to update it.  Without one, the database would walk over
all jobs to find such a list.  So a page is merged from the five lists that exist, which are
read in pieces.  Its cost grows with its depth, as with the lists by priority.
"""

import heapq
from collections.abc import Iterator
from itertools import islice
from typing import Final

import msgspec
from sqlalchemy import Connection

from ledger.database.answer_bytes import ANSWER_BYTES
from ledger.projections.models.job_lists import JobList, JobLists
from ledger.rules.job import LIVE_STATES

LARGEST_PIECE: Final = 1_000


class _Place(msgspec.Struct):
    """The fields of a job's JSON that determine its place in a list."""

    id: str
    priority: int


_pieces = msgspec.json.Decoder(list[msgspec.Raw]).decode
_place = msgspec.json.Decoder(_Place).decode


def pages_of_type(
    lists: JobLists,
    connection: Connection,
    type_: str,
    first: int,
    last: int,
    *,
    descending: bool = False,
    by_priority: bool = False,
    largest_piece: int = LARGEST_PIECE,
    page_bytes: int = ANSWER_BYTES,
) -> Iterator[str]:
    """Yield the jobs of a type with the ranks *first* to *last*, as JSON arrays.

    Args:
        lists: The lists of the jobs.
        connection: On a snapshot.
        type_: The type of the jobs.
        first: Rank of the first job, from 0.
        last: Rank of the last job, inclusive.
        descending: Reverse the whole list first.
        by_priority: Order by priority, then age, instead of by age alone.
        largest_piece: Maximum number of jobs of one list that are read at once; 1,000 by default.
        page_bytes: Bytes that an array has at most, unless it has a single job; 8 MiB by default.
    """
    names = [JobList(state, type_) for state in LIVE_STATES]
    last = min(last, sum(lists.length(connection, each) for each in names) - 1)
    if first > last:
        return

    def listed(each: JobList) -> Iterator[tuple[tuple[int, int], bytes]]:
        """Yield the jobs of a list, each after its place."""
        size = min(last + 1, largest_piece)
        start = 0
        while start <= last:
            page = lists.page(
                connection,
                each,
                start,
                start + size - 1,
                descending=descending,
                by_priority=by_priority,
            )
            found = [bytes(piece) for piece in _pieces(page.json)]
            for json in found:
                place = _place(json)
                yield (place.priority if by_priority else 0, int(place.id)), json
            if len(found) < size and not page.left:
                return
            start += len(found)

    merged = heapq.merge(*map(listed, names), key=lambda each: each[0], reverse=descending)
    page: list[bytes] = []
    size = 0
    for _, json in islice(merged, first, last + 1):
        if page and size + len(json) > page_bytes:
            yield _array(page)
            page, size = [], 0
        page.append(json)
        size += len(json) + 1
    yield _array(page)


def _array(page: list[bytes]) -> str:
    return f"[{b','.join(page).decode()}]"

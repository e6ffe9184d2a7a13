"""List the jobs of a type, whatever their state: five lists, merged as they are read.

There is an index for the jobs of a type in a state and none for those of a type, which
every change of every job would pay for.  Left to the database, such a list is a walk over
all jobs.  So what is asked for is taken from the five lists that there are, a piece of each
at a time.  It costs its depth, as do the lists by priority.
"""

import heapq
from collections.abc import Iterator
from itertools import islice
from typing import Final

import msgspec
from sqlalchemy import Connection

from ledger.projections.models.job_lists import JobList, JobLists
from ledger.rules.job import LIVE_STATES

# As many jobs of a list as are read at once.
LARGEST_PIECE: Final = 1_000


class _Place(msgspec.Struct):
    """Be what tells where a job stands in a list."""

    id: str
    priority: int


_pieces = msgspec.json.Decoder(list[msgspec.Raw]).decode
_place = msgspec.json.Decoder(_Place).decode


def page_of_type(
    lists: JobLists,
    connection: Connection,
    type_: str,
    first: int,
    last: int,
    *,
    descending: bool = False,
    by_priority: bool = False,
) -> str:
    """Return the jobs of a type with the ranks *first* to *last*, a JSON array.

    Args:
        lists: Where the jobs are listed.
        connection: On a snapshot.
        type_: Of which jobs.
        first: Rank of the first job, from 0.
        last: Rank of the last job, inclusive.
        descending: Reverse the whole list first.
        by_priority: Order by priority, then age, in place of age alone.
    """
    names = [JobList(state, type_) for state in LIVE_STATES]
    last = min(last, sum(lists.length(connection, each) for each in names) - 1)
    if first > last:
        return "[]"

    def listed(each: JobList) -> Iterator[tuple[tuple[int, int], bytes]]:
        """Yield the jobs of a list, each behind its place."""
        size = min(last + 1, LARGEST_PIECE)
        for start in range(0, last + 1, size):
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
            if len(found) < size:
                return

    merged = heapq.merge(*map(listed, names), key=lambda each: each[0], reverse=descending)
    page = [json for _, json in islice(merged, first, last + 1)]
    return f"[{b','.join(page).decode()}]"

"""Reading one page of a list of jobs, as far as it fits into an answer.

``job_lists`` finds the rows of a page; here they become the text that is sent.
"""

from collections.abc import Sequence
from typing import Any, Final

from sqlalchemy import (
    BindParameter,
    ColumnElement,
    Connection,
    Subquery,
    bindparam,
    case,
    func,
    select,
)

from ledger.database.answer_bytes import bytes_through, row_if_small
from ledger.database.fast_sql import Query
from ledger.log import store
from ledger.projections.models.job_json import JobPage

# A page of so few jobs is read without counting its bytes, if that can be bounded: counting takes
# a third as long again.
SMALL_PAGE: Final = 32


class PageReader:
    """The statements for the pages of one shape, which end before they have too many bytes.

    A page of more jobs is read with one statement too, which adds up its bytes first.

    Args:
        page: The rows of a page: the columns that it is sorted by, and the ``json``.
        sized: The same rows with the number of ``bytes`` of the JSON in its place.
        sorted_by: The names of these columns.
        descending: Whether the page is shown in descending order of these columns.
        backwards: Whether the rows come in the opposite order.
    """

    def __init__(
        self,
        page: Subquery,
        sized: Subquery,
        sorted_by: Sequence[str],
        *,
        descending: bool,
        backwards: bool,
    ) -> None:
        def shown(rows: Subquery) -> list[ColumnElement[Any]]:
            columns = [rows.c[name] for name in sorted_by]
            return [column.desc() for column in columns] if descending else [*columns]

        self._backwards = backwards
        if backwards:
            page = select(page.c.json).order_by(*shown(page)).subquery("shown")
        # The aggregate takes them in the subselect's order, on both engines.
        joined = select(func.aggregate_strings(page.c.json, ",")).scalar_subquery()
        total = select(
            func.count().label("jobs"), func.coalesce(func.sum(sized.c.bytes), 0).label("bytes")
        ).subquery("total")
        most_bytes: BindParameter[int] = bindparam("most_bytes")
        fits = (total.c.bytes <= most_bytes) | (total.c.jobs <= 1)
        self._read = Query(select(*store.MOMENT, total.c.jobs, case((fits, joined))))
        self._small = Query(
            select(*store.MOMENT, func.count(), func.aggregate_strings(page.c.json, ","))
        )
        through = select(bytes_through(sized.c.bytes, shown(sized)).label("bytes")).subquery()
        self._fitting = Query(select(func.count()).where(through.c.bytes <= most_bytes))

    def read(
        self,
        connection: Connection,
        *,
        skip: int,
        size: int,
        most_bytes: int,
        **given: int | str | None,
    ) -> JobPage:
        """Return a page of *size* jobs, or the first of them that fit."""
        if size <= SMALL_PAGE:
            row = row_if_small(
                self._small, connection, most_bytes=most_bytes, skip=skip, size=size, **given
            )
            if row is not None:
                position, chain, jobs, json = row
                return JobPage(position, f"[{json or ''}]", chain, jobs, 0)
        given |= {"most_bytes": most_bytes}
        left = 0
        while True:
            position, chain, jobs, json = self._read.first(
                connection, skip=skip, size=size, **given
            )
            if json is not None or not jobs:
                return JobPage(position, f"[{json or ''}]", chain, jobs, left)
            (fitting,) = self._fitting.first(connection, skip=skip, size=size, **given)
            # Outside of a snapshot, jobs may have grown since: fewer of them in each round.
            size = min(max(1, fitting), jobs - 1)
            left += jobs - size
            if self._backwards:
                skip += jobs - size

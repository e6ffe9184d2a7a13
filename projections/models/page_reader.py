"""Reading one page of a list of jobs, as far as it fits into an answer.

``list_rows`` has the statements of its rows; here they become the text that is sent.
"""

from typing import Any, Final

from sqlalchemy import (
    BindParameter,
    ColumnElement,
    Connection,
    FromClause,
    Subquery,
    Table,
    bindparam,
    case,
    func,
    select,
)

from ledger.database.answer_bytes import bytes_through, row_if_small
from ledger.database.fast_sql import Query
from ledger.log import store
from ledger.projections.models.job_json import JobPage, bytes_of, json_of
from ledger.projections.models.list_rows import Shape

# A page of so few jobs has statements of its own.  On SQLite they do not count its bytes, which
# takes a third as long again, where the text of the page grows row by row; on PostgreSQL their
# limits stand in the text.
SMALL_PAGE: Final = 32


class PageReader:
    """The statements for the pages of one shape, which end before they have too many bytes.

    A page of more jobs is read with one statement too, which adds up its bytes first.

    Args:
        jobs: The table of jobs.
        shape: What the statements are for.
        most_skipped: Number of jobs that are skipped at most.
    """

    def __init__(self, jobs: Table, shape: Shape, *, most_skipped: int) -> None:
        def shown(rows: Subquery) -> list[ColumnElement[Any]]:
            return shape.order.of(rows)

        def page_of(ids: FromClause | None = None) -> Subquery:
            page = shape.rows(jobs, json_of(jobs), ids=ids).subquery("page")
            if not shape.backwards:
                return page
            return select(page.c.json).order_by(*shown(page)).subquery("shown")

        def sizes_of(ids: FromClause | None = None) -> Subquery:
            return shape.rows(jobs, bytes_of(jobs).label("bytes"), ids=ids).subquery("sized")

        most_bytes: BindParameter[int] = bindparam("most_bytes")

        def counted(ids: FromClause | None = None) -> Query:
            # The aggregate takes the rows in the subselect's order, on both engines.
            joined = select(func.aggregate_strings(page_of(ids).c.json, ",")).scalar_subquery()
            sized = sizes_of(ids)
            total = select(
                func.count().label("jobs"),
                func.coalesce(func.sum(sized.c.bytes), 0).label("bytes"),
            ).subquery("total")
            fits = (total.c.bytes <= most_bytes) | (total.c.jobs <= 1)
            return Query(select(*store.MOMENT, total.c.jobs, case((fits, joined))))

        self._backwards = shape.backwards
        self._read = counted()
        self._is_counted = not shape.is_embedded or shape.sorts
        if self._is_counted:
            most = SMALL_PAGE + (most_skipped if shape.skips else 0)
            # Named twice, so the walk is made once.
            self._small = counted(shape.ids(jobs, most=most).cte("ids"))
        else:
            joined = func.aggregate_strings(page_of().c.json, ",")
            self._small = Query(select(*store.MOMENT, func.count(), joined))
        sized = sizes_of()
        through = select(bytes_through(sized.c.bytes, shown(sized)).label("bytes")).subquery()
        self._fitting = Query(select(func.count()).where(through.c.bytes <= most_bytes))

    def read(
        self,
        connection: Connection,
        given: dict[str, Any],
    ) -> JobPage:
        """Return a page, or the first of its jobs that fit.

        Args:
            connection: Where to read.
            given: The parameters of the statements; among them ``skip``, ``size``, which is the
                number of jobs of the page, and ``most_bytes``.  ``skip`` and ``size`` are changed.
        """
        size, most_bytes = given["size"], given["most_bytes"]
        read, left = self._read, 0
        if size <= SMALL_PAGE:
            if self._is_counted:
                read = self._small
            elif row := row_if_small(self._small, connection, given, most=most_bytes):
                position, chain, jobs, json = row
                return JobPage(position, f"[{json or ''}]", chain, jobs, 0)
        while True:
            ((position, chain, jobs, json),) = read.rows(connection, given)
            if json is not None or not jobs:
                return JobPage(position, f"[{json or ''}]", chain, jobs, left)
            ((fitting,),) = self._fitting.rows(connection, given)
            # Outside of a snapshot, jobs may have grown since: fewer of them in each round.
            size = min(max(1, fitting), jobs - 1)
            left += jobs - size
            given["size"] = size
            if self._backwards:
                given["skip"] += jobs - size

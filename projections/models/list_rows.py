"""The statements of the rows of a page, which each engine must read from the right index.

All of them walk an index in its order, skip rows, and stop.  Whether an engine does that depends
on how it is asked.

SQLite takes an index for ``a = ? AND b >= ?``, but only the first column of one for
``(a, b) >= (?, ?)``.  So the jobs from a place on are two parts: those of the priority there, and
those of the priorities after it.  It merges them, without reading more than it needs.

PostgreSQL sorts all rows of two such parts, as it does not see that they are in order: four
seconds at 10,000,000 jobs.  It takes the whole index for ``(a, b) >= (?, ?)``.  Three more things
are for its planner:

* A list of a state is ordered by the state too, which is stated as a range.  If the planner sees
  that all of the jobs have one state, it may walk the primary key and filter: the first waiting
  job then comes after all complete ones.
* A page of few jobs has a limit that stands in the text of the statement, above which there is
  the one that is a parameter.  For a parameter the planner reckons with a tenth of the table, and
  plans each execution again.
* Only the ids of what is skipped are read, as it computes the JSON of skipped rows too.
"""

from typing import Any, NamedTuple

from sqlalchemy import (
    ColumnElement,
    FromClause,
    Select,
    Table,
    bindparam,
    literal_column,
    select,
    tuple_,
    union_all,
)

from ledger.rules.job import LIVE_STATES, State


class Order(NamedTuple):
    """The order of a list: by age, or by priority, then age."""

    descending: bool
    by_priority: bool

    @property
    def reversed(self) -> "Order":
        """Return the opposite order."""
        return self._replace(descending=not self.descending)

    @property
    def columns(self) -> list[str]:
        """Return the columns of ``ledger_jobs`` that a list is ordered by."""
        return ["priority", "id"] if self.by_priority else ["id"]

    def of(self, table: FromClause, *before: str) -> list[ColumnElement[Any]]:
        """Return what to order a table by, the columns *before* first."""
        columns = [table.c[name] for name in (*before, *self.columns)]
        return [column.desc() if self.descending else column.asc() for column in columns]


class Shape(NamedTuple):
    """What makes two pages need different statements.

    Attributes:
        state: The state that the list is of; None for all.
        of_type: Whether the list is of one type.
        order: The order in which the page is shown.
        backwards: Whether the page is walked to from the other end of the list.
        starts: Whether the walk starts at a place in the list; then it ascends.
        skips: Whether jobs are skipped.
        is_embedded: Whether the statement is for SQLite.
    """

    state: State | None
    of_type: bool
    order: Order
    backwards: bool
    starts: bool
    skips: bool
    is_embedded: bool

    @property
    def walked(self) -> Order:
        """Return the order in which the jobs are read."""
        return self.order.reversed if self.backwards else self.order

    def rows(
        self, table: Table, column: ColumnElement[Any], *, ids: FromClause | None = None
    ) -> Select[Any]:
        """Return the statement of the jobs of a page: the columns of the order, and *column*.

        Args:
            table: The jobs.
            column: What to read of each job.
            ids: The ids of the jobs of the page, if the statement has them.
        """
        shown = [table.c[name] for name in self.order.columns]
        if ids is None and not self._has_several_parts and (self.is_embedded or not self.skips):
            (walk,) = self._parts(table)
            return _cut(walk.with_only_columns(*shown, column).order_by(*self._walked(table)))
        found = self.ids(table).subquery("ids") if ids is None else ids
        return (
            select(*shown, column)
            .join_from(found, table, table.c.id == found.c.id)
            .order_by(*self.walked.of(table))
        )

    def ids(self, table: Table, *, most: int | None = None) -> Select[Any]:
        """Return the statement of the ids of the jobs of a page.

        Args:
            table: The jobs.
            most: The page and what is skipped are together not more than this, if it is known.
        """
        parts = self._parts(table)
        if self._has_several_parts:
            # Each part is read in its order, and only as far as the page needs it.
            merged = union_all(*parts).subquery("merged")
            walk: Select[Any] = select(merged).order_by(*self.walked.of(merged))
        else:
            walk = parts[0].order_by(*self._walked(table))
        if most is not None and not self.is_embedded:
            walk = select(walk.limit(literal_column(str(most))).subquery("walked"))
        return _cut(walk)

    @property
    def _of_state(self) -> list[str]:
        return [] if self.is_embedded or self.state is None else ["state"]

    @property
    def sorts(self) -> bool:
        """Return whether rows are sorted after they were read, and so all are held until then."""
        return self.backwards or self._has_several_parts

    @property
    def _has_several_parts(self) -> bool:
        merges = self.state is None and self.of_type
        return merges or (self.is_embedded and self.starts and self.order.by_priority)

    def _walked(self, table: Table) -> list[ColumnElement[Any]]:
        return self.walked.of(table, *self._of_state)

    def _parts(self, table: Table) -> list[Select[Any]]:
        """Return statements of the columns of the order, for each of which is an index."""
        state = table.c.state
        in_list: list[list[ColumnElement[bool]]] = [[]]
        if self.state is not None and not self.is_embedded:
            given = bindparam("state", type_=state.type)
            in_list = [[state <= given]]
            if not self.starts:
                # Otherwise a scan would begin with the state, and not with the place in it.
                in_list[0].append(state >= given)
        elif self.state is not None or self.of_type:
            # Not as parameters: the parts of a list of all states name one each.
            states = LIVE_STATES if self.state is None else (self.state,)
            in_list = [[state == literal_column(f"'{each.value}'")] for each in states]
        if self.of_type:
            for conditions in in_list:
                conditions.append(table.c.type == bindparam("type"))
        columns = [table.c[name] for name in (*self._of_state, *self.order.columns)]
        return [
            select(*columns).where(*conditions, *from_start)
            for conditions in in_list
            for from_start in self._from_start(table)
        ]

    def _from_start(self, table: Table) -> list[list[ColumnElement[bool]]]:
        """Return the conditions of the jobs from the place on at which the walk starts."""
        if not self.starts:
            return [[]]
        names = [*self._of_state, *self.order.columns]
        given = {
            name: bindparam(name if name == "state" else f"start_{name}", type_=table.c[name].type)
            for name in names
        }
        if not self.is_embedded:
            columns = tuple_(*(table.c[name] for name in names))
            return [[columns >= tuple_(*given.values())]]
        from_id = table.c.id >= given["id"]
        if not self.order.by_priority:
            return [[from_id]]
        priority = given["priority"]
        return [[table.c.priority == priority, from_id], [table.c.priority > priority]]


def _cut(walk: Select[Any]) -> Select[Any]:
    return walk.limit(bindparam("size")).offset(bindparam("skip"))

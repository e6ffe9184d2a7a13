"""Text in the order of its code points, as Python sorts it, on every database.

PostgreSQL sorts text by the collation of the database, SQLite by bytes, which is the order of code
points in UTF-8.
"""

from typing import Any

from sqlalchemy import Text
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement


class ByCodePoint(FunctionElement[str]):
    """A text that is sorted and compared by its code points, as SQL."""

    type = Text()
    name = "by_code_point"
    inherit_cache = True


@compiles(ByCodePoint, "postgresql")
def _on_postgresql(element: ByCodePoint, compiler: Any, **given: Any) -> str:  # noqa: ANN401 - SQLAlchemy's
    return f'({compiler.process(element.clauses, **given)} COLLATE "C")'


@compiles(ByCodePoint, "sqlite")
def _on_sqlite(element: ByCodePoint, compiler: Any, **given: Any) -> str:  # noqa: ANN401 - as above
    return str(compiler.process(element.clauses, **given))

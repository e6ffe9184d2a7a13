"""The names of Ledger's tables, for applications that share a database with it."""

import re
from collections.abc import Mapping
from typing import Final

TABLES: Final = (
    "ledger_activity",
    "ledger_alembic_version",
    "ledger_checkpoints",
    "ledger_events",
    "ledger_failures",
    "ledger_head",
    "ledger_job_runs",
    "ledger_jobs",
    "ledger_rebuilds",
    "ledger_search_checkpoints",
    "ledger_search_words",
    "ledger_state",
    "ledger_state_counts",
    "ledger_unique_keys",
    "ledger_workers",
)
# What a rebuild builds beside a table, and what it replaced; and what FTS5 keeps a table in.
_OURS: Final = re.compile(
    rf"(?:{'|'.join(TABLES)})(?:_green|_old)?(?:_data|_idx|_content|_docsize|_config)?"
)


def alembic_include_name(
    name: str | None, type_: str, parent_names: Mapping[str, str | None]
) -> bool:
    """Tell Alembic's autogenerate to leave Ledger's tables alone.

    For ``context.configure(include_name=ledger.alembic_include_name, …)`` in an application's
    ``env.py``.  Without it, ``alembic revision --autogenerate`` proposes to drop the tables, as
    they are not in the application's metadata.

    Args:
        name: What Alembic has found in the database.
        type_: What that is: ``table``, ``column``, ``index``, ``schema`` …
        parent_names: The names of the table and schema that it is in.

    Returns:
        False for Ledger's tables, True for all else.  Only whole names count, so an application
        may have tables of its own that begin with ``ledger_``.
    """
    return not (type_ == "table" and name is not None and _OURS.fullmatch(name))

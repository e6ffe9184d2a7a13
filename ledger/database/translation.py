"""Translation of the drivers' errors into ours."""

import sqlite3
from pathlib import Path
from typing import Final

from sqlalchemy import exc

from ledger.database import sqlite_errors
from ledger.errors import SchemaMismatch, Unavailable

DOES_NOT_ANSWER: Final = "the database does not answer"


def translation(
    error: Exception,
    orig: BaseException | None,
    shown_url: str = "the database",
    path: Path | None = None,
) -> Exception:
    """Translate a driver error into ours; return it unchanged if it is not an outage.

    Args:
        error: The error, which SQLAlchemy may have wrapped.
        orig: The driver's own.
        shown_url: The database's URL, without its password.
        path: The file of a database that is one.
    """
    text = (str(orig).splitlines() or [type(orig).__name__])[0]
    if _lacks_table(orig):
        return SchemaMismatch(
            "the database does not have the tables of this version; run `ledger migrate`"
        )
    if sqlite3.DatabaseError in {type(orig), type(error)}:
        problem = "is not a SQLite database, or it is damaged"
        return SchemaMismatch(f"{shown_url} {problem}: {text}", public=f"the file {problem}")
    if isinstance(error, exc.ProgrammingError) and getattr(orig, "sqlstate", "") is None:
        # Not from the server: psycopg cannot parse the URL.
        return Unavailable(f"cannot connect: {text}", public=DOES_NOT_ANSWER)
    if refused := _POSTGRES_REFUSALS.get(getattr(orig, "sqlstate", None) or ""):
        return Unavailable(refused.format(f": {text}"), public=refused.format(""))
    if getattr(error, "connection_invalidated", False) or isinstance(
        error, exc.OperationalError | exc.InterfaceError | sqlite3.OperationalError
    ):
        said = None if path is None else sqlite_errors.in_words(orig, path)
        shown, public = said or (f"{DOES_NOT_ANSWER}: {text}", DOES_NOT_ANSWER)
        return Unavailable(shown, public=public)
    return error


# What PostgreSQL refuses while it works, by SQLSTATE.
_POSTGRES_REFUSALS: Final = {
    # A standby: wait until it is promoted, or until we connect to the primary.
    "25006": "the database is read-only{}",
    "57014": "the database interrupted a statement of ours{}; if it was the statement_timeout of "
    "this role or database, raise it",
    "53100": "the disk of the database server is full{}; nothing was recorded; free space on it",
    "53200": "the database server has no memory, or no room for locks{}; nothing was recorded; "
    "free memory on it, or raise the setting that its log names",
    "58030": "the database server cannot read or write its files{}; nothing was recorded; look at "
    "its log, and at its disk",
    "42501": "the database does not give this role a right that it needs{}; connect as the role "
    "that ran `ledger migrate`, or grant the right",
}


def _lacks_table(orig: BaseException | None) -> bool:
    code = getattr(orig, "sqlstate", None)
    undefined_table, undefined_column = "42P01", "42703"
    return code in {undefined_table, undefined_column} or str(orig).startswith(
        ("no such table", "no such column")
    )

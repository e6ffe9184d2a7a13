"""The syntax of database URLs, checked without SQLAlchemy.

SQLAlchemy takes a fifth of a second to import.  ``ledger.connect`` refuses an invalid URL at
once, but opens the database only when the queue is first used.
"""

import re
from typing import Final

from ledger.errors import InvalidInput

_EXPECTED_URL: Final = "sqlite:///PATH or postgresql+psycopg://USER@HOST/NAME"
_SQLITE: Final = re.compile(r"sqlite(?:\+pysqlite)?://(?P<path>.*)", re.DOTALL)
# A path without a host before it or a query after it.
_FILE: Final = re.compile(r"/(?!:memory:$)[^?]+")
# As SQLAlchemy parses it, except that the port must be a number.
_POSTGRES: Final = re.compile(
    r"""
    (?:postgres|postgresql|postgresql\+psycopg)://
    (?: [^:/]* (?: : [^@]* )? @ )?             # user, password
    (?: \[ [^/?]+ \] | [^/:?]+ )?              # host
    (?: : [0-9]* )?                            # port
    (?: / [^?]* )?                             # database
    (?: \? .* )?                               # the driver's parameters
    """,
    re.VERBOSE,
)


def check_url(url: str) -> None:
    """Refuse a URL that is invalid, or whose database cannot hold a ledger.

    Raises:
        InvalidInput: *url* is not a URL, names another engine, or is an SQLite URL without
            a file.
    """
    sqlite = _SQLITE.fullmatch(url)
    if sqlite is not None:
        if not _FILE.fullmatch(sqlite["path"]):
            raise InvalidInput.expected("database url", "a file: sqlite:///PATH", url)
    elif not _POSTGRES.fullmatch(url):
        raise InvalidInput.expected("database url", _EXPECTED_URL, hide_password(url))


def hide_password(url: str) -> str:
    """Return *url*, which may be invalid, with anything that may be its password masked."""
    return re.sub(r"(://[^:/@]*):.*@", r"\1:***@", url)

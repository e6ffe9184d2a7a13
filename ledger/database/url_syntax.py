"""The syntax of database URLs, checked without SQLAlchemy.

SQLAlchemy takes a fifth of a second to import.  ``ledger.connect`` refuses an invalid URL at
once, but opens the database only when the queue is first used.
"""

import re
from typing import Final
from urllib.parse import unquote

from ledger.errors import InvalidInput

_EXPECTED_URL: Final = "sqlite:///PATH or postgresql+psycopg://USER@HOST/NAME"
_ESCAPED: Final = ", with @ in a name or password written as %40"
# PostgreSQL's NAMEDATALEN, less one; what is longer it cuts, with a mere notice.
_LONGEST_SCHEMA: Final = 63
SCHEMA_EXPECTED: Final = (
    f"the name of a PostgreSQL schema, up to {_LONGEST_SCHEMA} bytes, not pg_… nor $user"
)
NO_SCHEMA_IN_SQLITE: Final = (
    "expected none, as the ledger is in a SQLite file, which has no schemas; got {!r}"
)
_SQLITE: Final = re.compile(r"sqlite(?:\+pysqlite)?://(?P<path>.*)", re.DOTALL)
# A path without a host before it or a query after it.
_FILE: Final = re.compile(r"/(?!:memory:$)[^?]+")
# As SQLAlchemy parses it.
_POSTGRES: Final = re.compile(
    r"""
    (?:postgres|postgresql|postgresql\+psycopg)://
    (?: [^:/]* (?: : [^@]* )? @ )?             # user, password
    (?: \[ [^/?@]+ \] | [^/:?@]+ )?            # host; after an @, it would be part of a password
    (?: : (?P<port> [^/?]* ) )?                # port
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
            raise InvalidInput.expected(
                "database url", "a file: sqlite:///PATH", hide_password(url)
            )
        return
    postgres = _POSTGRES.fullmatch(url)
    if postgres is None or not _is_port(postgres["port"]):
        expected = _EXPECTED_URL + (_ESCAPED if url.count("@") > 1 else "")
        raise InvalidInput.expected("database url", expected, hide_password(url))


def is_sqlite(url: str) -> bool:
    """Return whether a URL, which may be invalid, names SQLite."""
    return url.startswith("sqlite")


def _is_port(port: str | None) -> bool:
    return port is None or (port.isascii() and port.isdigit())


def check_schema(name: str) -> None:
    """Refuse what PostgreSQL does not take for the name of an application's schema.

    Raises:
        InvalidInput: It would refuse the name, cut it short, or take it for something else.
    """
    if (
        not 0 < len(name.encode("utf-8", "replace")) <= _LONGEST_SCHEMA
        or not name.isprintable()
        or name.startswith("pg_")
        # On a search path, it stands for the role's name.
        or name in {"information_schema", "$user"}
    ):
        raise InvalidInput.expected("schema", SCHEMA_EXPECTED, name)


def hide_password(url: str) -> str:
    """Return *url*, which may be invalid, with anything that may be a secret masked."""
    # Up to the last @: a password may contain others that should have been escaped.
    before = r"(://[^:/]*)" if "://" in url else r"^([^:]*)"
    shown = re.sub(f"{before}:.*@", r"\1:***@", url, flags=re.DOTALL)
    return _PARAMETER.sub(_masked, shown)


def _masked(parameter: re.Match[str]) -> str:
    name = parameter["name"]
    return f"{name}=***" if unquote(name).lower() in _SECRETS else parameter[0]


# In the query of a URL, or in a connection string of libpq, which is no URL, and in which a value
# may have quotes, and spaces before it.
_PARAMETER: Final = re.compile(
    r"(?<![^?&\s])(?P<name>[^?&=\s]+)\s*=\s*(?:'(?:[^'\\]|\\.)*'|[^&\s]*)", re.DOTALL
)
# Parameters of libpq that are secrets, or name the file that holds them.
_SECRETS: Final = frozenset(
    {
        *("password", "passfile", "sslpassword"),
        *("oauth_client_secret", "scram_client_key", "scram_server_key"),
    }
)

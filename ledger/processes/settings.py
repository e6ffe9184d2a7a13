"""The settings, which are read from the environment here and nowhere else.

Each setting is one entry of ``SETTINGS``, from which its variable, the table in
docs/settings.md and the error messages are made.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Literal, get_args

from ledger.database.url_syntax import (
    NO_SCHEMA_IN_SQLITE,
    SCHEMA_EXPECTED,
    check_schema,
    check_url,
    hide_password,
    is_sqlite,
)
from ledger.errors import InvalidInput, SettingsError
from ledger.processes.hosts import bound_host, parse_host
from ledger.queue.lease import LEASE_MS

if TYPE_CHECKING:
    from ledger.database.sqlite import SqliteSynchronous

PREFIX: Final = "LEDGER_"
# Search engines.
SearchOn = Literal["whoosh", "sql", "off"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The values of all settings; ``SETTINGS`` describes them."""

    database_url: str = "sqlite:///ledger.db"
    database_direct_url: str = ""
    schema: str = ""
    sqlite_synchronous: "SqliteSynchronous" = "FULL"
    allow_future: bool = False
    allow_network_file: bool = False
    bind: str = "127.0.0.1:3000"
    server_processes: int = 2
    threads: int = 16
    largest_body_bytes: int = 1024 * 1024
    client_timeout_ms: int = 30_000
    largest_page: int = 10_000
    hosts: tuple[str, ...] = ()
    cors_origins: tuple[str, ...] = ()
    kue_lenient: bool = False
    sweep: bool = True
    lease_ms: int = LEASE_MS
    search: SearchOn = "whoosh"
    search_directory: str = ""
    search_wait_ms: int = 5_000


def _database_url(text: str) -> str:
    try:
        check_url(text)
    except InvalidInput as error:
        raise ValueError from error
    return text


def _direct_url(text: str) -> str:
    if is_sqlite(text):
        raise ValueError
    return _database_url(text) if text else ""


def _schema(text: str) -> str:
    try:
        if text:
            check_schema(text)
    except InvalidInput as error:
        raise ValueError from error
    return text


def _origins(text: str) -> tuple[str, ...]:
    origins = tuple(part.strip() for part in text.split(",") if part.strip())
    if any("://" not in origin or origin.endswith("/") for origin in origins):
        raise ValueError
    return origins


def _hosts(text: str) -> tuple[str, ...]:
    return tuple(parse_host(part.strip()) for part in text.split(",") if part.strip())


def _address(text: str) -> str:
    host, colon, port = text.rpartition(":")
    if text.startswith("unix:"):
        return text
    if not colon or not host or not 0 <= int(port) < 1 << 16:
        raise ValueError
    bound_host(text)
    return text


def _synchronous(text: str) -> str:
    if text.upper() not in {"FULL", "NORMAL"}:
        raise ValueError
    return text.upper()


def _search(text: str) -> str:
    if text.lower() not in get_args(SearchOn):
        raise ValueError
    return text.lower()


def _switch(text: str) -> bool:
    return {"on": True, "off": False}[text.lower()]


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """The description of a setting.

    Attributes:
        field: Its name in ``Settings``; the environment variable is ``LEDGER_`` followed by
            the name in upper case.
        expected: The valid values, in words.
        meaning: What the setting does, in words.
        parse: Converts text to the value, or raises ValueError or KeyError.
        formerly: Former name of the environment variable, which is still read.
    """

    field: str
    expected: str
    meaning: str
    parse: Callable[[str], Any]
    formerly: str | None = None

    @property
    def variable(self) -> str:
        """Return the name of the environment variable."""
        return f"{PREFIX}{self.field.upper()}"


def _number(
    field: str, least: int, most: int, meaning: str, *, formerly: str | None = None
) -> Setting:
    """Return a setting that is an integer; no system or database accepts more than *most*."""

    def parse(text: str) -> int:
        number = int(text)
        if not least <= number <= most:
            raise ValueError
        return number

    expected = f"an integer from {least} to {most}"
    return Setting(field=field, expected=expected, meaning=meaning, parse=parse, formerly=formerly)


A_YEAR_MS: Final = 365 * 86_400_000

SETTINGS: Final = (
    Setting(
        field="database_url",
        expected="sqlite:///PATH or postgresql+psycopg://USER@HOST/NAME",
        meaning="Database of the ledger.",
        parse=_database_url,
    ),
    Setting(
        field="database_direct_url",
        expected="postgresql+psycopg://USER@HOST/NAME",
        meaning="The same PostgreSQL database without the connection pooler that "
        "`LEDGER_DATABASE_URL` leads to. See docs/postgresql.md.",
        parse=_direct_url,
    ),
    Setting(
        field="schema",
        expected=SCHEMA_EXPECTED,
        meaning="PostgreSQL schema that all tables are in, which `ledger migrate` creates; by "
        "default the one in which the server creates tables. See docs/shared-database.md.",
        parse=_schema,
    ),
    Setting(
        field="sqlite_synchronous",
        expected="FULL or NORMAL",
        meaning="FULL: acknowledged writes survive a power failure. NORMAL: only a crash.",
        parse=_synchronous,
    ),
    Setting(
        field="allow_future",
        expected="on or off",
        meaning="Whether to write to a SQLite file whose last event is more than a minute ahead of "
        "the machine's clock.",
        parse=_switch,
    ),
    Setting(
        field="allow_network_file",
        expected="on or off",
        meaning="Whether to use a SQLite file on a network file system. Two machines that use one "
        "file destroy it.",
        parse=_switch,
    ),
    Setting(
        field="bind",
        expected="HOST:PORT or unix:PATH",
        meaning="Address of `ledger serve`. There is no authentication yet, so keep it local.",
        parse=_address,
    ),
    _number(
        "server_processes",
        1,
        1_000,
        "Number of server processes.",
        formerly="LEDGER_WORKERS",
    ),
    _number(
        "threads",
        1,
        1_000,
        "Threads in each server process; half of them may wait for jobs, and a quarter for the "
        "search index.",
    ),
    _number(
        "largest_body_bytes",
        1,
        2**30,
        "Largest request body in bytes, after decompression.",
    ),
    _number(
        "client_timeout_ms",
        1,
        3_600_000,
        "Time in milliseconds in which a client must send the head of a request, and each 64 KiB "
        "of its body, and take each 64 KiB of an answer. After that, its connection is closed.",
    ),
    _number(
        "largest_page",
        1,
        1_000_000,
        "Maximum number of jobs, events, log lines, types or workers in one answer.",
    ),
    Setting(
        field="hosts",
        expected="names or addresses without scheme and port, separated by commas",
        meaning="Names of the server, in addition to localhost, loopback addresses and the host of "
        "`LEDGER_BIND`. Requests with another `Host` are answered with 421, because a web page "
        "could otherwise read the ledger through DNS rebinding.",
        parse=_hosts,
    ),
    Setting(
        field="cors_origins",
        expected="origins such as https://example.org, separated by commas",
        meaning="Origins of other web pages that may use the API.",
        parse=_origins,
    ),
    Setting(
        field="kue_lenient",
        expected="on or off",
        meaning="Whether Kue's routes answer as Kue did, for clients that rely on it: refusals as "
        '200 `{"error": …}`, unknown options and fields of a job ignored, and '
        '`{"message":"job created","id":3}` for one job. See docs/kue.md.',
        parse=_switch,
    ),
    Setting(
        field="sweep",
        expected="on or off",
        meaning="Whether the server promotes delayed jobs, fails expired ones, and updates the "
        "read models that follow. It updates the search index in any case.",
        parse=_switch,
    ),
    _number(
        "lease_ms",
        1,
        A_YEAR_MS,
        "Time in milliseconds after which a silent worker is lost and its attempts fail.",
    ),
    Setting(
        field="search",
        expected="whoosh, sql or off",
        meaning="Search engine: an index in a directory of this machine, or the database.",
        parse=_search,
    ),
    Setting(
        field="search_directory",
        expected="a path",
        meaning="Directory in which Whoosh's index gets a directory of its own, named after the "
        "database. The default is beside the SQLite file, or the working directory.",
        parse=str,
    ),
    _number(
        "search_wait_ms",
        0,
        3_600_000,
        "Time in milliseconds that a search waits for the index to include earlier writes.",
    ),
)


def read_settings(
    overrides: Mapping[str, object] = MappingProxyType({}),
    environment: Mapping[str, str] = os.environ,
    *,
    name_of: Callable[[str], str] = str,
) -> Settings:
    """Return the settings in *environment*, replaced by *overrides* that are not None.

    Unknown variables are ignored; ``unknown_variables`` warns about some of them.

    Args:
        overrides: Values by the names of the fields of ``Settings``.
        environment: The variables.
        name_of: Returns what the caller calls the override of a field, for error messages; by
            default as the field.

    Raises:
        SettingsError: Values are invalid; the error names all of them.
    """
    values: dict[str, Any] = {}
    problems = []
    for setting in SETTINGS:
        variable, text = setting.variable, environment.get(setting.variable)
        if text is None and setting.formerly:
            variable, text = setting.formerly, environment.get(setting.formerly)
        if (given := overrides.get(setting.field)) is not None:
            variable, text = name_of(setting.field), str(given)
        if text is None:
            continue
        try:
            values[setting.field] = setting.parse(text)
        except (ValueError, KeyError):
            problems.append(f"{variable}: expected {setting.expected}, got {hide_password(text)!r}")
    if _names_another_database(overrides, environment):
        # The direct way is to the database of the environment.
        values.pop("database_direct_url", None)
    settings = Settings(**values)
    if not problems and settings.schema and is_sqlite(settings.database_url):
        name = "LEDGER_SCHEMA" if overrides.get("schema") is None else name_of("schema")
        problems.append(f"{name}: {NO_SCHEMA_IN_SQLITE.format(settings.schema)}")
    if not problems and settings.database_direct_url and is_sqlite(settings.database_url):
        problems.append(
            "LEDGER_DATABASE_DIRECT_URL: expected none, as the ledger is in a SQLite file; got "
            f"{hide_password(settings.database_direct_url)!r}"
        )
    if problems:
        raise SettingsError(problems)
    return settings


def _names_another_database(
    overrides: Mapping[str, object], environment: Mapping[str, str]
) -> bool:
    given = overrides.get("database_url")
    return (
        given is not None
        and overrides.get("database_direct_url") is None
        and str(given) != environment.get(f"{PREFIX}DATABASE_URL")
    )

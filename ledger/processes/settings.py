"""Read the settings: the only place that looks at the environment.

Each setting is one line of ``SETTINGS``: the command line, the README's table and
the error messages are made from it.
"""

import difflib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, Literal, get_args

from ledger.database.sqlite import SqliteSynchronous
from ledger.database.url import (
    NO_SCHEMA_IN_SQLITE,
    SCHEMA_EXPECTED,
    hide_password,
    parse_schema,
    parse_url,
)
from ledger.errors import InvalidInput, SettingsError
from ledger.processes.hosts import bound_host, parse_host
from ledger.queue.heartbeats import LEASE_MS

# What finds jobs by the words of their data.
SearchOn = Literal["whoosh", "sql", "off"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Be everything that can be set; see ``SETTINGS`` for what each means."""

    database_url: str = "sqlite:///ledger.db"
    schema: str = ""
    sqlite_synchronous: SqliteSynchronous = "FULL"
    bind: str = "127.0.0.1:3000"
    workers: int = 2
    threads: int = 16
    largest_body_bytes: int = 1024 * 1024
    largest_page: int = 10_000
    hosts: tuple[str, ...] = ()
    cors_origins: tuple[str, ...] = ()
    sweep: bool = True
    lease_ms: int = LEASE_MS
    search: SearchOn = "whoosh"
    search_directory: str = ""
    search_wait_ms: int = 5_000


def _database_url(text: str) -> str:
    try:
        parse_url(text)
    except InvalidInput as error:
        raise ValueError from error
    return text


def _schema(text: str) -> str:
    try:
        return text and parse_schema(text)
    except InvalidInput as error:
        raise ValueError from error


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
    """Describe a setting.

    Attributes:
        field: Its name in ``Settings``; ``LEDGER_`` and it in upper case is the
            environment variable.
        expected: What its value must be, for people.
        meaning: What it does, for people.
        parse: Return the value of a text, or raise ValueError or KeyError.
    """

    field: str
    expected: str
    meaning: str
    parse: Callable[[str], Any]

    @property
    def variable(self) -> str:
        """Return the name of the environment variable."""
        return f"LEDGER_{self.field.upper()}"


def _number(field: str, least: int, most: int, meaning: str) -> Setting:
    """Return a setting that is a number; beyond *most* lies what no system or database takes."""

    def parse(text: str) -> int:
        number = int(text)
        if not least <= number <= most:
            raise ValueError
        return number

    expected = f"an integer from {least} to {most}"
    return Setting(field=field, expected=expected, meaning=meaning, parse=parse)


A_YEAR_MS: Final = 365 * 86_400_000

SETTINGS: Final = (
    Setting(
        field="database_url",
        expected="sqlite:///PATH or postgresql+psycopg://USER@HOST/NAME",
        meaning="Where the ledger is kept.",
        parse=_database_url,
    ),
    Setting(
        field="schema",
        expected=SCHEMA_EXPECTED,
        meaning="PostgreSQL schema that all tables are in, which `ledger migrate` creates; by "
        "default the one in which the server creates tables. See `docs/shared-database.md`.",
        parse=_schema,
    ),
    Setting(
        field="sqlite_synchronous",
        expected="FULL or NORMAL",
        meaning="FULL: what was acknowledged survives a power cut. NORMAL: only a crash.",
        parse=_synchronous,
    ),
    Setting(
        field="bind",
        expected="HOST:PORT or unix:PATH",
        meaning="Where `ledger serve` listens. There is no authentication yet: keep it local.",
        parse=_address,
    ),
    _number(
        "workers",
        1,
        1_000,
        "Server processes.",
    ),
    _number(
        "threads",
        1,
        1_000,
        "Threads in each server process; half of them may wait for jobs.",
    ),
    _number(
        "largest_body_bytes",
        1,
        2**30,
        "Largest request body, in bytes, after decompression.",
    ),
    _number(
        "largest_page",
        1,
        1_000_000,
        "Most jobs, events or log lines in one answer.",
    ),
    Setting(
        field="hosts",
        expected="names or addresses without scheme and port, separated by commas",
        meaning="Names by which clients reach the server, beside localhost, loopback addresses "
        "and the host of `LEDGER_BIND`; requests for others are answered with 421. Otherwise any "
        "web page could read the ledger under a name of its own (DNS rebinding).",
        parse=_hosts,
    ),
    Setting(
        field="cors_origins",
        expected="origins such as https://example.org, separated by commas",
        meaning="Web pages of other origins that may use the API.",
        parse=_origins,
    ),
    Setting(
        field="sweep",
        expected="on or off",
        meaning="Whether the server promotes delayed jobs, expires late ones, and brings forward "
        "the read models that catch up; the search index it brings forward all the same.",
        parse=_switch,
    ),
    _number(
        "lease_ms",
        1,
        A_YEAR_MS,
        "How long a worker may be silent before its jobs are failed, in milliseconds.",
    ),
    Setting(
        field="search",
        expected="whoosh, sql or off",
        meaning="What finds jobs by their words: an index of this machine's own, or the database.",
        parse=_search,
    ),
    Setting(
        field="search_directory",
        expected="a path",
        meaning="Directory in which Whoosh's index gets one of its own, named after the database; "
        "by default the index lies beside the SQLite file, or in the working directory.",
        parse=str,
    ),
    _number(
        "search_wait_ms",
        0,
        3_600_000,
        "How long a search waits for what was written just before, in milliseconds.",
    ),
)


def read_settings(
    overrides: Mapping[str, object] = MappingProxyType({}),
    environment: Mapping[str, str] = os.environ,
) -> Settings:
    """Return the settings of *environment*, with those of *overrides* that are not None.

    Raises:
        SettingsError: Values are bad, or variables unknown; it names all of them.
    """
    values: dict[str, Any] = {}
    problems = []
    for setting in SETTINGS:
        given = overrides.get(setting.field)
        text = environment.get(setting.variable) if given is None else str(given)
        if text is None:
            continue
        try:
            values[setting.field] = setting.parse(text)
        except (ValueError, KeyError):
            problems.append(
                f"{setting.variable}: expected {setting.expected}, got {hide_password(text)!r}"
            )
    settings = Settings(**values)
    if not problems and settings.schema and settings.database_url.startswith("sqlite"):
        problems.append(f"LEDGER_SCHEMA: {NO_SCHEMA_IN_SQLITE.format(settings.schema)}")
    problems += [
        f"{variable}: there is no such setting{_suggestion(variable)}"
        for variable in sorted(environment)
        if variable.startswith("LEDGER_")
        and not variable.startswith("LEDGER_TEST_")
        and variable not in {setting.variable for setting in SETTINGS}
    ]
    if problems:
        raise SettingsError(problems)
    return settings


def _suggestion(variable: str) -> str:
    # Without the prefix, or everything would be near.
    names = [setting.field.upper() for setting in SETTINGS]
    near = difflib.get_close_matches(variable.removeprefix("LEDGER_"), names, n=1)
    return f"; did you mean LEDGER_{near[0]}?" if near else ""

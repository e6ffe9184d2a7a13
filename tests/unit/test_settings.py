"""Settings: read once, all bad ones named together."""

import re
from typing import Any, Final

import pytest

from ledger.errors import SettingsError
from ledger.processes import unknown_variables
from ledger.processes.settings import SETTINGS, Settings, read_settings
from ledger.processes.unknown_variables import doubts, leave_to_parent, warn_once

OURS: Final = {setting.variable for setting in SETTINGS}
URL: Final = "sqlite:///PATH or postgresql+psycopg://USER@HOST/NAME"


def problems(environment: dict[str, str], **overrides: object) -> tuple[str, ...]:
    """Return what is wrong with settings."""
    with pytest.raises(SettingsError) as error:
        read_settings(overrides, environment)
    assert str(error.value) == "\n".join(error.value.problems)
    return error.value.problems


def test_without_any_setting_the_defaults_hold() -> None:
    assert read_settings(environment={}) == Settings(
        database_url="sqlite:///ledger.db",
        sqlite_synchronous="FULL",
        bind="127.0.0.1:3000",
        server_processes=2,
        threads=16,
        largest_body_bytes=1024 * 1024,
        largest_page=10_000,
        hosts=(),
        cors_origins=(),
        sweep=True,
        lease_ms=30_000,
    )


@pytest.mark.parametrize(
    ("variable", "text", "field", "value"),
    [
        ("LEDGER_DATABASE_URL", "sqlite:////var/l.db", "database_url", "sqlite:////var/l.db"),
        ("LEDGER_DATABASE_URL", "postgresql://u:p@h/n", "database_url", "postgresql://u:p@h/n"),
        ("LEDGER_SQLITE_SYNCHRONOUS", "NORMAL", "sqlite_synchronous", "NORMAL"),
        ("LEDGER_SQLITE_SYNCHRONOUS", "full", "sqlite_synchronous", "FULL"),
        ("LEDGER_BIND", "0.0.0.0:80", "bind", "0.0.0.0:80"),
        ("LEDGER_BIND", "[::1]:3000", "bind", "[::1]:3000"),
        ("LEDGER_BIND", "localhost:0", "bind", "localhost:0"),
        ("LEDGER_BIND", "unix:/run/ledger.sock", "bind", "unix:/run/ledger.sock"),
        ("LEDGER_SERVER_PROCESSES", "1", "server_processes", 1),
        ("LEDGER_WORKERS", "1", "server_processes", 1),
        ("LEDGER_THREADS", "64", "threads", 64),
        ("LEDGER_LARGEST_BODY_BYTES", "10", "largest_body_bytes", 10),
        ("LEDGER_LARGEST_PAGE", "10", "largest_page", 10),
        ("LEDGER_BIND", "[fe80::1%eth0]:3000", "bind", "[fe80::1%eth0]:3000"),
        ("LEDGER_HOSTS", "", "hosts", ()),
        ("LEDGER_HOSTS", "ledger.example.org", "hosts", ("ledger.example.org",)),
        (
            "LEDGER_HOSTS",
            " Ledger.Example.ORG. ,, 192.168.1.7,[FE80:0::1] , fe80::2, my_service",
            "hosts",
            ("ledger.example.org", "192.168.1.7", "fe80::1", "fe80::2", "my_service"),
        ),
        ("LEDGER_CORS_ORIGINS", "", "cors_origins", ()),
        (
            "LEDGER_CORS_ORIGINS",
            "https://a.example, http://localhost:8080",
            "cors_origins",
            ("https://a.example", "http://localhost:8080"),
        ),
        ("LEDGER_SWEEP", "off", "sweep", False),
        ("LEDGER_SWEEP", "ON", "sweep", True),
        ("LEDGER_LEASE_MS", "500", "lease_ms", 500),
    ],
)
def test_a_variable_sets_its_field(variable: str, text: str, field: str, value: Any) -> None:
    settings = read_settings(environment={variable: text})

    assert settings == Settings(**{field: value})


@pytest.mark.parametrize(
    ("variable", "text", "expected"),
    [
        ("LEDGER_DATABASE_URL", "", URL),
        (
            "LEDGER_DATABASE_URL",
            "ledger.db",
            URL,
        ),
        (
            "LEDGER_DATABASE_URL",
            "sqlite://",
            URL,
        ),
        (
            "LEDGER_DATABASE_URL",
            "mysql://h/n",
            URL,
        ),
        (
            "LEDGER_DATABASE_URL",
            "postgresql://h:port/n",
            URL,
        ),
        *(
            (
                "LEDGER_SCHEMA",
                text,
                "the name of a PostgreSQL schema, up to 63 bytes, not pg_… nor $user",
            )
            for text in (
                "x" * 64,
                "ü" * 32,
                "$user",
                "pg_temp",
                "information_schema",
                "a\n",
                "\udcff",
            )
        ),
        ("LEDGER_SQLITE_SYNCHRONOUS", "OFF", "FULL or NORMAL"),
        ("LEDGER_BIND", "3000", "HOST:PORT or unix:PATH"),
        ("LEDGER_BIND", ":3000", "HOST:PORT or unix:PATH"),
        ("LEDGER_BIND", "localhost:", "HOST:PORT or unix:PATH"),
        ("LEDGER_BIND", "localhost:65536", "HOST:PORT or unix:PATH"),
        ("LEDGER_BIND", "localhost:-1", "HOST:PORT or unix:PATH"),
        ("LEDGER_BIND", "localhost:http", "HOST:PORT or unix:PATH"),
        ("LEDGER_SERVER_PROCESSES", "0", "an integer from 1 to 1000"),
        ("LEDGER_SERVER_PROCESSES", "-1", "an integer from 1 to 1000"),
        ("LEDGER_WORKERS", "two", "an integer from 1 to 1000"),
        ("LEDGER_THREADS", "1.5", "an integer from 1 to 1000"),
        ("LEDGER_THREADS", "", "an integer from 1 to 1000"),
        ("LEDGER_LARGEST_BODY_BYTES", "1MB", "an integer from 1 to 1073741824"),
        ("LEDGER_LARGEST_PAGE", "0", "an integer from 1 to 1000000"),
        ("LEDGER_BIND", "a b:3000", "HOST:PORT or unix:PATH"),
        *(
            (
                "LEDGER_HOSTS",
                text,
                "names or addresses without scheme and port, separated by commas",
            )
            for text in (
                "http://ledger.example.org",
                "ledger.example.org:3000",
                "ok.example.org, 192.168.1.7:3000",
                "[::1]:3000",
                "[::1",
                "fe80::1%eth0",
                "*",
                "*.example.org",
                ".example.org",
                "a b",
                "user@example.org",
                "bücher.example",
            )
        ),
        (
            "LEDGER_CORS_ORIGINS",
            "example.org",
            "origins such as https://example.org, separated by commas",
        ),
        (
            "LEDGER_CORS_ORIGINS",
            "https://a.example, https://b.example/",
            "origins such as https://example.org, separated by commas",
        ),
        ("LEDGER_SWEEP", "yes", "on or off"),
        ("LEDGER_SWEEP", "", "on or off"),
        ("LEDGER_LEASE_MS", "0", "an integer from 1 to 31536000000"),
        ("LEDGER_LEASE_MS", "30s", "an integer from 1 to 31536000000"),
    ],
)
def test_a_bad_value_is_refused_by_name(variable: str, text: str, expected: str) -> None:
    assert problems({variable: text}) == (f"{variable}: expected {expected}, got {text!r}",)


@pytest.mark.parametrize("schema", ["", "jobs", "Jobs", 'odd "name"; --', "ü" * 31])
def test_a_schema_has_any_name_that_postgresql_takes(schema: str) -> None:
    url = "postgresql://h/n"

    settings = read_settings(environment={"LEDGER_DATABASE_URL": url, "LEDGER_SCHEMA": schema})

    assert settings.schema == schema


def test_a_schema_in_a_sqlite_file_is_refused() -> None:
    assert problems({"LEDGER_SCHEMA": "jobs"}) == (
        (
            "LEDGER_SCHEMA: expected none, as the ledger is in a SQLite file, which has no "
            "schemas; got 'jobs'"
        ),
    )


def test_all_bad_values_are_reported_together() -> None:
    found = problems(
        {
            "LEDGER_DATABASE_URL": "nonsense",
            "LEDGER_SERVER_PROCESSES": "x",
            "LEDGER_THREADS": "4",
        },
        bind="nowhere",
    )

    assert found == (
        f"LEDGER_DATABASE_URL: expected {URL}, got 'nonsense'",
        "bind: expected HOST:PORT or unix:PATH, got 'nowhere'",
        "LEDGER_SERVER_PROCESSES: expected an integer from 1 to 1000, got 'x'",
    )


@pytest.mark.parametrize(
    "url", ["mysql://ann:secret@host/name", "postgresql://ann:secret@host:port/name"]
)
def test_a_bad_database_url_is_shown_without_its_password(url: str) -> None:
    (problem,) = problems({"LEDGER_DATABASE_URL": url})

    assert "secret" not in problem
    assert "ann" in problem


def test_flags_win_over_the_environment() -> None:
    settings = read_settings(
        {"server_processes": 3, "threads": None},
        {"LEDGER_SERVER_PROCESSES": "many", "LEDGER_WORKERS": "2", "LEDGER_THREADS": "5"},
    )

    assert settings == Settings(server_processes=3, threads=5)


def test_a_new_name_wins_over_the_former_one() -> None:
    environment = {"LEDGER_SERVER_PROCESSES": "3", "LEDGER_WORKERS": "many"}

    assert read_settings(environment=environment) == Settings(server_processes=3)


# What Kubernetes sets beside a service called ledger with the ports http and 9090, and beside
# one called ledger-api.
KUBERNETES: Final = {
    "LEDGER_SERVICE_HOST": "10.0.0.11",
    "LEDGER_SERVICE_PORT": "80",
    "LEDGER_SERVICE_PORT_HTTP": "80",
    "LEDGER_PORT": "tcp://10.0.0.11:80",
    "LEDGER_PORT_80_TCP": "tcp://10.0.0.11:80",
    "LEDGER_PORT_80_TCP_PROTO": "tcp",
    "LEDGER_PORT_80_TCP_PORT": "80",
    "LEDGER_PORT_80_TCP_ADDR": "10.0.0.11",
    "LEDGER_PORT_9090_UDP": "udp://10.0.0.11:9090",
    "LEDGER_API_SERVICE_HOST": "10.0.0.12",
    "LEDGER_API_PORT_80_TCP": "tcp://10.0.0.12:80",
}
LEDGER_CLI: Final = dict.fromkeys(
    (
        "LEDGER_FILE",
        "LEDGER_INIT",
        "LEDGER_PRICE_DB",
        "LEDGER_CACHE",
        "LEDGER_SORT",
        "LEDGER_PAGER",
    ),
    "~/finances",
)


@pytest.mark.parametrize(
    "environment",
    [
        {"PATH": "/bin", "LEDGERS": "1", "ledger_thread": "1"},
        {"LEDGER_TEST_POSTGRES_URL": "postgresql://h/n", "LEDGER_TEST_THREADS": "2"},
        {"LEDGER_COLOUR": "blue"},
        KUBERNETES,
        LEDGER_CLI,
        {setting.variable: "1" for setting in SETTINGS},
    ],
)
def test_what_is_not_ours_is_left_alone(environment: dict[str, str]) -> None:
    others = {variable: text for variable, text in environment.items() if variable not in OURS}

    assert doubts(environment) == []
    assert read_settings(environment=others) == Settings()


@pytest.mark.parametrize(
    ("variable", "meant"),
    [
        ("LEDGER_DATABSE_URL", "LEDGER_DATABASE_URL"),
        ("LEDGER_DATABASE", "LEDGER_DATABASE_URL"),
        ("LEDGER_THREAD", "LEDGER_THREADS"),
        ("LEDGER_WORKER", "LEDGER_SERVER_PROCESSES"),
        ("LEDGER_SERVER_PROCESS", "LEDGER_SERVER_PROCESSES"),
        ("LEDGER_LEASE", "LEDGER_LEASE_MS"),
        ("LEDGER_SEARCH_DIR", "LEDGER_SEARCH_DIRECTORY"),
    ],
)
def test_a_near_miss_is_ignored_with_a_warning(variable: str, meant: str) -> None:
    environment = {variable: "anything"}

    assert read_settings(environment=environment) == Settings()
    assert doubts(environment) == [f"{variable}: no such setting; did you mean {meant}?"]


@pytest.mark.parametrize(
    ("others", "what"),
    [({}, "its value is used"), ({"LEDGER_SERVER_PROCESSES": "4"}, "it is ignored")],
)
def test_a_former_name_comes_with_a_warning(others: dict[str, str], what: str) -> None:
    assert doubts({"LEDGER_WORKERS": "3", **others}) == [
        (
            "LEDGER_WORKERS: this setting was renamed to LEDGER_SERVER_PROCESSES; "
            f"{what}, please rename it"
        )
    ]


def test_no_setting_has_a_name_that_kubernetes_gives_to_a_service() -> None:
    kubernetes = re.compile(r"LEDGER_(.+_)?(SERVICE_HOST|SERVICE_PORT|PORT)(_.+)?")

    assert [variable for variable in OURS if kubernetes.fullmatch(variable)] == []


def test_a_process_is_warned_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(unknown_variables, "_said", set())
    monkeypatch.setenv("LEDGER_THREDS", "2")
    lines: list[str] = []

    warn_once()
    warn_once(lines.append)
    monkeypatch.setenv("LEDGER_HOST", "example.org")
    warn_once(lines.append)

    assert [(record.name.split(".")[0], record.getMessage()) for record in caplog.records] == [
        ("ledger", "LEDGER_THREDS: no such setting; did you mean LEDGER_THREADS?")
    ]
    assert lines == ["LEDGER_HOST: no such setting; did you mean LEDGER_HOSTS?"]


def test_a_process_leaves_the_warnings_to_its_parent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unknown_variables, "_said", set())
    monkeypatch.setenv("LEDGER_THREDS", "2")
    lines: list[str] = []

    leave_to_parent()
    warn_once(lines.append)

    assert lines == []


def test_every_field_has_its_setting() -> None:
    fields = [setting.field for setting in SETTINGS]

    assert fields == list(Settings.__dataclass_fields__)
    assert [setting.variable for setting in SETTINGS] == [f"LEDGER_{f.upper()}" for f in fields]

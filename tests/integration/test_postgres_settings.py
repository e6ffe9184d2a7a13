"""PostgreSQL as others have set it up: Ledger's sessions do not depend on their defaults."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Final
from uuid import uuid4

import pytest
from sqlalchemy import create_engine, make_url, text
from sqlalchemy.engine import URL

from ledger.database.contract import Database
from ledger.database.migration import migrate
from ledger.database.postgres_engine import OPTIONS, PostgresEngine
from ledger.database.url import parse_url
from ledger.errors import SchemaMismatch, Unavailable
from ledger.processes.composition import System
from ledger.projections.rebuild.rebuild import rebuild
from ledger.rules.commands import Create
from tests.builders import carry_out, open_system, rows, silently, verified
from tests.integration.servers import DEADLINE_S
from tests.postgres import Databases
from tests.proxies import Pooler

TEXT: Final = "\"Ünïcödé 雪 \\\\ 'quoted' %s 🦆\""

# What others may have set, and what holds in our sessions; None for what is theirs to set.
SETTINGS: Final = {
    "default_transaction_isolation": ("serializable", "read committed"),
    "default_transaction_deferrable": ("on", None),
    "idle_in_transaction_session_timeout": ("500ms", "0"),
    "idle_session_timeout": ("500ms", "0"),
    "transaction_timeout": ("500ms", "0"),
    "lock_timeout": ("1ms", "10s"),
    "row_security": ("on", "off"),
    "quote_all_identifiers": ("on", "off"),
    "standard_conforming_strings": ("off", "on"),
    "synchronous_commit": ("off", "on"),
    "client_encoding": ("LATIN1", "UTF8"),
    "bytea_output": ("escape", None),
    "DateStyle": ("SQL, DMY", None),
    "IntervalStyle": ("iso_8601", None),
    "TimeZone": ("Pacific/Apia", None),
    "extra_float_digits": ("-15", None),
    "statement_timeout": ("7s", None),
}

Opens = Callable[..., System]
Sets = Callable[..., URL]


@pytest.fixture
def sets(postgres_url: str) -> Iterator[Sets]:
    """Yield a function that returns the URL of a new role with these settings."""
    engine = create_engine(postgres_url, isolation_level="AUTOCOMMIT")
    roles = []

    def create(**settings: str) -> URL:
        role = f"theirs_{uuid4().hex}"
        roles.append(role)
        with engine.connect() as admin:
            admin.execute(text(f"CREATE ROLE {role} LOGIN SUPERUSER"))
            for name, value in settings.items():
                admin.execute(text(f"ALTER ROLE {role} SET {name} = '{value}'"))
        return make_url(postgres_url).set(username=role)

    yield create
    with engine.connect() as admin:
        for role in roles:
            admin.execute(text(f"REASSIGN OWNED BY {role} TO CURRENT_USER"))
            admin.execute(text(f"DROP ROLE {role}"))
    engine.dispose()


@pytest.fixture
def opens(tmp_path: Path) -> Iterator[Opens]:
    """Yield a function that opens the system at a URL."""
    with ExitStack() as stack:

        def open_at(url: URL | str) -> System:
            shown = url if isinstance(url, str) else url.render_as_string(hide_password=False)
            system = open_system(shown, search_directory=tmp_path / "search")
            stack.callback(system.close)
            return system

        yield open_at


def all_at_once(database: Database) -> list[BaseException]:
    """Append from many threads, each on a connection of its own; return the errors."""
    errors: list[BaseException] = []

    def append(number: int) -> None:
        try:
            for _ in range(10):
                with database.write() as tx:
                    tx.execute(text("SELECT position FROM ledger_head FOR UPDATE"))
                    tx.execute(text("UPDATE ledger_head SET last_job_id = last_job_id + 1"))
                with database.read() as connection:
                    connection.execute(text("UPDATE counted SET number = number + 1"))
        except Exception as error:  # noqa: BLE001 - returned
            errors.append(error)

    threads = [threading.Thread(target=append, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE_S)
    return errors


@pytest.mark.parametrize("level", ["repeatable read", "serializable", "read uncommitted"])
@pytest.mark.parametrize("is_pooled", [False, True])
def test_no_writer_fails_because_of_the_isolation_level(
    sets: Sets, opens: Opens, level: str, *, is_pooled: bool
) -> None:
    url = sets(default_transaction_isolation=level)
    direct = opens(url)
    migrate(direct.database)
    with direct.database.write() as tx:
        tx.execute(text("CREATE TABLE counted AS SELECT 0 AS number"))
    with ExitStack() as stack:
        way = url.render_as_string(hide_password=False)
        if is_pooled:
            way = stack.enter_context(closing(Pooler(way))).url
        system = opens(way)
        errors = all_at_once(system.database)

    assert errors == []
    assert rows(direct, "SELECT number FROM counted") == [{"number": 60}]
    assert rows(direct, "SELECT last_job_id FROM ledger_head") == [{"last_job_id": 60}]


@pytest.mark.parametrize("is_pooled", [False, True])
def test_our_sessions_have_the_settings_that_they_rely_on(
    sets: Sets, opens: Opens, *, is_pooled: bool
) -> None:
    theirs = {name: value for name, (value, _) in SETTINGS.items()}
    url = sets(**theirs)
    with ExitStack() as stack:
        way = url.render_as_string(hide_password=False)
        if is_pooled:
            # Between two transactions, a pooled session is not ours.
            theirs |= {"idle_session_timeout": "0"}
            harmless = sets(**theirs).render_as_string(hide_password=False)
            way = stack.enter_context(closing(Pooler(harmless))).url
        system = opens(way)
        with system.database.write() as tx:
            found = {name: tx.scalar(text(f"SHOW {name}")) for name in SETTINGS}
            level = tx.scalar(text("SHOW transaction_isolation"))

    expected = {
        name: theirs[name] if ours is None else ours for name, (_, ours) in SETTINGS.items()
    }
    # A transaction of ours has no limit.
    expected["statement_timeout"] = "0"
    if is_pooled:
        # BEGIN states it.
        expected["default_transaction_isolation"] = "serializable"
    assert (found, level) == (expected, "read committed")


def test_a_ledger_works_whatever_the_settings_are(sets: Sets, opens: Opens) -> None:
    system = opens(sets(**{name: value for name, (value, _) in SETTINGS.items()}))
    migrate(system.database)
    carry_out(system, Create(type="ünï", data=TEXT), *[Create(type="a", data="1")] * 40)

    claim = system.database.leadership("test")
    assert claim.held()
    with closing(system.database.watch()) as watch, system.database.snapshot():
        # Longer than the timeouts of others.
        time.sleep(0.8)
        assert claim.held()
        carry_out(system, Create(type="a"))
        assert watch.wait(DEADLINE_S)
    claim.release()
    rebuild(system.database, list(system.models.values()), silently)

    assert verified(system).differences == []
    assert rows(system, "SELECT content FROM ledger_events WHERE position = 1") == [
        {"content": TEXT}
    ]
    assert list(system.search.find("雪").job_ids) == [1]


def test_what_promises_more_than_we_ask_for_is_kept(sets: Sets, opens: Opens) -> None:
    system = opens(sets(synchronous_commit="remote_apply"))

    with system.database.read() as connection:
        assert connection.scalar(text("SHOW synchronous_commit")) == "remote_apply"


def test_a_read_that_is_interrupted_says_by_what(sets: Sets, opens: Opens) -> None:
    system = opens(sets(statement_timeout="1s"))

    with system.database.write() as tx:
        tx.execute(text("SELECT pg_sleep(1.5)"))
    with (
        pytest.raises(Unavailable, match="statement timeout; if it was the statement_timeout of"),
        system.database.read() as connection,
    ):
        connection.execute(text("SELECT pg_sleep(10)"))


def test_a_read_only_role_is_told(sets: Sets, opens: Opens, postgres_url: str) -> None:
    migrate(opens(postgres_url).database)
    system = opens(sets(default_transaction_read_only="on"))

    assert rows(system, "SELECT position FROM ledger_head") == [{"position": 0}]
    with pytest.raises(Unavailable, match="the database is read-only: "):
        carry_out(system, Create(type="a"))


def test_rows_that_a_policy_hides_are_an_error(opens: Opens, postgres_url: str) -> None:
    owner = opens(postgres_url)
    migrate(owner.database)
    role = f"theirs_{uuid4().hex}"
    with owner.database.write() as tx:
        tx.execute(text(f"CREATE ROLE {role} LOGIN"))
        tx.execute(text(f"GRANT ALL ON ALL TABLES IN SCHEMA public TO {role}"))
        tx.execute(text("ALTER TABLE ledger_jobs ENABLE ROW LEVEL SECURITY"))
    reader = opens(make_url(postgres_url).set(username=role))

    with (
        pytest.raises(Unavailable, match="affected by row-level security policy"),
        reader.database.read() as connection,
    ):
        connection.execute(text("SELECT * FROM ledger_jobs"))

    with owner.database.write() as tx:
        tx.execute(text(f"DROP OWNED BY {role}"))
        tx.execute(text(f"DROP ROLE {role}"))


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII"])
def test_a_database_in_another_encoding(
    encoding: str, postgres_databases: Databases, opens: Opens
) -> None:
    with postgres_databases.empty(f"ENCODING '{encoding}' LOCALE 'C' TEMPLATE template0") as url:
        system = opens(url)
        if encoding == "LATIN1":
            with pytest.raises(SchemaMismatch, match="has the encoding LATIN1, in which not every"):
                migrate(system.database)
        else:
            migrate(system.database)
            carry_out(system, Create(type="ünï", data=TEXT))
            rebuild(system.database, list(system.models.values()), silently)
            assert verified(system).differences == []
        system.close()


# --- a server that is lost


@pytest.mark.parametrize(
    "given_in_url",
    [
        {},
        {"connect_timeout": "9", "tcp_user_timeout": "0"},
    ],
)
def test_the_kernel_gives_up_a_lost_server_unless_the_url_says_otherwise(
    postgres_url: str, given_in_url: dict[str, str]
) -> None:
    engine = PostgresEngine(
        parse_url(postgres_url).update_query_dict(given_in_url),
        None,
        lock_timeout_ms=1_000,
        on_lost=lambda: None,
    )
    with engine.pool.connect() as connection:
        driver = connection.connection.driver_connection
        assert driver is not None
        given = driver.info.get_parameters()
    engine.pool.dispose()

    options = {name: str(value) for name, value in OPTIONS.items()} | given_in_url
    assert {name: given.get(name, "0") for name in options} == options

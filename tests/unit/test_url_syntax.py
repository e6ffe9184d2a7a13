"""Database URLs are checked without SQLAlchemy, as it reads them."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.database.url import open_database, parse_url
from ledger.database.url_syntax import check_url
from ledger.errors import InvalidInput

parts = st.text(st.sampled_from("ab1:/@?#[]%+. \n=&é"), max_size=8)
schemes = st.sampled_from(
    ["sqlite", "sqlite+pysqlite", "postgres", "postgresql", "postgresql+psycopg", "mysql"]
)


@given(scheme=schemes, slashes=st.sampled_from(["://", ":///", "://h", "://u:p@h:1/"]), rest=parts)
def test_what_passes_names_a_database_to_sqlalchemy_too(
    scheme: str, slashes: str, rest: str
) -> None:
    url = f"{scheme}{slashes}{rest}"
    try:
        check_url(url)
    except InvalidInput:
        return

    parsed = parse_url(url)

    assert parsed.drivername in {"sqlite+pysqlite", "postgresql+psycopg"}
    if parsed.drivername == "sqlite+pysqlite":
        assert parsed.database not in {None, ""}
        assert (parsed.host, parsed.query) == (None, {})


@pytest.mark.parametrize(
    "url",
    [
        "sqlite:///jobs.db",
        "sqlite:////var/lib/a b/jobs.db",
        "sqlite+pysqlite:///jobs.db",
        "postgres://h/n",
        "postgresql://h/n",
        "postgresql+psycopg://ann:se/c:ret@[fe80::1]:5432/n?sslmode=require&host=/tmp",
        "postgresql+psycopg://",
        "postgresql+psycopg:///n?host=/run/postgresql",
    ],
)
def test_a_good_url_passes(url: str) -> None:
    check_url(url)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "jobs.db",
        "sqlite",
        "sqlite://",
        "sqlite:///",
        "sqlite:///:memory:",
        "sqlite:///jobs.db?mode=ro",
        "sqlite://host/jobs.db",
        "postgresql:",
        "postgresql://h:port/n",
        "postgresql://h:/n",
        "postgresql+asyncpg://h/n",
        "mysql://h/n",
        " sqlite:///jobs.db",
    ],
)
def test_a_bad_url_is_refused(url: str) -> None:
    with pytest.raises(InvalidInput, match="database url: expected"):
        check_url(url)


def test_a_relative_path_leads_from_the_directory_that_is_given(tmp_path: Path) -> None:
    for url, path in (
        ("sqlite:///jobs.db", tmp_path / "jobs.db"),
        ("sqlite:////var/jobs.db", Path("/var/jobs.db")),
    ):
        assert open_database(url, directory=tmp_path).shown_url == f"sqlite:///{path}"

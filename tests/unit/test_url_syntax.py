"""Database URLs are checked without SQLAlchemy, as it reads them."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.database.url import open_database, parse_url
from ledger.database.url_syntax import check_url, hide_password
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
        "postgresql://ann:pa@ss@h/n",
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


HIDDEN = "s3cret"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://ann:s3cret@h/n", "postgresql://ann:***@h/n"),
        ("postgresql://ann:pa@s3cret@h/n", "postgresql://ann:***@h/n"),
        ("postgresql://ann:s3cret@x@h:1/n", "postgresql://ann:***@h:1/n"),
        ("mysql://us@er:s3cret@h", "mysql://us@er:***@h"),
        ("postgresql://ann:a/s3cret@h/n", "postgresql://ann:***@h/n"),
        ("postgresql://ann:a?s3cret@h/n", "postgresql://ann:***@h/n"),
        ("postgresql://ann:a\ns3cret@h/n", "postgresql://ann:***@h/n"),
        ("postgresql://h/n?password=s3cret", "postgresql://h/n?password=***"),
        ("postgresql://h/n?a=b&PassWord=s3cret&c=d", "postgresql://h/n?a=b&PassWord=***&c=d"),
        ("postgresql://h/n?pass%77ord=s3cret", "postgresql://h/n?pass%77ord=***"),
        ("postgresql://h/n?sslpassword=s3cret", "postgresql://h/n?sslpassword=***"),
        ("ann:s3cret@h/n", "ann:***@h/n"),
        ("//ann:s3cret@h/n", "//ann:***@h/n"),
        ("postgresql:/ann:s3cret@h/n", "postgresql:***@h/n"),
        ("host=h password='my s3cret' user=ann", "host=h password=*** user=ann"),
        ("host=h password='it\\'s s3cret'", "host=h password=***"),
        ("host=h password = s3cret user=ann", "host=h password=*** user=ann"),
        ("postgresql://h/n?passfile=/s3cret", "postgresql://h/n?passfile=***"),
        ("postgresql://h/n?x=a@b&password=s3cret", "postgresql://h/n?x=a@b&password=***"),
        ("postgresql://u:s3cret@h/n?x=a@b&password=s3cret", "postgresql://u:***@b&password=***"),
        ("host=h password=s3cret dbname=n", "host=h password=*** dbname=n"),
    ],
)
def test_a_secret_is_masked_wherever_it_is(url: str, shown: str) -> None:
    assert hide_password(url) == shown


@pytest.mark.parametrize(
    "url",
    [
        "sqlite:///jobs.db",
        "sqlite:///a?b=c",
        "postgresql://ann@h:5432/n?sslmode=require",
        "text",
        "",
    ],
)
def test_what_holds_no_secret_is_shown_as_it_is(url: str) -> None:
    assert hide_password(url) == url


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://ann:s3cret@h/n?password=s3cret&sslpassword=s3cret&passfile=s3cret&host=/tmp",
        "postgresql://ann:s3cret%40s3cret@h/n",
    ],
)
def test_the_shown_url_of_a_database_has_no_secret(url: str) -> None:
    shown = open_database(url).shown_url

    assert HIDDEN not in shown
    assert shown.startswith("postgresql://ann:***@h/n")


@pytest.mark.parametrize("url", ["sqlite://u:s3cret@h/n", "mysql://u:a@s3cret@h"])
def test_the_refusal_of_a_url_has_no_secret(url: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        check_url(url)

    assert HIDDEN not in str(refused.value)

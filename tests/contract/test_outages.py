"""What clients are told of an outage, and what only the log is told."""

import logging

import pytest

from ledger.api.http import errors
from ledger.errors import (
    AttemptOver,
    Corrupt,
    InvalidInput,
    JobNotFound,
    KeyReused,
    LedgerError,
    OutcomeUnknown,
    Refused,
    SchemaMismatch,
    Unavailable,
)
from ledger.processes.composition import System, compose
from ledger.processes.settings import Settings
from tests.contract.client import Answer, Client

HIDDEN = "db.internal:5432"


def failing(client: Client, error: Exception, monkeypatch: pytest.MonkeyPatch) -> Answer:
    """Return the answer of a server whose database raises *error*."""

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(errors, "_DETAILS", errors._Details())
    for way in ("read", "write", "snapshot"):
        monkeypatch.setattr(client.system.database, way, fail)
    return client.get("/job/1")


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (Unavailable(f"no answer: {HIDDEN}", public="no answer"), "no answer"),
        (SchemaMismatch(f"{HIDDEN} is old", public="the database is old"), "the database is old"),
        (
            OutcomeUnknown(f"connection to {HIDDEN} lost"),
            "the commit was not confirmed, so it is unknown whether the changes were recorded",
        ),
    ],
)
def test_only_the_log_has_the_names_of_hosts(
    crowd: Client,
    error: Exception,
    told: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING, "ledger"):
        answer = failing(crowd, error, monkeypatch)
        crowd.get("/stats")

    assert (answer.status, answer.json) == (503, {"error": told})
    assert [record.getMessage() for record in caplog.records] == [str(error)]


def test_two_outages_at_once_do_not_fill_the_log(caplog: pytest.LogCaptureFixture) -> None:
    details = errors._Details()

    with caplog.at_level(logging.WARNING, "ledger"):
        for _ in range(3):
            details.log("the disk is full")
            details.log("too many files")

    assert [record.getMessage() for record in caplog.records] == [
        "the disk is full",
        "too many files",
    ]


def test_what_the_log_was_told_is_remembered_in_bounds(caplog: pytest.LogCaptureFixture) -> None:
    details = errors._Details()

    for number in range(1_000):
        details.log(f"event {number} is not there")

    assert len(caplog.records) == 1_000
    assert len(details._logged_s) <= errors._MOST_TEXTS


def test_an_unreachable_server_is_not_named(tmp_path: object, crowd: Client) -> None:
    system = compose(Settings(database_url="postgresql+psycopg://u:pw@127.0.0.1:1/n", search="off"))
    client = Client(system)

    answers = [client.get(target) for target in ("/stats", "/health/ready", "/jobs/0..3")]
    answers.append(client.post({"type": "email"}))
    system.close()

    assert [(answer.status, answer.json) for answer in answers] == [
        (503, {"error": "the database does not answer"})
    ] * 4


def test_a_ledger_without_tables_is_not_named(client: Client, system: System) -> None:
    url = system.database.engine.url
    with system.database.write() as tx:
        tx.exec_driver_sql("DROP TABLE ledger_alembic_version")

    answer = client.get("/health/ready")

    assert answer.status == 503
    assert answer.json["error"].startswith("the database has no ledger yet; ")
    assert str(url.host or url.database) not in answer.json["error"]


class _OursToo(Unavailable):
    """A subclass of an error of Ledger's, as the search has one."""


class _RefusedToo(AttemptOver):
    """A subclass of a subclass."""


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (_OursToo("away"), 503),
        (_RefusedToo(1, "over"), 409),
        (Refused(1, "no"), 409),
        (JobNotFound(1), 404),
        (KeyReused(1, "k"), 422),
        (type("Odd", (InvalidInput,), {})("x", "x: odd"), 400),
        (Corrupt("event 7 is odd"), 500),
        (LedgerError("anything"), 500),
    ],
    ids=lambda value: type(value).__name__,
)
def test_an_error_and_its_subclasses_have_one_status(
    crowd: Client, error: Exception, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = failing(crowd, error, monkeypatch)

    assert answer.status == status
    assert list(answer.json) == ["error"]

"""A request with an Idempotency-Key is carried out once, whoever repeats it and whenever."""

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest
from sqlalchemy import exc

from ledger.errors import InvalidInput, KeyReused
from ledger.log import codec
from ledger.log.answers import Outcome
from ledger.log.known_keys import KnownKeys
from ledger.processes.composition import System
from ledger.projections.rebuild.rebuild import rebuild
from ledger.projections.rebuild.steps import Steps
from ledger.rules.commands import Create, Erase, Remove
from ledger.rules.decide import repeats
from ledger.rules.events import Created, RequestKey
from tests.builders import rows, silently, verified
from tests.integration.test_races import PATIENCE_S, another

KEYS = "SELECT key, job_id FROM ledger_unique_keys ORDER BY job_id, key"
THREES = Steps(first_batch=3, smallest_batch=3, largest_batch=3)


def of_request(key: str, *types: str) -> list[Create]:
    """Return the commands of a request: one job, or an array if there are several types."""
    jobs = len(types) if len(types) > 1 else None
    return [
        Create(type=type_, request=RequestKey(key=key, place=place, jobs=jobs))
        for place, type_ in enumerate(types)
    ]


@pytest.fixture
def asked(system: System) -> System:
    """Return a ledger with jobs of requests and of unique keys, some of them gone."""
    for commands in (
        of_request("one", "email"),
        of_request("many", "email", "sms", "email"),
        [Create(type="email", unique="Idempotency-Key: one")],
        [Create(type="email", unique="plain", request=RequestKey(key="both"))],
        [Remove(job_id=3), Remove(job_id=1), Erase(job_id=1)],
    ):
        system.ledger.submit(commands, actor="test")
    return system


def test_keys_of_requests_and_of_options_do_not_meet(asked: System) -> None:
    assert [(row["key"], row["job_id"]) for row in rows(asked, KEYS)] == [
        ("Idempotency-Key: one", 1),
        ("Idempotency-Key: many", 2),
        ("Idempotency-Key: many\n0", 2),
        ("Idempotency-Key: many\n1", 3),
        ("Idempotency-Key: many\n2", 4),
        ("unique: Idempotency-Key: one", 5),
        ("Idempotency-Key: both", 6),
        ("plain", 6),
    ]


def test_a_request_that_created_no_job_leaves_its_key_free(asked: System) -> None:
    request = RequestKey(key="free")
    existed, created, another = (
        asked.ledger.submit([command], actor="test")[0]
        for command in (
            Create(type="email", unique="plain", request=request),
            Create(type="sms", request=request),
            Create(type="email", request=request),
        )
    )

    assert isinstance(existed, Outcome)
    assert (existed.job_id, existed.events) == (6, ())
    assert isinstance(created, Outcome)
    assert created.job_id == 7
    assert isinstance(another, KeyReused)


def test_history_says_which_request_created_a_job(asked: System) -> None:
    bodies = rows(asked, "SELECT body FROM ledger_events WHERE job_id IN (1, 2, 4) AND version = 1")

    assert sorted(row["body"] for row in bodies) == [
        '{"type":"email","request":{"key":"many","jobs":3}}',
        '{"type":"email","request":{"key":"many","place":2,"jobs":3}}',
        '{"type":"email","request":{"key":"one"}}',
    ]


def test_an_event_without_a_request_is_stored_as_it_was_before_there_were_any() -> None:
    event = Created(type="email", unique="u")

    assert codec.encode(event) == '{"type":"email","unique":"u"}'
    assert codec.decode("created", 1, '{"type":"email","unique":"u"}') == event


def test_verify_and_rebuild_agree_with_the_keys(asked: System) -> None:
    before = rows(asked, KEYS)

    assert verified(asked).differences == []
    rebuild(asked.database, asked.projections, silently)

    assert rows(asked, KEYS) == before
    assert verified(asked).differences == []


def test_a_rebuild_in_batches_keeps_the_first_job_of_an_array(system: System) -> None:
    system.ledger.submit(of_request("many", *["email"] * 7), actor="test")
    before = rows(system, KEYS)

    rebuild(system.database, system.projections, silently, steps=THREES)

    assert rows(system, KEYS) == before
    assert verified(system).differences == []


def test_one_request_from_many_threads_creates_its_jobs_once(
    system: System, database_url: str
) -> None:
    commands = of_request("order 7", "email", "sms")
    with another(database_url) as other, ThreadPoolExecutor(16) as pool:
        ready = threading.Barrier(16)

        def create(number: int) -> Sequence[Any]:
            ready.wait(PATIENCE_S)
            ledger = (system, other)[number % 2].ledger
            return ledger.submit(commands, actor=f"t:{number}")

        answers = list(pool.map(create, range(16)))

    assert [[one.job_id for one in given] for given in answers] == [[1, 2]] * 16
    assert sorted(len(given[0].events) for given in answers) == [0] * 15 + [1]
    assert rows(system, "SELECT count(*) AS n FROM ledger_events") == [{"n": 2}]


def test_other_requests_with_one_key_at_once_create_one(system: System) -> None:
    with ThreadPoolExecutor(16) as pool:
        ready = threading.Barrier(16)

        def create(number: int) -> Any:
            ready.wait(PATIENCE_S)
            commands = of_request("order 7", *["email"] * (1 + number % 3))
            return system.ledger.submit(commands, actor="t")

        answers = [one for given in pool.map(create, range(16)) for one in given]

    created = [one for one in answers if isinstance(one, Outcome) and one.events]
    requests = {event.request.jobs for one in created for event in one.events}  # type: ignore[attr-defined]
    assert len(requests) == 1
    assert any(isinstance(one, KeyReused) for one in answers)
    assert verified(system).differences == []


def test_without_the_look_up_the_key_itself_refuses_a_second_job(
    system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    def blind(_self: KnownKeys, _command: Create, _submission: object) -> None:
        return None

    system.ledger.submit(of_request("order 7", "email"), actor="test")
    monkeypatch.setattr(KnownKeys, "find", blind)

    with pytest.raises((exc.IntegrityError, psycopg.IntegrityError)):
        system.ledger.submit(of_request("order 7", "email"), actor="test")

    assert rows(system, "SELECT count(*) AS n FROM ledger_events") == [{"n": 1}]


@pytest.mark.parametrize(
    ("changed", "is_seen"),
    [
        ({"type": "sms"}, True),
        ({"data": "[]"}, False),
        ({"priority": 1}, True),
        ({"attempts": 2}, True),
        ({"delay_ms": 1}, True),
        ({"ttl_ms": 1}, True),
        ({"remove_on_complete": True}, True),
        ({"search_keys": ()}, True),
        ({"unique": "u"}, True),
        ({"request": RequestKey(key="k", jobs=2)}, True),
    ],
)
def test_a_job_is_compared_in_all_that_was_asked_for(
    changed: dict[str, Any], *, is_seen: bool
) -> None:
    asked: dict[str, Any] = {"type": "email", "request": RequestKey(key="k")}
    created = Created(**asked, content="{}", promote_at_ms=None)
    without_data = Created(**asked)

    assert repeats(Create(**asked), created)
    assert repeats(Create(**asked), without_data)
    assert not repeats(Create(**asked | changed), created)
    assert repeats(Create(**asked | changed), without_data) is not is_seen


@pytest.mark.parametrize("key", ["", "a\nb", "k" * 256, "a\0b", "\ud800"])
def test_a_key_that_could_be_taken_for_a_place_is_refused(key: str) -> None:
    with pytest.raises(InvalidInput, match=r"^request: expected "):
        Create(type="email", request=RequestKey(key=key))

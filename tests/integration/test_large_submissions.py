"""Submissions of many commands, beside which other writers have their turns."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import Connection

from ledger.errors import InvalidInput
from ledger.log import store
from ledger.log.group_commit import LARGEST_BATCH
from ledger.processes.composition import System, queue_of
from ledger.queue.arguments import MOST_CREATED
from ledger.rules.commands import Create
from tests.builders import rows
from tests.contract.client import Client

PATIENCE_S = 60.0
EMAIL = Create(type="email")


def eventually(condition: Callable[[], bool]) -> None:
    """Wait until *condition* holds."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.001)


def actors(system: System) -> list[str]:
    """Return the actors of all events, in order, each once where it repeats."""
    found: list[str] = []
    for row in rows(system, "SELECT actor FROM ledger_events ORDER BY position"):
        if found[-1:] != [row["actor"]]:
            found.append(row["actor"])
    return found


def test_others_write_between_the_parts_of_a_long_submission(system: System) -> None:
    parts = system.ledger.submit_in_parts([EMAIL] * 5, actor="many", part=2)
    sizes = []
    for answers in parts:
        sizes.append(len(answers))
        system.ledger.execute(EMAIL, actor="other")

    assert sizes == [2, 2, 1]
    assert actors(system) == ["many", "other"] * 3


def test_large_submissions_do_not_share_a_transaction(
    system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of them holds the lock on its own, so other processes have their turns between."""
    transactions: list[int] = []
    write = system.database.write

    @contextmanager
    def counted() -> Iterator[Connection]:
        with write() as tx:
            yield tx
        transactions.append(len(transactions))

    monkeypatch.setattr(system.database, "write", counted)
    large = [EMAIL] * (LARGEST_BATCH // 2 + 1)
    threads = [
        threading.Thread(target=system.ledger.submit, args=(large,), kwargs={"actor": f"{number}"})
        for number in range(3)
    ]
    waiting: Any = system.ledger._appender._waiting
    with write() as tx:
        store.lock_head(tx)
        for number, thread in enumerate(threads, start=1):
            thread.start()
            eventually(lambda number=number: len(waiting) == number)  # type: ignore[misc]
    for thread in threads:
        thread.join(PATIENCE_S)

    assert len(transactions) == 3
    assert actors(system) == ["0", "1", "2"]


def test_an_array_of_too_many_jobs_is_refused_with_what_to_do(client: Client) -> None:
    with client.unchanged():
        answer = client.post([{"type": "email"}] * 1_001)

    assert answer.status == 400
    assert answer.json == {
        "error": "body: expected an array of at most 1,000 jobs, got 1,001; send them in several "
        "requests"
    }
    assert len(client.post([{"type": "email"}] * 1_000).json) == 1_000


def test_create_many_refuses_more_than_one_transaction_may_hold(system: System) -> None:
    queue = queue_of(system, actor="test", lease_ms=30_000)

    with pytest.raises(InvalidInput, match=r"^jobs: expected at most 5,000 in one call, got more"):
        queue.create_many({"type": "email"} for _ in range(MOST_CREATED + 1))

    assert rows(system, "SELECT position FROM ledger_events") == []


@pytest.fixture
def client(system: System) -> Client:
    return Client(system)

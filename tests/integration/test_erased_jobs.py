"""A job whose data was erased does not run: "delete users where …" must not be read as {}."""

import json
from collections.abc import Iterator
from typing import Any, Final

import pytest

import ledger
from ledger import Queue, Worker
from ledger.log.answers import Claimed
from ledger.log.batch import Submission
from ledger.processes.composition import System
from ledger.rules.commands import Claim, Complete, Create, Erase, Move
from ledger.testing import drain
from tests.builders import carry_out, rows, verified
from tests.contract.client import Client
from tests.integration.servers import DEADLINE_S, wait_until

CLAIM: Final = Claim(worker="a", slots={"email": 2})


@pytest.fixture
def queue(system: System, database_url: str) -> Iterator[Queue]:
    """Yield a queue as applications get one, beside a system on the same database."""
    opened = ledger.connect(database_url, actor="tests")
    yield opened
    opened.close()


def claimed(system: System) -> list[tuple[int, str | None]]:
    return [(one.job.id, one.data) for one in system.ledger.claim(CLAIM, actor="worker:a").jobs]


def failures(system: System) -> list[tuple[int, str]]:
    found = rows(system, "SELECT job_id, content FROM ledger_events WHERE kind = 'failed'")
    return [(row["job_id"], json.loads(row["content"])) for row in found]


@pytest.mark.parametrize("versions", [None, (1,)])
def test_it_fails_instead_and_those_behind_it_run(
    system: System, versions: tuple[int, ...] | None
) -> None:
    for number in range(6):
        carry_out(system, Create(type="email", attempts=3, data=f"{number}"))
    for job_id in (1, 2, 3, 5):
        carry_out(system, Erase(job_id=job_id, versions=versions))

    assert claimed(system) == [(4, "3"), (6, "5")]
    assert failures(system) == [
        (job_id, f"the data of job {job_id} was erased, so it cannot run")
        for job_id in (1, 2, 3, 5)
    ]
    with system.database.read() as connection:
        jobs = system.jobs.load(connection, [1, 2, 3, 5])
    assert {job.state.value for job in jobs.values()} == {"failed"}
    assert verified(system).differences == []


def test_its_other_content_may_be_erased(system: System) -> None:
    carry_out(system, Create(type="email", data="7"), Move(job_id=1, to="failed"))
    carry_out(system, Erase(job_id=1, versions=(2,)), Move(job_id=1, to="inactive"))

    assert claimed(system) == [(1, "7")]


def test_one_that_has_ended_does_not_run_again(system: System) -> None:
    carry_out(system, Create(type="email"))
    claimed(system)
    carry_out(system, Complete(job_id=1, attempt=1), Erase(job_id=1), Move(job_id=1, to="inactive"))

    assert claimed(system) == []
    assert [job_id for job_id, _ in failures(system)] == [1]


def test_a_claim_in_the_same_commit_as_the_erasure_comes_after_it(system: System) -> None:
    carry_out(system, Create(type="email", data='"secret"'))

    _, answer = system.ledger.submit([Erase(job_id=1), CLAIM], actor="worker:a")

    assert isinstance(answer, Claimed)
    assert answer.jobs == ()
    assert [job_id for job_id, _ in failures(system)] == [1]


def test_an_erasure_that_was_rolled_back_changes_nothing_for_the_claims_of_its_batch(
    system: System,
) -> None:
    carry_out(system, Create(type="email", data='"kept"'))
    refused = Submission(
        commands=[Erase(job_id=1), Complete(job_id=1, attempt=1)],
        actor="app:a",
        cause=None,
        atomic=True,
    )
    claiming = Submission(commands=[CLAIM], actor="worker:a", cause=None, atomic=False)

    _, (answer,) = system.ledger._append(lambda: [refused, claiming])

    assert isinstance(answer, Claimed)
    assert [one.data for one in answer.jobs] == ['"kept"']


def test_a_worker_goes_on_with_the_next(queue: Queue) -> None:
    ran = []
    queue.process("email")(lambda job: ran.append(job.data))
    first, second = queue.create("email", "first"), queue.create("email", "second")
    queue.execute(Erase(job_id=first.id))

    worker = Worker(queue)
    thread = worker.start()
    second.wait(DEADLINE_S)
    wait_until(lambda: first.state == "failed", "the other has failed")
    worker.stop()
    thread.join(DEADLINE_S)

    assert ran == ["second"]
    assert first.log() == [f"the data of job {first.id} was erased, so it cannot run"]


def test_draining_goes_on_with_the_next(queue: Queue) -> None:
    ran = []
    queue.process("email")(lambda job: ran.append(job.data))
    first, _ = queue.create("email", "first"), queue.create("email", "second")
    queue.execute(Erase(job_id=first.id))

    drain(queue)

    assert ran == ["second"]


def test_an_http_worker_is_not_given_one_that_is_erased_meanwhile(
    system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the claim and the reading of what it is answered with."""
    carry_out(system, Create(type="email", data='"secret"'))
    client = Client(system)
    claim = system.ledger.claim

    def claim_and_erase(asked: Claim, **named: Any) -> Claimed:
        answer = claim(asked, **named)
        monkeypatch.undo()
        carry_out(system, Erase(job_id=1))
        return answer

    monkeypatch.setattr(system.ledger, "claim", claim_and_erase)

    answer = client.post({"types": ["email"], "worker": "w1"}, "/jobs/claim")

    assert answer.json == []

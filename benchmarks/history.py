"""Long histories, as a busy queue would have written them."""

import json
from collections import deque
from collections.abc import Iterator
from itertools import count, islice

from ledger.log.answers import Outcome
from ledger.log.ledger import Ledger
from ledger.rules import commands
from ledger.rules.commands import Command

WORKERS = 20
# Number of jobs waiting at any time, which determines how far apart a job's events are.
WAITING = 1_000
BATCH = 5_000
# In ``all_complete``.
EVENTS_A_COMPLETE_JOB = 3


def job_data(number: int) -> str:
    """Return the data of job *number*, as used in all measurements."""
    return json.dumps(
        {
            "title": f"welcome email for user {number}",
            "to": f"user{number}@example.com",
            "template": "welcome",
        },
        separators=(",", ":"),
    )


def busy_queue() -> Iterator[Command]:
    """Yield, without end, the commands of a producer and 20 workers on an empty ledger.

    Each command causes one event.  Of ten jobs, one fails and is tried again, six
    report progress, and three log a line: about four events per job.
    """
    numbers = count(1)
    waiting: deque[tuple[int, int]] = deque()
    workers = [_work(waiting, f"worker:bench:1:{number}") for number in range(WORKERS)]
    while True:
        while len(waiting) < WAITING:
            number = next(numbers)
            waiting.append((number, 1))
            yield commands.Create(type="email", attempts=2, data=job_data(number))
        for worker in workers:
            yield next(worker)


def _work(waiting: deque[tuple[int, int]], worker: str) -> Iterator[Command]:
    while True:
        job_id, attempt = waiting.popleft()
        yield commands.Start(job_id=job_id, worker=worker)
        kind = job_id % 10
        if kind == 0 and attempt == 1:
            yield commands.FailAttempt(job_id=job_id, attempt=attempt, error='"connection reset"')
            waiting.append((job_id, attempt + 1))
            continue
        if kind in {1, 2, 3}:
            yield commands.Log(job_id=job_id, attempt=attempt, line='"sent"')
        else:
            yield commands.Progress(job_id=job_id, attempt=attempt, progress=50)
        yield commands.Complete(job_id=job_id, attempt=attempt, result='{"sent":true}')


def half_complete(jobs: int) -> Iterator[Command]:
    """Yield commands that create *jobs* jobs in an empty ledger, every second one complete."""
    for number in range(1, jobs + 1):
        yield commands.Create(type="email", data=job_data(number))
        if number % 2:
            yield commands.Move(job_id=number, to="complete")


def searched(jobs: int) -> Iterator[Command]:
    """Yield commands that create *jobs* jobs in an empty ledger, the middle one with rare words."""
    for number in range(1, jobs + 1):
        data = job_data(number)
        if number == jobs // 2:
            data = data.replace("for user", "for visible pelican")
        yield commands.Create(type="email", data=data)


def all_complete(jobs: int) -> Iterator[Command]:
    """Yield commands that create, start and complete *jobs* jobs in an empty ledger."""
    for number in range(1, jobs + 1):
        yield commands.Create(type="email", data=job_data(number))
        yield commands.Start(job_id=number, worker="bench:1:1")
        yield commands.Complete(job_id=number, attempt=1)


def write(ledger: Ledger, asked: Iterator[Command], number: int | None = None) -> None:
    """Carry out the next *number* commands, or all; none may be refused."""
    some = islice(asked, number)
    while batch := list(islice(some, BATCH)):
        for answer in ledger.submit(batch, actor="benchmark"):
            if not isinstance(answer, Outcome) or len(answer.events) != 1:
                raise RuntimeError(f"expected one event a command, got {answer}")
